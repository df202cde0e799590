"""The recipe's `execution` section: who runs the shards, and with which resources. None of it changes what comes out."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Options of sbatch that safetrove sets itself: another value would break the count of shards or the order of the stages.
_OWN_SBATCH = {
    "array", "chdir", "cpus-per-task", "dependency", "error", "export", "gpus", "job-name", "kill-on-invalid-dep",
    "mem-per-cpu", "nodes", "ntasks", "open-mode", "output", "parsable", "partition", "qos", "account", "requeue",
    "no-requeue", "test-only", "time", "wait", "wrap",
}  # fmt: skip
_TIME = r"^(\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+|\d+-\d+:\d\d|\d+-\d+:\d\d:\d\d)$"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SlurmResources(_Section):
    """What one array of shards asks Slurm for. A key that is null is left to `execution.slurm`, and there to the cluster."""

    partition: str | None = Field(None, description="null: the cluster's default")
    account: str | None = None
    qos: str | None = None
    time: str | None = Field(None, pattern=_TIME, description='limit of one shard, in quotes: "2:00:00"')
    cpus_per_task: int | None = Field(None, ge=1)
    mem_per_cpu_gb: int | None = Field(None, ge=1)
    gpus: int | None = Field(None, ge=0, description="of one shard")
    tasks_at_once: int | None = Field(
        None, ge=1, description="most shards of an array that run together; null: no limit"
    )
    environment: str | None = Field(
        None, description="shell lines before the task, for example `module load cuda`; null: what submits is inherited"
    )
    sbatch_args: dict[str, str | int | None] = Field(
        {},
        description="further options of sbatch by their long names, for example constraint: h100; null: a bare option",
    )

    @field_validator("time", mode="before")
    @classmethod
    def _quoted(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError('put the time in quotes, as in time: "24:00:00": YAML reads it as a number without them')
        return value

    @field_validator("sbatch_args")
    @classmethod
    def _not_ours(cls, value: dict[str, str | int | None]) -> dict[str, str | int | None]:
        for key in value:
            if key.lstrip("-") != key or "=" in key or len(key) < 2:
                raise ValueError(f"{key}: give the long name without dashes, for example constraint: h100")
            if key in _OWN_SBATCH:
                raise ValueError(f"{key}: safetrove sets it itself, or has a key of its own for it in execution.slurm")
        return value


class Slurm(SlurmResources):
    """Resources of all stages, and under `stages` what single ones ask for instead."""

    time: str | None = Field("24:00:00", pattern=_TIME)
    cpus_per_task: int | None = Field(1, ge=1)
    mem_per_cpu_gb: int | None = Field(4, ge=1)
    gpus: int | None = Field(0, ge=0)
    array_size: int = Field(1001, ge=1, description="tasks of one array, at most the cluster's MaxArraySize")
    stages: dict[str, SlurmResources] = Field(
        {}, description="by stage name, or by the part before the dash (`score`); the full name wins"
    )

    def of_stage(self, stage: str) -> SlurmResources:
        """The resources of one stage: its own keys before those of its group before the general ones."""
        merged = self.model_dump(exclude={"array_size", "stages"})
        for name in (stage.split("-")[0], stage):
            if name in self.stages:
                given = self.stages[name].model_dump(exclude_none=True)  # a frozen recipe writes every null out
                merged |= {**given, "sbatch_args": {**merged["sbatch_args"], **self.stages[name].sbatch_args}}
        return SlurmResources(**merged)


class RayResources(_Section):
    """What one shard asks Ray for."""

    cpus_per_task: float | None = Field(None, gt=0)
    memory_gb: float | None = Field(None, gt=0, description="kept free for a shard; null: Ray does not count memory")
    gpus: float | None = Field(None, ge=0)


class Ray(RayResources):
    """A Ray cluster, or Ray on this machine."""

    address: str | None = Field(
        None, description="of a cluster, for example auto or ray://head:10001; null: Ray is started here"
    )
    cpus_per_task: float | None = Field(1, gt=0)
    gpus: float | None = Field(0, ge=0)
    retries: int = Field(1, ge=0, description="of a shard whose worker or node died; one that raises fails at once")
    stages: dict[str, RayResources] = Field({}, description="as in execution.slurm.stages")

    def of_stage(self, stage: str) -> RayResources:
        """The resources of one stage: its own keys before those of its group before the general ones."""
        merged = self.model_dump(include=set(RayResources.model_fields))
        for name in (stage.split("-")[0], stage):
            if name in self.stages:
                merged |= self.stages[name].model_dump(exclude_none=True)
        return RayResources(**merged)


class Execution(_Section):
    """How it runs; never changes what comes out."""

    executor: Literal["local", "slurm", "ray"] = Field("local", description="the command line's --executor wins")
    workers: int = Field(
        2, ge=1, description="shards at a time on one machine; stages that ask an LLM run one at a time"
    )
    slurm: Slurm = Slurm()
    ray: Ray = Ray()

    @model_validator(mode="after")
    def _resources_of_the_executor(self) -> "Execution":
        if self.executor == "slurm" and self.slurm.time is None:
            raise ValueError("slurm.time: give a limit; a shard that hangs would hold its node for ever")
        return self

    def stage_names(self) -> set[str]:
        """Every stage or group that has resources of its own."""
        return {*self.slurm.stages, *self.ray.stages}
