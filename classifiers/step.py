"""The datatrove step that scores: `classifiers.ScoreSafety`."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Protocol

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from classifiers.score import Score


class Classifier(Protocol):
    """Whatever scores texts: `FastTextClassifier`, `EmbeddingClassifier`, or your own."""

    def score(self, texts: list[str]) -> list[Score]:
        """One score a text, in order."""
        ...


class ScoreSafety(PipelineStep):
    """Puts `document.metadata["safety"][name]`, a `Score` as a dict, on each document; drops and reorders none.

    `classifier_factory` (picklable, e.g. `FastTextClassifier.load`) is called once, in the process that runs the step.
    Documents are scored in windows of at most `window` documents and `max_characters_in_window` characters (a longer
    document is a window of its own), which bounds the memory. Windows depend on the input alone.
    """

    name = "🛟 Safety score"
    type = "🔎 - SCORER"

    def __init__(
        self,
        classifier_factory: Callable[[], Classifier],
        name: str,
        window: int = 512,
        max_characters_in_window: int = 4_000_000,
    ) -> None:
        super().__init__()
        if window < 1 or max_characters_in_window < 1:
            raise ValueError(
                f"window {window}, max_characters_in_window {max_characters_in_window}: expected at least 1"
            )
        self.classifier_factory = classifier_factory
        self.classifier_name = name
        self.window = window
        self.max_characters_in_window = max_characters_in_window

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields every document of `data`, in order, with its score."""
        if data is None:
            return
        classifier = self.classifier_factory()
        for documents in self._windows(data):
            with self.track_time(unit="batch"):
                scores = classifier.score([document.text for document in documents])
            for document, score in zip(documents, scores, strict=True):
                document.metadata.setdefault("safety", {})[self.classifier_name] = asdict(score)
                self.stat_update(f"score_{score.score}")
                self.update_doc_stats(document)
                yield document

    def _windows(self, data: Iterator[Document]) -> Iterator[list[Document]]:
        documents: list[Document] = []
        characters = 0
        for document in data:
            if documents and (
                len(documents) == self.window or characters + len(document.text) > self.max_characters_in_window
            ):
                yield documents
                documents, characters = [], 0
            documents.append(document)
            characters += len(document.text)
        if documents:
            yield documents
