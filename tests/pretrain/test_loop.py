"""The loop: falling loss, bitwise resume after every kind of stop, refusals, log line, nothing left to do."""

import dataclasses
import json
import re
import signal
import subprocess
import sys

import pytest
import yaml
from saved_tensors import assert_equal_checkpoints

from pretrain.checkpoint import TRACKER, latest_iteration, load_state
from pretrain.errors import CheckpointError, PretrainDataError
from pretrain.loop import pretrain
from pretrain.metrics import Progress, format_log_line
from pretrain.recipe import PretrainRecipe


def write_recipe(path, recipe):
    path.write_text(yaml.safe_dump(json.loads(recipe.model_dump_json())))
    return path


@pytest.fixture
def whole_run(recipe, tmp_path):
    """The save folder of an uninterrupted run."""
    whole = recipe.model_copy(update={"save": tmp_path / "whole"})
    pretrain(whole, lambda line: None)
    return whole.save


def test_loss_falls_and_progress_is_recorded(recipe):
    lines = []
    result = pretrain(recipe.model_copy(update={"train_iters": 20}), lines.append)
    assert result.last_loss < result.first_loss - 0.3
    assert (result.iterations_run, result.resumed_from, result.tokens) == (20, None, 20 * 4 * 16)
    assert len(lines) == 10
    metrics = [json.loads(line) for line in (recipe.save / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in metrics] == list(range(2, 21, 2))
    assert sum(metrics[-1]["tokens_by_source"].values()) == result.tokens
    assert metrics[-1]["tokens_per_second"] > 0
    assert sorted(path.name for path in recipe.save.iterdir() if path.is_dir()) == [
        f"iter_{iteration:07d}" for iteration in (16, 18, 20)
    ]


def test_log_line():
    progress = Progress(10, 100, 640, 0.0123, 5.0, 1.5, 0.31, 0.01, 1e-3, 64, 10.88, 0.5571, 0, 0, {}, {})
    unknown = dataclasses.replace(progress, model_flops_utilisation=None)
    assert format_log_line(unknown) == format_log_line(progress).replace("31.0%", "N/A")
    assert format_log_line(progress) == (
        " iteration   10/ 100 | consumed samples:  640 | elapsed time per iteration (ms): 12.3 |"
        " throughput per GPU (TFLOP/s/GPU): 1.5 | learning rate: 1.000000E-03 | global batch size:  64 |"
        " lm loss: 1.088E+01 | loss scale: 1.0 | grad norm: 0.557 | number of skipped iterations: 0 |"
        " number of nan iterations: 0 | tokens per second: 5 | MFU: 31.0% |"
    )


def test_stop_and_resume_is_bitwise_the_uninterrupted_run(recipe, whole_run):
    first = pretrain(recipe.model_copy(update={"exit_interval": 3}), lambda line: None)
    assert (first.iterations_run, latest_iteration(recipe.save)) == (3, 3)
    second = pretrain(recipe, lambda line: None)
    assert (second.iterations_run, second.resumed_from) == (5, 3)
    assert_equal_checkpoints(recipe.save, whole_run, 8)
    assert dataclasses.asdict(load_state(recipe.save, 8)) == dataclasses.asdict(load_state(whole_run, 8))
    iterations = [json.loads(line)["iteration"] for line in (recipe.save / "metrics.jsonl").read_text().splitlines()]
    assert iterations == [2, 3, 4, 6, 8]


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_killed_process_resumes_bitwise(recipe, tmp_path, stop, code):
    # Long enough that the signal arrives before the end, wherever in an iteration or a save that is.
    recipe = recipe.model_copy(update={"train_iters": 150, "save_interval": 10})
    pretrain(recipe.model_copy(update={"save": tmp_path / "whole", "save_interval": 150}), lambda line: None)
    path = write_recipe(tmp_path / "r.yaml", recipe)
    command = [sys.executable, "-m", "pretrain", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(stop)
        process.communicate()
    assert process.returncode == code
    reached = latest_iteration(recipe.save)
    assert reached is None or reached < 150
    result = pretrain(recipe, lambda line: None)
    assert result.resumed_from == reached
    assert_equal_checkpoints(recipe.save, tmp_path / "whole", 150)
    assert [path.name for path in recipe.save.iterdir() if path.name.startswith(".")] == []


def test_leftovers_of_a_save_that_was_killed_half_way(recipe, whole_run):
    pretrain(recipe.model_copy(update={"exit_interval": 4}), lambda line: None)
    # Killed between the folder's rename and the tracker's; and, later, in the middle of writing a folder.
    (recipe.save / TRACKER).write_text("2\n")
    (recipe.save / "iter_0000004" / "__0_0.distcp").write_bytes(b"torn")
    (recipe.save / ".iter_0000006.tmp").mkdir()
    result = pretrain(recipe, lambda line: None)
    assert (result.resumed_from, result.iterations_run) == (2, 6)
    for iteration in (4, 8):
        assert_equal_checkpoints(recipe.save, whole_run, iteration)
    assert not (recipe.save / ".iter_0000006.tmp").exists()


def test_micro_batches_add_up_to_the_same_gradient(recipe, tmp_path):
    losses = []
    for micro in (1, 4):
        variant = recipe.model_copy(update={"micro_batch_size": micro, "save": tmp_path / f"micro{micro}"})
        losses.append(pretrain(variant, lambda line: None).last_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_nothing_left_to_do_needs_no_torch(recipe, tmp_path):
    result = pretrain(recipe, lambda line: None)
    again = pretrain(recipe, lambda line: None)
    assert again == dataclasses.replace(result, iterations_run=0, resumed_from=8)
    path = write_recipe(tmp_path / "r.yaml", recipe)
    code = "import sys; from pretrain.loop import run; run(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_other_data_or_another_model_is_refused(recipe, rewrite_blend):
    pretrain(recipe.model_copy(update={"exit_interval": 4}), lambda line: None)
    model = recipe.model.model_copy(update={"rope_theta": 10_000.0})
    with pytest.raises(CheckpointError, match=r"rope_theta: 500.0 in the checkpoint, 10000.0 now"):
        pretrain(recipe.model_copy(update={"model": model}))
    with pytest.raises(CheckpointError, match="seed: 1234 in the checkpoint, 1 now"):
        pretrain(recipe.model_copy(update={"seed": 1}))
    with pytest.raises(CheckpointError, match=r"repetition: 1 epochs in the checkpoint(.|\n)*the old train_iters only"):
        pretrain(recipe.model_copy(update={"train_iters": 800}))
    rewrite_blend(seed=1)
    with pytest.raises(CheckpointError, match="safe files"):
        pretrain(recipe)


def with_keys(recipe, **keys):
    """The recipe read anew with these keys, so that what follows from them is worked out."""
    return PretrainRecipe.model_validate({**recipe.model_dump(exclude={"train_iters", "lr_warmup_iters"}), **keys})


@pytest.mark.parametrize("batch", [8, 2])
def test_another_batch_size_is_refused_where_a_key_counts_in_samples(recipe, batch):
    in_samples = {"train_samples": 32, "lr_warmup_samples": 8, "lr_wsd_decay_iters": 1}
    pretrain(with_keys(recipe, exit_interval=4, **in_samples), lambda line: None)
    assert load_state(recipe.save, 4).global_batch_size == 4
    # 32 samples in batches of 8 are 4 iterations: the run would seem to be at its end.
    other = with_keys(recipe, global_batch_size=batch, **in_samples)
    message = (
        f"with global_batch_size 4, the recipe has {batch}: train_samples, lr_warmup_samples in samples .* set global"
    )
    with pytest.raises(CheckpointError, match=message):
        pretrain(other, lambda line: None)
    state = recipe.save / "iter_0000004" / "state.json"
    content = json.loads(state.read_text())
    del content["global_batch_size"]
    state.write_text(json.dumps(content))  # as older versions wrote it
    assert pretrain(with_keys(recipe, **in_samples), lambda line: None).resumed_from == 4


def test_another_batch_size_is_allowed_where_all_keys_count_iterations(recipe):
    pretrain(recipe.model_copy(update={"exit_interval": 4, "data_samples": 64}), lambda line: None)
    other = recipe.model_copy(update={"global_batch_size": 8, "data_samples": 64})
    assert pretrain(other, lambda line: None).resumed_from == 4
    assert load_state(recipe.save, 8).consumed_samples == 4 * 4 + 4 * 8


def test_what_is_advised_for_another_length_can_be_followed(recipe, tmp_path):
    first = recipe.model_copy(update={"exit_interval": 4})
    pretrain(first, lambda line: None)
    with pytest.raises(CheckpointError, match="leave it out where it had none") as refused:
        pretrain(first.model_copy(update={"data_samples": 2000}))
    assert "seed" not in str(refused.value)
    with pytest.raises(CheckpointError, match="go on to the old train_iters only, or begin anew") as refused:
        pretrain(first.model_copy(update={"train_iters": 800}))
    assert "set data_samples" not in str(refused.value), "the recipe refuses fewer data_samples than train_iters needs"
    assert pretrain(recipe, lambda line: None).resumed_from == 4
    anew = {"train_iters": 800, "save": tmp_path / "anew", "load": recipe.save, "finetune": True, "exit_interval": 1}
    assert pretrain(recipe.model_copy(update=anew), lambda line: None).iterations_run == 1

    long = first.model_copy(update={"save": tmp_path / "long", "data_samples": 2000})
    pretrain(long, lambda line: None)
    with pytest.raises(CheckpointError, match="set data_samples to what it had"):
        pretrain(long.model_copy(update={"data_samples": None}))
    assert pretrain(long, lambda line: None).resumed_from == 4


def test_data_samples_lets_a_run_grow(recipe, tmp_path):
    long = recipe.model_copy(update={"data_samples": 2000, "lr_decay_style": "constant"})
    pretrain(long, lambda line: None)
    grown = pretrain(long.model_copy(update={"train_iters": 10}), lambda line: None)
    assert (grown.iterations_run, grown.resumed_from) == (2, 8)
    straight = long.model_copy(update={"train_iters": 10, "save": tmp_path / "straight"})
    pretrain(straight, lambda line: None)
    assert_equal_checkpoints(long.save, straight.save, 10)


def test_broken_checkpoints_and_missing_data_are_named(recipe):
    pretrain(recipe.model_copy(update={"exit_interval": 4}), lambda line: None)
    tensors = recipe.save / "iter_0000004" / "__0_0.distcp"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        pretrain(recipe)
    (recipe.save / TRACKER).write_text("6\n")
    with pytest.raises(CheckpointError, match="names iteration 6, but"):
        pretrain(recipe)
    (recipe.save / TRACKER).write_text("release\n")
    with pytest.raises(CheckpointError, match="holds 'release' in place of an iteration"):
        pretrain(recipe)
    with pytest.raises(PretrainDataError, match="no blend file"):
        pretrain(recipe.model_copy(update={"data": recipe.save / "x.json", "save": recipe.save / "new"}))


def test_exit_codes_of_the_command(tmp_path):
    command = [sys.executable, "-m", "pretrain", str(tmp_path / "none.yaml")]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 2
    assert re.fullmatch(r"there is no recipe at \S+none\.yaml\n", finished.stderr)
