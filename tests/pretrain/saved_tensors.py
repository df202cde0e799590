"""What a checkpoint holds, read without the code under test: every tensor by name, and the state."""

import json

import torch
from torch.distributed import checkpoint as dcp


def read_checkpoint(save, iteration):
    folder = save / f"iter_{iteration:07d}"
    entries = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    dcp.load(tensors, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return tensors, json.loads((folder / "state.json").read_text())


def assert_equal_checkpoints(one, other, iteration):
    """Bit for bit: weights, moments, steps, random states, and the state."""
    ours, our_state = read_checkpoint(one, iteration)
    theirs, their_state = read_checkpoint(other, iteration)
    assert our_state == their_state
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
