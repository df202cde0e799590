"""docs/runbook.md as its readers use it: each section's commands run in the situation that it tells of, and print what it says.

Commands for Slurm are parsed here, recipe and options, and not submitted: tests/slurm does that.
"""

import contextlib
import fcntl
import io
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml

from pipeline.recipe import load_recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from safetrove.__main__ import main
from safetrove.cli import app
from tests.conftest import ROOT
from tests.end_to_end.runs import results, sample_texts, write_recipe
from tests.faults.forked_workers import forked_workers
from tests.faults.small_run import answer
from tests.pipeline.tiny_tokenizer import END, save_tiny_tokenizer
from tests.pipeline.writer_stub import writer

SHARDS, ROWS = 3, 6
# Lines that are not run: what fetches the clone, what changes the shell, and Slurm's own commands.
NOT_RUN = {
    "git clone https://example.org/safetrove.git",
    "cd safetrove",
    "source .venv/bin/activate",
    "squeue --me",
    "scancel 1234",
}
OWN_PROCESS = "SAFETROVE_RUNBOOK"
WRITER_URL = "http://127.0.0.1:8000"


@dataclass
class Block:
    """Command lines; what the page shows of the last one's output, and its exit code. The others end with 0."""

    commands: list[str]
    printed: list[str] = field(default_factory=list)
    exit_code: int = 0


def sections() -> dict[str, list[Block]]:
    """Title of a section -> its blocks of commands."""
    found: dict[str, list[Block]] = {}
    for part in (ROOT / "docs/runbook.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        blocks = found.setdefault(title, [])
        for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", body, re.M | re.S):
            lines = text.splitlines()
            if kind == "bash":
                blocks.append(Block(lines))
            elif kind == "text":
                if lines[0].startswith("exit code "):
                    blocks[-1].exit_code = int(lines.pop(0).split()[-1])
                blocks[-1].printed = lines
    return found


SECTIONS = sections()


class Workplace:
    """A folder with texts, a tokenizer, a recipe and a finished run, put back as they were for each section."""

    def __init__(self, root: Path):
        self.root, self.saved, self.run = root, root / "saved", root / "runs" / "web"
        self.writer_url = ""
        rows = [{**row, "text": str(row["text"])[:500]} for row in sample_texts()]
        (root / "texts").mkdir()
        for shard in range(SHARDS):
            self.write_texts(shard, rows[shard::SHARDS][:ROWS])
        self.more_rows = rows[1::SHARDS][: ROWS + 1]
        save_tiny_tokenizer(root / "tokenizer", "bpe")
        (root / "recipes").symlink_to(ROOT / "recipes")
        self.write_recipe()
        assert self.shell("safetrove run recipe.yaml --output runs/web")[0] == 0
        self.saved.mkdir()
        for name in ("texts", "runs"):
            shutil.copytree(root / name, self.saved / name, copy_function=shutil.copy2)

    def write_texts(self, shard: int, rows: list[dict[str, Any]]) -> None:
        pq.write_table(pa.Table.from_pylist(rows), self.root / "texts" / f"part-{shard}.parquet")

    def write_recipe(self, **changes: Any) -> None:
        """The recipe of the situation; `changes` are top-level sections."""
        value: dict[str, Any] = {
            "name": "web",
            "sources": [{"name": "web", "format": "parquet", "path": "texts", "licence": "CC0-1.0"}],
            "score": {"classifiers": ["fasttext"]},
            "tokenise": {"tokenizer": str(self.root / "tokenizer"), "end_of_document": END},
        }
        write_recipe(self.root / "recipe.yaml", Path("texts"), **{**value, **changes})

    def ask_writer(self, url: str) -> None:
        """The recipe with a writer at `url`."""
        llm = {"url": url, "model": "stub", "max_attempts": 2, "max_tokens": 400}
        self.write_recipe(synthesis={"llm": llm, "attempts": 0})

    def reset(self) -> None:
        for name in ("texts", "runs"):
            shutil.rmtree(self.root / name)
            shutil.copytree(self.saved / name, self.root / name, copy_function=shutil.copy2)
        self.write_recipe()

    def shell(self, line: str) -> tuple[int, str]:
        """(exit code, all that was printed) of one command line of the page."""
        words = shlex.split(line.replace(WRITER_URL, self.writer_url))
        if line in NOT_RUN:
            return 0, ""
        if words[0] == "safetrove" and "--executor" in words:
            return parse(words[1:]), ""
        if words[0] == "safetrove":
            return call(words)
        place = self.root
        if words[0] == "make":
            words, place = [words[0], "--dry-run", *words[1:]], ROOT
        done = subprocess.run(words, cwd=place, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


def call(words: list[str]) -> tuple[int, str]:
    """The front door in this process, where all libraries are loaded already."""
    printed = io.StringIO()
    with patch.object(sys, "argv", words), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main()
        except SystemExit as end:
            assert end.code is None or isinstance(end.code, int)
            return end.code or 0, printed.getvalue()
    return 0, printed.getvalue()


def parse(words: list[str]) -> int:
    """Options and, for `run`, recipe and overrides are checked; nothing is submitted."""
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    given = command.make_context(words[0], words[1:]).params
    assert given["executor"] == "slurm"
    if "recipe" in given:
        assert load_recipe(Path(given["recipe"]), [*given["overrides"], "execution.executor=slurm"])
    return 0


Situation = Callable[[Workplace], AbstractContextManager[None]]
SITUATIONS: dict[tuple[str, int], Situation] = {}


def situation(title: str, *blocks: int) -> Callable[[Callable[[Workplace], Iterator[None]]], None]:
    """Decorates what is so while blocks (the first) of the section run. Without any, the run is finished, nothing is wrong."""
    [whole] = [name for name in SECTIONS if name == title or name.split(".")[0] == title]

    def register(function: Callable[[Workplace], Iterator[None]]) -> None:
        for block in blocks or (0,):
            SITUATIONS[whole, block] = contextlib.contextmanager(function)

    return register


def in_shard(stage: str, shard: int, action: Callable[[], object]) -> AbstractContextManager[Any]:
    """The worker does `action` before it commits this shard."""
    commit = ShardTask.commit

    def acting(task: ShardTask) -> Any:
        if (task.stage, task.shard) == (stage, shard):
            action()
        return commit(task)

    return patch.object(ShardTask, "commit", acting)


def forget(work: Workplace, *stages: str) -> None:
    """As if these stages had not begun; all of them without any name."""
    for folder in (work.run / "manifests").iterdir():
        if not stages or folder.name.startswith(stages):
            shutil.rmtree(folder)


@situation("From a clone to the first card", 1)
def recipe_written(work: Workplace) -> Iterator[None]:
    assert load_recipe(work.root / "recipe.yaml").name == "web", "the first block has copied it"
    [shown] = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/runbook.md").read_text(encoding="utf-8"), re.M | re.S)
    # resources for a stage that the small recipe leaves out would be refused
    work.write_recipe(**yaml.safe_load(shown.replace("score-embedding", "score-fasttext")))
    yield


@situation("Reading `status`")
def one_shard_failed(work: Workplace) -> Iterator[None]:
    forget(work, "score", "tag", "token", "blend", "card", "report")
    with in_shard("score-fasttext", 1, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        assert work.shell("safetrove run recipe.yaml --output runs/web")[0] == 1
    yield


@situation("1")
def wrong_key(work: Workplace) -> Iterator[None]:
    work.write_recipe(score={"clasifiers": ["fasttext"]})
    yield


@situation("2")
def no_input(work: Workplace) -> Iterator[None]:
    shutil.rmtree(work.root / "texts")
    shutil.rmtree(work.run)
    yield
    (work.root / "texts").mkdir()


@situation("3")
def truncated(work: Workplace) -> Iterator[None]:
    shutil.rmtree(work.run)
    file = work.root / "texts/part-1.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    yield
    file.write_bytes(whole)


@situation("4")
def killed(work: Workplace) -> Iterator[None]:
    """The worker kills its parent, and dies with it."""

    def kill_the_run() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

    forget(work, "tag", "token", "blend", "card", "report")
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        with forked_workers(), in_shard("tag", 2, kill_the_run):
            work.shell("safetrove run recipe.yaml --output runs/web --set execution.workers=1")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with (work.run / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the last worker is gone
    assert list(work.run.rglob("*.partial"))
    yield


@situation("5")
def out_of_memory(work: Workplace) -> Iterator[None]:
    forget(work, "score-fasttext")
    with in_shard("score-fasttext", 1, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        yield


@situation("6")
def full_disk(work: Workplace) -> Iterator[None]:
    """No file of the worker can grow beyond what the record of the failure takes."""
    forget(work, "tokenise", "blend", "card", "report")
    begin = ShardTask.add_raw_inputs

    def limited(task: ShardTask, raw_inputs: dict[str, Path | str]) -> None:
        if (task.stage, task.shard) == ("tokenise-safe", 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        begin(task, raw_inputs)

    with patch.object(ShardTask, "add_raw_inputs", limited):
        yield


@situation("7")
def edited(work: Workplace) -> Iterator[None]:
    file = work.run / "tagged/00001.parquet"
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    yield


@situation("8")
def other_recipe(work: Workplace) -> Iterator[None]:
    work.write_recipe(tag={"rate": 0.1})
    yield


@situation("9")
def replaced_input(work: Workplace) -> Iterator[None]:
    work.write_texts(1, work.more_rows)
    yield


@situation("10")
def no_server(work: Workplace) -> Iterator[None]:
    with writer(answer) as (url, _):
        pass  # its port was free a moment ago
    shutil.rmtree(work.run)
    work.ask_writer(url)
    yield


@situation("10", 1)
def server_again(work: Workplace) -> Iterator[None]:
    with writer(answer) as (work.writer_url, _):
        yield


@situation("11")
def wrong_end(work: Workplace) -> Iterator[None]:
    shutil.rmtree(work.run)
    tokenizer = str(work.root / "tokenizer")
    work.write_recipe(tokenise={"tokenizer": tokenizer, "end_of_document": "<|endoftext|>"})
    yield
    work.write_recipe()


@situation("12")
def nothing_written(work: Workplace) -> Iterator[None]:
    shutil.rmtree(work.run)
    with writer(lambda _: 500) as (url, _):
        work.ask_writer(url)
        assert work.shell("safetrove run recipe.yaml --output runs/web")[0] == 0
    yield


@situation("12", 1, 2)
def mended_server(work: Workplace) -> Iterator[None]:
    with writer(answer) as (url, asked):
        work.ask_writer(url)
        frozen = yaml.safe_load((work.run / "recipe.yaml").read_text())
        frozen["synthesis"]["llm"]["url"] = url  # the same server in life; here each has a port of its own
        (work.run / "recipe.yaml").write_text(yaml.safe_dump(frozen))
        yield
    assert asked


@situation("13")
def held(work: Workplace) -> Iterator[None]:
    with RunFolder(work.run).locked():
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """All that workers import is loaded before the first fork, one thread each."""
    import torch

    import pipeline.report.figure  # noqa: F401
    import rephrasers.answer_runner  # noqa: F401
    from pipeline.stages.score import _fasttext

    root, before, threads = tmp_path_factory.mktemp("runbook"), Path.cwd(), torch.get_num_threads()
    torch.set_num_threads(1)
    _fasttext(None, False)
    os.chdir(root)  # the page's paths are relative
    with forked_workers(), patch.dict(os.environ, TOKENIZERS_PARALLELISM="false"):
        yield Workplace(root)
    os.chdir(before)
    torch.set_num_threads(threads)


def test_the_page_has_the_sections_that_are_tested_and_shows_what_is_printed():
    assert {title for title, _ in SITUATIONS} <= set(SECTIONS)
    failures = [title for title in SECTIONS if title[0].isdigit()]
    assert len(failures) >= 10 and len(set(failures) - {title for title, _ in SITUATIONS}) <= 1  # Slurm's own
    assert all(blocks for blocks in SECTIONS.values())


@pytest.mark.skipif(OWN_PROCESS in os.environ, reason="this is the process")
def test_the_sections_in_a_process_of_their_own() -> None:
    """Workers are forked from the tests' process: threads that other tests leave behind would be forked in their work."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, OWN_PROCESS: "1", "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr


@pytest.mark.skipif(OWN_PROCESS not in os.environ, reason="run by test_the_sections_in_a_process_of_their_own")
@pytest.mark.parametrize("title", SECTIONS)
def test_section(work: Workplace, title: str) -> None:
    work.reset()
    for number, block in enumerate(SECTIONS[title]):
        with SITUATIONS.get((title, number), lambda _: contextlib.nullcontext())(work):
            printed = ""
            for line in block.commands:
                code, printed = work.shell(line)
                expected = block.exit_code if line is block.commands[-1] else 0
                assert code == expected, f"{line}: exit code {code}\n{printed}"
            for shown in block.printed:
                assert is_printed(shown, printed), f"not printed: {shown}\n{printed}"
    if title[0].isdigit() and title.split(".")[0] not in ("1", "2", "12", "13"):
        assert call(["safetrove", "status", "runs/web"])[0] == 0, "the section's commands end with a finished run"
    if title.split(".")[0] in ("3", "4", "5", "6", "7", "11"):
        assert results(work.run) == results(work.saved / "runs/web")


def is_printed(shown: str, printed: str) -> bool:
    """Whether a line of the page stands in what was printed; `...` is anything, white space and line ends count alike."""
    # a limit on the size of files stands in for a full disk
    shown = shown.replace("No space left on device", "File too large")
    parts = [re.escape(" ".join(part.split())) for part in shown.split("...")]
    return re.search(r"\s?.*?\s?".join(parts), " ".join(printed.split())) is not None
