"""A tokenizer from a run's documents: its ids, what it leaves out, and the pipeline's use of it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.tokens.corpus_tokenizer import save_corpus_tokenizer
from pretrain.errors import PretrainDataError
from pretrain.tokenizer_training import END_OF_DOCUMENT, TAG, main, train_tokenizer, training_texts

TEXTS = ["The ferry leaves at nine.", "zzqqxx " * 50, "Bread rises in 25 minutes."]


@pytest.fixture
def run(tmp_path):
    """Three documents; the second must never be trained on."""
    for folder in ("documents", "scores/final"):
        (tmp_path / "run" / folder).mkdir(parents=True)
    ids = ["a", "b", "c"]
    pq.write_table(pa.table({"id": ids, "text": TEXTS}), tmp_path / "run/documents/00000.parquet")
    marks = pa.table({"id": ids, "never_train": [None, "private_data", None]})
    pq.write_table(marks, tmp_path / "run/scores/final/00000.parquet")
    return tmp_path / "run"


def test_never_train_is_left_out(run):
    assert list(training_texts(run)) == [TEXTS[0], TEXTS[2]]


def test_folder_serves_the_pipeline(run, tmp_path, capsys):
    assert main([str(run), str(tmp_path / "t"), "--vocabulary", "300"]) == 0
    assert f"tokenise.end_of_document: {END_OF_DOCUMENT}" in capsys.readouterr().out
    (tmp_path / "corpus").mkdir()
    numbers = save_corpus_tokenizer(str(tmp_path / "t"), END_OF_DOCUMENT, tmp_path / "corpus")
    assert (numbers["tag_token"], numbers["tag_token_id"], numbers["end_of_document_id"]) == (TAG, 1, 0)
    assert 258 < numbers["vocabulary_size"] <= 300
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "t")
    for text in [*TEXTS, "äöü 漢字\n\t  two  spaces"]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer.encode("zzqqxx", add_special_tokens=False)) == 6
    assert tokenizer.encode(f"{TAG}{END_OF_DOCUMENT}", add_special_tokens=False) == [1, 0]


def test_equal_texts_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        train_tokenizer(iter(TEXTS), tmp_path / name, 320)
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (tmp_path / "two/tokenizer.json").read_bytes()
    with pytest.raises(PretrainDataError, match="one exists; tokens may have been written with it"):
        train_tokenizer(iter(TEXTS), tmp_path / "one", 320)


def test_refusals(run, tmp_path, capsys):
    assert main([str(tmp_path / "none"), str(tmp_path / "t")]) == 1
    assert "holds no .parquet files" in capsys.readouterr().err
    assert main([str(run), str(tmp_path / "t"), "--vocabulary", "100"]) == 2
    assert "a vocabulary of 100 is too small" in capsys.readouterr().err
    (run / "scores/final/00000.parquet").unlink()
    assert main([str(run), str(tmp_path / "t")]) == 1
    assert "score-final first" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()
