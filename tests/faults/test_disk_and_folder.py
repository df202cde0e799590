"""The folder under the run: a small disk that fills, a read-only one, no rights; and inputs that are mended afterwards."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from classifiers.errors import DataError, IdentityError
from pipeline.run import execute, rerun_shards
from pipeline.run_folder import RunFolder
from tests.end_to_end.runs import results
from tests.faults.campaign import Campaign
from tests.faults.small_run import FILES, Watcher, run_again, small_recipe, write_inputs


def mounted(*arguments):
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 4 MiB of its own; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or not mounted("-t", "tmpfs", "-o", "size=4m", "none", folder):
        pytest.skip(
            "mounting a small disk needs root; test_writing_full_disk.py and the campaigns limit file sizes instead"
        )
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, free):
    """Leave about `free` bytes on the disk."""
    statistics = os.statvfs(disk)
    (disk / "ballast").write_bytes(b"\0" * max(0, statistics.f_bavail * statistics.f_frsize - free))


@pytest.mark.parametrize("seed", range(3))
def test_a_full_disk_at_every_stage(without_writer, small_disk, seed):
    """Whatever does not fit fails with a sentence; after space was freed, the same command goes on."""
    draws = random.Random(f"disk {seed}")
    recipe, run = without_writer.recipe, RunFolder(small_disk / "run")
    campaign = Campaign(recipe, run, without_writer, draws, small_disk)
    filled = 0
    for stage in without_writer.stages:
        fill(small_disk, draws.choice([0, 4096, 8192, 16384]))
        watcher = Watcher()
        try:
            failed = execute(recipe, run.root, watcher, campaign._up_to(stage)).failed
            filled += bool(failed)
            assert not failed or all("space" in message.lower() for *_, message in watcher.failures), watcher.failures
        except DataError as error:
            filled += 1
            assert "Free space" in str(error)
        (small_disk / "ballast").unlink()
        campaign.check()
    assert filled >= 5
    campaign.finish()


def test_a_read_only_folder(without_writer, small_disk):
    recipe, run = without_writer.recipe, RunFolder(small_disk / "run")
    execute(recipe, run.root, Watcher(), ["ingest"])
    assert mounted("-o", "remount,ro", small_disk)
    with pytest.raises(DataError, match=r"cannot be written \(Read-only file system\).*the same command again"):
        execute(recipe, run.root, Watcher())
    assert mounted("-o", "remount,rw", small_disk)
    Campaign(recipe, run, without_writer, random.Random(0), small_disk).finish()


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_input_that_is_mended(without_writer, tmp_path, name):
    """What can be read of it is read or the shard fails alone; the whole file is then refused until the rerun that is named."""
    shard, first = FILES[name], ["ingest", "dedup", "documents"]
    write_inputs(tmp_path / "in")
    path = tmp_path / "in" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    recipe, run, watcher = small_recipe(tmp_path), RunFolder(tmp_path / "run"), Watcher()
    failed = execute(recipe, run.root, watcher, first).failed
    path.write_bytes(whole)
    if name.startswith("parquet"):
        assert failed == {"ingest": [shard]} and "cannot be read as Parquet" in watcher.failures[0][2]
    else:
        assert not failed and run.quarantine("ingest", shard).is_file()
        with pytest.raises(IdentityError, match=rf"ingest {shard:05d}\n.*raw_inputs"):
            execute(recipe, run.root, Watcher(), first)
        rerun_shards(run, "ingest", [shard], Watcher())
    assert not execute(recipe, run.root, Watcher(), first).failed
    made, wanted = results(run.root), results(without_writer.run.root)
    assert made and made == {name: wanted[name] for name in made}
    assert {file.split("/")[0] for file in made} == {"ingested", "duplicates", "documents"}


def test_kills_while_everything_is_done_again(without_writer, tmp_path):
    """Over the files of a run on a truncated input: a new file beside an old manifest must not read as an edit."""
    write_inputs(tmp_path / "in")
    path = tmp_path / "in/warc/d.warc.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    tokenizer = Path(without_writer.recipe.tokenise.tokenizer)
    recipe, run = small_recipe(tmp_path, tokenizer=tokenizer), RunFolder(tmp_path / "run")
    run_again(recipe, run)
    path.write_bytes(whole)
    rerun_shards(run, "ingest", [3], Watcher())
    campaign = Campaign(recipe, run, without_writer, random.Random("again"), tmp_path)
    killed = [stage for stage in without_writer.stages if campaign.kill_if_stale(stage, 3)]
    assert {"documents", "score-fasttext", "score-embedding", "score-final", "tag"} <= set(killed)
    campaign.finish()
