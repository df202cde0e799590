"""A run of many documents through score (cascade), tag, tokenise and card: `python -m benchmarks.scale run`.

For each number of documents: the corpus is made (JSON lines, texts keyed by their number), `safetrove plan` is asked, then
`safetrove run` works. Printed for each: documents a second, wall seconds of each stage, the largest worker, disk and files, and
what the plan had said. `python -m benchmarks.scale project RESULTS` turns measured rates into nodes, hours, disk, files and
Hub commits of a corpus that does not fit here.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.corpora import read_texts
from benchmarks.scale_projection import Project, projection
from classifiers.errors import DataError, SafetroveError
from classifiers.fasttext_classifier import FastTextClassifier
from pipeline.atomic_files import write_json
from safetrove.sample.pages import read_pages

UNSAFE_SHARE: Final = 0.02
SENTENCES: Final = 2  # of a synthetic document
GATE_DOCUMENTS: Final = 800  # to calibrate the gates with, and as many to distil them from
_STAGE = re.compile(r"(\S+): (?:\d+)/(?:\d+) shards, .* in ([\d.]+) s$", re.MULTILINE)
_TOTAL = re.compile(r"^total +([\d.]+) +([\d.]+) (s|min|h) +([\d.]+) (bytes|kB|MB|GB|TB)$", re.MULTILINE)
_UNITS: Final = {"s": 1, "min": 60, "h": 3600, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


class Synthesiser:
    """Documents of `SENTENCES` sentences, each with its own number: most of sentences of safe sample pages that fastText is surest
    of, so that the cascade has something to stop; `UNSAFE_SHARE` of one unsafe page."""

    def __init__(self) -> None:
        pages = [page for page in read_pages() if not page.malformed and page.body and page.language == "en"]
        safe = sorted({sentence for page in pages if page.score == 0 for sentence in _sentences(page.body)})
        scores = FastTextClassifier.load().score(safe)
        surest = sorted(zip(safe, scores, strict=True), key=lambda pair: -pair[1].probabilities[0])
        self._safe = [[sentence for sentence, _ in surest[: len(surest) // 4]]]
        self._unsafe = [_sentences(page.body) for page in pages if page.score > 0]

    def text(self, number: int) -> str:
        """The same for the same number."""
        draws = hashlib.blake2b(b"%d" % number, digest_size=32).digest()
        words = [int.from_bytes(draws[at : at + 4]) for at in range(0, 32, 4)]
        pages = self._unsafe if words[0] < UNSAFE_SHARE * 2**32 else self._safe
        page = pages[words[1] % len(pages)]
        chosen = [page[word % len(page)] for word in words[2 : 2 + SENTENCES]]
        return f"Entry {number} of the log. " + " ".join(chosen)


class Copies:
    """Whole texts in turn, each copy with its own number: rates of real pages, of which there are few here."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def text(self, number: int) -> str:
        """The same for the same number."""
        return f"Copy {number}. {self._texts[number % len(self._texts)]}"


def _sentences(body: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", body) if len(part.strip()) >= 40] or [body]


def write_documents(source: Synthesiser | Copies, folder: Path, numbers: Sequence[range]) -> int:
    """One JSON-lines file a range; returns the characters."""
    folder.mkdir(parents=True)
    characters = 0
    for shard, rows in enumerate(numbers):
        with (folder / f"{shard:05d}.jsonl").open("w", encoding="utf-8") as file:
            for number in rows:
                text = source.text(number)
                characters += len(text)
                file.write(json.dumps({"id": str(number), "text": text}) + "\n")
    return characters


def calibrate(source: Synthesiser | Copies, folder: Path, precision: str) -> Path:
    """The gates of the cascade, from documents that are not in the run."""
    gates = folder / "gates"
    if not (gates / "calibration.json").is_file():
        for name, start in (("calibration", 10**9), ("distil", 2 * 10**9)):
            rows = [json.dumps({"id": str(n), "text": source.text(n)}) for n in range(start, start + GATE_DOCUMENTS)]
            (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        texts, distil = folder / "calibration.jsonl", folder / "distil.jsonl"
        _command("classifier", "calibrate", texts, "--distil", distil, "--output", gates, "--precision", precision)
    return gates


def measure(source: Synthesiser | Copies, folder: Path, documents: int, shards: int, precision: str) -> dict[str, Any]:
    """One run in `folder`; what an interrupted one left there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    per_shard = -(-documents // shards)
    ranges = [range(start, min(documents, start + per_shard)) for start in range(0, documents, per_shard)]
    characters = write_documents(source, folder / "in", ranges)
    recipe = {
        "name": "scale",
        "sources": [{"name": "texts", "format": "jsonl", "path": str(folder / "in"), "licence": "CC0-1.0"}],
        "score": {"embedding": {"precision": precision}, "cascade": {"calibration": str(folder.parent / "gates")}},
        "synthesis": None,
        "execution": {"workers": os.cpu_count()},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    planned = _TOTAL.search(_command("plan", folder / "recipe.yaml"))
    if planned is None:
        raise DataError("safetrove plan printed no total")
    started = time.monotonic()
    with PeakOfProcesses() as peak:
        log = _command("run", folder / "recipe.yaml", "--output", folder / "run", watch=peak)
    wall = time.monotonic() - started
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    return {
        "documents": documents,
        "characters": characters,
        "shards": len(ranges),
        "wall_seconds": wall,
        "stage_wall_seconds": {name: float(seconds) for name, seconds in _STAGE.findall(log)},
        "stages": _stages(folder / "run"),
        "tokens": _tokens(folder / "run"),
        "bytes": sum(path.stat().st_size for path in files),
        "files": len(files),
        "largest_worker_mib": peak.largest_kib / 1024,
        "plan": {"wall_seconds": float(planned[2]) * _UNITS[planned[3]], "bytes": float(planned[4]) * _UNITS[planned[5]]},
    }  # fmt: skip


def _command(*arguments: Any, watch: "PeakOfProcesses | None" = None) -> str:
    """What the command printed. Raises SafetroveError with the end of it where it failed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "safetrove", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if watch is not None:
        watch.of(process.pid)
    printed, _ = process.communicate()
    if process.returncode:
        raise SafetroveError(f"safetrove {arguments[0]} failed:\n{printed[-2000:]}")
    return printed


class PeakOfProcesses:
    """The largest peak of resident memory of any process below one, looked up twice a second (Linux)."""

    def __init__(self) -> None:
        self.largest_kib = 0
        self._root: int | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "PeakOfProcesses":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def of(self, root: int) -> None:
        """Watch this process and all below it."""
        self._root = root

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            if self._root is not None:
                self.largest_kib = max([self.largest_kib, *map(_peak_kib, _descendants(self._root))])


def _descendants(root: int) -> Iterator[int]:
    yield root
    for tasks in Path(f"/proc/{root}/task").glob("*/children"):
        try:
            children = tasks.read_text().split()
        except OSError:  # the thread has ended since
            continue
        for child in children:
            yield from _descendants(int(child))


def _peak_kib(process: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:  # the process has ended since
        return 0
    return int(found[1]) if found else 0


def _stages(run: Path) -> dict[str, dict[str, float]]:
    """Stage -> seconds of its shards together, rows read, bytes and files written (manifests among them)."""
    stages: dict[str, dict[str, float]] = {}
    for path in sorted((run / "manifests").glob("*/*.json")):
        manifest = json.loads(path.read_text())
        stage = stages.setdefault(manifest["stage"], {"seconds": 0.0, "rows": 0, "bytes": 0, "files": 0, "tasks": 0})
        stage["tasks"] += 1
        stage["seconds"] += manifest["seconds"]
        stage["rows"] += manifest["rows"]["in"]
        stage["bytes"] += path.stat().st_size + sum(output["bytes"] for output in manifest["outputs"].values())
        stage["files"] += 1 + len(manifest["outputs"])
    return stages


def _tokens(run: Path) -> int:
    return sum(source["tokens"] for source in json.loads((run / "tokens" / "blend.json").read_text())["sources"])


def report(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a size, then a row a stage with its documents a second at each size."""
    lines = [
        "| documents | wall s | documents/s | largest worker | disk | files | plan: wall s | plan: disk |",
        "|" + "---|" * 8,
    ]
    for result in results:
        plan = result["plan"]
        lines.append(
            f"| {result['documents']:,} | {result['wall_seconds']:.0f} | {result['documents'] / result['wall_seconds']:.0f} "
            f"| {result['largest_worker_mib']:.0f} MiB | {result['bytes'] / 1e6:.1f} MB | {result['files']:,} "
            f"| {plan['wall_seconds']:.0f} ({plan['wall_seconds'] / result['wall_seconds'] - 1:+.0%}) "
            f"| {plan['bytes'] / 1e6:.1f} MB ({plan['bytes'] / result['bytes'] - 1:+.0%}) |"
        )  # fmt: skip
    sizes = [f"{result['documents']:,}" for result in results]
    lines += [
        "",
        f"| stage: documents a second of all workers | {' | '.join(sizes)} |",
        "|" + "---|" * (1 + len(sizes)),
    ]
    for stage in results[0]["stage_wall_seconds"]:
        rates = []
        for result in results:
            rows = result["stages"][stage]["rows"]
            rates.append(f"{rows / max(result['stage_wall_seconds'][stage], 0.1):,.0f}" if rows else "-")
        lines.append(f"| {stage} | {' | '.join(rates)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    run.add_argument("--shard-documents", type=int, default=5_000)
    run.add_argument("--data", type=Path, help="folder of WARC or JSON-lines files: copies of their texts, not ours")
    run.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="of the encoder")
    run.add_argument("--output", type=Path, default=Path("runs/scale"), help="results.json, and a folder a size")
    run.set_defaults(call=_run)
    project = commands.add_parser("project", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    project.add_argument("results", type=Path, help="results.json of `run`; its largest size counts")
    project.add_argument("--tokens", type=float, default=1.3e12)
    project.add_argument("--shards", type=int, default=100_000)
    project.add_argument("--nodes", type=int, default=32)
    project.add_argument("--cores", type=int, default=96, help="of a node")
    project.add_argument("--dedup-buckets", type=int, default=64, help="tasks of the duplicate search")
    project.set_defaults(call=_project)
    given = parser.parse_args(arguments)
    try:
        print(given.call(given))
    except SafetroveError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _run(given: argparse.Namespace) -> str:
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    options = {"data": str(given.data), "precision": given.precision, "shard_documents": given.shard_documents}
    begun = output / "options.json"
    if begun.is_file() and json.loads(begun.read_text()) != options:
        raise DataError(f"{output} holds results of {begun.read_text().strip()}: give another --output")
    write_json(begun, options)
    source = Copies(read_texts(given.data, output / "ingested")) if given.data else Synthesiser()
    calibrate(source, output, given.precision)
    results = []
    for documents in given.documents:
        kept = output / str(documents) / "result.json"
        if not kept.is_file():
            shards = max(os.cpu_count() or 1, documents // given.shard_documents)
            found = measure(source, output / str(documents), documents, shards, given.precision)
            write_json(kept, found)
        results.append(json.loads(kept.read_text()))
    write_json(output / "results.json", results)
    return report(results)


def _project(given: argparse.Namespace) -> str:
    results = json.loads(given.results.read_text())
    largest = max(results, key=lambda result: int(result["documents"]))
    return projection(largest, Project(given.tokens, given.shards, given.nodes, given.cores, given.dedup_buckets))


if __name__ == "__main__":
    sys.exit(main())
