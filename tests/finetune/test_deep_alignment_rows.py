"""Deep-alignment rows: where the compliant beginning is cut, what is not learnt, draws by id, errors."""

import json
import subprocess
import sys

import pytest

from classifiers.errors import DataError
from finetune.deep_alignment import compliant_beginning, deep_alignment_row, deep_alignment_rows, read_dialogues
from tests.conftest import ROOT
from tests.evaluation.tiny_model import save_tiny_model

REFUSAL = "I can't help with that, but I can suggest whom to call."
DIALOGUES = [
    {"id": f"r{i}", "category": "c", "messages": [{"role": "user", "content": f"Ask {i}"}, {"role": "assistant", "content": REFUSAL}]}
    for i in range(300)
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(save_tiny_model(tmp_path_factory.mktemp("tiny")))


def test_half_of_the_rows_begin_with_up_to_a_hundred_tokens_of_a_compliant_start(tokenizer):
    rows = list(deep_alignment_rows(DIALOGUES, tokenizer, seed=0, copies=2))
    assert len({row["id"] for row in rows}) == 600
    begun = [row for row in rows if row["not_learnt"]]
    assert 250 < len(begun) < 350
    for row in rows:
        answer = row["messages"][-1]["content"]
        assert answer == (f"{row['not_learnt']} {REFUSAL}" if row["not_learnt"] else REFUSAL)
    # Bytes are this tokenizer's tokens, and every beginning is longer than a hundred of them.
    lengths = [len(row["not_learnt"].encode()) for row in begun]
    assert min(lengths) <= 5 and 95 <= max(lengths) <= 100 and 42 < sum(lengths) / len(lengths) < 58
    assert len({row["not_learnt"][:20] for row in begun}) > 10


def test_a_row_depends_on_its_id_copy_and_seed_alone(tokenizer):
    rows = list(deep_alignment_rows(DIALOGUES, tokenizer, seed=0, copies=2))
    assert rows[305] == deep_alignment_row(DIALOGUES[5], tokenizer, 0, 1)
    assert rows != list(deep_alignment_rows(DIALOGUES, tokenizer, seed=1, copies=2))
    assert DIALOGUES[0]["messages"][-1]["content"] == REFUSAL, "the dialogues are untouched"


def test_a_beginning_of_the_rows_own(tokenizer):
    row = {**DIALOGUES[0], "prefix": "Sure"}
    found = deep_alignment_row(row, tokenizer, 0, 0, share=1.0)
    assert "Sure".startswith(found["not_learnt"]) and found["not_learnt"]


def test_beginnings_say_that_they_comply_and_nothing_else():
    beginnings = {compliant_beginning(str(i), 0) for i in range(500)}
    assert len(beginnings) > 450
    assert all("  " not in text and " \n" not in text for text in beginnings)


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": "x"}], [{"role": "assistant", "content": " "}]])
def test_a_dialogue_without_a_refusal(tokenizer, messages):
    with pytest.raises(DataError, match="row 'a': `messages` must end with the assistant's refusal"):
        deep_alignment_row({"id": "a", "messages": messages}, tokenizer, 0, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "holds no rows"), ("{", "line 1: not JSON"), ('\n{"id": 1}', "line 2: a row is"), (None, "cannot be read")],
)
def test_wrong_files(tmp_path, content, said):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_dialogues(path)


def test_the_command(tmp_path):
    folder, source = save_tiny_model(tmp_path / "tiny"), tmp_path / "refusals.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in DIALOGUES[:10]))
    output = tmp_path / "new" / "rows.jsonl"
    command = [
        sys.executable,
        "-m",
        "finetune.deep_alignment",
        "--refusals",
        source,
        "--output",
        output,
        "--model",
        folder,
    ]
    done = subprocess.run([*map(str, command), "--copies", "3"], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = read_dialogues(output)
    assert len(rows) == 30 and done.stdout.startswith("30 rows, ")
    assert [p.name for p in output.parent.iterdir()] == ["rows.jsonl"]
