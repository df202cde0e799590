"""Whether memory depends on the size of a shard: `python -m benchmarks.memory`.

Each measurement is a process of its own that runs one stage over one shard; peak resident memory of N documents against
10 N. Peaks are VmHWM where Linux gives it: `ru_maxrss` of a child starts at what its parent had when it was started.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpora import benchmark_recipe, read_texts, write_corpus
from pipeline.executors.freed_memory import return_freed_memory
from pipeline.executors.shard_run import run_shard
from pipeline.run_folder import RunFolder
from pipeline.stage import Stage
from pipeline.stages.score import ClassifierStage
from pipeline.stages.tag import TagStage
from pipeline.stages.tokenise import TokeniserStage, TokeniseStage

STAGES = ("score-fasttext", "tag", "tokenise-safe", "score-embedding")
TIMES = 10


def make_stage(name: str, run: RunFolder) -> Stage:
    """A stage of one shard over the corpus in `run`."""
    recipe = benchmark_recipe()
    if name == "tag":
        return TagStage(recipe, run, 1)
    if name == "tokenise-safe":
        return TokeniseStage("safe", recipe, run, 1)
    return ClassifierStage(name.removeprefix("score-"), recipe, run, 1)


def peak_mebibytes() -> float:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure(name: str, folder: Path, texts: list[str], documents: int) -> float:
    """Peak MiB of a new process that runs the stage over one shard of `documents` documents."""
    run = RunFolder(folder / f"{name}-{documents}")
    write_corpus(run, texts, documents, shards=1, score=3 if name == "tag" else 0)
    if name == "tokenise-safe":
        run_shard(TokeniserStage(benchmark_recipe(), run), 0, {})
    command = [sys.executable, "-m", "benchmarks.memory", "--child", name, str(run.root)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> None:
    """Prints one line a stage: both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WARC or JSON-lines files; default: the sample pages")
    parser.add_argument("--documents", type=int, default=2000, help=f"N; the other shard holds {TIMES} N")
    parser.add_argument("--embedding-documents", type=int, default=60)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument(
        "--child", nargs=2, metavar=("STAGE", "RUN"), help="run one stage and print this process's peak"
    )
    arguments = parser.parse_args()
    if arguments.child:
        return_freed_memory()  # as in a worker
        run_shard(make_stage(arguments.child[0], RunFolder(Path(arguments.child[1]))), 0, {})
        print(peak_mebibytes())
        return
    with tempfile.TemporaryDirectory(prefix="safetrove-benchmark-") as name:
        texts = read_texts(arguments.data, Path(name) / "ingest")
        for stage in arguments.stages:
            few = arguments.embedding_documents if stage == "score-embedding" else arguments.documents
            small, large = (measure(stage, Path(name), texts, n) for n in (few, TIMES * few))
            print(
                f"{stage:16} {few} documents: {small:.0f} MiB; {TIMES * few}: {large:.0f} MiB; ratio {large / small:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
