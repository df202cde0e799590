"""A real local Ray: the bytes of a local run, shards that raise or die fail alone, and what is said without Ray."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from classifiers.errors import DependencyError, SafetroveError
from pipeline.executors.ray import _run_one, run_ray, start_ray
from pipeline.recipe import parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import read_failure, write_failure
from tests.end_to_end.runs import results, safetrove, write_recipe, write_sources
from tests.pipeline.ray_stage import MisbehavingStage

FAST = [
    part
    for name in ("ingest", "dedup-find", "documents", "score-fasttext", "score-final")
    for part in ("--stage", name)
]


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r"pip install 'safetrove\[ray\]'"):
        start_ray(recipe().execution.ray)


def recipe(**execution):
    source = {"name": "texts", "format": "jsonl", "path": "in"}
    return parse_recipe({"name": "ray", "sources": [source], "execution": execution}, "test", Path.cwd())


@pytest.mark.slow
def test_shards_fail_alone_and_a_worker_that_died_once_is_replaced(tmp_path):
    ray = pytest.importorskip("ray", reason="the optional extra `ray` is not installed")
    run = RunFolder(tmp_path)
    stage = MisbehavingStage("odd", recipe(executor="ray", workers=2, ray={"retries": 1}), run, 5)
    events = []
    try:
        failed = run_ray(stage, [(shard, stage.identity) for shard in range(5)], lambda *event: events.append(event))
    finally:
        ray.shutdown()
    assert failed == [1, 2]
    assert read_failure(run, "odd", 1) == "RuntimeError: this shard is broken"
    assert "Ray worker died" in read_failure(run, "odd", 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "3", "4"]
    assert sorted((kind, shard) for kind, shard, _ in events) == [
        ("done", 0), ("done", 3), ("done", 4), ("failed", 1), ("failed", 2),
    ]  # fmt: skip


class DyingWorkers:
    """The part of `ray` that `run_ray` calls, on a cluster where every worker dies."""

    class exceptions:  # noqa: N801
        class RayError(Exception): ...

        class OutOfMemoryError(RayError): ...

    def remote(self, function):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda stage, shard, identity: shard))

    def put(self, stage):
        return stage

    def wait(self, references, num_returns):
        return references[:1], references[1:]

    def get(self, reference):
        raise self.exceptions.OutOfMemoryError


def test_the_reason_of_an_earlier_failure_does_not_stay(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    stage = MisbehavingStage("odd", recipe(executor="ray"), run, 2)
    for shard in range(2):
        write_failure(run, "odd", shard, SafetroveError("an older reason"))
    monkeypatch.setattr("pipeline.executors.ray.start_ray", lambda settings: DyingWorkers())
    assert run_ray(stage, [(0, {})], lambda *_: None) == [0]
    assert read_failure(run, "odd", 0).startswith("its node ran out of memory")
    monkeypatch.setattr(stage, "worker_context", lambda: open(tmp_path / "absent"), raising=False)  # noqa: SIM115, PTH123
    assert "FileNotFoundError" in _run_one(stage, 1, {})[0] and "FileNotFoundError" in read_failure(run, "odd", 1)


@pytest.mark.slow
def test_a_run_on_ray_has_the_bytes_of_a_local_run(tmp_path):
    pytest.importorskip("ray", reason="the optional extra `ray` is not installed")
    texts = write_sources(tmp_path / "in", 4)
    recipe = write_recipe(tmp_path / "recipe.yaml", texts, score={"classifiers": ["fasttext"]})
    safetrove("run", recipe, "--output", tmp_path / "ray", "--executor", "ray", *FAST)
    safetrove("run", recipe, "--output", tmp_path / "local", *FAST)
    assert results(tmp_path / "ray") == results(tmp_path / "local")
