"""One shard of one stage while it is being worked on: temporary outputs, ledger, quarantine, then the commit."""

import contextlib
import json
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from classifiers.errors import DataError, SafetroveError
from pipeline.atomic_files import publish_file, temporary_path, write_json
from pipeline.manifest import Manifest, OutputFile, Rows
from pipeline.numerics import code_commit, numerics_class
from pipeline.run_folder import RunFolder

Progress = Callable[[str, int, int], None]  # stage, shard, rows read so far


def no_progress(stage: str, shard: int, rows: int) -> None:
    """For callers that show nothing."""


class ShardTask:
    """What the steps of a shard's pipeline share. Nothing is visible under a final name before `commit`.

    Steps call `read()` once for each row they take in, `keep()` for each row that is written, and `drop` or
    `quarantine` for each other row; `commit` refuses to finish where a row is in none of them.
    """

    PROGRESS_SECONDS = 0.3

    def __init__(
        self, run: RunFolder, stage: str, shard: int, identity: dict[str, Any], progress: Progress = no_progress
    ):
        self.run, self.stage, self.shard, self.identity = run, stage, shard, identity
        self.rows_in = self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.quarantined: Counter[str] = Counter()
        self.metrics: dict[str, Any] = {}
        self._raw_files: dict[str, OutputFile] = {}
        self._outputs: dict[Path, int | None] = {}
        self._quarantine_file: Any = None
        self._quarantine_lines = 0
        self._progress, self._reported, self._started = progress, 0.0, time.monotonic()

    @property
    def work_folder(self) -> Path:
        """A folder that outlives a kill; removed by `commit`."""
        return self.run.work(self.stage, self.shard)

    def add_raw_inputs(self, raw_inputs: dict[str, Path | str]) -> None:
        """Complete the identity with the hashes of the raw files that this shard is about to read."""
        marks: dict[str, str] = {}
        for name, raw in raw_inputs.items():
            if isinstance(raw, str):
                marks[name] = raw
            elif raw.is_file():
                self._raw_files[name] = OutputFile.of(raw)
                marks[name] = self._raw_files[name].sha256
            else:
                raise DataError(f"{raw}: the input file is gone; put it back, then run the same command again")
        self.identity = {**self.identity, "raw_inputs": marks}

    def read(self, rows: int = 1) -> None:
        """Count rows taken in."""
        self.rows_in += rows

    def _report_settled(self) -> None:
        self.report(self.kept + self.dropped.total() + self.quarantined.total())

    def report(self, rows: int) -> None:
        """Show progress without counting anything (answers of a language model come long after the rows)."""
        now = time.monotonic()
        if now - self._reported > self.PROGRESS_SECONDS:
            self._reported = now
            self._progress(self.stage, self.shard, rows)

    def keep(self, rows: int = 1) -> None:
        """Count rows that were written to the stage's output."""
        self.kept += rows
        self._report_settled()

    def drop(self, reason: str, rows: int = 1) -> None:
        """Count rows that the stage leaves out by rule."""
        self.dropped[reason] += rows
        self._report_settled()

    def quarantine(self, document_id: str, reason: str, **fields: Any) -> None:
        """Record a row that could not be processed; `fields` are what a person needs to look into it."""
        self._write_quarantine({"id": document_id, "reason": reason, **fields})
        self.quarantined[reason] += 1

    def note_never_train(self, document_id: str, content_sha256: str, reason: str) -> None:
        """Record a document that no later stage may use: id and hash only, never its text. Its row stays, marked."""
        self._write_quarantine({"id": document_id, "reason": f"never_train:{reason}", "content_sha256": content_sha256})

    def _write_quarantine(self, entry: dict[str, Any]) -> None:
        if self._quarantine_file is None:
            path = self.output(self.run.quarantine(self.stage, self.shard))
            self._quarantine_file = path.open("w", encoding="utf-8")
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", errors="replace").decode("utf-8")
        self._quarantine_file.write(line + "\n")
        self._quarantine_lines += 1

    def output(self, final: Path) -> Path:
        """Declare an output file and return the temporary path to write it under."""
        final.parent.mkdir(parents=True, exist_ok=True)
        self._outputs[final] = None
        return temporary_path(final)

    def output_rows(self, final: Path, rows: int) -> None:
        """State how many rows an output file holds (the next stage's `in` must equal it)."""
        self._outputs[final] = rows

    def commit(self) -> Manifest:
        """Check the ledger, give the outputs their final names, then write the manifest. Raises DataError on a broken ledger."""
        if self._quarantine_file is not None:
            self._quarantine_file.close()
            self._outputs[self.run.quarantine(self.stage, self.shard)] = self._quarantine_lines
        else:
            self.run.quarantine(self.stage, self.shard).unlink(missing_ok=True)  # of an earlier run of this shard
        rows = Rows(self.rows_in, self.kept, dict(self.dropped), dict(self.quarantined))
        if rows.missing():
            raise DataError(
                f"stage {self.stage}, shard {self.shard}: the ledger is broken: {rows.to_json()} leaves "
                f"{rows.missing()} rows unaccounted for; nothing of this shard was published"
            )
        # A shard that is done again loses its old manifest first: killed between here and the new one, it is simply not
        # done, where the old manifest beside a new file would read as a file that was edited.
        self.run.manifest(self.stage, self.shard).unlink(missing_ok=True)
        for final in self._outputs:
            publish_file(final)
        outputs = {self.run.relative(final): OutputFile.of(final, n) for final, n in sorted(self._outputs.items())}
        manifest = Manifest(
            stage=self.stage,
            shard=self.shard,
            identity=self.identity,
            rows=rows,
            outputs=outputs,
            raw_files=self._raw_files,
            seconds=round(time.monotonic() - self._started, 3),
            metrics=self.metrics,
            numerics=numerics_class(),
            commit=code_commit(),
        )
        manifest.write(self.run.manifest(self.stage, self.shard))
        self.run.failure(self.stage, self.shard).unlink(missing_ok=True)
        shutil.rmtree(self.work_folder, ignore_errors=True)
        return manifest

    def abandon(self, error: BaseException) -> None:
        """Remove what is half written and leave a record of the failure for `status` and `rerun --failed`."""
        # On a full or read-only disk these fail for the reason that is being told already; the next run cleans up.
        with contextlib.suppress(OSError):
            if self._quarantine_file is not None:
                self._quarantine_file.close()
        for final in self._outputs:
            with contextlib.suppress(OSError):
                temporary_path(final).unlink(missing_ok=True)
        write_failure(self.run, self.stage, self.shard, error)


def failure_message(error: BaseException) -> str:
    """An error in one line or a few: user errors say all themselves, of others the kind is told too."""
    return str(error) if isinstance(error, SafetroveError) else f"{type(error).__name__}: {error}"


def write_failure(run: RunFolder, stage: str, shard: int, error: BaseException) -> None:
    """Record why a shard failed. User errors keep their message; others keep the place where they were raised.

    Where the disk takes no record either, the log says so, and `status` shows the shard as not done instead of failed.
    """
    message = failure_message(error)
    place = "" if isinstance(error, SafetroveError) else "".join(traceback.format_tb(error.__traceback__)[-3:])
    record = {"stage": stage, "shard": shard, "error": message[:2000], "place": place}
    try:
        write_json(run.failure(stage, shard), record)
    except OSError as unwritable:
        logger.warning(f"stage {stage}, shard {shard}: no record of its failure can be written: {unwritable}")


def read_failure(run: RunFolder, stage: str, shard: int) -> str | None:
    """Why the last try of a shard failed; None where there is no record, because it is being tried again."""
    try:
        return str(json.loads(run.failure(stage, shard).read_text(encoding="utf-8"))["error"])
    except FileNotFoundError:
        return None
