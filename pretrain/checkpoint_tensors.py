"""Weights, optimizer and random states through torch.distributed.checkpoint: written while training goes on, read by any
number of ranks."""

import warnings
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from pretrain.checkpoint import (
    TRACKER,
    Start,
    TrainingState,
    checkpoint_folder,
    publish_checkpoint,
    remove_leftovers,
    unfinished_folder,
)
from pretrain.checkpoint_index import CheckpointReader
from pretrain.errors import CheckpointError
from pretrain.mesh import Ranks
from pretrain.model import Decoder
from pretrain.optimizer import optimizer_tensors

# Said at every save of a process that trains alone, which is what it was told to do.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)

# What reading a torn or foreign folder raises, deep inside torch.
_BROKEN: Final = (
    OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, UnpicklingError,
    CheckpointException,
)  # fmt: skip


def random_states(ranks: Ranks) -> dict[str, Tensor]:
    """The states of this rank's generators, as uint8 tensors under names of its own."""
    states = {f"random.{ranks.rank}.cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        states[f"random.{ranks.rank}.cuda"] = torch.cuda.get_rng_state(ranks.device)
    return states


def training_tensors(decoder: Decoder, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The tensors of a run themselves, not copies, by their names in the checkpoint."""
    weights = {f"model.{name}": parameter.detach() for name, parameter in decoder.named_parameters()}
    return weights | {f"optimizer.{name}": value for name, value in optimizer_tensors(decoder, optimizer).items()}


class CheckpointWriter:
    """Writes the checkpoints of one run, one at a time, in a thread of its own. All ranks call it at the same points."""

    def __init__(self, save: Path, keep_latest: int, ranks: Ranks) -> None:
        self._save, self._keep_latest, self._ranks = save, keep_latest, ranks
        self._written: Future[Any] | None = None
        self._state: dict[str, Any] = {}

    def open(self) -> None:
        """Create the save folder, or remove what killed runs left unfinished in it."""
        if self._ranks.rank == 0:
            self._save.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._save)
        self._ranks.wait_for_all()

    def begin(self, state: TrainingState, decoder: Decoder, optimizer: torch.optim.AdamW) -> Path:
        """Copy the tensors and begin to write them; training may go on. Returns the folder that will hold them."""
        self.finish()
        self._state = asdict(state)
        # The writer copies the tensors before it returns, and syncs its files before it reports them as written.
        written = dcp.async_save(
            training_tensors(decoder, optimizer) | random_states(self._ranks),
            storage_writer=dcp.FileSystemWriter(unfinished_folder(self._save, state.iteration)),
            process_group=self._ranks.checkpoint_group,
            no_dist=self._ranks.mesh is None,
        )
        assert isinstance(written, Future)
        self._written = written
        return checkpoint_folder(self._save, state.iteration)

    def publish_if_written(self) -> None:
        """Publish the checkpoint in work if every rank has written its part. Does not wait."""
        # The first rank's part ends last: it writes the index after all others have reported.
        if self._ranks.rank == 0 and self._written is not None and self._written.done():
            self._publish()

    def finish(self) -> None:
        """Wait until the checkpoint in work, if there is one, is published; on every rank."""
        if self._written is not None and self._ranks.rank != 0:
            self._wait()
        elif self._written is not None:
            self._publish()
        self._ranks.wait_for_all()

    def _publish(self) -> None:
        self._wait()
        publish_checkpoint(self._save, self._state, self._keep_latest)

    def _wait(self) -> None:
        assert self._written is not None
        try:
            self._written.result()
        except (OSError, RuntimeError, CheckpointException) as error:
            raise CheckpointError(
                f"iteration {self._state['iteration']} could not be saved in {self._save}: {error}"
            ) from error
        finally:
            self._written = None


def load_training(
    start: Start, state: TrainingState, decoder: Decoder, optimizer: torch.optim.AdamW, ranks: Ranks
) -> None:
    """Put weights, optimizer and random states of a checkpoint in place, whatever number of ranks wrote it.

    A rank that the checkpoint does not know keeps its random state. Raises `CheckpointError` for broken files and for
    weights of another shape.
    """
    random = random_states(ranks) if ranks.rank < state.ranks else {}
    random = {name: value for name, value in random.items() if name in _saved_shapes(start.folder)}
    _read(start.folder, training_tensors(decoder, optimizer) | random, ranks)
    if cpu := [value for name, value in random.items() if name.endswith("cpu")]:
        torch.set_rng_state(cpu[0])
    if cuda := [value for name, value in random.items() if name.endswith("cuda")]:
        torch.cuda.set_rng_state(cuda[0], ranks.device)


def load_weights(folder: Path, decoder: Decoder, ranks: Ranks) -> None:
    """Put the weights alone of one checkpoint folder in place. Raises as `load_training` does."""
    weights = {f"model.{name}": parameter.detach() for name, parameter in decoder.named_parameters()}
    _read(folder, weights, ranks)


def _read(folder: Path, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    saved = _saved_shapes(folder)
    wrong = [
        f"  {name}: {_describe(saved.get(name))} in the checkpoint, {_describe(tuple(tensor.shape))} in this model"
        for name, tensor in tensors.items()
        if saved.get(name) != tuple(tensor.shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{folder} does not fit this model; set the recipe's model, and use its tokenizer:\n" + "\n".join(wrong[:8])
        )
    try:
        dcp.load(tensors, storage_reader=CheckpointReader(folder), no_dist=ranks.mesh is None)
    except _BROKEN as error:
        raise CheckpointError(
            f"{folder} cannot be loaded: {error}; write an earlier iteration into {TRACKER}"
        ) from error


def _saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    try:
        metadata = CheckpointReader(folder).read_metadata().state_dict_metadata
    except _BROKEN as error:
        raise CheckpointError(
            f"{folder} holds no readable checkpoint: {error}; write an earlier iteration into {TRACKER}"
        ) from error
    return {name: tuple(entry.size) for name, entry in metadata.items() if isinstance(entry, TensorStorageMetadata)}


def _describe(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape)) or "one number"
