"""What a run shows on a terminal: messages as they are, whatever they hold."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from safetrove.progress import LiveTable


@pytest.mark.parametrize(
    "message",
    [
        "runs/web: sources[0] is no file",
        "expected [a, b] or [red]; [/red] closes nothing, [/] neither",
        "cannot write [link=x] at 12:34 :smile: \\[bold]",
        "ends with a backslash \\",
    ],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_failed_shard_is_named_with_its_whole_message(message: str, terminal: bool) -> None:
    shown = io.StringIO()
    stage = SimpleNamespace(name="ingest", shards=3)
    with LiveTable(Console(file=shown, width=200, force_terminal=terminal, no_color=True, highlight=False)) as table:
        table.plan([SimpleNamespace(stage=stage, manifests={}, shards=lambda _: [])])  # type: ignore[list-item]
        table.stage_started(stage, [0, 1, 2])  # type: ignore[arg-type]
        table.event(stage, "failed", 1, message)  # type: ignore[arg-type]
    assert shown.getvalue().endswith(f"failed ingest 00001: {message}\n")
