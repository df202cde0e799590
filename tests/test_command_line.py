"""The command line as a user meets it: help, exit codes, scoring, and rooms that somebody else's package shadows."""

import io
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from safetrove.cli import app
from safetrove.scoring import score_lines
from tests.conftest import ROOT

# Scripts of other people depend on these names and options; taking one away is a breaking change.
COMMANDS = {
    "run": {"--output", "--stage", "--set", "--force-stale", "--executor"},
    "demo": {"--output"},
    "plan": {"--set"},
    "status": {"--json", "--verify", "--no-verify"},
    "rerun": {"--stage", "--failed", "--rank", "--executor"},
    "card": set(),
    "score": set(),
    "classifier evaluate": {
        "--weights",
        "--train-labels",
        "--bootstrap",
        "--seed",
        "--prevalence-1",
        "--prevalence-3",
        "--output",
        "--calibration",
        "--judge",
    },
    "classifier annotate": {"--output", "--n", "--uncertain-share", "--rounds", "--seed", "--base-url", "--model"},
    "classifier train": {"--output", "--extra", "--passages", "--documents", "--method", "--objective", "--seed"},
    "classifier calibrate": {"--distil", "--output", "--target-1", "--target-3", "--confidence"},
    "pretrain": {"--set"},
    "doctor": set(),
    "generate": {
        "--model", "--decoder", "--prompt", "--max-new-tokens", "--min-new-tokens", "--beams", "--candidates", "--discard",
        "--risk", "--refill", "--length-penalty", "--temperature", "--top-p", "--seed", "--chat", "--completion", "--system",
        "--magic-tokens", "--mode", "--moderate", "--expert", "--strength", "--batch", "--dtype", "--threads", "--json",
        "--plot",
    },
    "export": {"--kind", "--output"},
    "publish": {"--repo", "--dry-run", "--include-unsafe", "--public", "--model", "--files-per-commit"},
    "verify": set(),
    "evaluate suites": {"--folder"},
    "evaluate run": {"--output", "--set"},
    "evaluate compare": {"--output"},
    "evaluate capability": {"--task", "--task-folder", "--limit", "--batch-size", "--chat", "--output"},
    "evaluate ladder": {"--output", "--rung", "--seed", "--set"},
    "evaluate robustness": {"--output", "--tuning", "--set", "--set-tuning"},
    "finetune sft": {"--set"},
    "finetune str": {"--set"},
    "finetune dpo": {"--set"},
    "finetune safesteer": {"--set"},
    "finetune magic distil": {"--set"},
    "finetune magic sft": {"--set"},
    "prompts compare": {
        "--styles", "--n", "--scores", "--base-url", "--model", "--temperature", "--max-tokens", "--characters", "--seed",
        "--output",
    },
}  # fmt: skip


def command_line(*arguments, text="", expect=0, **environment):
    """Run `python -m safetrove` in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-m", "safetrove", *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=400,
    )
    assert process.returncode == expect, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
    return process


def click_commands():
    """Every command by its words, those of groups within groups too."""
    import typer

    def of_group(group, prefix):
        found = {}
        for name, command in group.commands.items():
            found |= of_group(command, f"{prefix}{name} ") if hasattr(command, "commands") else {prefix + name: command}
        return found

    return of_group(typer.main.get_command(app), "")


def test_commands_and_options_are_frozen():
    found = {
        name: {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        }
        - {"--help"}
        for name, command in click_commands().items()
    }
    assert found.keys() == COMMANDS.keys()
    for name, options in COMMANDS.items():
        assert found[name] >= options, f"safetrove {name} lost {sorted(options - found[name])}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name):
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output and f"safetrove {name}" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_options_exit_with_2(name):
    result = CliRunner().invoke(app, [*name.split(), "--no-such-option"])
    assert result.exit_code == 2 and "--no-such-option" in result.output


def test_an_unknown_command_exits_with_2():
    assert "bake" in command_line("bake", expect=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml: no such recipe"),
        (("run", "recipes/sample.yaml", "--set", "tag.rate"), "--set tag.rate"),
        (("rerun", "runs", "--stage", "ingest"), "either --failed or --rank"),
        (("rerun", "runs", "--stage", "ingest", "--rank", "3-7"), "--rank 3-7"),
        (("card", "diff", "one"), "card diff: give two run folders"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_what_to_write(arguments, message):
    process = command_line(*arguments, expect=2)
    assert message in process.stderr and "Traceback" not in process.stderr


def test_a_folder_that_is_no_run_exits_with_1(tmp_path):
    process = command_line("status", tmp_path, expect=1)
    assert f"{tmp_path}: not a run folder" in process.stderr and "Traceback" not in process.stderr


def test_a_folder_that_cannot_be_one_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    where = tmp_path / "file" / "run"
    done = subprocess.run(
        [sys.executable, "-m", "safetrove", "run", ROOT / "recipes" / "sample.yaml", "--output", where],
        **{"capture_output": True, "text": True, "cwd": ROOT},
    )
    assert (
        done.returncode == 1 and done.stderr == f"error: [Errno 20] Not a directory: '{where}'; give another folder\n"
    )


def test_doctor_finds_nothing_missing():
    assert "the demo will work here" in command_line("doctor").stdout


SCORED = ["score", "probabilities", "category", "by"]


def test_score_answers_each_line_in_order():
    lines = [
        '{"id": "b", "text": "The library opens at nine and closes at five."}',
        "this is no json",
        '{"id": "a", "text": "Knead the dough for ten minutes, then let it rise."}',
        '["a", "list"]',
        "",
        '{"text": "A text without an id."}',
    ]
    process = command_line("score", text="\n".join(lines) + "\n", expect=1)
    first, no_json, second, no_object, without_id = map(json.loads, process.stdout.splitlines())
    assert [first["id"], second["id"]] == ["b", "a"]
    assert list(first) == list(second) == ["id", *SCORED] and list(without_id) == SCORED
    assert list(no_json) == ["error"] and "line 2: not JSON" in no_json["error"]
    assert list(no_object) == ["error"] and "line 4: expected a JSON object" in no_object["error"]
    for row in (first, second, without_id):
        assert len(row["probabilities"]) == 6 and abs(sum(row["probabilities"]) - 1) < 1e-3
        assert row["score"] == max(row["by"].values())
        assert (row["category"] == "none") == (row["score"] == 0)


def test_a_row_with_a_key_of_the_name_error_is_scored(tmp_path):
    rows = [{"id": "a", "text": "The bus leaves at nine.", "error": None}, {"id": "b", "error": "no text"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = io.StringIO()
    assert score_lines([tmp_path / "rows.jsonl"], out) == 1
    scored, without_text = map(json.loads, out.getvalue().splitlines())
    assert list(scored) == ["id", *SCORED] and scored["id"] == "a"
    assert without_text == {"id": "b", "error": "line 2: expected a JSON object with a string `text`"}


@pytest.mark.parametrize("room", ["pipeline", "pretrain"])
def test_a_room_that_is_shadowed_is_refused(tmp_path, room):
    (tmp_path / room).mkdir()
    (tmp_path / room / "__init__.py").write_text("raise SystemExit('the foreign package was imported')\n")
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; from safetrove.__main__ import main; main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, "doctor"], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert process.returncode == 2
    assert f"{tmp_path / room} shadows safetrove's own {ROOT / room}" in process.stderr
    assert "take" in process.stderr and "off PYTHONPATH" in process.stderr
