"""On 2 and 4 gloo ranks: gradients and losses of one process, bitwise resume after kills, the same samples on any ranks."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import yaml
from rank_pool import RankError, run_ranks
from saved_tensors import assert_equal_checkpoints
from torch import distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.tensor import DTensor

from pretrain import batches
from pretrain.blended_data import BlendedData
from pretrain.checkpoint import TRACKER, latest_iteration
from pretrain.errors import PretrainRecipeError
from pretrain.loop import pretrain
from pretrain.mesh import check_ranks, open_ranks
from pretrain.training import Training

# Of the norm of one matrix's gradient: sums in another order in float32.
TOLERANCE = 2e-6
LAYOUTS = {
    "data parallel": (2, {"shard_ranks": 1}),
    "FSDP2": (2, {"recompute": "full"}),
    "tensor parallel": (2, {"tensor_parallel": 2}),
    "FSDP2 x tensor parallel": (4, {"tensor_parallel": 2, "recompute": "full"}),
    "two copies of FSDP2": (4, {"shard_ranks": 2}),
}


def silent(line):
    pass


def some_labels_do_not_count(data, sample):
    """Another number of counted labels in each sample, so that a mean of means would be wrong."""
    return (np.arange(len(data.tokens(sample)) - 1) >= sample % 5 * 3).astype(np.float32)


@contextmanager
def masked_labels():
    before, BlendedData.loss_mask = BlendedData.loss_mask, some_labels_do_not_count
    try:
        yield
    finally:
        BlendedData.loss_mask = before


def gradients(recipe):
    """Loss and whole gradients of the first global batch, the norm before clipping, and the loss of the second."""
    with masked_labels(), open_ranks(recipe) as ranks:
        training = Training(recipe, ranks, None)
        assert ranks.mesh is None or all(isinstance(p, DTensor) for p in training.decoder.parameters())
        micro_batches = training._batches.next()
        counted = ranks.sum_over_data([sum(batch.counted_labels for batch in micro_batches)])[0]
        (loss,) = ranks.sum_over_data([training._accumulate_gradients(micro_batches, counted)])
        whole = {}
        for name, parameter in training.decoder.named_parameters():
            gradient = parameter.grad
            whole[name] = (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).clone().numpy()
        norm = training._clip()
        training._optimizer.step()
        training._optimizer.zero_grad()
        return loss, norm, training.iterate().loss, whole


@pytest.fixture
def batch_of_8(recipe):
    return recipe.model_copy(update={"global_batch_size": 8, "micro_batch_size": 2})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradients_are_those_of_one_process(batch_of_8, layout):
    count, settings = LAYOUTS[layout]
    loss, norm, next_loss, expected = gradients(batch_of_8)
    results = run_ranks(count, gradients, batch_of_8.model_copy(update=settings))
    for rank_loss, rank_norm, rank_next_loss, found in results:
        assert rank_loss == pytest.approx(loss, rel=1e-6)
        assert rank_norm == pytest.approx(norm, rel=1e-6)
        assert rank_next_loss == pytest.approx(next_loss, rel=1e-6)
        for name, gradient in expected.items():
            distance = np.linalg.norm(found[name] - gradient)
            assert distance <= TOLERANCE * np.linalg.norm(gradient), (name, distance)


def kill_in_step(rank, call):
    """This process dies in the middle of its `call`-th update."""
    made, step = [], torch.optim.AdamW.step

    def dying_step(optimizer):
        made.append(1)
        if distributed.get_rank() == rank and len(made) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(optimizer)

    torch.optim.AdamW.step = dying_step


def kill_in_save(rank, call):
    """This process dies when it has written its part of the `call`-th checkpoint, before anybody knows."""
    made, write = [], dcp.FileSystemWriter.write_data

    def dying_write(writer, *arguments):
        made.append(1)
        written = write(writer, *arguments)
        if distributed.get_rank() == rank and len(made) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    dcp.FileSystemWriter.write_data = dying_write


def train(recipe, prepare=None, *arguments):
    if prepare is not None:
        prepare(*arguments)
    return pretrain(recipe, silent)


@pytest.mark.parametrize(
    ("prepare", "call", "reached", "settings"),
    [
        (kill_in_step, 4, 2, {"tensor_parallel": 2}),
        (kill_in_save, 2, 3, {"precision": "bf16", "save_interval": 3}),
    ],
)
def test_killed_ranks_resume_bitwise(recipe, tmp_path, prepare, call, reached, settings):
    recipe = recipe.model_copy(update={"train_iters": 7, **settings})
    run_ranks(2, train, recipe.model_copy(update={"save": tmp_path / "whole"}))
    with pytest.raises(RankError):
        run_ranks(2, train, recipe, prepare, 1, call)
    assert latest_iteration(recipe.save) in (None, reached)
    results = run_ranks(2, train, recipe)
    assert [result.iterations_run for result in results] == [7 - (results[0].resumed_from or 0)] * 2
    assert_equal_checkpoints(recipe.save, tmp_path / "whole", 7)
    assert [path.name for path in recipe.save.iterdir() if path.name.startswith(".")] == []


def train_and_list_samples(recipe):
    """The samples that this rank read, in order."""
    read, read_micro_batch = [], batches.read_micro_batch

    def listing(data, samples):
        read.append(list(samples))
        return read_micro_batch(data, samples)

    batches.read_micro_batch = listing
    pretrain(recipe, silent)
    return read


def losses(save):
    return [json.loads(line)["loss"] for line in (save / "metrics.jsonl").read_text().splitlines()]


def test_other_numbers_of_ranks_read_the_same_samples_in_the_same_order(recipe, tmp_path):
    recipe = recipe.model_copy(update={"log_interval": 1, "train_iters": 6})
    whole = recipe.model_copy(update={"save": tmp_path / "whole"})
    pretrain(whole, silent)
    read = []
    for count, until in ((2, 2), (1, 4), (2, 6)):
        each = run_ranks(count, train_and_list_samples, recipe.model_copy(update={"exit_interval": until}))
        read += [sample for blocks in zip(*each, strict=True) for block in blocks for sample in block]
    assert read == list(range(6 * 4))
    assert losses(recipe.save) == pytest.approx(losses(whole.save), rel=1e-5)


def test_bf16_keeps_float32_masters_and_stays_close(recipe, tmp_path):
    fp32 = pretrain(recipe.model_copy(update={"save": tmp_path / "fp32"}), silent)
    bf16 = recipe.model_copy(update={"precision": "bf16"})
    result = pretrain(bf16, silent)
    assert result.last_loss == pytest.approx(fp32.last_loss, rel=1e-2)
    assert not distributed.is_initialized()
    with open_ranks(bf16) as ranks:
        training = Training(bf16, ranks, None)
        assert {parameter.dtype for parameter in training.decoder.parameters()} == {torch.float32}
        with torch.no_grad():
            assert training.decoder(torch.zeros(1, 4, dtype=torch.int64)).dtype == torch.bfloat16


def test_torchrun_stops_all_ranks_on_sigterm_and_resumes(recipe, tmp_path):
    recipe = recipe.model_copy(update={"train_iters": 3000, "save_interval": 3000})
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(json.loads(recipe.model_dump_json())))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pretrain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, str(path)], env=environment, **pipes) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        lines, errors = process.communicate()
    assert process.returncode != 0
    (saved,) = {int(number) for number in re.findall(r"iteration (\d+) of 3000 is saved", errors)}
    assert latest_iteration(recipe.save) == saved
    assert lines.count(" iteration ") == 0 or int(re.findall(r" iteration +(\d+)/", lines)[-1]) == saved
    assert sorted(path.name for path in recipe.save.iterdir()) == [f"iter_{saved:07d}", TRACKER, "metrics.jsonl"]


def stop_on(recipe, rank):
    """Whether an iteration says that a stop was requested, when only `rank` got the signal; and without one."""
    with open_ranks(recipe) as ranks:
        training = Training(recipe, ranks, None)
        with_signal = training.iterate(lambda: ranks.rank == rank)
        return with_signal.stop_requested, training.iterate().stop_requested


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_tensor_parallel_rank_stops_all(recipe, rank):
    assert run_ranks(2, stop_on, recipe.model_copy(update={"tensor_parallel": 2}), rank) == [(True, False)] * 2


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (3, {"tensor_parallel": 2}, "tensor_parallel 2 does not divide the 3 processes"),
        (4, {"shard_ranks": 3}, "shard_ranks 3 does not divide the 4 data-parallel ranks"),
        (4, {}, "global_batch_size 4 must be a multiple of micro_batch_size 2 x 4 data-parallel ranks"),
    ],
)
def test_ranks_that_do_not_fit_are_named(recipe, count, settings, message):
    with pytest.raises(PretrainRecipeError, match=message):
        check_ranks(recipe.model_copy(update=settings), count)
