"""Ids, addresses, sources and file names out of the data never decide where a file lies."""

import gzip
import json
from pathlib import Path

import pytest
import yaml

from classifiers.errors import RecipeError
from pipeline.recipe import parse_recipe
from pipeline.run_folder import RunFolder
from tests.faults.small_run import answer, run_again, small_recipe, write_inputs
from tests.pipeline.writer_stub import writer

HOSTILE = [
    "../../escaped", "/escaped", "..", ".", "", "a/b/../../../escaped", "..\\..\\escaped", "C:\\escaped", "~/escaped",
    "$HOME/escaped", "`escaped`", "a\0escaped", "escaped\n../escaped", "con", "%2e%2e%2fescaped", "file:///escaped",
    "\ud800escaped", "é" * 400, "x" * 5000, "escaped.partial", "00000.json", "*", "?", "[a]", "-rf",
]  # fmt: skip
TEXT = "I hate you and I will hit you, said the angry neighbour number {} to the baker, who had done nothing at all."


def everything(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def shape(run):
    """The names in a run folder, but for the names of work that depends on settings."""
    return {name for name in everything(run) if not name.startswith(("logs/", "quarantine/"))}


def corpus(folder, names):
    """A run over documents with these ids and addresses; its folder."""
    write_inputs(folder / "in")
    rows = [{"id": name, "url": name, "text": TEXT.format(n)} for n, name in enumerate(names)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "in/jsonl-gz/a.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))
    with writer(answer) as (url, _):
        result, watcher = run_again(small_recipe(folder, url), RunFolder(folder / "runs/run"))
    assert not result.failed, watcher.failures
    return folder / "runs/run"


def test_nothing_of_the_data_is_a_path(tmp_path, warm):
    for name in ("plain", "hostile"):
        (tmp_path / name).mkdir()
    plain = corpus(tmp_path / "plain", [f"document-{n}" for n in range(len(HOSTILE))])
    hostile = corpus(tmp_path / "hostile", HOSTILE)
    assert shape(hostile) == shape(plain), "the same files, whatever the documents are called"
    outside = everything(tmp_path / "hostile") - {f"runs/run/{name}" for name in everything(hostile)}
    assert outside == everything(tmp_path / "plain") - {f"runs/run/{name}" for name in everything(plain)}
    assert not [name for name in everything(hostile) if "escaped" in name]


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "/absolute", "..", ".hidden", "a\0b", "a\nb", "a\\b", "", "-x", "ok\n"]
)
def test_a_source_or_run_that_is_called_like_a_path_is_refused(tmp_path, name):
    source = {"name": "ok", "format": "jsonl", "path": "in"}
    with pytest.raises(RecipeError, match=r"sources\.0\.name: String should match pattern"):
        parse_recipe({"name": "ok", "sources": [{**source, "name": name}]}, "test", tmp_path)
    with pytest.raises(RecipeError, match=r"name: String should match pattern"):
        parse_recipe({"name": name, "sources": [source]}, "test", tmp_path)


def test_the_names_of_input_files_stay_in_the_manifests(tmp_path, warm):
    """A file may be called anything that its file system allows."""
    write_inputs(tmp_path / "in")
    original = tmp_path / "in/jsonl-gz/a.jsonl.gz"
    original.rename(original.with_name("%2e%2e%2f..  $HOME`x`\n;.jsonl.gz"))
    recipe, run = small_recipe(tmp_path), RunFolder(tmp_path / "run")
    from pipeline.run import execute
    from tests.faults.small_run import Watcher

    assert not execute(recipe, run.root, Watcher(), ["ingest", "dedup", "documents"]).failed
    assert yaml.safe_load(Path(run.recipe).read_text())["name"] == "small"
    tables = sorted(path.name for path in (run.root / "documents").iterdir())
    assert tables == ["00000.parquet", "00001.parquet", "00002.parquet", "00003.parquet"]
