"""The whole steering comparison on a Llama with a planted refusal direction: its table, and what is shared and refused."""

import json

import pytest
import torch

from benchmarks.finetune_comparison.__main__ import main
from benchmarks.finetune_comparison.steering import positions_kl
from tests.finetune.planted_llama import REFUSE, save_planted_llama

WORDS = ("north", "river", "paper", "green", "seven", "table", "cloud", "stone", "house", "light", "music", "train")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steering")
    save_planted_llama(folder / "start")
    for name, middle in (("requests", ","), ("harmless", " and")):
        rows = [{"id": f"{name}-{n}", "prompt": f"{WORDS[n]}{middle} {WORDS[-n]} {n}"} for n in range(12)]
        (folder / f"direction_{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def command(place, output, *more):
    return main([
        "steering", "--suite-names", "own", "--output", str(output), "--start", str(place / "start"), "--texts", str(place),
        "--prompts", "4", "--harmless", "3", "--new-tokens", "3", "--threads", "1", "--steer-prompts", "4",
        "--steer-direction", "5", "--steer-validation", "2", "--steer-samples", "2", "--steer-batch", "4",
        "--steer-answer-tokens", "3", "--lr", "0.01", "--set", "tokens.horizon=2", "--set", "tokens.size=5", "--set",
        "tokens.votes_per_record=3", "--set", "tokens.floor=1.0e-6", "--set", "lora.rank=2", *more,
    ])  # fmt: skip


def test_the_command_leaves_a_table(place, tmp_path, capsys):
    assert command(place, tmp_path, "--rates", "0.02") == 0
    numbers = json.loads((tmp_path / "results.json").read_text())
    others = ["safesteer, lr 0.02", "full vocabulary, lr 0.02"]
    assert list(numbers["arms"]) == ["start", "safesteer", "full vocabulary", *others]
    assert numbers["harmful_prompts"] == 11 and [numbers["arms"][arm]["harmful"]["n"] for arm in others] == [4, 4]
    for arm in ("safesteer", "full vocabulary"):
        found = numbers["arms"][arm]
        assert found["harmful"]["n"] == 8 and found["kl_prompt"]["n"] == 3, found
        # the planted model refuses whatever it is steered with: SafeSteer finds nothing to do, and leaves it alone
        assert (found["kl_prompt"]["value"] == 0.0) == (arm == "safesteer")
    assert numbers["arms"]["start"]["kl_answer"] is None and len(numbers["differences"]) == 5
    table = (tmp_path / "results.md").read_text()
    assert table in capsys.readouterr().out and (tmp_path / "results.png").is_file()
    assert (tmp_path / "trade.png").is_file()
    # one direction for all runs, whatever their seed and loss
    facts = {(path / "steering.json").read_bytes() for path in (tmp_path / "steered").iterdir()}
    assert len(facts) == 1 and json.loads(facts.pop())["tokens"][0]["id"] == REFUSE
    losses = [
        json.loads(path.read_text())["log"][0]["loss"] for path in sorted(tmp_path.glob("steered/*/finetune.json"))
    ]
    assert 0.0 not in losses[:3] and losses[3:] == [0.0] * 3
    assert command(place, tmp_path, "--rates", "0.02") == 0 and (tmp_path / "results.md").read_text() == table


def test_what_is_refused(place, tmp_path, capsys):
    assert command(place, tmp_path / "a", "--start", str(tmp_path / "none")) == 1
    assert "holds no model: run `python -m benchmarks.finetune_comparison erosion` first" in capsys.readouterr().err
    assert command(place, tmp_path / "b", "--steer-prompts", "94") == 1
    assert "101 harmful prompts are asked for, and the comparison allows 100" in capsys.readouterr().err
    assert command(place, tmp_path / "c", "--steer-prompts", "8") == 1
    assert "has 12 prompts, and 15 are needed" in capsys.readouterr().err


def test_kl_by_hand():
    same = torch.randn(3, 7)
    assert positions_kl(same, same + 4.0).abs().max() < 1e-6
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    assert float(positions_kl(p.log()[None], q.log()[None])) == pytest.approx(
        0.25 * torch.log(torch.tensor(2.0)).item()
    )
