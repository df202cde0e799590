"""Share of a stage's time that goes into manifests, hashes and the ledger: `python -m benchmarks.bookkeeping`.

One shard at a time in one process, models loaded before, as a worker runs it. Counted as bookkeeping: the hash of the
outputs, their fsync and rename, the manifest, its provenance, the identity of the stage, the state that a resume reads
afterwards, and the counting of rows: the number of calls times what one call takes. Library versions and commit are looked up
once a run, by the fork server, and a worker inherits them: what that takes is a line of its own.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.corpora import benchmark_recipe, read_texts, write_corpus
from pipeline import shard_task
from pipeline.executors.shard_run import run_shard
from pipeline.manifest import Manifest, OutputFile
from pipeline.numerics import code_commit, numerics_class
from pipeline.run_folder import RunFolder
from pipeline.shard_state import stage_states
from pipeline.shard_task import ShardTask
from pipeline.stage import Stage
from pipeline.stages.score import ClassifierStage
from pipeline.stages.tag import TagStage
from pipeline.stages.tokenise import TokeniserStage, TokeniseStage

COUNTED_CALLS = 200_000


@dataclass
class Seconds:
    """Where one shard's time went."""

    whole: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Bookkeeping over the whole, in [0, 1]."""
        return sum(self.parts.values()) / self.whole

    def clocked(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is added to a part."""

        def clocked_function(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - started

        return clocked_function


def measure(stage: Stage, call_seconds: float) -> Seconds:
    """One shard of the stage, from the question whether it is done to the answer that it is."""
    seconds = Seconds()
    places: list[tuple[Any, str, str]] = [
        (shard_task, "publish_file", "fsync and rename"),
        (OutputFile, "of", "hashes"),
        (shard_task, "numerics_class", "provenance"),
        (shard_task, "code_commit", "provenance"),
        (Manifest, "write", "manifest"),
    ]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(patch.object(owner, name, seconds.clocked(part, getattr(owner, name))))
        started = time.perf_counter()
        settings = seconds.clocked("identity", stage.settings)()
        identity = {"stage": stage.name, "version": stage.version, "settings": settings, "inputs": {}}
        manifest = run_shard(stage, 0, identity)
        seconds.clocked("state", stage_states)(stage.run, [stage], force_stale=True)
        seconds.whole = time.perf_counter() - started
    calls = manifest.rows.rows_in + manifest.rows.kept + sum(manifest.rows.dropped.values())
    seconds.parts["ledger"] = calls * call_seconds
    return seconds


def seconds_of_a_call(folder: Path) -> float:
    """What counting one row takes."""
    task = ShardTask(RunFolder(folder), "count", 0, {})
    started = time.perf_counter()
    for _ in range(COUNTED_CALLS // 2):
        task.read()
        task.keep()
    return (time.perf_counter() - started) / COUNTED_CALLS


def seconds_of_provenance() -> float:
    """What the fork server's one look at library versions and commit takes."""
    numerics_class.cache_clear()
    code_commit.cache_clear()
    started = time.perf_counter()
    numerics_class()
    code_commit()
    return time.perf_counter() - started


def main() -> None:
    """Prints one line a stage: the median share and its spread, the stage's median seconds, and those of each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WARC or JSON-lines files; default: the sample pages")
    parser.add_argument(
        "--documents", type=int, default=6000, help="of the shard; texts are repeated up to this number"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one worker, one core, as where every core has its worker
    with tempfile.TemporaryDirectory(prefix="safetrove-benchmark-") as name:
        folder = Path(name)
        texts = read_texts(arguments.data, folder / "ingest")
        recipe = benchmark_recipe()
        safe, unsafe = RunFolder(folder / "safe"), RunFolder(folder / "unsafe")
        write_corpus(safe, texts, arguments.documents, 1, score=0)
        write_corpus(unsafe, texts, arguments.documents, 1, score=3)
        run_shard(TokeniserStage(recipe, safe), 0, {})
        stages = [
            ClassifierStage("fasttext", recipe, safe, 1),
            TagStage(recipe, unsafe, 1),
            TokeniseStage("safe", recipe, safe, 1),
        ]
        print(
            f"{len(texts)} texts, mean {sum(map(len, texts)) / len(texts):.0f} characters; {arguments.documents} a shard"
        )
        print(f"library versions and commit, once a run: {1000 * seconds_of_provenance():.1f} ms")
        call = seconds_of_a_call(folder / "calls")
        for stage in stages:
            measured = [measure(stage, call) for _ in range(arguments.repetitions + 1)][1:]
            shares = sorted(100 * seconds.share for seconds in measured)
            parts = {part: statistics.median(s.parts[part] for s in measured) for part in measured[0].parts}
            print(
                f"{stage.name:16} bookkeeping {statistics.median(shares):.2f} % ({shares[0]:.2f}-{shares[-1]:.2f}, "
                f"{len(shares)} repetitions) of {statistics.median(s.whole for s in measured):.2f} s: "
                + ", ".join(f"{part} {1000 * value:.1f} ms" for part, value in parts.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
