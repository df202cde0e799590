"""A stage some of whose shards end badly. A module of its own, because Ray's workers import it."""

import os
import signal

from datatrove.pipeline.base import PipelineStep

from pipeline.stage import Stage


class Misbehave(PipelineStep):
    """Shard 1 raises, shard 2 kills its worker, shard 3 does so at its first try; the others write a file."""

    def __init__(self, task, once):
        super().__init__()
        self.task, self.once = task, once

    def run(self, data=None, rank=0, world_size=1):
        if rank == 1:
            raise RuntimeError("this shard is broken")
        if rank == 2 or (rank == 3 and not self.once.exists()):
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.task.output(self.task.run.root / "out" / str(rank)).write_text("whole")
        self.task.read()
        self.task.keep()


class MisbehavingStage(Stage):
    def settings(self):
        return {}

    def inputs(self, shard):
        return []

    def steps(self, task):
        return [Misbehave(task, self.run.root / f"tried-{task.shard}")]
