"""What a run shows: a live table on a terminal, plain lines in a batch log."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.run import Observer
from pipeline.shard_state import DONE, StageState
from pipeline.stage import Stage


class StageProgress:
    """Counts of one stage, as they come in."""

    def __init__(self, name: str, shards: int, done: int, rows: int):
        self.name, self.shards, self.done, self.failed = name, shards, done, 0
        self.finished_rows, self.rows_now = rows, 0
        self.open_rows: dict[int, int] = {}
        self.todo = 0
        self.started: float | None = None
        self.ended: float | None = None

    @property
    def rows(self) -> int:
        """Rows of finished shards and of those in work."""
        return self.finished_rows + sum(self.open_rows.values())

    @property
    def seconds(self) -> float:
        """Since the stage began, in this command."""
        return 0.0 if self.started is None else (self.ended or time.monotonic()) - self.started

    def rate(self) -> float | None:
        """Documents a second of this command's work, None before there is any."""
        rows = self.rows_now + sum(self.open_rows.values())
        return rows / self.seconds if self.started is not None and rows and self.seconds > 0 else None

    def seconds_left(self, shards_done_now: int) -> float | None:
        """By shards: those that are left at the pace of those that were done."""
        if self.started is None or self.ended is not None or not shards_done_now:
            return None
        return self.seconds / shards_done_now * (self.todo - shards_done_now)

    def record(self, kind: str, shard: int, value: Any) -> None:
        """Take in one event of the stage."""
        if kind == "progress":
            self.open_rows[shard] = value
            return
        self.open_rows.pop(shard, None)
        if kind == "done":
            self.done += 1
            self.finished_rows += value
            self.rows_now += value
        else:
            self.failed += 1


class _Base:
    def __init__(self) -> None:
        self.stages: dict[str, StageProgress] = {}
        self.errors: list[str] = []

    def plan(self, states: list[StageState]) -> None:
        for state in states:
            done = state.shards(DONE)
            rows = sum(state.manifests[shard].rows.rows_in for shard in done)
            self.stages[state.stage.name] = StageProgress(state.stage.name, state.stage.shards, len(done), rows)

    def stage_started(self, stage: Stage, shards: list[int]) -> None:
        progress = self.stages[stage.name]
        progress.started, progress.todo = time.monotonic(), len(shards)
        progress.done = stage.shards - len(shards)

    def event(self, stage: Stage, kind: str, shard: int, value: Any) -> None:
        self.stages[stage.name].record(kind, shard, value)
        if kind == "failed":
            self.errors.append(f"{stage.name} {shard:05d}: {value}")

    def stage_finished(self, stage: Stage) -> None:
        self.stages[stage.name].ended = time.monotonic()


class PlainLines(_Base):
    """For batch logs: a line when a stage begins and ends, one for each failure, and one every ten seconds."""

    SECONDS = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._last = time.monotonic()

    def stage_started(self, stage: Stage, shards: list[int]) -> None:
        super().stage_started(stage, shards)
        self._say(f"{stage.name}: {len(shards)} of {stage.shards} shards to do")

    def event(self, stage: Stage, kind: str, shard: int, value: Any) -> None:
        super().event(stage, kind, shard, value)
        if kind == "failed":
            self._say(f"{stage.name}: shard {shard:05d} FAILED: {value}")
        elif time.monotonic() - self._last > self.SECONDS:
            self._say(f"{stage.name}: {_line(self.stages[stage.name])}")

    def stage_finished(self, stage: Stage) -> None:
        super().stage_finished(stage)
        self._say(f"{stage.name}: {_line(self.stages[stage.name])} in {self.stages[stage.name].seconds:.1f} s")

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _line(progress: StageProgress) -> str:
    rate = progress.rate()
    shown = f", {rate:,.1f} documents/s" if rate else ""
    left = progress.seconds_left(progress.todo - (progress.shards - progress.done - progress.failed))
    return f"{progress.done}/{progress.shards} shards, {progress.rows:,} documents{shown}" + (
        f", {_duration(left)} left" if left else ""
    )


class LiveTable(_Base):
    """For terminals: all stages, redrawn twice a second. A context manager."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console
        self._live: Live | None = None

    def __enter__(self) -> "LiveTable":
        self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=2)
        self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._live is not None
        self._live.__exit__(*exception)
        for error in self.errors:
            # a message may hold brackets, which markup would take for its own
            self._console.print(Text.assemble(("failed", "red"), " ", error))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        for column in ("shards", "documents", "docs/s", "time", "left"):
            table.add_column(column, justify="right")
        for progress in self.stages.values():
            running = progress.started is not None and progress.ended is None
            style = (
                "bold cyan"
                if running
                else "red"
                if progress.failed
                else "dim"
                if progress.done < progress.shards
                else ""
            )
            rate = progress.rate()
            done_now = progress.todo - (progress.shards - progress.done - progress.failed)
            left = progress.seconds_left(done_now)
            table.add_row(
                ("▶ " if running else "✔ " if progress.done == progress.shards else "✘ " if progress.failed else "  ")
                + progress.name,
                f"{progress.done}/{progress.shards}",
                f"{progress.rows:,}" if progress.rows else "",
                f"{rate:,.0f}" if rate and rate >= 10 else f"{rate:.1f}" if rate else "",
                _duration(progress.seconds) if progress.started is not None else "",
                _duration(left) if left else "",
                style=style,
            )
        return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def observer() -> tuple[Observer, Any]:
    """(observer, context manager to hold while it is used): a live table on a terminal, plain lines elsewhere."""
    if sys.stdout.isatty():
        live = LiveTable(Console())
        return live, live
    import contextlib

    return PlainLines(), contextlib.nullcontext()
