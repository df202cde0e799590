"""Shards as Ray tasks, on a cluster or on this machine. One failing or dying shard fails alone; its siblings finish.

Each task runs its shard through datatrove as the other executors do (`shard_run`). datatrove's `RayPipelineExecutor` is
not used: it runs each rank in a pool that waits for ever when the rank's process is killed, and it ends well when ranks failed.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifiers.errors import DependencyError, SafetroveError
from pipeline.executors.settings import Ray, RayResources
from pipeline.executors.shard_run import run_shard
from pipeline.shard_task import failure_message, write_failure
from pipeline.stage import Stage

Job = tuple[int, dict[str, Any]]  # shard, identity
Event = Callable[[str, int, Any], None]  # "done" | "failed", shard, rows | message
_GIB = 1 << 30
_CHECKOUT = Path(__file__).resolve().parents[2]


def run_ray(stage: Stage, jobs: list[Job], on_event: Event) -> list[int]:
    """Run the jobs as Ray tasks; return the shards that failed (each with its failure file).

    On a cluster Ray decides how many run together; where Ray was started here, at most `stage.workers`.
    Raises DependencyError where ray is not installed, SafetroveError where its cluster cannot be reached.
    """
    settings = stage.recipe.execution.ray
    ray = start_ray(settings)
    task = ray.remote(_run_one).options(**_options(settings.of_stage(stage.name), settings.retries))
    at_once = len(jobs) if settings.address else stage.workers
    waiting = list(reversed(jobs))
    stage_reference = ray.put(stage)
    running: dict[Any, int] = {}
    failed: list[int] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                shard, identity = waiting.pop()
                running[task.remote(stage_reference, shard, identity)] = shard
            [reference], _ = ray.wait(list(running), num_returns=1)
            shard = running.pop(reference)
            try:
                message, rows = ray.get(reference)
            except ray.exceptions.RayError as error:
                message, rows = _death(ray, error), 0
                write_failure(stage.run, stage.name, shard, SafetroveError(message))
            if message is None:
                on_event("done", shard, rows)
                continue
            failed.append(shard)
            on_event("failed", shard, message)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
    return sorted(failed)


def start_ray(settings: Ray) -> Any:
    """The module `ray`, connected to the recipe's cluster or to one of its own on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
    try:
        import ray
    except ImportError as error:
        raise DependencyError(
            "--executor ray needs the package ray, which is not installed: pip install 'safetrove[ray]'"
        ) from error
    if not ray.is_initialized():
        if settings.address is None:  # workers import the rooms from this checkout, as this process does
            known = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join([str(_CHECKOUT), *([known] if known else [])])
        try:
            ray.init(address=settings.address or "local", include_dashboard=False, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SafetroveError(
                f"Ray at {settings.address or 'this machine'} cannot be reached: {error}\nCheck execution.ray.address "
                "and that the cluster is up (ray status)"
            ) from error
    return ray


def _options(resources: RayResources, retries: int) -> dict[str, Any]:
    memory = {} if resources.memory_gb is None else {"memory": int(resources.memory_gb * _GIB)}
    return {
        "num_cpus": resources.cpus_per_task,
        "num_gpus": resources.gpus,
        "max_retries": retries,
        "retry_exceptions": False,
        **memory,
    }


def _run_one(stage: Stage, shard: int, identity: dict[str, Any]) -> tuple[str | None, int]:
    """(message of a failure or None, rows in): errors come back as words, because not every error can be pickled."""
    try:
        stage.run.failure(stage.name, shard).unlink(missing_ok=True)  # of an earlier try
        with stage.worker_context():
            return None, run_shard(stage, shard, identity).rows.rows_in
    except Exception as error:
        if not stage.run.failure(stage.name, shard).is_file():
            write_failure(stage.run, stage.name, shard, error)
        return failure_message(error), 0


def _death(ray: Any, error: Exception) -> str:
    """Why a task came to no end of its own, in words."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its node ran out of memory; give the stage more in execution.ray.stages (memory_gb)"
    return f"its Ray worker died ({type(error).__name__}); if it ran out of memory, give the stage more memory_gb"
