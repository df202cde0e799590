"""Where documents come from: files, folders, globs, data sets in the Hub's layout; a frozen list stays what it was."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from classifiers.errors import DataError, RecipeError
from pipeline.ingest.input_files import freeze_input_files, frozen_input_files, input_files, list_input_files
from pipeline.recipe import parse_recipe
from pipeline.run_folder import RunFolder


def recipe_of(tmp_path, **source):
    value = {"name": "t", "sources": [{"name": "s", "format": "jsonl", **source}]}
    return parse_recipe(value, "recipe", tmp_path)


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.jsonl", "a/1.jsonl", "a/.hidden", "a/3.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(json.dumps({"text": name}) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("in", ["a/1.jsonl", "a/3.txt", "b/2.jsonl"]),
        ("in/*/*.jsonl", ["a/1.jsonl", "b/2.jsonl"]),
        ("in/*/1.jsonl", ["a/1.jsonl"]),
        ("*/a/*.jsonl", ["in/a/1.jsonl"]),
        ("in/a/1.jsonl", ["1.jsonl"]),
    ],
)
def test_files_folders_and_globs(folder, path, names):
    assert [f.name for f in list_input_files(recipe_of(folder, path=path))] == names


@pytest.fixture
def store():
    """Files that an address leads to."""
    filesystem = fsspec.filesystem("memory")
    for name in ("b/2.jsonl", "a/1.jsonl", "a/.hidden", "a/3.txt"):
        filesystem.pipe(f"/bucket/in/{name}", json.dumps({"text": name}).encode() + b"\n")
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("in", ["a/1.jsonl", "a/3.txt", "b/2.jsonl"]),
        ("in/*/*.jsonl", ["a/1.jsonl", "b/2.jsonl"]),
        ("in/*/1.jsonl", ["a/1.jsonl"]),
        ("in/a/1.jsonl", ["1.jsonl"]),
    ],
)
def test_addresses_of_files_folders_and_globs(tmp_path, store, path, names):
    files = list_input_files(recipe_of(tmp_path, path=f"memory://bucket/{path}"))
    assert [f.name for f in files] == names and all(f.pin for f in files)
    with fsspec.open(files[0].uri, "rb") as file:
        assert json.load(file) == {"text": "a/1.jsonl"}


def test_nothing_at_an_address_is_an_error_that_names_the_key(tmp_path, store):
    with pytest.raises(RecipeError, match=r"sources\.0\.path: memory://bucket/out: no files there"):
        list_input_files(recipe_of(tmp_path, path="memory://bucket/out"))


def test_a_remote_file_that_was_replaced_is_another_input(tmp_path, store):
    recipe, run = recipe_of(tmp_path, path="memory://bucket/in/a/1.jsonl"), RunFolder(tmp_path / "run")
    freeze_input_files(input_files(recipe, run), run)
    assert input_files(recipe, run) == list_input_files(recipe)
    store.pipe("/bucket/in/a/1.jsonl", b"{}\n")
    replaced = input_files(recipe, run)
    assert replaced != frozen_input_files(run)
    freeze_input_files(replaced, run)
    assert replaced == frozen_input_files(run)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"ingest": {"decontaminate": [{"name": "s", "path": "s3://b/x.jsonl"}]}}, r"ingest\.decontaminate\.0\.path"),
        ({"score": {"cascade": {"calibration": "s3://b/gates"}}}, r"score\.cascade\.calibration"),
    ],
)
def test_an_address_where_only_local_files_are_read_is_refused(tmp_path, changes, key):
    value = {"name": "t", "sources": [{"name": "s", "format": "jsonl", "path": "in"}], **changes}
    with pytest.raises(RecipeError, match=rf"recipe: {key}: s3://b/.* only files of this machine"):
        parse_recipe(value, "recipe", tmp_path)


def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path):
    def value(path):
        return {"name": "t", "sources": [{"name": "s", "format": "jsonl", "path": path}]}

    with pytest.raises(RecipeError, match=r"sources\.0\.path: .*it holds a password") as raised:
        parse_recipe(value("sftp://me:hunter2@host/in"), "recipe", tmp_path)
    assert "hunter2" not in str(raised.value)
    assert parse_recipe(value("sftp://me@host/in"), "recipe", tmp_path).sources[0].path == "sftp://me@host/in"


def test_nothing_there_is_an_error_that_names_the_key(folder):
    with pytest.raises(RecipeError, match=r"sources\.0\.path.*no files there"):
        list_input_files(recipe_of(folder, path="out/*.jsonl"))


def test_the_list_is_frozen_at_the_first_run(folder):
    recipe, run = recipe_of(folder, path="in"), RunFolder(folder / "run")
    first = input_files(recipe, run)
    freeze_input_files(first, run)
    assert input_files(recipe, run) == first
    (folder / "in" / "new.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"new:.*new\.jsonl"):
        input_files(recipe, run)


def test_local_files_beside_a_data_set_of_the_hub_are_looked_at_again(folder, monkeypatch):
    root = "hf://datasets/org/name@0123456789abcdef0123456789abcdef01234567"
    config = SimpleNamespace(data_files={"train": [f"{root}/train.jsonl"]})
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: SimpleNamespace(config=config))
    sources = [{"name": "hub", "format": "hub", "path": "org/name"}, {"name": "t", "format": "jsonl", "path": "in"}]
    recipe, run = parse_recipe({"name": "t", "sources": sources}, "recipe", folder), RunFolder(folder / "run")
    first = input_files(recipe, run)
    freeze_input_files(first, run)
    monkeypatch.delattr("datasets.load_dataset_builder")  # pinned: the Hub is not asked again
    assert input_files(recipe, run) == first and first[0].pin == f"{root}/train.jsonl"
    (folder / "in" / "new.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"new:.*new\.jsonl"):
        input_files(recipe, run)


def test_a_file_whose_name_is_not_utf8_is_told(folder):
    (folder / "in" / os.fsdecode(b"caf\xe9.jsonl")).write_text("{}\n")
    with pytest.raises(RecipeError, match=r"sources\.0\.path: .*/in/caf\\udce9\.jsonl': the file's name is not UTF-8"):
        list_input_files(recipe_of(folder, path="in"))


def test_a_data_set_in_the_hubs_layout(tmp_path):
    data = tmp_path / "org_name" / "data"
    data.mkdir(parents=True)
    for number in (0, 1):
        table = pa.table({"id": [f"{number}"], "text": ["some text"]})
        pq.write_table(table, data / f"train-0000{number}-of-00002.parquet")
    pq.write_table(pa.table({"id": ["t"], "text": ["x"]}), data / "test-00000-of-00001.parquet")
    files = list_input_files(recipe_of(tmp_path, format="hub", path=str(tmp_path / "org_name")))
    assert [f.name for f in files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert {f.format for f in files} == {"parquet"}
    with pytest.raises(RecipeError, match="no split 'dev'"):
        list_input_files(recipe_of(tmp_path, format="hub", path=str(tmp_path / "org_name"), split="dev"))


def test_hub_files_of_one_name_in_two_folders_are_told_apart(tmp_path):
    for name in ("A/train.jsonl", "B/train.jsonl", "C/train-2.jsonl"):
        file = tmp_path / "org_name" / "data" / name
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"text": name}) + "\n")
    source = {"format": "hub", "path": str(tmp_path / "org_name")}
    files = list_input_files(recipe_of(tmp_path, **source))
    assert [f.name for f in files] == ["A/train.jsonl", "B/train.jsonl", "train-2.jsonl"]


def test_names_of_hub_files_are_theirs_inside_the_repository(monkeypatch):
    root = "hf://datasets/org/name@0123456789abcdef0123456789abcdef01234567"
    paths = ["data/A@1/train.jsonl", "data/B/train.jsonl", "train.jsonl", "data/A@1/more.jsonl"]
    config = SimpleNamespace(data_files={"train": [f"{root}/{path}" for path in paths]})
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: SimpleNamespace(config=config))
    files = list_input_files(recipe_of(Path("/nowhere"), format="hub", path="org/name"))
    assert {f.uri.removeprefix(f"{root}/"): f.name for f in files} == {
        **{path: path for path in paths[:3]},
        "data/A@1/more.jsonl": "more.jsonl",
    }
