"""Manifests, the ledger of a shard, quarantine, and a stage's shards failing or dying alone on the worker pool."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from datatrove.pipeline.base import PipelineStep

from classifiers.errors import DataError
from pipeline.executors.local import run_local
from pipeline.executors.shard_run import run_shard
from pipeline.manifest import Manifest, OutputFile, Rows, identity_difference, output_state
from pipeline.recipe import parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask, read_failure, write_failure
from pipeline.stage import Stage

IDENTITY = {"stage": "count", "version": 1, "settings": {"limit": 3, "names": ["a"]}, "inputs": {}}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def task(run):
    return ShardTask(run, "count", 0, IDENTITY)


def finish(task):
    """Commit a shard of three rows with one output; returns (manifest, path of the output)."""
    final = task.run.root / "numbers" / "00000.txt"
    task.output(final).write_text("1\n2\n")
    task.output_rows(final, 2)
    task.read(3)
    task.keep(2)
    task.drop("too_short")
    return task.commit(), final


def test_a_manifest_is_read_back_as_it_was_written(task):
    manifest, final = finish(task)
    assert Manifest.read(task.run.manifest("count", 0)) == manifest
    assert manifest.rows == Rows(3, 2, {"too_short": 1}, {}) and manifest.identity == IDENTITY
    assert manifest.outputs == {"numbers/00000.txt": OutputFile.of(final, 2)}


@pytest.mark.parametrize("key", ["version", "settings", "inputs"])
def test_an_edited_manifest_is_refused(task, key):
    finish(task)
    path = task.run.manifest("count", 0)
    value = json.loads(path.read_text())
    value["identity"][key] = {"other": 1}
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"00000\.json: the manifest was edited.*remove it to redo"):
        Manifest.read(path)


@pytest.mark.parametrize("content", ["", "[]", '"text"', "5", "null", '{"stage": "count"}', "{"])
def test_what_is_no_manifest_is_refused(tmp_path, content):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(DataError, match=r"m\.json: not a manifest of this version"):
        Manifest.read(tmp_path / "m.json")


def test_identity_difference_names_the_dotted_keys():
    wanted = {**IDENTITY, "version": 2, "settings": {"limit": 3, "names": ["a", "b"], "more": {"deep": None, "x": 0}}}
    assert identity_difference(IDENTITY, wanted) == {
        "settings.more.x": (None, 0),
        "settings.names": (["a"], ["a", "b"]),
        "version": (1, 2),
    }
    assert identity_difference(IDENTITY, json.loads(json.dumps(IDENTITY))) == {}


def test_output_state(tmp_path):
    path = tmp_path / "a"
    path.write_text("12345")
    recorded = OutputFile.of(path)
    assert output_state(path, recorded) == output_state(path, recorded, full=True) == "ok"
    os.utime(path, ns=(1, 1))
    assert output_state(path, recorded) == "ok"  # another time, the same bytes
    path.write_text("12346")
    assert output_state(path, recorded) == "changed"
    os.utime(path, ns=(recorded.mtime_ns, recorded.mtime_ns))  # the time put back: only the hash can tell
    assert output_state(path, recorded, full=True) == "changed"
    path.write_text("123456")
    assert output_state(path, recorded) == "changed"
    path.unlink()
    assert output_state(path, recorded) == "missing"


@pytest.mark.parametrize(("kept", "missing"), [(1, 1), (3, -1)])
def test_nothing_is_published_from_a_broken_ledger(task, kept, missing):
    final = task.run.root / "numbers" / "00000.txt"
    task.output(final).write_text("1\n")
    task.read(3)
    task.keep(kept)
    task.drop("too_short")
    with pytest.raises(DataError, match=rf"ledger is broken.*leaves {missing} rows") as raised:
        task.commit()
    task.abandon(raised.value)
    files = {p.relative_to(task.run.root).as_posix() for p in task.run.root.rglob("*") if p.is_file()}
    assert files == {"manifests/count/00000.failed.json"}
    assert "ledger is broken" in read_failure(task.run, "count", 0)


def test_quarantine_counts_rows_and_never_train_only_notes_them(task):
    task.read(2)
    task.keep(1)
    task.note_never_train("id-1", "f" * 64, "privacy: list of logins with passwords")
    task.quarantine("id-2", "invalid_utf8", detail="line 7", text="caf\ud800")
    manifest = task.commit()
    assert manifest.rows.quarantined == {"invalid_utf8": 1} and manifest.rows.missing() == 0
    assert manifest.outputs["quarantine/count/00000.jsonl"].rows == 2
    marked, refused = map(json.loads, task.run.quarantine("count", 0).read_text().splitlines())
    reason = "never_train:privacy: list of logins with passwords"
    assert marked == {"id": "id-1", "reason": reason, "content_sha256": "f" * 64}
    assert refused == {"id": "id-2", "reason": "invalid_utf8", "detail": "line 7", "text": "caf?"}


class CountStage(Stage):
    """Four shards; the second one raises or is killed, as the recipe's name says."""

    def __init__(self, how, run):
        source = {"name": "s", "format": "jsonl", "path": "x"}
        recipe = parse_recipe({"name": how, "sources": [source], "execution": {"workers": 2}}, "test", run.root)
        super().__init__("count", recipe, run, 4)

    def settings(self):
        return {}

    def inputs(self, shard):
        return []

    def steps(self, task):
        return [CountStep(task, self.recipe.name)]


class CountStep(PipelineStep):
    """Writes its number, unless it is the second."""

    type = "test"
    name = "count"

    def __init__(self, task, how):
        super().__init__()
        self.task, self.how = task, how

    def run(self, data=None, rank=0, world_size=1):
        self.task.read()
        self.task.output(self.task.run.root / "numbers" / f"{rank}.txt").write_text(str(rank))
        if rank == 1 and self.how == "raise":
            raise RuntimeError("the second shard is broken")
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.task.keep()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "RuntimeError: the second shard is broken"),
        ("kill", "its worker was killed by SIGKILL; if the system"),
    ],
)
def test_a_shard_that_fails_fails_alone(run, how, message):
    stage, events = CountStage(how, run), []
    failed = run_local(stage, [(n, {**stage.identity, "inputs": {}}) for n in range(4)], lambda *e: events.append(e))
    assert failed == [1]
    assert sorted(shard for kind, shard, _ in events if kind == "done") == [0, 2, 3]
    ((_, shard, shown),) = [event for event in events if event[0] == "failed"]
    assert shard == 1 and shown.startswith(message)
    assert read_failure(run, "count", 1) == shown
    assert sorted(p.name for p in (run.root / "numbers").glob("*.txt")) == ["0.txt", "2.txt", "3.txt"]
    assert [run.manifest("count", n).is_file() for n in range(4)] == [True, False, True, True]


class NoServerStage(CountStage):
    """Its workers cannot open what they need around their shards."""

    def worker_context(self):
        raise RuntimeError("the server does not start")


def test_the_reason_of_an_earlier_failure_does_not_stay(run):
    stage = NoServerStage("none", run)
    write_failure(run, "count", 0, RuntimeError("an older reason"))
    assert run_local(stage, [(0, {**stage.identity, "inputs": {}})], lambda *_: None) == [0]
    assert read_failure(run, "count", 0) == "RuntimeError: the server does not start"


class LoneStage(CountStage):
    """One worker at a time, which leaves its number."""

    workers = 1

    def worker_context(self):
        (self.run.root / "worker").write_text(str(os.getpid()))
        return contextlib.nullcontext()


def test_a_worker_that_dies_between_two_shards_takes_none_with_it(run):
    stage, done = LoneStage("raise", run), []

    def event(kind, shard, _):
        if kind == "done" and not done:
            worker = int((run.root / "worker").read_text())
            os.kill(worker, signal.SIGKILL)
            while (stat := Path(f"/proc/{worker}/stat")).exists() and stat.read_text().split(")")[-1].split()[0] != "Z":
                os.sched_yield()
        done.extend([shard] if kind == "done" else [])

    assert run_local(stage, [(n, {**stage.identity, "inputs": {}}) for n in (0, 2, 3)], event) == []
    assert done == [0, 2, 3]


class GreedyStage(LoneStage):
    """Shard 1 runs out of memory; every shard says in which worker it was done."""

    def steps(self, task):
        with (self.run.root / "workers").open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        if task.shard == 1:
            try:
                raise MemoryError
            except MemoryError as error:
                raise RuntimeError("a library's own words") from error
        return super().steps(task)


def test_a_worker_that_ran_out_of_memory_takes_no_other_shard(run):
    stage, shown = GreedyStage("none", run), []
    jobs = [(n, {**stage.identity, "inputs": {}}) for n in range(4)]
    assert run_local(stage, jobs, lambda kind, shard, value: shown.append((kind, shard, value))) == [1]
    before, greedy, *after = (run.root / "workers").read_text().split()
    assert before == greedy and after == [after[0]] * 2 and after[0] != greedy
    [message] = [value for kind, _, value in shown if kind == "failed"]
    assert message.startswith("stage count, shard 1: out of memory; lower execution.workers")
    assert read_failure(run, "count", 1) == message


class TangledStage(CountStage):
    """Its error has itself behind it, as asyncio's do where one error is handed to several tasks."""

    def steps(self, task):
        first, second = ValueError("first"), ValueError("second")
        first.__context__, second.__context__ = second, first
        raise first


def test_an_error_with_itself_behind_it_is_told(run):
    with pytest.raises(ValueError, match="first"):
        run_shard(TangledStage("none", run), 0, {"inputs": {}})
    assert "first" in read_failure(run, "count", 0)


class StillbornStage(CountStage):
    """Its workers die before they take a shard."""

    def worker_context(self):
        os._exit(7)


def test_a_stage_whose_workers_cannot_live_comes_to_an_end(run):
    stage = StillbornStage("none", run)
    assert run_local(stage, [(n, {**stage.identity, "inputs": {}}) for n in range(4)], lambda *_: None) == [0, 1, 2, 3]
    assert read_failure(run, "count", 3) == "its worker ended with exit code 7"
