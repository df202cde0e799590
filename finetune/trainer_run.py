"""Runs a ready trainer of this room: resumes from its checkpoints, reports now and then, hands back time and log."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback


def run_trainer(
    trainer: Trainer, method: str, report: Callable[[str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(seconds and updates, entries of the log) of the whole training."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress(method, report))
    folder = Path(str(trainer.args.output_dir))
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=_last_whole_checkpoint(folder))
    metrics = {"seconds": round(time.monotonic() - began, 3), "updates": trainer.state.global_step}
    return metrics, [entry for entry in trainer.state.log_history if "loss" in entry]


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; None where there is none.

    transformers writes a checkpoint under its final name, and its state last: that is missing or torn where the process was
    killed while it saved.
    """
    named = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*"))
    for _, path in sorted(((int(match[1]), path) for match, path in named if match), reverse=True):
        try:
            json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue  # cut short: the one before it
        return str(path)
    return None


class _Progress(TrainerCallback):
    """A line every twentieth of the run."""

    def __init__(self, method: str, report: Callable[[str], None]) -> None:
        self.method, self.report = method, report

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        every = max(state.max_steps // 20, 1)
        if logs and "loss" in logs and state.is_world_process_zero and state.global_step % every == 0:
            parts = [f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, int | float)]
            self.report(f"{self.method}: update {state.global_step} of {state.max_steps}, {', '.join(parts)}")
