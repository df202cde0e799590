"""Run one shard through datatrove: its pipeline, its task log, then the commit."""

from typing import Any

from datatrove.executor import LocalPipelineExecutor

from pipeline.manifest import Manifest
from pipeline.shard_task import Progress, ShardTask, no_progress
from pipeline.stage import Stage


class ShardExecutor(LocalPipelineExecutor):
    """datatrove's executor for one rank. The manifest is the completion mark: datatrove's empty file knows no identity."""

    def mark_rank_as_completed(self, rank: int) -> None:
        """Nothing: `ShardTask.commit` writes the manifest."""


def run_shard(stage: Stage, shard: int, identity: dict[str, Any], progress: Progress = no_progress) -> Manifest:
    """Run one shard of a stage and commit it. On an error nothing is published, the failure is recorded and raised."""
    task = ShardTask(stage.run, stage.name, shard, identity, progress)
    try:
        task.add_raw_inputs(stage.raw_inputs(shard))
        executor = ShardExecutor(
            pipeline=stage.steps(task),
            tasks=stage.shards,
            workers=1,
            logging_dir=str(stage.run.logs(stage.name)),
            skip_completed=False,
        )
        executor._run_for_rank(shard, local_rank=1)
        return task.commit()
    except BaseException as error:
        task.abandon(error)
        raise
