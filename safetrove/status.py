"""The ledger of a run as a table: for each stage, what came in, what was kept, what was left out and why."""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.executors.slurm_jobs import SlurmAnswer, TaskState, compact_indices
from pipeline.run_folder import RunFolder
from pipeline.shard_state import DONE, FAILED, PENDING, STALE, StageState
from pipeline.shard_task import read_failure


def summary(run: RunFolder, states: list[StageState], slurm: SlurmAnswer | None = None) -> dict[str, Any]:
    """The status as plain values (`safetrove status --json`), with what Slurm says of the shards that are not done."""
    slurm = slurm or SlurmAnswer()
    stages = []
    for state in states:
        done = state.shards(DONE)
        rows = [state.manifests[shard].rows for shard in done]
        dropped: Counter[str] = Counter()
        quarantined: Counter[str] = Counter()
        for row in rows:
            if row.dropped:
                dropped.update(row.dropped)
            if row.quarantined:
                quarantined.update(row.quarantined)
        stages.append(
            {
                "stage": state.stage.name,
                "shards": {word: state.states.count(word) for word in (DONE, STALE, PENDING, FAILED)},
                "rows": {
                    "in": sum(row.rows_in for row in rows),
                    "kept": sum(row.kept for row in rows),
                    "dropped": dict(sorted(dropped.items())),
                    "quarantined": dict(sorted(quarantined.items())),
                },
                "seconds": round(sum(state.manifests[shard].seconds for shard in done), 1),
                "forced_stale": any(state.manifests[shard].forced_stale for shard in done),
                "slurm": dict(sorted(Counter(map(_words, _slurm_tasks(state, slurm).values())).items())),
                "failures": _failures(run, state, slurm),
            }
        )
    complete = all(not state.shards(STALE, PENDING, FAILED) for state in states)
    return {"run": str(run.root), "complete": complete, "stages": stages, "slurm_unknown": slurm.unknown}


def _slurm_tasks(state: StageState, slurm: SlurmAnswer) -> dict[int, TaskState]:
    """Slurm's view of the shards that are not done; manifests say all about the others."""
    tasks = {shard: slurm.tasks.get((state.stage.name, shard)) for shard in state.shards(STALE, PENDING, FAILED)}
    return {shard: task for shard, task in tasks.items() if task is not None}


def _words(task: TaskState) -> str:
    return f"{task.word} ({task.reason})" if task.reason else task.word


def _failures(run: RunFolder, state: StageState, slurm: SlurmAnswer) -> dict[int, str]:
    """Why shards failed: in the words of the task where it could write them down, else in Slurm's."""
    tasks = _slurm_tasks(state, slurm)
    failures = {}
    for shard in state.shards(STALE, PENDING, FAILED):
        task = tasks.get(shard)
        if task is not None and task.unfinished:
            continue
        reason = read_failure(run, state.stage.name, shard) if state.states[shard] == FAILED else None
        if reason is not None:
            failures[shard] = reason
        # "cancelled" is mostly what follows a failed stage, and "ended" well without a manifest is no failure
        if (
            task is not None
            and task.word not in ("cancelled", "ended")
            and not (shard in failures and task.word == "failed")
        ):
            failures[shard] = f"Slurm: {task.word}" + (f"; {failures[shard]}" if shard in failures else "")
    return failures


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
        if stage["slurm"]:
            states += "; Slurm: " + ", ".join(f"{n} {word}" for word, n in stage["slurm"].items())
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
        for message, shards in _by_message(stage["failures"]).items():
            named = f"{stage['stage']} {compact_indices(shards)}"
            console.print(f"failed: {named}: {message}", markup=False, highlight=False)
        if stage["failures"]:
            console.print(
                f"  do it again with: safetrove rerun {status['run']} --stage {stage['stage']} --failed",
                markup=False,
                highlight=False,
            )
    if status["slurm_unknown"]:
        console.print(status["slurm_unknown"], markup=False, highlight=False)


def _by_message(failures: dict[int, str]) -> dict[str, list[int]]:
    """Shards that failed for the same reason together: a bad disk fails thousands of them."""
    together: dict[str, list[int]] = {}
    for shard, message in failures.items():
        together.setdefault(message, []).append(shard)
    return together
