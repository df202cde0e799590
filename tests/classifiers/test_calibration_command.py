"""The whole calibration command on a tiny encoder with random weights: distil, cross-fit, calibrate, load, score."""

import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from classifiers.calibration import distil_and_calibrate, read_all_texts, texts_sha256
from classifiers.calibration_file import Calibration
from classifiers.cascade import CALIBRATION_FILE, CascadeClassifier
from classifiers.chunk_gate import GATE_FILE, gate_scores
from classifiers.embedding import HEAD_ROWS, EmbeddingClassifier
from classifiers.encoder import Encoder
from classifiers.errors import DataError, IdentityError
from classifiers.fasttext_classifier import SHIPPED_WEIGHTS, FastTextClassifier
from classifiers.training.gate_training import fit_gate, fold_of, teach, token_features, token_vectors
from classifiers.weights_file import save_weights

WORDS = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


def make_encoder(folder) -> None:
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import BertProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.post_processor = Whitespace(), BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS) + 5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)


def make_weights(folder, encoder: Encoder) -> None:
    """The shipped fastText models, and heads with random weights whose levels differ from text to text."""
    shutil.copytree(SHIPPED_WEIGHTS, folder / "fasttext")
    (folder / "embedding").mkdir()
    draw, vectors = np.random.default_rng(4), encoder.embed(sentences(100, 9)).vectors
    tensors = {f"{n}.weight": draw.normal(size=(rows, encoder.size)) / vectors.std(0) for n, rows in HEAD_ROWS.items()}
    tensors |= {f"{n}.bias": -tensors[f"{n}.weight"] @ vectors.mean(0) for n in HEAD_ROWS}
    tensors["level.bias"][0] += 6.0
    tensors["never_train.bias"] -= 20.0
    save_weights(
        {name: tensor.astype(np.float32) for name, tensor in tensors.items()},
        folder / "embedding" / "minilm_head.safetensors",
        {"encoder": encoder.name, "encoder_sha256": encoder.weights_sha256},
    )


def sentences(number: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(draw.sample(WORDS, 3), k=draw.randint(4, 70))) for _ in range(number)]


def calibrate(arguments: list[str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "safetrove", "classifier", "calibrate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    make_encoder(folder / "encoder")
    make_weights(folder / "weights", Encoder(str(folder / "encoder")))
    for name, seed in (("texts.jsonl", 1), ("rows.jsonl", 2)):
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(120, seed)))
    arguments = [str(folder / "texts.jsonl"), "--distil", str(folder / "rows.jsonl"), "--output", str(folder / "gates")]
    arguments += ["--weights", str(folder / "weights"), "--encoder", str(folder / "encoder"), "--target-1", "0.8"]
    assert calibrate(arguments).returncode == 0
    return folder, arguments


def load(folder) -> CascadeClassifier:
    weights = folder / "weights"
    head = weights / "embedding" / "minilm_head.safetensors"
    embedding = EmbeddingClassifier.load(str(folder / "encoder"), head)
    return CascadeClassifier.load(folder / "gates", embedding, weights / "fasttext", head)


def test_the_file_says_what_was_calibrated(calibrated):
    folder, _ = calibrated
    found = Calibration.model_validate_json((folder / "gates" / CALIBRATION_FILE).read_text())
    assert (found.documents, found.data_sha256) == (120, texts_sha256(sentences(120, 1)))
    assert [promise.level for promise in found.promises] == [1, 3]
    assert found.promises[0].lower_bound >= 0.8 and found.promises[1].missed == 0
    assert 0 < found.cost.tokens <= 1 and {point.level for point in found.curve} == {1, 3}


def test_what_the_command_wrote_scores_texts(calibrated):
    scores = load(calibrated[0]).score(sentences(40, 3))
    assert {score.stage_reached for score in scores} <= {"fasttext", "embedding"}
    assert any(score.by["embedding"] is not None for score in scores)


def test_the_same_texts_give_the_same_bytes(calibrated):
    folder, arguments = calibrated
    before = (folder / "gates" / GATE_FILE).read_bytes(), (folder / "gates" / CALIBRATION_FILE).read_bytes()
    assert calibrate(arguments).returncode == 0
    assert before == ((folder / "gates" / GATE_FILE).read_bytes(), (folder / "gates" / CALIBRATION_FILE).read_bytes())


@pytest.mark.parametrize("labelled", [sentences(20, 2), []])
def test_no_gate_scores_a_text_that_taught_it_where_the_texts_are_labelled_too(calibrated, tmp_path, labelled):
    folder, _ = calibrated
    head = folder / "weights" / "embedding" / "minilm_head.safetensors"
    classifiers = FastTextClassifier.load(), EmbeddingClassifier.load(str(folder / "encoder"), head)
    found = []
    for number, more in enumerate((labelled, [*sentences(120, 1), f"{sentences(120, 1)[0]}\n", *labelled])):
        output = tmp_path / str(number)
        distil_and_calibrate(classifiers, folder / "weights", sentences(120, 1), more, output, {1: None, 3: None}, 0.95)
        found.append([(output / name).read_bytes() for name in (GATE_FILE, CALIBRATION_FILE)])
    assert found[0] == found[1]


def test_a_parquet_column_without_text_is_named_and_null_is_an_empty_text(tmp_path):
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "some.parquet")
    assert read_all_texts(tmp_path / "some.parquet") == ["a", ""]
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(DataError, match=r"numbers\.parquet: the column `text` holds int64; expected strings"):
        read_all_texts(tmp_path)


def test_too_few_texts_are_refused_and_nothing_is_written(calibrated, tmp_path):
    _, arguments = calibrated
    (tmp_path / "few.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(8, 1)))
    few = [str(tmp_path / "few.jsonl"), *arguments[1:4], str(tmp_path / "gates"), *arguments[5:]]
    few += ["--target-1", "0.95"]
    done = calibrate(few)
    assert done.returncode == 1
    assert "a recall of 0.95 with 95% confidence needs at least 59" in " ".join(done.stderr.split())
    assert not (tmp_path / "gates").exists()


def test_new_heads_need_a_new_calibration(calibrated, tmp_path):
    folder, _ = calibrated
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    head = moved / "weights" / "embedding" / "minilm_head.safetensors"
    encoder = Encoder(str(folder / "encoder"))
    tensors = {f"{n}.weight": np.zeros((rows, encoder.size), np.float32) for n, rows in HEAD_ROWS.items()}
    tensors |= {f"{n}.bias": np.zeros(rows, np.float32) for n, rows in HEAD_ROWS.items()}
    save_weights(tensors, head, {"encoder": "tiny", "encoder_sha256": encoder.weights_sha256})
    with pytest.raises(IdentityError, match="other weights of embedding"):
        load(moved)


def test_a_gate_learns_what_the_classifier_says(calibrated):
    """Distilled from some texts, it ranks the chunks of others: far from chance."""
    folder, _ = calibrated
    head = folder / "weights" / "embedding" / "minilm_head.safetensors"
    embedding = EmbeddingClassifier.load(str(folder / "encoder"), head)
    known, new = teach(embedding, sentences(200, 5)), teach(embedding, sentences(60, 6))
    features = token_features(token_vectors(embedding.encoder), known.windows)
    tensors = fit_gate(features, [(known, np.arange(len(known.windows)))])
    scores = gate_scores(tensors, new.windows)
    assert np.corrcoef(scores[:, 0], new.targets[:, 0])[0, 1] > 0.5


def test_folds_follow_the_text_alone():
    texts = sentences(400, 8)
    folds = [fold_of(text, 4) for text in texts]
    assert folds == [fold_of(text, 4) for text in texts]
    assert all(60 < folds.count(fold) < 140 for fold in range(4))
