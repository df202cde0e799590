"""The ledger of a run as a table: for each stage, what came in, what was kept, what was left out and why."""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.run_folder import RunFolder
from pipeline.shard_state import DONE, FAILED, PENDING, STALE, StageState
from pipeline.shard_task import read_failure


def summary(run: RunFolder, states: list[StageState]) -> dict[str, Any]:
    """The status as plain values (`safetrove status --json`)."""
    stages = []
    for state in states:
        done = state.shards(DONE)
        rows = [state.manifests[shard].rows for shard in done]
        dropped: Counter[str] = Counter()
        quarantined: Counter[str] = Counter()
        for row in rows:
            dropped.update(row.dropped)
            quarantined.update(row.quarantined)
        stages.append(
            {
                "stage": state.stage.name,
                "shards": {word: len(state.shards(word)) for word in (DONE, STALE, PENDING, FAILED)},
                "rows": {
                    "in": sum(row.rows_in for row in rows),
                    "kept": sum(row.kept for row in rows),
                    "dropped": dict(sorted(dropped.items())),
                    "quarantined": dict(sorted(quarantined.items())),
                },
                "seconds": round(sum(state.manifests[shard].seconds for shard in done), 1),
                "forced_stale": any(state.manifests[shard].forced_stale for shard in done),
                "failures": {shard: read_failure(run, state.stage.name, shard) for shard in state.shards(FAILED)},
            }
        )
    complete = all(not state.shards(STALE, PENDING, FAILED) for state in states)
    return {"run": str(run.root), "complete": complete, "stages": stages}


def print_status(status: dict[str, Any], console: Console) -> None:
    """The table, then the failures with the command that redoes them."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for column in ("shards", "in", "kept", "dropped", "quarant."):
        table.add_column(column, justify="right")
    table.add_column("why", overflow="fold")
    for stage in status["stages"]:
        shards, rows = stage["shards"], stage["rows"]
        states = ", ".join(f"{n} {word}" for word, n in shards.items() if n and word != DONE)
        reasons = {**rows["dropped"], **{f"{k} (q)": n for k, n in rows["quarantined"].items()}}
        why = ", ".join(f"{k} {n:,}" for k, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
        table.add_row(
            stage["stage"] + (" [forced stale]" if stage["forced_stale"] else ""),
            f"{shards[DONE]}/{sum(shards.values())}" + (f" ({states})" if states else ""),
            f"{rows['in']:,}",
            f"{rows['kept']:,}",
            f"{sum(rows['dropped'].values()):,}",
            f"{sum(rows['quarantined'].values()):,}",
            why,
        )
    console.print(table, markup=False, highlight=False)
    for stage in status["stages"]:
        for shard, message in stage["failures"].items():
            console.print(f"failed: {stage['stage']} {shard:05d}: {message}", markup=False, highlight=False)
        if stage["failures"]:
            console.print(
                f"  do it again with: safetrove rerun {status['run']} --stage {stage['stage']} --failed",
                markup=False,
                highlight=False,
            )
