"""Runs a ready trainer of this room: resumes from its checkpoints, reports now and then, hands back time and log."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint


def run_trainer(
    trainer: Trainer, method: str, report: Callable[[str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(seconds and updates, entries of the log) of the whole training."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress(method, report))
    folder = Path(str(trainer.args.output_dir))
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    metrics = {"seconds": round(time.monotonic() - began, 3), "updates": trainer.state.global_step}
    return metrics, [entry for entry in trainer.state.log_history if "loss" in entry]


class _Progress(TrainerCallback):
    """A line every twentieth of the run."""

    def __init__(self, method: str, report: Callable[[str], None]) -> None:
        self.method, self.report = method, report

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        every = max(state.max_steps // 20, 1)
        if logs and "loss" in logs and state.is_world_process_zero and state.global_step % every == 0:
            parts = [f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, int | float)]
            self.report(f"{self.method}: update {state.global_step} of {state.max_steps}, {', '.join(parts)}")
