"""Checkpoints on disk: `iter_0000100/` folders, and `latest_checkpointed_iteration.txt`, which names the last whole one.

A folder holds the tensors in the format of torch.distributed.checkpoint, which any number of ranks can read, and
`state.json`. It gets its name when it is whole, and the tracker file is replaced after that: whatever moment a process is
killed at, the tracker names a whole checkpoint. Nothing here needs torch; `checkpoint_tensors` writes and reads the tensors.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pretrain.atomic_files import sync_file, sync_folder, write_text
from pretrain.errors import CheckpointError
from pretrain.metrics import json_value

TRACKER: Final = "latest_checkpointed_iteration.txt"
_FOLDER_NAME: Final = re.compile(r"iter_(\d{7,})")


@dataclass
class TrainingState:
    """Everything of a run but tensors. Losses are those of the first and of the last iteration so far; None where there is
    none, and in a checkpoint also where it was not finite."""

    iteration: int = 0
    consumed_samples: int = 0
    updates: int = 0  # iterations whose update was not skipped: the schedule counts these
    first_loss: float | None = None
    last_loss: float | None = None
    tokens_by_source: dict[str, int] = field(default_factory=dict)
    tokens_by_level: dict[str, int] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    ranks: int = 1  # processes that wrote the checkpoint
    global_batch_size: int | None = None  # of the last iteration; None in checkpoints older than this key


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run begins from; with `weights_only`, as a new run on those weights."""

    save: Path
    iteration: int
    weights_only: bool = False

    @property
    def folder(self) -> Path:
        """Where its tensors and its state lie."""
        return checkpoint_folder(self.save, self.iteration)


def find_start(save: Path, load: Path | None, finetune: bool) -> Start | None:
    """The last checkpoint of `save`; while it has none, that of `load`; None for a run from new weights.

    Raises `CheckpointError` where `load` has no checkpoint.
    """
    if (iteration := latest_iteration(save)) is not None:
        return Start(save, iteration)
    if load is None:
        return None
    if (iteration := latest_iteration(load)) is None:
        raise CheckpointError(f"load: there is no {TRACKER} in {load}; name the save folder of an earlier run")
    return Start(load, iteration, weights_only=finetune)


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


def state_sha256(state: TrainingState) -> str:
    """Tells the run and the iteration of a state from every other one: data, model, losses. Ranks and batch size are left out,
    since the state gets those of the process that goes on."""
    facts = {key: value for key, value in asdict(state).items() if key not in ("ranks", "global_batch_size")}
    return hashlib.sha256(json.dumps(json_value(facts), sort_keys=True).encode()).hexdigest()


def refuse_difference(what: str, saved: dict[str, Any], now: dict[str, Any], save: Path, advice: str = "") -> None:
    """Raise `CheckpointError` that lists what differs between a checkpoint and the run that wants to resume it; `advice`
    stands at its end."""
    differing = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    if differing:
        lines = [
            f"  {key}: {saved.get(key, 'absent')} in the checkpoint, {now.get(key, 'absent')} now" for key in differing
        ]
        raise CheckpointError(
            f"{save} was trained with other {what}; give a new save folder, or restore the old settings:\n"
            + "\n".join(lines)
            + (f"\n{advice}" if advice else "")
        )


def refuse_other_batch_size(saved: int | None, now: int, keys: list[str], save: Path) -> None:
    """Raise `CheckpointError` where `keys`, which count in samples, would be divided by another batch size than the
    iterations of the checkpoint were."""
    if not keys or saved is None or saved == now:
        return
    raise CheckpointError(
        f"{save} was trained with global_batch_size {saved}, the recipe has {now}: {', '.join(keys)} in samples would come "
        f"to another number of iterations than those already counted; set global_batch_size: {saved}, or count in "
        "iterations (train_iters, lr_*_iters)"
    )


def unfinished_folder(save: Path, iteration: int) -> Path:
    """The name of a checkpoint while it is written: the same on every rank, and removed by the next run."""
    return save / f".iter_{iteration:07d}.tmp"


def publish_checkpoint(save: Path, state: dict[str, Any], keep_latest: int) -> None:
    """Give the written folder of `state["iteration"]` its name, point the tracker at it, delete all but the newest.

    `state` is a `TrainingState` as a dict. The files in the folder must be synced already.
    """
    iteration = state["iteration"]
    temporary, final = unfinished_folder(save, iteration), checkpoint_folder(save, iteration)
    (temporary / "state.json").write_text(json.dumps(json_value(state), indent=1, allow_nan=False), encoding="utf-8")
    sync_file(temporary / "state.json")
    sync_folder(temporary)
    if final.exists():  # of a process killed before it could move the tracker, or rewound by hand
        shutil.rmtree(final)
    temporary.replace(final)
    sync_folder(save)
    write_text(save / TRACKER, f"{iteration}\n")
    _delete_old(save, iteration, keep_latest)


def remove_leftovers(save: Path) -> None:
    """Delete the unnamed parts that killed processes left in `save`. One run writes to a save folder at a time."""
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
