"""Time of `safetrove status` over many finished shards: `python -m benchmarks.status_speed`.

One small shard goes through a real run (no language model, fastText alone); its manifests and outputs are then multiplied
(outputs as hard links), with the identities that so many shards would have. `status` must find every one of them done.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from classifiers.errors import SafetroveError
from pipeline.executors.local import run_local
from pipeline.ingest.input_files import freeze_input_files, list_input_files
from pipeline.manifest import Manifest
from pipeline.recipe import Recipe, dump_recipe, parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_state import read_manifest, wanted_identity
from pipeline.stage import Stage
from pipeline.stages.order import build_stages
from safetrove.sample.pages import read_pages

LINKS = 60_000  # of one file; ext4 allows 65,000


class Links:
    """Hard links to files, a new copy of each after so many."""

    def __init__(self) -> None:
        self._used: dict[Path, tuple[Path, int]] = {}

    def link(self, original: Path, name: Path) -> None:
        """`name` becomes another name of the file, or of a copy with the same size and time."""
        target, links = self._used.get(original, (original, 0))
        name.parent.mkdir(parents=True, exist_ok=True)
        if links == LINKS:
            name.write_bytes(original.read_bytes())
            stat = original.stat()
            os.utime(name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            target, links = name, 0
        else:
            name.hardlink_to(target)
        self._used[original] = (target, links + 1)


def recipe_of(folder: Path) -> Recipe:
    """A recipe over the JSON-lines files in `folder/in`, without a language model."""
    source = {"name": "texts", "format": "jsonl", "path": "in", "licence": "CC0-1.0"}
    value = {"name": "many", "sources": [source], "synthesis": None, "score": {"classifiers": ["fasttext"]}}
    return parse_recipe(value, "benchmarks", folder)


def one_shard(folder: Path) -> list[Stage]:
    """A real run of one shard in `folder/run`; returns its stages."""
    pages = [page for page in read_pages() if not page.malformed and page.body][:20]
    (folder / "in").mkdir(parents=True)
    lines = [json.dumps({"id": page.url, "text": page.body[:500], "url": page.url}) + "\n" for page in pages]
    (folder / "in" / "00000.jsonl").write_text("".join(lines))
    recipe, run = recipe_of(folder), RunFolder(folder / "run")
    stages = build_stages(recipe, run, list_input_files(recipe))
    finished: dict[tuple[str, int], Manifest] = {}
    for stage in stages:
        identity = wanted_identity(stage, 0, finished)
        assert identity is not None
        if run_local(stage, [(0, identity)], lambda *_: None):
            raise SafetroveError(f"stage {stage.name} failed: {run.failure(stage.name, 0).read_text()}")
        manifest = read_manifest(run, stage.name, 0)
        assert manifest is not None
        finished[stage.name, 0] = manifest
    return stages


def multiply(folder: Path, shards: int) -> int:
    """Make the run of one shard one of `shards`; returns the number of manifests."""
    templates = {stage.name: read_manifest(stage.run, stage.name, 0) for stage in one_shard(folder)}
    recipe, run, links = recipe_of(folder), RunFolder(folder / "run"), Links()
    for shard in range(1, shards):
        links.link(folder / "in" / "00000.jsonl", folder / "in" / f"{shard:05d}.jsonl")
    files = list_input_files(recipe)
    stages = build_stages(recipe, run, files)
    run.recipe.write_text(dump_recipe(recipe))
    freeze_input_files(files, run)
    finished: dict[tuple[str, int], Manifest] = {}
    for stage in stages:
        template = templates[stage.name]
        assert template is not None
        for shard in range(stage.shards):
            manifest = copy.copy(template)
            manifest.shard = shard
            manifest.outputs = {name.replace("00000", f"{shard:05d}"): o for name, o in template.outputs.items()}
            identity = wanted_identity(stage, shard, finished)
            assert identity is not None
            raw = {name: template.raw_files[next(iter(template.raw_files))] for name in stage.raw_inputs(shard)}
            manifest.identity = {**identity, "raw_inputs": {name: o.sha256 for name, o in raw.items()}}
            manifest.raw_files = raw
            value = manifest.to_json()
            run.manifest(stage.name, shard).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
            for old, new in zip(template.outputs, manifest.outputs, strict=True):
                if old != new:
                    links.link(run.root / old, run.root / new)
            finished[stage.name, shard] = manifest
    return len(finished)


def main() -> None:
    """Build the run, time the command, say whether everything was found done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=int, default=100_000, help="about so many")
    parser.add_argument("--folder", type=Path, help="keep the run here, and use it again; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary) / "many").resolve()
        if not folder.is_dir():
            per_shard = 8  # stages with a task a shard in this recipe
            print(f"{multiply(folder, arguments.manifests // per_shard):,} manifests written")
        for attempt in range(3):
            started, before = time.monotonic(), os.times()
            command = [sys.executable, "-m", "safetrove", "status", str(folder / "run"), "--json"]
            shown = subprocess.run(command, capture_output=True, text=True)
            seconds = time.monotonic() - started
            if shown.returncode:
                raise SafetroveError(f"status does not find the run done: {shown.stdout[-2000:]}{shown.stderr[-2000:]}")
            done = sum(stage["shards"]["done"] for stage in json.loads(shown.stdout)["stages"])
            after = os.times()
            processor = after.children_user + after.children_system - before.children_user - before.children_system
            print(
                f"status over {done:,} manifests, {attempt + 1}: {seconds:.2f} s, of them {processor:.2f} s of processor"
            )


if __name__ == "__main__":
    main()
