"""What a run says: validation by source, TensorBoard, a bar on a terminal, utilisation of a known device."""

import json
import math
import sys
from dataclasses import asdict

import pytest
from rank_pool import run_ranks

from pretrain.checkpoint import (
    TrainingState,
    checkpoint_folder,
    latest_iteration,
    load_state,
    publish_checkpoint,
    unfinished_folder,
)
from pretrain.device_peaks import peak_tflops
from pretrain.errors import PretrainDataError, PretrainDependencyError
from pretrain.loop import PretrainResult, pretrain
from safetrove.pretraining import describe


def silent(line):
    pass


def validation_losses(recipe):
    pretrain(recipe, silent)
    records = [json.loads(line) for line in (recipe.save / "metrics.jsonl").read_text().splitlines()]
    return {record["iteration"]: record["validation_loss"] for record in records if "validation_loss" in record}


def test_validation_measures_each_source_the_same_on_any_ranks(recipe, tmp_path):
    lines = []
    # 5 samples: the last pass of two ranks has samples that must not count.
    recipe = recipe.model_copy(update={"validation": recipe.data, "eval_interval": 3, "eval_samples": 5})
    pretrain(recipe, lines.append)
    losses = validation_losses(recipe)
    assert list(losses) == [3, 6, 8]
    assert losses[8]["safe"] < losses[3]["safe"] < math.log(64)
    assert losses[8].keys() == {"safe", "moral"}
    assert sum(" validation loss at iteration" in line for line in lines) == 3
    assert f"moral loss: {losses[8]['moral']:.6E}" in lines[-1]
    both = run_ranks(2, validation_losses, recipe.model_copy(update={"save": tmp_path / "two", "tensor_parallel": 1}))[
        0
    ]
    assert both[8] == {source: pytest.approx(loss, rel=1e-5) for source, loss in losses[8].items()}


def held_out(recipe, moral=None, **keys):
    """Another blend file beside the training data's, with other keys and another source `moral`; and the recipe with it."""
    blend = json.loads(recipe.data.read_text()) | keys
    blend["sources"][1] |= moral or {}
    other = recipe.data.with_name("other.json")
    other.write_text(json.dumps(blend))
    return recipe.model_copy(update={"validation": other})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"vocabulary_size": 62}, "has a vocabulary of 62, the training data one of 61"),
        (
            {"tokenizer_sha256": "b" * 64},
            r"other.json was written with a tokenizer of sha256 b{12}\.\.\., the training data with a{12}\.\.\.: tokenise both",
        ),
        (
            {"moral": {"tokens": 16}},
            "validation: source moral of .*other.json holds 16 tokens in all.* weight 0 in that",
        ),
        (
            {"sources": [{"weight": 0}, {"tokens": 0}]},
            "validation: .*other.json has no source with tokens and a weight",
        ),
    ],
)
def test_validation_data_that_does_not_fit_is_refused_before_the_first_step(recipe, keys, message):
    blend = json.loads(recipe.data.read_text()) | {"tokenizer_sha256": "a" * 64}
    recipe.data.write_text(json.dumps(blend))
    if "sources" in keys:
        keys = {"sources": [old | new for old, new in zip(blend["sources"], keys["sources"], strict=True)]}
    with pytest.raises(PretrainDataError, match=message):
        pretrain(held_out(recipe, **keys), silent)
    assert not recipe.save.exists()


def test_the_tokenizer_beside_validation_data_is_compared(recipe):
    (recipe.data.parent / "held_out").mkdir()
    (recipe.data.parent / "held_out" / "tokenizer.json").write_text("{}")
    with pytest.raises(
        PretrainDataError, match=r"held_out/tokenizer.json has sha256 .*other.json was written with c{12}"
    ):
        pretrain(held_out(recipe, tokenizer="held_out", tokenizer_sha256="c" * 64), silent)


@pytest.mark.parametrize("moral", [{"weight": 0}, {"weight": 0, "shards": ["none/00000"]}, {"tokens": 0}])
def test_sources_without_weight_or_tokens_are_not_measured(recipe, moral):
    assert validation_losses(held_out(recipe, moral).model_copy(update={"train_iters": 5}))[5].keys() == {"safe"}


def test_losses_of_a_run_that_diverges_end_neither_the_run_nor_the_json(recipe, monkeypatch):
    """exp of a loss above 709 is no float, and JSON has no NaN."""
    losses = {"safe": 800.0, "moral": math.nan, "other": math.inf, "fine": 1.0}
    monkeypatch.setattr("pretrain.validation.Validation.losses", lambda self, training: losses)
    lines = []
    pretrain(recipe.model_copy(update={"validation": recipe.data}), lines.append)
    assert latest_iteration(recipe.save) == 8
    assert lines[-1] == (
        " validation loss at iteration 8 | safe loss: 8.000000E+02 | safe PPL: INF | moral loss: NAN | moral PPL: NAN |"
        " other loss: INF | other PPL: INF | fine loss: 1.000000E+00 | fine PPL: 2.718282E+00 |"
    )

    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    last = (recipe.save / "metrics.jsonl").read_text().splitlines()[-1]
    found = json.loads(last, parse_constant=refuse)["validation_loss"]
    assert found == {"safe": 800.0, "moral": None, "other": None, "fine": 1.0}


def test_a_state_without_a_finite_loss_is_json_and_can_be_told(tmp_path):
    state = asdict(TrainingState(iteration=3, first_loss=math.inf, last_loss=math.nan))
    unfinished_folder(tmp_path, 3).mkdir()
    publish_checkpoint(tmp_path, state, 1)
    text = (checkpoint_folder(tmp_path, 3) / "state.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    kept = load_state(tmp_path, 3)
    assert kept == TrainingState(iteration=3)
    told = describe(PretrainResult(kept.first_loss, kept.last_loss, 3, None, 10))
    assert told == "pretraining: 3 iterations, loss not finite -> not finite, 10 tokens in all"


def test_tensorboard_holds_the_curves(recipe, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = recipe.model_copy(update={"tensorboard": tmp_path / "events", "validation": recipe.data})
    pretrain(recipe.model_copy(update={"exit_interval": 4}), silent)
    pretrain(recipe, silent)
    events = accumulators.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6, 8]
    assert {"validation/moral", "tokens_by_source/safe", "train/learning_rate"} <= set(events.Tags()["scalars"])


def test_missing_tensorboard_is_named(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(PretrainDependencyError, match=r"pip install 'safetrove\[train\]'"):
        pretrain(recipe.model_copy(update={"tensorboard": tmp_path / "events"}), silent)


def test_a_terminal_gets_a_bar_and_the_lines_above_it(recipe, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "400")
    pretrain(recipe, silent, terminal=True)
    shown = capsys.readouterr().out
    assert "8/8" in shown
    assert shown.count("lm loss:") == 4


def test_utilisation_needs_a_known_or_given_peak(recipe):
    assert (peak_tflops("NVIDIA H100 80GB HBM3"), peak_tflops("NVIDIA H100 PCIe")) == (989.4, 756.0)
    assert peak_tflops("Some processor") is None
    lines = []
    pretrain(recipe, lines.append)
    assert "| MFU: N/A |" in lines[-1]
    pretrain(
        recipe.model_copy(update={"peak_tflops": 0.001, "train_iters": 10, "save": recipe.save / "b"}), lines.append
    )
    record = json.loads((recipe.save / "b" / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["model_flops_utilisation"] == pytest.approx(record["tflops_per_second"] / 0.001)
    assert f"| MFU: {100 * record['model_flops_utilisation']:.1f}% |" in lines[-1]
