"""Submits stages to Slurm: one array of shards a stage (more where it is longer than the cluster allows), in order.

The scripts are datatrove's (`SlurmPipelineExecutor`). The jobs are submitted here, because datatrove's own submission
 - waits for the last array of a stage only, so that a failure in an earlier one stops nothing;
 - leaves jobs whose dependency failed, and its own merging of statistics, in the queue for ever;
 - gives all submissions of a stage one list of ranks, which a second submission rewrites under the first one's tasks;
 - has the tasks load a pickle. Ours read the frozen recipe (`slurm_task`).
"""

import itertools
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from datatrove.executor import SlurmPipelineExecutor

from classifiers.errors import DependencyError, RecipeError
from pipeline.atomic_files import write_text
from pipeline.executors.settings import Slurm, SlurmResources
from pipeline.executors.slurm_jobs import SlurmJob, compact_indices, read_jobs, write_jobs
from pipeline.run_folder import RunFolder
from pipeline.stage import Stage


class StageScript(SlurmPipelineExecutor):
    """The batch script of one stage, by datatrove, with the resources that the recipe gives it."""

    def __init__(self, stage: Stage, resources: SlurmResources):
        assert resources.time is not None
        logs = stage.run.logs(stage.name).resolve()
        super().__init__(
            pipeline=[],
            tasks=stage.shards,
            time=resources.time,
            partition=resources.partition,
            cpus_per_task=resources.cpus_per_task,
            mem_per_cpu_gb=resources.mem_per_cpu_gb,
            gpus_per_task=resources.gpus,
            job_name=f"safetrove-{stage.name}",
            qos=resources.qos,
            env_command=resources.environment,
            logging_dir=str(logs),
            slurm_logs_folder=str(logs / "slurm"),
            requeue=True,
        )
        self._stage, self._resources = stage, resources

    def text(self, force_stale: bool) -> str:
        """The script. Python takes the shell's place, so that Slurm's signals reach it."""
        command = [sys.executable, "-m", "pipeline.executors.slurm_task", str(self._stage.run.root.resolve())]
        line = shlex.join([*command, self._stage.name, *(["--force-stale"] if force_stale else [])])
        given = self.get_sbatch_args()
        further = {"account": self._resources.account, "open-mode": "append", "kill-on-invalid-dep": "yes"}
        ours = {key: value for key, value in {**given, **further}.items() if value is not None}
        for key in ("array", "output", "error"):  # on sbatch's command line: a directive's value may hold no space
            ours.pop(key, None)
        return self.get_launch_file_contents({**ours, **self._resources.sbatch_args}, f"exec {line}")

    def submit(self, shards: list[int], array_size: int, afterok: list[str], force_stale: bool) -> Iterator[SlurmJob]:
        """Submit the shards in arrays whose indices stay below `array_size`; yields each array once Slurm has it."""
        script = self._stage.run.root.resolve() / "slurm" / f"{self._stage.name}.sh"
        write_text(script, self.text(force_stale))
        limit = f"%{self._resources.tasks_at_once}" if self._resources.tasks_at_once else ""
        output = Path(self.slurm_logs_folder) / "%A_%a.out"
        for block, members in itertools.groupby(sorted(shards), lambda shard: shard // array_size):
            first = block * array_size
            indices = compact_indices(shard - first for shard in members)
            options = [f"--array={indices}{limit}", f"--export=ALL,SAFETROVE_FIRST_SHARD={first}", f"--output={output}"]
            if afterok:
                options.append(f"--dependency=afterok:{':'.join(afterok)}")
            yield SlurmJob(_sbatch(self._stage, [*options, str(script)]), self._stage.name, first, indices)


def submit_stages(
    run: RunFolder, work: list[tuple[Stage, list[int]]], settings: Slurm, force_stale: bool
) -> list[SlurmJob]:
    """Submit these shards of these stages; a stage waits for the stages that it reads, and is cancelled where one fails.

    All or nothing: where Slurm refuses one array, those before it are cancelled. Raises RecipeError with Slurm's words,
    DependencyError without Slurm.
    """
    if shutil.which("sbatch") is None:
        raise DependencyError(
            "there is no sbatch on this machine: submit on a login node of the cluster, or run with --executor local"
        )
    earlier = read_jobs(run)
    submitted: list[SlurmJob] = []
    try:
        for stage, shards in work:
            read = {name for shard in shards for name, _ in stage.inputs(shard)}
            afterok = [job.job for job in submitted if job.stage in read]
            script = StageScript(stage, settings.of_stage(stage.name))
            for job in script.submit(shards, settings.array_size, afterok, force_stale):
                submitted.append(job)
                write_jobs(run, earlier + submitted)  # at once: a command that is killed here leaves no unknown job
    except BaseException:
        if submitted:
            subprocess.run(["scancel", *(job.job for job in submitted)], check=False)
        write_jobs(run, earlier)
        raise
    return submitted


def _sbatch(stage: Stage, arguments: list[str]) -> str:
    """The new job's number. Raises RecipeError with what Slurm objects to."""
    answer = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True)
    if answer.returncode:
        raise RecipeError(
            f"stage {stage.name}: Slurm refuses the job: {answer.stderr.strip()}\nCheck partition, account, time and the "
            "other keys of execution.slurm in the recipe; nothing of this command stays in the queue"
        )
    return answer.stdout.strip().split(";")[0]
