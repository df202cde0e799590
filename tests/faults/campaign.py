"""One run, disturbed at every stage again and again, as a seed says; and what must hold after each disturbance."""

import fcntl
import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest

import pipeline.run
from classifiers.errors import DataError
from pipeline.ledger import ledger_errors
from pipeline.manifest import Manifest
from pipeline.recipe import Recipe
from pipeline.run import execute, rerun_shards, run_states
from pipeline.run_folder import RunFolder
from pipeline.shard_state import STALE
from pipeline.stage import Stage
from pipeline.stages.order import build_stages
from pipeline.verify_outputs import damaged_outputs
from tests.end_to_end.runs import results
from tests.faults import injection
from tests.faults.injection import ANYWHERE, COMMIT, KINDS, Fault
from tests.faults.small_run import Watcher, manifests, run_again

Steps = dict[tuple[str, int], tuple[int, int, int]]
"""(stage, shard) -> steps in COMMIT, ANYWHERE, and in COMMIT up to the first file with its final name."""


@dataclass
class Undisturbed:
    """A whole run, and how many steps each shard of it took."""

    recipe: Recipe
    run: RunFolder
    stages: list[str]
    steps: Steps


def undisturbed_run(recipe: Recipe, run: RunFolder) -> Undisturbed:
    """Run the recipe to its end, counting."""
    counts = run.root.parent / f"{run.root.name}-counts"
    counts.mkdir()

    def counted(*arguments: object) -> list[Stage]:
        stages = build_stages(*arguments)
        for stage in stages:
            injection.count(stage, counts / stage.name)
        return stages

    with patch.object(pipeline.run, "build_stages", counted):
        result, watcher = run_again(recipe, run)
    assert not result.failed, watcher.failures
    lines = [
        (path.name, *map(int, line.split())) for path in counts.iterdir() for line in path.read_text().splitlines()
    ]
    steps = {(stage, shard): tuple(numbers) for stage, shard, *numbers in lines}
    return Undisturbed(recipe, run, [stage for stage, _ in watcher.started], steps)


@dataclass
class Campaign:
    """Disturbs the run in `root` and counts how often it did, by kind of fault."""

    recipe: Recipe
    run: RunFolder
    reference: Undisturbed
    random: random.Random
    marks: Path
    struck: dict[str, int] = field(default_factory=dict)

    def note(self, kind: str) -> None:
        self.struck[kind] = self.struck.get(kind, 0) + 1

    # ---- faults while a stage runs

    def disturb_worker(self, stage: str) -> None:
        """Run with a fault in one of the shards that the stage has to do; nothing where it has none."""
        shards = [shard for name, shard in self.reference.steps if name == stage]
        todo = [shard for shard in sorted(shards) if not self.run.manifest(stage, shard).is_file()]
        if not todo:
            return
        shard = self.random.choice(todo)
        commit, anywhere, _ = self.reference.steps[stage, shard]
        files, steps = self.random.choice([(COMMIT, commit), (ANYWHERE, anywhere)])
        kind = self.random.choice(KINDS)
        mark = self.marks / f"{stage}-{shard}-{sum(self.struck.values())}"
        self._run_with(Fault(kind, shard, files, self.random.randint(1, steps), mark), stage)
        self.check()

    def _run_with(self, fault: Fault, stage: str) -> None:
        def armed(*arguments: object) -> list[Stage]:
            stages = build_stages(*arguments)
            for candidate in stages:
                if candidate.name == stage:
                    injection.arm(candidate, fault)
            return stages

        with patch.object(pipeline.run, "build_stages", armed):
            execute(self.recipe, self.run.root, Watcher(), self._up_to(stage))
        if fault.mark.exists():
            self.note(fault.kind)

    def kill_if_stale(self, stage: str, shard: int) -> bool:
        """Where this shard is done again over what is there: kill it when the first new file has its final name."""
        if not self.run.manifest(stage, shard).is_file() or self._state(self.run.manifest(stage, shard)) != STALE:
            return False
        fault = Fault("kill", shard, COMMIT, self.reference.steps[stage, shard][2], self.marks / f"{stage}-commit")
        self._run_with(fault, stage)
        assert fault.mark.exists()
        self.check()
        return True

    def kill_tree(self, stage: str) -> None:
        """Run in a process of its own, and end it with its workers when the observer is told something: kill -9 of the
        group, of the parent alone, or SIGTERM."""
        how = self.random.choice(["kill_tree", "kill_parent", "terminate_tree"])
        moment = self.random.randint(1, 6)
        child = os.fork()
        if child == 0:
            _run_until(self.recipe, self.run, self._up_to(stage), moment, how)
        _, status = os.waitpid(child, 0)
        self._wait_for_the_lock()
        if os.WIFSIGNALED(status):
            self.note(how)
        else:
            assert os.waitstatus_to_exitcode(status) == 0
        self.check()

    def _wait_for_the_lock(self) -> None:
        """Workers that are forked here inherit the open lock file, which the fork server's do not: wait until they are gone."""
        path = self.run.root / ".lock"
        if path.exists():
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)

    def _up_to(self, stage: str) -> list[str]:
        return self.reference.stages[: self.reference.stages.index(stage) + 1]

    # ---- faults between two commands

    def damage(self) -> None:
        """Do something to a finished shard that no command of ours does, and see that the next command copes or says so."""
        finished = sorted(path for path in (self.run.root / "manifests").glob("*/?????.json"))
        if not finished:
            return
        manifest = self.random.choice(finished)
        kinds = {
            "hidden_manifest": self._hide_manifest,
            "hidden_output": self._hide_output,
            "truncated_output": self._truncate_output,
            "edited_output": self._edit_output,
            "edited_manifest": self._edit_manifest,
            "clock_skew": self._skew,
            "second_run": self._second_run,
        }
        kind = self.random.choice(sorted(kinds))
        if kinds[kind](manifest):
            self.note(kind)
        self.check()

    def _outputs(self, manifest: Path) -> list[Path]:
        recorded = Manifest.read(manifest).outputs
        return [self.run.root / name for name in recorded if (self.run.root / name).stat().st_size]

    def _hide_manifest(self, manifest: Path) -> bool:
        """Not seen yet, as on a network file system, while the next command runs; then the late one takes its place."""
        late = manifest.read_bytes()
        manifest.unlink()
        execute(self.recipe, self.run.root, Watcher(), [manifest.parent.name])
        assert manifest.is_file()
        manifest.write_bytes(late)
        return True

    def _hide_output(self, manifest: Path) -> bool:
        """An output that is not seen is made again; the late one then takes its place."""
        if not (outputs := self._outputs(manifest)):
            return False
        output = self.random.choice(outputs)
        late = output.read_bytes()
        output.unlink()
        assert self._state(manifest) == STALE
        execute(self.recipe, self.run.root, Watcher(), [manifest.parent.name])
        assert output.read_bytes() == late
        output.write_bytes(late)
        return True

    def _truncate_output(self, manifest: Path) -> bool:
        if not (outputs := self._outputs(manifest)):
            return False
        output = self.random.choice(outputs)
        os.truncate(output, self.random.randrange(output.stat().st_size))
        with pytest.raises(DataError, match="was changed after") as refused:
            execute(self.recipe, self.run.root, Watcher())
        self._follow(refused.value, output)
        return True

    def _edit_output(self, manifest: Path) -> bool:
        """One byte, size and time as before: only `status --verify` can tell."""
        if not (outputs := self._outputs(manifest)):
            return False
        output = self.random.choice(outputs)
        stat, content = output.stat(), bytearray(output.read_bytes())
        content[self.random.randrange(len(content))] ^= 1
        output.write_bytes(content)
        os.utime(output, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        [found] = damaged_outputs(self.run)
        self._follow(found, output)
        return True

    def _edit_manifest(self, manifest: Path) -> bool:
        """A digit becomes another one; the message says to remove the file, which has the shard done again."""
        text = manifest.read_text()
        places = [place for place, character in enumerate(text) if character.isdigit()]
        place = self.random.choice(places)
        manifest.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")
        assert [str(manifest) in line for line in damaged_outputs(self.run)] == [True]
        with pytest.raises(DataError, match="remove it to redo the shard"):
            execute(self.recipe, self.run.root, Watcher())
        manifest.unlink()
        return True

    def _skew(self, manifest: Path) -> bool:
        """Times of another clock, years off, change nothing."""
        before = self._state(manifest)
        for path in (manifest, *self._outputs(manifest)):
            moment = self.random.choice([0, 1, 2_000_000_000, 4_000_000_000]) * 10**9
            os.utime(path, ns=(moment, moment))
        assert self._state(manifest) == before
        return True

    def _second_run(self, manifest: Path) -> bool:
        """A second command while another one holds the folder is refused, and does nothing."""
        with self.run.locked(), pytest.raises(DataError, match=rf"another command \(process {os.getpid()}\)"):
            execute(self.recipe, self.run.root, Watcher())
        return True

    def _follow(self, told: object, output: Path) -> None:
        """Give the command that a message names."""
        message = str(told)
        assert str(output) in message
        *_, stage, _, shard = message.split()
        rerun_shards(self.run, stage, [int(shard)], Watcher())

    def _state(self, manifest: Path) -> str:
        states = {state.stage.name: state.states for state in run_states(self.run)}
        return states[manifest.parent.name][int(manifest.stem)]

    # ---- what must hold

    def check(self) -> None:
        """Whatever is finished is whole: every recorded byte is there, and no row is lost or doubled."""
        if self.run.recipe.is_file():
            assert damaged_outputs(self.run) == []
            assert ledger_errors(run_states(self.run)) == []

    def finish(self) -> None:
        """The same command once more; then everything is as if nothing had happened."""
        result, watcher = run_again(self.recipe, self.run)
        assert not result.failed, watcher.failures
        result, watcher = run_again(self.recipe, self.run)
        assert not watcher.started, "a finished run has nothing left to do"
        self.check()
        assert results(self.run.root) == results(self.reference.run.root)
        assert manifests(self.run) == manifests(self.reference.run)
        names = [path.relative_to(self.run.root).as_posix() for path in self.run.root.rglob("*") if path.is_file()]
        assert not [name for name in names if name.endswith((".partial", ".failed.json")) or name.startswith("work/")]


def _run_until(recipe: Recipe, run: RunFolder, stages: list[str], moment: int, how: str) -> None:
    """In the forked child: run, and strike at the `moment`-th thing that the observer is told. Never returns."""
    from pipeline.executors import fork_server

    class Striking(Watcher):
        told = 0

        def event(self, *_: object) -> None:
            self.told += 1
            if self.told == moment:
                if how == "kill_parent":
                    os.kill(os.getpid(), signal.SIGKILL)
                os.killpg(0, signal.SIGKILL if how == "kill_tree" else signal.SIGTERM)

    code = 1
    try:
        os.setsid()
        fork_server.FORK_SERVER_PID = os.getpid()
        execute(recipe, run.root, Striking(), stages)
        code = 0
    finally:
        os._exit(code)
