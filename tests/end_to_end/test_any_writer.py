"""Whatever the writer says, no text that fails its kind's gate is in `synthetic/` or in the tokens.

The gate is written out here once more, and the texts are scored by the classifiers themselves, not by any stage.
"""

import json

import pytest
from tokenizers import Tokenizer

from classifiers.embedding import EmbeddingClassifier
from classifiers.fasttext_classifier import FastTextClassifier
from pretrain.indexed_dataset import IndexedDataset
from tests.end_to_end.runs import safetrove
from tests.end_to_end.test_attempts import KINDS, recipe_for, rows, writer
from tests.end_to_end.writers import HOSTILE


@pytest.fixture(scope="module", params=[1, 2])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    recipe = recipe_for(folder)
    with writer("any", folder / "requests") as url:
        seed = f"seed={request.param}"
        safetrove("run", recipe, "--output", folder / "run", "--set", f"synthesis.llm.url={url}", "--set", seed)
    return folder / "run"


@pytest.fixture(scope="module")
def worst_level():
    fasttext = FastTextClassifier.load(None)
    embedding = EmbeddingClassifier.load("embedded:all-MiniLM-L6-v2", None, 1, "float32")

    def level(text):
        return max(fasttext.score([text])[0].score, embedding.score([text])[0].score)

    return level


def test_every_synthetic_text_passes_the_gate_of_its_kind(run, worst_level):
    accepted = {kind: rows(run, f"synthetic/{kind}") for kind in KINDS}
    assert sum(map(len, accepted.values())) > 0 and all(rows(run, f"rejected/{kind}") for kind in KINDS)
    for kind in ("rephrased", "moral"):
        for row in accepted[kind]:
            assert worst_level(row["text"]) <= min(1, row["score_before"] - 1)
    for row in accepted["refusal"]:
        roles = [turn["role"] for turn in row["turns"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        for turn in row["turns"]:
            assert worst_level(turn["text"]) <= (1 if turn["role"] == "assistant" else 4)
            assert turn["text"] in row["text"]
    for row in (row for kind in KINDS for row in accepted[kind]):
        assert HOSTILE not in row["text"] and 20 <= len(row["text"]) < 20_000


def test_the_tokens_are_those_texts_and_no_others(run):
    tokenizer = Tokenizer.from_file(str(run / "tokens" / "tokenizer" / "tokenizer.json"))
    shards = {s["name"]: s["shards"] for s in json.loads((run / "tokens" / "blend.json").read_text())["sources"]}
    for kind in KINDS:
        texts = [row["text"] for row in rows(run, f"synthetic/{kind}")]
        decoded = []
        for shard in shards.get(kind, []):
            dataset = IndexedDataset(run / "tokens" / shard)
            decoded += [tokenizer.decode(dataset[n].tolist()) for n in range(len(dataset))]
        assert decoded == texts, kind
