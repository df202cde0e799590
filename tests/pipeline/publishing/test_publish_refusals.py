"""Runs that must not leave: unfinished, stale, forced, edited, without a licence, with rows above their gate."""

import json
import os
from collections import Counter
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from classifiers.errors import DataError
from pipeline.dataset_export.export import Counts
from pipeline.manifest import Manifest, OutputFile
from pipeline.publishing.configurations import config_batches
from pipeline.publishing.corpus import run_publication
from pipeline.publishing.plan import (
    CommitBounds,
    OutgoingFile,
    Publication,
    cut_into_commits,
    describe,
    shard_path,
    shard_pattern,
)
from pipeline.publishing.refusals import licence_refusals
from pipeline.run_folder import RunFolder
from pipeline.size_text import size_text
from tests.pipeline.stage_runs import small_recipe


def publication(run, include_unsafe=False):
    return run_publication(RunFolder(run), "team/corpus", "https://hub.example/datasets/team/corpus", include_unsafe)


def replaced(run, table, change):
    """Rewrites a table and its manifest's hash, as a stage of another version would have written it."""
    path = run / table
    pq.write_table(change(pq.read_table(path)), path)
    for manifest in (run / "manifests").glob("*/*.json"):
        value = json.loads(manifest.read_text())
        if table in value["outputs"]:
            value["outputs"][table] = asdict(OutputFile.of(path, value["outputs"][table]["rows"]))
            manifest.write_text(json.dumps(value))


def test_a_finished_run_has_nothing_against_it(run):
    found = publication(run)
    assert not found.refusals and found.files[-1].path == "README.md"
    assert [config.name for config in found.configs if config.split == "train"] == [
        "safe",
        "rephrased",
        "refusal",
        "moral",
    ]
    written = {file.path: file.local.stat().st_mtime_ns for file in found.files if file.path.endswith("0.parquet")}
    again = publication(run)
    assert again.files == found.files
    assert written == {f.path: f.local.stat().st_mtime_ns for f in again.files if f.path in written}, "staged once"


def test_an_unfinished_run_is_refused(run):
    (run / "manifests" / "tokenise-safe" / "00001.json").unlink()
    found = publication(run)
    assert not found.files
    assert any("stage tokenise-safe is not finished (1 pending of 3 shards)" in refusal for refusal in found.refusals)
    assert any("stage blend is not finished (1 stale of 1 shards)" in refusal for refusal in found.refusals)


def test_a_forced_run_is_refused(run):
    path = RunFolder(run).manifest("score-final", 1)
    manifest = Manifest.read(path)
    manifest.forced_stale = True
    manifest.write(path)
    refusal, report = publication(run).refusals
    assert "stage report is not finished (1 stale of 1 shards)" in report
    assert "stage score-final: shard 1 was kept over stale inputs (--force-stale)" in refusal


def test_another_recipe_is_refused(run):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["tag"]["rate"] = 0.5
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    [refusal] = publication(run).refusals
    assert "finished shards were made under another recipe" in refusal and "rate: 0.05 -> 0.5" in refusal


def test_edited_tables_are_refused(run):
    path = run / "documents" / "00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "text", pa.array(["other"] * table.num_rows)), path)
    [refusal] = publication(run).refusals
    assert "documents/00000.parquet: was changed after stage documents wrote it" in refusal


def test_an_edit_that_keeps_size_and_time_is_found_by_its_hash(run):
    path = run / "tagged" / "00000.parquet"
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=r"tagged/00000\.parquet: not as its stage wrote it"):
        publication(run, include_unsafe=True)


def test_rows_without_a_licence_are_refused(tmp_path):
    recipe = small_recipe(tmp_path, sources=[{"name": "old", "format": "jsonl", "path": "in"}])
    licences = Counter({"CC0-1.0": 2, "unknown": 2, "None": 1, "NOASSERTION": 4})
    counts = {
        "safe": Counts(rows=9, by={"licence": licences}),
        "moral": Counts(rows=1, by={"licence": Counter(["MIT"])}),
    }
    [refusal] = licence_refusals(recipe, counts)
    assert "safe: the licence of 7 rows is unknown (source old)" in refusal


def test_texts_above_their_gate_are_not_staged(run):
    def worse(table):
        place = table.column_names.index("score_after")
        return table.set_column(place, table.schema.field(place), pa.array([2] * table.num_rows, pa.int8()))

    replaced(run, "synthetic/moral/00000.parquet", worse)
    with pytest.raises(DataError, match=r"moral/00000\.parquet: holds texts with a score above 1"):
        list(config_batches(RunFolder(run), "moral", 0))


@pytest.mark.parametrize("column, value", [("score", None), ("score", 1), ("never_train", "weapons")])
def test_only_a_score_of_zero_is_safe(run, column, value):
    path = run / "scores" / "final" / "00000.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(column)
    kind = table.schema.field(place)
    pq.write_table(table.set_column(place, kind, pa.array([value] * table.num_rows, kind.type)), path)
    assert sum(batch.num_rows for batch in config_batches(RunFolder(run), "safe", 0)) == 0


@pytest.mark.parametrize("change", ["swap", "drop", "add"])
def test_scores_of_other_documents_are_refused(run, change):
    path = run / "scores" / "final" / "00000.parquet"
    table = pq.read_table(path)
    order = list(range(table.num_rows))
    order = {"swap": [1, 0, *order[2:]], "drop": order[:-1], "add": [*order, 0]}[change]
    pq.write_table(table.take(order), path)
    with pytest.raises(DataError, match="rerun the stage score-final"):
        list(config_batches(RunFolder(run), "safe", 0))


def test_commits_are_bounded_in_files_and_bytes(tmp_path):
    files = [OutgoingFile(f"{n}", tmp_path, size, "") for n, size in enumerate([5, 5, 5, 100, 1, 1, 1, 1])]
    cut = cut_into_commits(files, CommitBounds(files=3, bytes=10))
    assert [[file.path for file in commit] for commit in cut] == [["0", "1"], ["2"], ["3"], ["4", "5", "6"], ["7"]]
    assert cut_into_commits([], CommitBounds()) == []


def test_many_shards_lie_in_folders_that_the_hub_takes():
    assert shard_path("safe", 7, 5000) == "safe/00007.parquet" and shard_pattern("safe", 5000) == "safe/*.parquet"
    assert shard_path("safe", 98765, 100_000) == "safe/00098/98765.parquet"
    assert shard_pattern("safe", 100_000) == "safe/*/*.parquet"


def test_a_description_says_when_there_are_too_many_files(tmp_path):
    files = [OutgoingFile(f"safe/{n}", tmp_path, 10, "0") for n in range(100_001)]
    lines = describe(Publication("a/b", "dataset", files, refusals=["no"]), CommitBounds())
    assert lines[0] == "dataset a/b: 100,001 files, 1.0 MB, 201 commits"
    assert any("at most 100,000 files" in line for line in lines) and lines[-1] == "refused: no"
    assert [size_text(n) for n in (999, 1500, 2.5e9, 4e15)] == ["999 bytes", "1.5 kB", "2.5 GB", "4000.0 TB"]
