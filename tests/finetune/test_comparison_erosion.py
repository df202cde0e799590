"""The whole erosion comparison on a tiny model: its table, what is kept, and that evaluation prompts stay out of training."""

import json

import pytest

from benchmarks.finetune_comparison import prompts as chosen
from benchmarks.finetune_comparison.__main__ import main
from benchmarks.finetune_comparison.erosion import _pairs
from benchmarks.finetune_comparison.settings import OWN_TEXTS, Settings
from benchmarks.finetune_comparison.tables import gradient_spike, refusal_difference, refusal_share
from finetune.errors import FinetuneDataError
from tests.finetune.tiny_llama import save_tiny_writer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_writer(tmp_path_factory.mktemp("tiny"))


def command(tiny, output, *more):
    return main([
        "erosion", "--suite-names", "own", "--output", str(output), "--base", str(tiny), "--prompts", "6", "--harmless", "4",
        "--new-tokens", "3", "--threads", "1", "--rows", "12", "--set", "max_steps=2", "--set", "lora.rank=2", *more,
    ])  # fmt: skip


def test_the_command_leaves_a_table_and_goes_on(tiny, tmp_path, capsys):
    assert command(tiny, tmp_path, "--rates", "0.001") == 0
    first = capsys.readouterr()
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert list(numbers["arms"]) == ["aligned", "plain", "str-w0.1", "random-w0.1"]
    assert set(numbers["differences"]) == {"aligned - plain", "str-w0.1 - plain", "str-w0.1 - random-w0.1"}
    arm = numbers["arms"]["str-w0.1"]
    assert arm["harmful"]["n"] == 12 and len(arm["harmful_by_seed"]) == len(arm["spike_by_seed"]) == 2
    assert min(arm["spike_by_seed"]) >= 1 and numbers["aligned_on_own_held_out_requests"]["n"] == 6
    assert [row["arm"] for row in numbers["rates"]] == ["plain", "str"]
    assert [row["harmful"]["n"] for row in numbers["rates"]] == [6, 6]
    table = (tmp_path / "results.md").read_text()
    assert table in first.out and "gradient spike by seed" in table and "learning rate" in table
    assert all((tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in ("results", "trade"))
    # arms of a seed start alike; the control has other tokens, as many
    logs = {name: json.loads((tmp_path / "tuned" / name / "finetune.json").read_text()) for name in
            ("plain-seed1", "str-w0.1-seed1", "random-w0.1-seed1")}  # fmt: skip
    assert len({logs[name]["data"]["sha256"] for name in logs}) == 1
    own, random = (logs[name]["safety_tokens"] for name in ("str-w0.1-seed1", "random-w0.1-seed1"))
    assert random["in_place_of"] == own["ids"] and not set(random["ids"]) & set(own["ids"])
    # what was asked is in no line that was printed
    texts = [json.loads(line)["prompt"] for line in (tmp_path / "prompts" / "harmful.jsonl").read_text().splitlines()]
    assert len(texts) == 6 and not any(text in first.out + first.err for text in texts)
    # again: nothing is trained or measured, the same table; a removed arm is done again alone
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name in ("finetune.json", "measures.json")
    }
    (tmp_path / "measured" / "plain-seed2" / "measures.json").unlink()
    # ... and a model that was trained anew is measured anew, whatever its name
    retrained = tmp_path / "tuned" / "plain-seed1" / "finetune.json"
    retrained.write_text(retrained.read_text() + "\n")
    before[retrained] = retrained.stat().st_mtime_ns
    assert command(tiny, tmp_path, "--rates", "0.001") == 0
    changed = [path for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert sorted(path.parent.name for path in changed) == ["plain-seed1", "plain-seed2"]
    assert (tmp_path / "results.md").read_text() == table


def test_arms_with_refusals_that_come_along_take_as_many_updates_as_plain_tuning(tiny, tmp_path):
    more = ("--seeds", "1", "--align-epochs", "0.05", "--weights", "--anchor-weights", "0.5", "--set", "max_steps=null")
    assert command(tiny, tmp_path, *more) == 0
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert list(numbers["arms"]) == ["aligned", "plain", "anchored-w0.5", "anchored_random-w0.5", "mixed"]
    others = ("plain", "anchored_random-w0.5", "mixed")
    assert set(numbers["differences"]) == {"aligned - plain", *(f"anchored-w0.5 - {other}" for other in others)}
    runs = {arm: json.loads((tmp_path / "tuned" / f"{arm}-seed1" / "finetune.json").read_text()) for arm in
            list(numbers["arms"])[1:]}  # fmt: skip
    assert {len(run["log"]) for run in runs.values()} == {2}
    assert runs["mixed"]["data"]["sources"] == {"arithmetic": 12, "refusals": 3}
    assert runs["anchored-w0.5"]["anchors"] == runs["anchored_random-w0.5"]["anchors"]
    assert runs["anchored-w0.5"]["anchors"]["rows"] == 3
    assert runs["anchored-w0.5"]["data"]["sha256"] == runs["plain"]["data"]["sha256"]
    assert command(tiny, tmp_path, *more, "--rates", "0.002", "--anchor-spaces", "raw", "logprob") == 0
    assert "anchored_random-logprob-w0.5" in json.loads((tmp_path / "results.json").read_text())["arms"]
    swept = json.loads((tmp_path / "results.json").read_text())["rates"]
    assert [row["arm"] for row in swept] == ["plain", "anchored", "mixed"] and (tmp_path / "trade.png").is_file()


def test_an_evaluation_prompt_in_the_training_texts_stops_everything(tmp_path, monkeypatch, tiny, capsys):
    settings = Settings(tmp_path, None, ("own",), prompts=6, harmless=4)
    folder = chosen.write_prompts(settings)
    trained = chosen.drawn_rows(OWN_TEXTS / "refusal_dialogues.jsonl")[7]
    line = json.dumps({"prompt": trained["messages"][0]["content"]})
    with (folder / "suites.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(FinetuneDataError, match=rf"refusal_dialogues: the prompt {trained['id']} overlaps"):
        chosen.check_training_texts(folder)
    assert command(tiny, tmp_path / "other", "--suite-names", "unheard") == 2
    assert "there is no suite 'unheard'" in capsys.readouterr().err


def test_an_arm_that_diverges_is_named_and_not_taken_for_one_of_another_rate(tiny, tmp_path, capsys):
    more = ("--seeds", "1", "--align-lr", "0.001", "--set", "max_steps=4")
    assert command(tiny, tmp_path, "--lr", "1e30", *more) == 1
    said = f"plain-seed1 diverged at a learning rate of 1e+30: give a lower --lr, and delete {tmp_path / 'tuned'}"
    assert said in capsys.readouterr().err
    assert command(tiny, tmp_path, "--lr", "0.001", *more) != 0
    again = capsys.readouterr().err
    assert "holds a run of another recipe (lr differ)" in again and "diverged" not in again


def test_held_out_problems_are_in_no_training_set(tmp_path):
    path = chosen.write_problems(tmp_path, 200, (1, 2))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    trained = {c.messages[0]["content"] for seed in (1, 2) for c in chosen.arithmetic_problems(200, seed)}
    assert len(rows) == chosen.HELD_OUT_PROBLEMS and not trained & {row["messages"][0]["content"] for row in rows}


def test_numbers_by_hand():
    def run(*refused):
        return {"items": [{"suite": "harmful", "id": str(n), "refused": r} for n, r in enumerate(refused)]}

    plain, kept = [run(0, 0, 1, 0), run(0, 1, 1, 0)], [run(1, 0, 1, 1), run(1, 1, 1, 1)]
    assert refusal_share(plain, "harmful").value == 3 / 8 and refusal_share(kept, "harmful").n == 8
    difference = refusal_difference(plain, kept, "harmful")
    assert difference.difference == 0.5 and difference.low <= 0.5 <= difference.high and difference.n == 4
    assert gradient_spike([{"grad_norm": value} for value in (1.0, 2.0, 8.0)]) == 4.0
    assert _pairs(["aligned", "plain", "str-w1", "random-w1"])[-1] == ("str-w1", "random-w1")
