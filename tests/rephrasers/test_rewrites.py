"""Verification on hand-written rewrites, with the shipped classifiers: how much of the bad it finds, how much good it keeps."""

from collections import Counter

import pytest

from classifiers.embedding import EmbeddingClassifier
from classifiers.ensemble import combine
from classifiers.fasttext_classifier import FastTextClassifier
from rephrasers.verify import RULES, verify_all
from tests.rephrasers.rewrite_set import measure, read_rewrites, table

# `unsafe` is the classifiers' own judgement. They prefer recall and over-score calm texts about hard subjects, above all
# refusals and moral lessons: what that costs is printed. The bounds are no aim, and leave room for other weights.
PRECISION_OF_UNSAFE, PRECISION_OF_ALL = 0.15, 0.7


@pytest.fixture(scope="module")
def rewrites():
    return read_rewrites()


@pytest.fixture(scope="module")
def verdicts(rewrites):
    classifiers = {
        "fasttext": FastTextClassifier.load(None),
        "embedding": EmbeddingClassifier.load("embedded:all-MiniLM-L6-v2", None, 1, "float32"),
    }

    def score(texts):
        columns = [classifier.score(texts) for classifier in classifiers.values()]
        return [combine(dict(zip(classifiers, row, strict=True))).score for row in zip(*columns, strict=True)]

    return verify_all([rewrite.draft for rewrite in rewrites], score)


def test_the_set_is_large_and_mixed(rewrites):
    good = [rewrite for rewrite in rewrites if not rewrite.breaks]
    assert len(rewrites) >= 120 and len(good) >= 0.4 * len(rewrites)
    assert len({rewrite.name for rewrite in rewrites}) == len(rewrites)
    for kind, style in [("rephrased", None), ("refusal", "refuse"), ("moral", "moralise")]:
        of_kind = [rewrite for rewrite in rewrites if rewrite.draft.kind == kind]
        assert len({bool(rewrite.breaks) for rewrite in of_kind}) == 2 and len(of_kind) >= 25
        assert style is None or {rewrite.draft.style for rewrite in of_kind} == {style}
    assert len({rewrite.draft.style for rewrite in good}) == 14, "twelve styles, dialogue and article"
    assert len({rewrite.draft.source_language for rewrite in good}) >= 5
    cases = Counter(rule for rewrite in rewrites for rule in rewrite.breaks)
    assert set(cases) == set(RULES) and min(cases.values()) >= 2, "every rule has its cases"


@pytest.fixture(scope="module")
def labelled(rewrites):
    """Verdicts where the scores are what the labels say: what the rules do, whatever the classifiers' weights."""
    unsafe = {text for r in rewrites if "unsafe" in r.breaks for text in (r.draft.text, *_turns(r))}
    return verify_all([r.draft for r in rewrites], lambda texts: [4 if text in unsafe else 0 for text in texts])


def test_precision_and_recall_of_the_rules(rewrites, verdicts, labelled, capsys):
    """Each rule, and all of them together. Facts are asked of sentences that score as safe, hence the labels' scores."""
    measured = measure(rewrites, labelled)
    with capsys.disabled():
        print(f"\nwith the shipped classifiers\n{table(measure(rewrites, verdicts))}")
        print(f"with the levels of the labels\n{table(measured)}")
    for rule in {"all", *RULES}:
        assert measured[rule].precision >= 0.9 and measured[rule].recall >= 0.9, f"{rule}: {measured[rule]}"


def test_nothing_bad_passes_with_the_shipped_classifiers(rewrites, verdicts):
    measured = measure(rewrites, verdicts)
    assert measured["all"].recall >= 0.9 and measured["unsafe"].recall >= 0.9
    assert measured["all"].precision >= PRECISION_OF_ALL and measured["unsafe"].precision >= PRECISION_OF_UNSAFE


def _turns(rewrite):
    return [turn.text for turn in rewrite.draft.turns]
