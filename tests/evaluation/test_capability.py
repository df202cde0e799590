"""lm-eval's own evaluation, on a task of ours that needs no network."""

import json
import math

import pytest
import yaml

from classifiers.errors import DependencyError, RecipeError
from evaluation.measures.capability import measure_capability, task_measures
from tests.evaluation.tiny_model import save_tiny_model
from tests.test_command_line import command_line

QUESTIONS = [("What is two and two?", ["four", "a bird"]), ("Where do fish live?", ["on the moon", "in water"])] * 6


def write_task(folder):
    """A task whose right answers stand first and second in turn."""
    folder.mkdir()
    rows = [{"question": q, "choices": choices, "answer": n % 2} for n, (q, choices) in enumerate(QUESTIONS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "two_choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "two_choices.yaml").write_text(yaml.safe_dump(task))
    return folder


def test_a_task_through_the_command_line(tmp_path):
    model = save_tiny_model(tmp_path / "model")
    arguments = (
        "evaluate",
        "capability",
        model,
        "--task",
        "two_choices",
        "--task-folder",
        write_task(tmp_path / "tasks"),
    )
    shown = command_line(*arguments, "--output", tmp_path / "out", HF_HUB_OFFLINE="1").stdout
    kept = json.loads((tmp_path / "out" / "capability.json").read_text())
    (measure,) = kept["measures"]
    assert (measure["task"], measure["metric"], measure["n"]) == ("two_choices", "acc,none", len(QUESTIONS))
    right, n = round(measure["value"] * len(QUESTIONS)), len(QUESTIONS)
    assert measure["value"] == right / n
    # lm-eval's standard error of a mean: sample deviation over the root of n
    half = 1.959964 * math.sqrt(measure["value"] * (1 - measure["value"]) / (n - 1))
    assert measure["high"] - measure["value"] == pytest.approx(half, rel=1e-5, abs=1e-12)
    assert f"two_choices  acc,none  {measure['value']:.3f} [" in shown and "n = 12" in shown
    assert kept["model"] == "model" and kept["revision"].startswith("folder-") and kept["limit"] is None


def test_what_lm_eval_gives_is_read_metric_by_metric():
    found = {
        "results": {
            "piqa": {"alias": "piqa", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.6, "acc_norm_stderr,none": "N/A"},
            "mmlu": {"acc,none": 0.25, "acc_stderr,none": 0.01, "alias": "mmlu"},
        },
        "n-samples": {"piqa": {"original": 100, "effective": 40}},
    }  # fmt: skip
    first, second, third = task_measures(found)
    assert (first.task, first.metric, first.value, first.n) == ("piqa", "acc,none", 0.5, 40)
    assert (round(first.low, 4), round(first.high, 4)) == (0.304, 0.696)
    assert (second.metric, second.low, second.high) == ("acc_norm,none", None, None)
    assert (third.task, third.n) == ("mmlu", None) and third.as_text() == "mmlu  acc,none  0.250 [0.230, 0.270]"


def test_without_lm_eval_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(DependencyError, match=r"pip install 'safetrove\[eval\]'"):
        measure_capability("nowhere", ["piqa"], tmp_path)


def test_an_unknown_task_is_named(tmp_path):
    with pytest.raises(RecipeError, match="lm-eval knows no task 'no_such_task'"):
        measure_capability("nowhere", ["no_such_task"], tmp_path)
