"""Steps around the writer for documents that are asked about in pieces: apart before it, together again after it."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline.shard_task import ShardTask
from pipeline.stages.assignments import Assignment


class Assign(PipelineStep):
    """Give each document its prompt and yield one document for each request, with an id of its own.

    A dialogue that has no turns has nothing to be moralised; a document that needs more than `most` pieces is dropped.
    """

    type = "🔻 - FILTER"

    def __init__(self, task: ShardTask, assign: Callable[[Document], Assignment | None], most: int):
        super().__init__()
        self.task, self.assign, self.most = task, assign, most
        self.documents = self.requests = 0

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            assignment = self.assign(document)
            if assignment is None:
                self.task.drop("no_dialogue")
                continue
            pieces = len(assignment.requests)
            if pieces > self.most:
                self.task.drop("too_many_pieces")
                continue
            self.documents, self.requests = self.documents + 1, self.requests + pieces
            prompt = [assignment.style, assignment.version, assignment.sha256]
            for number, messages in enumerate(assignment.requests, 1):
                metadata = {**document.metadata, "messages": messages, "prompt": prompt, "document_id": document.id}
                # What the writer sees is in the messages; the text is not needed again.
                yield Document(text="", id=piece_id(document.id, number, pieces), metadata=metadata)

    def report(self, answered: int) -> None:
        """Progress in documents, of requests that are answered so far."""
        self.task.report(answered * self.documents // max(1, self.requests))


def piece_id(document_id: str, number: int, pieces: int) -> str:
    """The id under which a piece is asked about: the document's own where there is only one."""
    return document_id if pieces == 1 else f"{document_id}/{number}"


class JoinPieces(PipelineStep):
    """One document again from its pieces, which come one after the other; their answers are in `metadata["answers"]`.

    A document with a piece that got no answer has that piece's `answer_error` and no answers.
    """

    type = "📖 - READER"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document_id, group in groupby(data, key=lambda document: document.metadata["document_id"]):
            pieces = list(group)
            metadata: dict[str, Any] = {
                k: v for k, v in pieces[0].metadata.items() if k not in ("answer", "answer_error")
            }
            errors = [piece.metadata["answer_error"] for piece in pieces if "answer" not in piece.metadata]
            if errors:
                metadata["answer_error"] = errors[0]
            else:
                metadata["answers"] = [piece.metadata["answer"] for piece in pieces]
            yield Document(text="", id=document_id, metadata=metadata)


def finish_reason(answers: list[dict[str, Any]]) -> str:
    """That of the whole: of the first answer that did not end by itself, else "stop"."""
    return next((answer["finish_reason"] for answer in answers if answer["finish_reason"] != "stop"), "stop")
