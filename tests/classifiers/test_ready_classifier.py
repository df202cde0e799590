"""A whole sequence classifier, made small here, loads by folder from safetensors, and from nothing else."""

import shutil

import pytest
import torch

from classifiers.encoder import embedded_encoder_folder
from classifiers.errors import ModelError
from classifiers.ready_classifier import ReadyClassifier


def small_classifier(folder, labels=6):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=labels,
        max_position_embeddings=32,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (embedded_encoder_folder() / name).is_file():
            shutil.copy(embedded_encoder_folder() / name, folder / name)
    return folder


def test_scores_are_those_of_the_model_on_its_worst_window(tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = small_classifier(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    short = "a short text about gardens"
    with torch.inference_mode():
        expected = torch.softmax(model(**tokenizer(short, return_tensors="pt")).logits[0].double(), 0).tolist()
    scores = ReadyClassifier.load(str(folder)).score([short, "word " * 100, ""])
    assert scores[0].probabilities == pytest.approx(expected, abs=2e-5)
    assert scores[0].score == max(range(6), key=lambda level: expected[level])
    assert scores[1].n_chunks == 4  # 100 tokens in windows of 32 with two special ones
    assert scores[2].score == 0
    assert all((score.category == "none") == (score.score == 0) for score in scores)


def test_another_number_of_labels_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has 2 labels; a safety classifier has 6"):
        ReadyClassifier.load(str(small_classifier(tmp_path, labels=2)))


def test_pickled_weights_are_refused(tmp_path):
    folder = small_classifier(tmp_path)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="from safetensors"):
        ReadyClassifier.load(str(folder))


def test_a_name_that_is_nowhere_says_where_it_was_looked_for():
    with pytest.raises(ModelError, match="neither a folder, nor in the Hub cache, nor reachable"):
        ReadyClassifier.load("nobody/no-such-classifier")
