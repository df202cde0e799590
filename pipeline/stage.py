"""What a stage is: a name, a version, the settings that change its output, its inputs, and a datatrove pipeline."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from datatrove.pipeline.base import PipelineStep

from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask

ShardRef = tuple[str, int]  # stage name, shard


class Stage(ABC):
    """One stage of a run. Objects are small and picklable; models are loaded by the steps, in the worker.

    `version` is raised by the stage's author whenever its output changes for the same input and settings; the golden
    test of the stage fails until that is done.
    """

    version: ClassVar[int] = 1
    reads_manifests: ClassVar[bool] = False
    """Whether it tells what its inputs' manifests say (rows, metrics, what was kept by force): any change of these makes it
    stale, and `--force-stale` does not keep it, since it has to tell of that too."""

    def __init__(self, name: str, recipe: Recipe, run: RunFolder, shards: int):
        self.name, self.recipe, self.run, self.shards = name, recipe, run, shards

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that changes the output besides the inputs: recipe keys, prompt and model hashes. JSON-able."""

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Name, version and settings, computed once: model hashes cost time."""
        return {"stage": self.name, "version": self.version, "settings": self.settings()}

    @abstractmethod
    def inputs(self, shard: int) -> list[ShardRef]:
        """The finished shards of earlier stages that this shard reads; the first one's first table gives its rows."""

    @abstractmethod
    def steps(self, task: ShardTask) -> list[PipelineStep | Callable[..., Any]]:
        """The datatrove pipeline of one shard."""

    def raw_inputs(self, shard: int) -> dict[str, Path | str]:
        """What this shard reads from outside the run folder: name -> local file (hashed when read) or a version mark."""
        return {}

    def main_input(self, shard: int) -> str | None:
        """Run-relative path of the table whose rows this shard takes in; None for stages that read no single table."""
        return None

    @property
    def workers(self) -> int:
        """How many shards of this stage may run at a time on one machine."""
        return self.recipe.execution.workers

    def worker_context(self) -> AbstractContextManager[Any]:
        """Held open by a worker process around all its shards of this stage (an LLM server, for example)."""
        return nullcontext()
