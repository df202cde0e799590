"""`safetrove status RUN --verify`: every edited, cut-off or lost file is named with what restores it."""

import os
import shutil

import pytest

from classifiers.errors import DataError
from pipeline.run_folder import RunFolder
from pipeline.verify_outputs import check_outputs, damaged_outputs
from tests.end_to_end.runs import safetrove


@pytest.fixture
def run(without_writer, tmp_path):
    shutil.copytree(without_writer.run.root, tmp_path / "run", copy_function=shutil.copy2)
    return RunFolder(tmp_path / "run")


def flip_a_byte(path):
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_command_names_all_that_was_edited(run):
    assert "report" in safetrove("status", run.root, "--verify").stdout
    shard, idx = run.root / "tagged/00003.parquet", run.root / "tokens/safe/00001.idx"
    flip_a_byte(shard)
    flip_a_byte(idx)
    manifest = run.manifest("score-final", 2)
    manifest.write_text(manifest.read_text().replace('"kept": ', '"kept": 1'))
    assert safetrove("status", run.root, "--verify", expect=1).stderr.splitlines() == [
        f"error: {run.root}: 3 files are not as they were written:",
        f"  {manifest}: the manifest was edited (its hash does not fit); remove it to redo the shard",
        f"  {shard}: was changed after stage tag wrote it; "
        f"redo it with: safetrove rerun {run.root} --stage tag --rank 3",
        f"  {idx}: was changed after stage tokenise-safe wrote it; "
        f"redo it with: safetrove rerun {run.root} --stage tokenise-safe --rank 1",
    ]


def test_many_are_counted_and_the_first_are_shown(run):
    for path in (run.root / "scores").rglob("*.parquet"):
        path.unlink()
    for path in (run.root / "tokens").rglob("*.bin"):
        path.unlink()
    for path in (run.root / "documents").iterdir():
        path.unlink()
    found = damaged_outputs(run)
    assert len(found) > 20 and all(": is gone; stage " in line for line in found)
    with pytest.raises(DataError, match=rf"{len(found)} files are not .*(?s:.*)and {len(found) - 20} more"):
        check_outputs(run)
