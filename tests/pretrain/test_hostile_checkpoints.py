"""Checkpoints that somebody else wrote: what their index names is refused, and nothing of it is run."""

import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from pretrain.checkpoint_index import CheckpointReader
from pretrain.errors import CheckpointError
from pretrain.loop import pretrain
from pretrain.recipe import PretrainRecipe


@pytest.fixture
def saved(recipe):
    """A finished run, its last checkpoint's folder, and a recipe that begins from it."""
    pretrain(recipe.model_copy(update={"train_iters": 2}), lambda line: None)
    folder = recipe.save / "iter_0000002"
    values = {**recipe.model_dump(exclude_none=True), "load": recipe.save, "save": recipe.save.parent / "tuned"}
    return folder, PretrainRecipe.model_validate({**values, "finetune": True})


def index_of(folder):
    return CheckpointReader(folder).read_metadata()


def write_index(folder, index):
    (folder / ".metadata").write_bytes(pickle.dumps(index))


class Calls:
    """Is pickled as a call: whoever unpickles it without limits makes it."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def hostile(index, place, call):
    if place == "alone":
        return call
    if place == "planner":
        index.planner_data = call
    elif place == "tensor":
        index.state_dict_metadata["model.norm.weight"] = call
    else:
        index.storage_meta.checkpoint_id = call
    return index


@pytest.mark.parametrize("place", ["alone", "planner", "tensor", "storage"])
def test_an_index_that_calls_something_is_refused_before_it_is_called(saved, tmp_path, place):
    folder, tuned = saved
    mark = tmp_path / "called"
    write_index(folder, hostile(index_of(folder), place, Calls(Path.touch, mark)))
    with pytest.raises(
        CheckpointError, match=r"iter_0000002 holds no readable checkpoint: its index names .*(getattr|touch)"
    ):
        pretrain(tuned, lambda line: None)
    assert not mark.exists()
    pickle.loads((folder / ".metadata").read_bytes())  # what torch's own reader does
    assert mark.exists()


@pytest.mark.parametrize("function", [eval, torch.load, torch.serialization.load, pickle.loads, torch.hub.load])
def test_functions_of_torch_and_python_are_no_records(saved, function):
    folder, tuned = saved
    write_index(folder, Calls(function, "1"))
    with pytest.raises(CheckpointError, match="which is no part of a checkpoint of tensors"):
        pretrain(tuned, lambda line: None)


def test_an_entry_that_torch_would_unpickle_is_refused(saved):
    folder, tuned = saved
    index = index_of(folder)
    index.state_dict_metadata["model.norm.weight"] = BytesStorageMetadata()
    write_index(folder, index)
    with pytest.raises(
        CheckpointError, match=r"its index names torch\.distributed\.checkpoint\.metadata\.BytesStorage"
    ):
        pretrain(tuned, lambda line: None)


@pytest.mark.parametrize("elsewhere", ["../iter_0000001/__0_0.distcp", "/dev/zero", ".."])
def test_tensors_in_another_folder_are_refused(saved, elsewhere):
    folder, tuned = saved
    index = index_of(folder)
    next(iter(index.storage_data.values())).relative_path = elsewhere
    write_index(folder, index)
    with pytest.raises(CheckpointError, match="which is no file of its folder"):
        pretrain(tuned, lambda line: None)


@pytest.mark.parametrize("content", [b"", b"torn", pickle.dumps({"state_dict_metadata": {}}), pickle.dumps(7)])
def test_what_is_no_index_is_named(saved, content):
    folder, tuned = saved
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"iter_0000002 holds no readable checkpoint"):
        pretrain(tuned, lambda line: None)


def test_our_reader_reads_what_torchs_does(saved):
    folder, _ = saved
    ours, theirs = index_of(folder), dcp.FileSystemReader(folder).read_metadata()
    ours.storage_meta.load_id = theirs.storage_meta.load_id = None
    assert ours == theirs and len(ours.state_dict_metadata) > 10
