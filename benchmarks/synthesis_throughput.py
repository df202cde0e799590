"""What a writing stage costs on top of its server: `python -m benchmarks.synthesis_throughput`.

Stage side: `rephrase` whole, on one worker and one shard (read, draw styles, count tokens, ask, keep each answer on disk,
write, hash, manifest). Bare side: an httpx client that sends the very same request bodies to the same server with the same
number in flight, and parses the answers. Both alternate in one process. The server is a stub whose answers take 50 to 200 ms
each, or `transformers serve` with the embedded writer. `--memory` compares the peak memory of N and of 10 N documents.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.corpora import read_texts, write_corpus
from benchmarks.memory import peak_mebibytes
from pipeline.executors.freed_memory import return_freed_memory
from pipeline.executors.shard_run import run_shard
from pipeline.manifest import Manifest
from pipeline.recipe import parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.synthesis import DraftStage
from rephrasers.embedded_writer import EMBEDDED_NAME
from rephrasers.servers import ServerSettings, open_server, serving

TARGET = 0.95
TIMES = 10


@contextlib.contextmanager
def stub(least: float, most: float, record: Path | None = None) -> Iterator[str]:
    """Base URL of a stub with answers of `least` to `most` milliseconds."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.writer_stub",
        str(least),
        str(most),
        *([str(record)] if record else []),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


def draft_stage(run: RunFolder, llm: dict[str, Any]) -> DraftStage:
    """`rephrase` over one shard, without further attempts: verification between them is not the server's time."""
    source = {"name": "benchmark", "format": "warc", "path": "."}
    synthesis = {"llm": {"max_attempts": 2, **llm}, "attempts": 0}
    recipe = parse_recipe({"name": "benchmark", "sources": [source], "synthesis": synthesis}, "benchmarks", Path.cwd())
    return DraftStage("rephrased", recipe, run, 1)


def endpoint(url: str, concurrency: int) -> dict[str, Any]:
    """The stub as an endpoint whose prompts are counted with a real tokenizer."""
    return {"kind": "endpoint", "url": url, "model": "stub", "tokenizer": EMBEDDED_NAME, "concurrency": concurrency}


def recorded_requests(run: RunFolder, concurrency: int, record: Path) -> list[bytes]:
    """The bodies that the stage sends, from a run against a stub that keeps them."""
    with stub(0, 1, record) as url:
        run_shard(draft_stage(run, endpoint(url, concurrency)), 0, {})
    return record.read_bytes().splitlines()


async def bare_client(url: str, bodies: list[bytes], concurrency: int) -> list[str]:
    """The answers' texts."""
    slots = asyncio.Semaphore(concurrency)
    headers, limits = {"Content-Type": "application/json"}, httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=600, headers=headers, limits=limits, trust_env=False) as client:

        async def ask(body: bytes) -> str:
            async with slots:
                response = await client.post("/v1/chat/completions", content=body)
                response.raise_for_status()
                return str(response.json()["choices"][0]["message"]["content"])

        return await asyncio.gather(*map(ask, bodies))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """(time, result)."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def compare(
    url: str, stage: DraftStage, bodies: list[bytes], concurrency: int, repetitions: int
) -> list[tuple[float, float]]:
    """(seconds of the stage, of the bare client) of each repetition, after one of each that is not counted; sides take
    turns in going first."""
    pairs = []
    for repetition in range(repetitions + 1):
        sides: dict[str, float] = {}
        for side in ("stage", "bare") if repetition % 2 else ("bare", "stage"):
            if side == "stage":
                sides[side], manifest = seconds(lambda: run_shard(stage, 0, {}))
                _check(manifest, len(bodies))
            else:
                sides[side], texts = seconds(lambda: asyncio.run(bare_client(url, bodies, concurrency)))
                assert len(texts) == len(bodies) and all(texts)
        if repetition:
            pairs.append((sides["stage"], sides["bare"]))
    return pairs


def _check(manifest: Manifest, requests: int) -> None:
    if manifest.metrics["requests"]["answered"] != requests:
        raise SystemExit(f"the stage had {manifest.metrics['requests']} for {requests} requests")


def report(what: str, pairs: list[tuple[float, float]], requests: int) -> None:
    """One line: the stage's throughput as a share of the bare client's, with its spread."""
    ratios = sorted(bare / stage for stage, bare in pairs)
    stage, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(ratios)
    print(
        f"{what}: {requests} requests, stage/bare {ratio:.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f}, {len(ratios)} repetitions; "
        f"target {TARGET}: {'met' if ratio >= TARGET else 'missed'}), stage {requests / stage:.1f}/s ({stage:.2f} s), "
        f"bare {requests / bare:.1f}/s ({bare:.2f} s), load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def measure_stub(run: RunFolder, arguments: argparse.Namespace, bodies: list[bytes]) -> None:
    """Against the stub with latency."""
    with stub(*arguments.latency) as url:
        stage = draft_stage(run, endpoint(url, arguments.concurrency))
        pairs = compare(url, stage, bodies, arguments.concurrency, arguments.repetitions)
    least, most = arguments.latency
    report(f"stub of {least:g}-{most:g} ms, {arguments.concurrency} in flight", pairs, len(bodies))


def measure_transformers(run: RunFolder, arguments: argparse.Namespace, bodies: list[bytes]) -> None:
    """Against `transformers serve` with the embedded writer, answers of 32 tokens."""
    llm = {"kind": "transformers", "max_tokens": 32, "concurrency": arguments.concurrency}
    stage = draft_stage(run, llm)
    with serving(ServerSettings(**stage.llm.model_dump()), run.root / "server.log") as url:
        server = open_server(stage.llm)
        assert server is not None
        changed = {"model": server.model_name, "max_tokens": 32}
        bodies = [json.dumps({**json.loads(body), **changed}).encode() for body in bodies]
        pairs = compare(url, stage, bodies, arguments.concurrency, arguments.repetitions)
    report(f"transformers serve, {arguments.concurrency} in flight", pairs, len(bodies))


def measure_memory(folder: Path, texts: list[str], arguments: argparse.Namespace) -> None:
    """Peak memory of a process of its own for N and for 10 N documents."""
    peaks = []
    for documents in (arguments.documents, TIMES * arguments.documents):
        run = RunFolder(folder / f"memory-{documents}")
        write_corpus(run, texts, documents, shards=1, score=3)
        with stub(0, 1) as url:
            command = [sys.executable, "-m", "benchmarks.synthesis_throughput", "--child", str(run.root), url]
            command += ["--concurrency", str(arguments.concurrency)]
            took, child = seconds(lambda: subprocess.run(command, check=True, capture_output=True, text=True))  # noqa: B023
        peaks.append(float(child.stdout))
        print(f"{documents} documents: peak {peaks[-1]:.0f} MiB ({documents / took:.0f} documents/s)", flush=True)
    print(f"memory of rephrase: ratio {peaks[1] / peaks[0]:.3f}")


def main() -> None:
    """Prints one line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=16, help="requests in flight")
    parser.add_argument(
        "--latency", type=float, nargs=2, default=(50.0, 200.0), metavar=("LEAST", "MOST"), help="in ms"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--server", choices=("stub", "transformers"), default="stub")
    parser.add_argument("--memory", action="store_true", help=f"memory of N and {TIMES} N documents instead of time")
    parser.add_argument("--child", nargs=2, metavar=("RUN", "URL"), help="run the stage and print this process's peak")
    arguments = parser.parse_args()
    if arguments.child:
        return_freed_memory()  # as in a worker
        run_shard(
            draft_stage(RunFolder(Path(arguments.child[0])), endpoint(arguments.child[1], arguments.concurrency)), 0, {}
        )
        print(peak_mebibytes())
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one worker, one core
    with tempfile.TemporaryDirectory(prefix="safetrove-benchmark-") as name:
        folder = Path(name)
        texts = read_texts(None, folder / "ingest")
        if arguments.memory:
            measure_memory(folder, texts, arguments)
            return
        run = RunFolder(folder / "run")
        write_corpus(run, texts, arguments.documents, shards=1, score=3)
        bodies = recorded_requests(run, arguments.concurrency, folder / "requests")
        measure = measure_stub if arguments.server == "stub" else measure_transformers
        measure(run, arguments, bodies)


if __name__ == "__main__":
    main()
