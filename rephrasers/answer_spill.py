"""Documents and their answers on disk while a shard is asked, so that memory does not grow with the shard."""

import contextlib
import json
import shutil
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document

from classifiers.errors import DataError

_NO_ANSWER = -1


class AnswerSpill:
    """Documents in input order, and one answer for each, in any order. A context manager; its folder goes with it.

    Memory: 8 bytes a document.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        # What a killed run left behind: its answers are in the request cache, its spill is of no use.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._documents = (folder / "documents.jsonl").open("w+b")
        self._answers = (folder / "answers.jsonl").open("w+b")
        self._offsets = array("q")
        self.answered = 0
        # Answers come from the event loop, documents that are not asked from the reader's thread.
        self._lock = threading.Lock()

    def __enter__(self) -> "AnswerSpill":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._documents, self._answers):
            # A full disk was reported by the write that met it; what is still buffered goes with the folder.
            with contextlib.suppress(OSError):
                file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, document: Document) -> int:
        """Appends a document and returns its index. Raises DataError for metadata that JSON cannot hold, and for a full disk."""
        try:
            line = json.dumps({"id": document.id, "text": document.text, "metadata": document.metadata})
        except (TypeError, ValueError) as error:
            raise DataError(
                f"document {document.id}: its metadata cannot be kept while it is asked ({error}); "
                "put only JSON values there before AskLLM"
            ) from error
        with self._told():
            self._documents.write(line.encode() + b"\n")
        self._offsets.append(_NO_ANSWER)
        return len(self._offsets) - 1

    def put(self, index: int, answer: dict[str, Any]) -> None:
        """Stores a document's answer. Raises ValueError for a second one, DataError where it cannot be written."""
        with self._lock, self._told():
            if self._offsets[index] != _NO_ANSWER:
                raise ValueError(f"document number {index} was answered twice")
            self._answers.seek(0, 2)
            offset = self._answers.tell()
            self._answers.write(json.dumps(answer).encode() + b"\n")
            self._offsets[index] = offset
            self.answered += 1

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self) -> Iterator[tuple[Document, dict[str, Any] | None]]:
        """Every document in input order, with its answer, or None where none was stored."""
        with self._told():
            self._documents.flush()
            self._answers.flush()
        self._documents.seek(0)
        for offset in self._offsets:
            document = Document(**json.loads(self._documents.readline()))
            if offset == _NO_ANSWER:
                yield document, None
            else:
                self._answers.seek(offset)
                yield document, json.loads(self._answers.readline())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Says where a write failed and what to do."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error}). Free space, or raise the quota, and run again: answers that "
                "were written are not asked for again"
            ) from error
