"""A real local Ray: the bytes of a local run, shards that raise or die fail alone, and what is said without Ray."""

import sys
from pathlib import Path

import pytest

from classifiers.errors import DependencyError
from pipeline.executors.ray import run_ray, start_ray
from pipeline.recipe import parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import read_failure
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


@pytest.mark.slow
def test_a_run_on_ray_has_the_bytes_of_a_local_run(tmp_path):
    pytest.importorskip("ray", reason="the optional extra `ray` is not installed")
    texts = write_sources(tmp_path / "in", 4)
    recipe = write_recipe(tmp_path / "recipe.yaml", texts, score={"classifiers": ["fasttext"]})
    safetrove("run", recipe, "--output", tmp_path / "ray", "--executor", "ray", *FAST)
    safetrove("run", recipe, "--output", tmp_path / "local", *FAST)
    assert results(tmp_path / "ray") == results(tmp_path / "local")
