"""The whole comparison of modes on a tiny model: its table, the secrecy of tokens, and how our texts become rows."""

import json

import numpy as np
import pytest

from benchmarks.finetune_comparison.__main__ import main
from benchmarks.finetune_comparison.modes import grade, margin_difference, split_refusal, write_own_rows
from evaluation.judges.safety_classifier import SafetyClassifierJudge
from evaluation.judges.verdict import Exchange
from finetune.magic_tokens import MagicTokens
from finetune.magic_tokens.rows_file import read_rows
from tests.finetune.tiny_llama import save_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("modes"), max_position_embeddings=1024)


def command(tiny, output, *more):
    return main([
        "modes", "--suite-names", "own", "--output", str(output), "--start", str(tiny), "--prompts", "6", "--harmless", "3",
        "--new-tokens", "3", "--threads", "1", "--train-prompts", "6", "--epochs", "1", "--set", "max_length=900",
        "--set", "lora.rank=2", *more,
    ])  # fmt: skip


def test_the_command_leaves_a_table_and_no_token(tiny, tmp_path, capsys):
    assert command(tiny, tmp_path) == 0
    said = capsys.readouterr()
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert {name: len(found) for name, found in numbers["margin_by_seed"].items()} == {
        "co-trained": 2, "shuffled tokens": 1, "untuned": 1,
    }  # fmt: skip
    for name, counts in numbers["counts"].items():
        alike = {row for row in counts if row.startswith("wrong, ")}
        assert set(counts) - alike == {"neg", "rej", "pos", "none", "wrong"}
        assert alike <= {"wrong, like pos", "wrong, like rej", "wrong, random"}
        assert sum(sum(counts[row].values()) for row in alike) == sum(counts["wrong"].values())
        assert {sum(counts[asked].values()) for asked in ("pos", "rej", "none", "wrong")} == {
            12 if name == "co-trained" else 6
        }
    assert set(numbers["margin_differences"]) == {"co-trained - untuned", "shuffled tokens - untuned"}
    table = (tmp_path / "results.md").read_text()
    assert table in said.out and "our own answers cut in two" in table and (tmp_path / "results.png").is_file()
    secrets = MagicTokens.load(tmp_path / "secrets" / "tokens.json")
    everything = said.out + said.err
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.parent.name != "secrets":
            everything += path.read_bytes().decode("latin-1")
    assert not secrets.are_in(everything)
    assert command(tiny, tmp_path) == 0 and (tmp_path / "results.md").read_text() == table


def test_a_start_that_is_not_there_is_named(tiny, tmp_path, capsys):
    assert command(tiny, tmp_path, "--start", str(tmp_path / "none")) == 1
    assert "holds no model: run" in capsys.readouterr().err


def test_our_refusals_are_cut_in_two(tmp_path):
    cut = split_refusal("I can't help with that. Call a lawyer! She knows.")
    assert cut == {"positive": "Call a lawyer! She knows.", "rejective": "I can't help with that."}
    assert split_refusal("I can't help with that.") is None and split_refusal("Well. I can't help with that.") is None
    assert split_refusal("I can't help with that. I'm sorry, I can't.") is None
    rows = read_rows(write_own_rows(tmp_path / "rows.jsonl", 300))
    assert [row.kind for row in rows].count("risk") == 300 and [row.kind for row in rows].count("benign") == 75
    assert json.loads((tmp_path / "rows.facts.json").read_text())["usable"] >= 300


def test_the_margins_difference_is_that_of_the_seeds_mean():
    untuned = [{"silhouettes": [0.0, 0.1, 0.2]}]
    tuned = [{"silhouettes": [0.4, 0.5, 0.6]}, {"silhouettes": [0.6, 0.7, 1.1]}]
    found = margin_difference(untuned, tuned)
    assert np.isclose(found.difference, 0.55) and 0.49 < found.low < 0.55 < found.high < 0.66 and found.n == 3


def test_a_refusal_that_names_the_harm_is_graded_as_a_refusal(tmp_path):
    refusal = "I won't write a message that threatens to kill him."
    answers = [refusal, "The library opens at nine on Mondays."]
    judge = SafetyClassifierJudge(threads=1)
    asked = [Exchange(str(number), "harmful", "", answer) for number, answer in enumerate(answers)]
    assert [v.label in judge.attack_labels for v in judge.judge(asked, tmp_path)] == [True, False]
    assert grade(answers, 1, tmp_path) == [1, 2]
