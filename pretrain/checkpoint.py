"""Checkpoints: `iter_0000100/` folders, and `latest_checkpointed_iteration.txt`, which names the last whole one.

A folder holds `model.safetensors`, `optimizer.pt`, `random.pt` and `state.json`. It gets its name when it is whole, and
the tracker file is replaced after that: whatever moment a process is killed at, the tracker names a whole checkpoint.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pretrain.atomic_files import sync_file, sync_folder, temporary_name, write_text
from pretrain.errors import CheckpointError

if TYPE_CHECKING:
    import torch

TRACKER: Final = "latest_checkpointed_iteration.txt"
_FOLDER_NAME: Final = re.compile(r"iter_(\d{7,})")


@dataclass
class TrainingState:
    """Everything of a run but tensors. Losses are those of the first and of the last iteration so far."""

    iteration: int = 0
    consumed_samples: int = 0
    updates: int = 0  # iterations whose update was not skipped: the schedule counts these
    first_loss: float | None = None
    last_loss: float | None = None
    tokens_by_source: dict[str, int] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    vocabulary_size: int = 0


def checkpoint_folder(save: Path, iteration: int) -> Path:
    """`save/iter_0000100`."""
    return save / f"iter_{iteration:07d}"


def latest_iteration(save: Path) -> int | None:
    """The iteration that the tracker file names, or None where nothing has been saved yet. Needs no torch."""
    tracker = save / TRACKER
    if not tracker.is_file():
        return None
    text = tracker.read_text(encoding="utf-8").strip()
    if not text.isdigit():
        raise CheckpointError(
            f"{tracker} holds {text[:40]!r} in place of an iteration; write the number of a checkpoint"
        )
    return int(text)


def load_state(save: Path, iteration: int) -> TrainingState:
    """`state.json` of a checkpoint. Needs no torch. Raises `CheckpointError` where it is missing or unreadable."""
    path = checkpoint_folder(save, iteration) / "state.json"
    try:
        return TrainingState(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{save / TRACKER} names iteration {iteration}, but {path} is missing") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not the state of a checkpoint: {error}") from error


def save_checkpoint(
    save: Path,
    state: TrainingState,
    model: "torch.nn.Module",
    optimizer: "torch.optim.Optimizer",
    keep_latest: int,
) -> Path:
    """Write a checkpoint, point the tracker at it, then delete all but the `keep_latest` newest. Returns its folder."""
    import torch
    from safetensors.torch import save_file

    remove_leftovers(save)
    final = checkpoint_folder(save, state.iteration)
    temporary = temporary_name(final)
    temporary.mkdir(parents=True)
    save_file(model.state_dict(), temporary / "model.safetensors")
    torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
    torch.save({"torch": torch.get_rng_state()}, temporary / "random.pt")
    (temporary / "state.json").write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    for path in temporary.iterdir():
        # safetensors makes its file private; a checkpoint is as readable as the files beside it.
        path.chmod((temporary / "state.json").stat().st_mode)
        sync_file(path)
    sync_folder(temporary)
    if final.exists():  # of a process killed before it could move the tracker, or rewound by hand
        shutil.rmtree(final)
    temporary.replace(final)
    sync_folder(save)
    write_text(save / TRACKER, f"{state.iteration}\n")
    _delete_old(save, state.iteration, keep_latest)
    return final


def load_tensors(save: Path, iteration: int, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer") -> None:
    """Put weights, optimizer and random state of a checkpoint in place. Raises `CheckpointError` for broken files."""
    import torch

    folder = checkpoint_folder(save, iteration)
    load_weights(folder, model)
    try:
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        torch.set_rng_state(torch.load(folder / "random.pt", weights_only=True)["torch"])
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded: {error}; write an earlier iteration into {TRACKER}"
        ) from error


def load_weights(folder: Path, model: "torch.nn.Module") -> None:
    """Put the weights of one checkpoint folder into `model`. Raises `CheckpointError` for broken files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"the weights in {folder} cannot be loaded: {error}") from error


def refuse_difference(what: str, saved: dict[str, Any], now: dict[str, Any], save: Path) -> None:
    """Raise `CheckpointError` that lists what differs between a checkpoint and the run that wants to resume it."""
    differing = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    if differing:
        lines = [
            f"  {key}: {saved.get(key, 'absent')} in the checkpoint, {now.get(key, 'absent')} now" for key in differing
        ]
        hint = ""
        if any(key.endswith(" repetition") for key in differing):
            hint = "\nA longer run repeats its sources more often, in another order: set data_samples to what the first part used."
        raise CheckpointError(
            f"{save} was trained with other {what}; give a new save folder, or restore the old settings:\n"
            + "\n".join(lines)
            + hint
        )


def remove_leftovers(save: Path) -> None:
    """Delete the unnamed parts that killed processes left in `save`. One process writes to a save folder at a time."""
    for path in save.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _delete_old(save: Path, newest: int, keep_latest: int) -> None:
    found = sorted(
        (int(match[1]), path)
        for path in save.iterdir()
        if (match := _FOLDER_NAME.fullmatch(path.name)) and path.is_dir()
    )
    for _, path in [(number, path) for number, path in found if number <= newest][:-keep_latest]:
        # Renamed first: a half-deleted folder must not keep the name of a checkpoint.
        doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.rename(doomed)
        shutil.rmtree(doomed)
