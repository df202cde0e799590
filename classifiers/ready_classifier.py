"""A text classifier that is ready: an encoder with its own six-way head, such as the one that the paper released."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.embedding import empty_score, softmax
from classifiers.encoder import state_sha256
from classifiers.errors import ModelError
from classifiers.loading import fixed_threads, from_pretrained
from classifiers.rubric import LEVELS, UNSAFE_CATEGORY_NAMES
from classifiers.score import Score, score_from_chunks
from classifiers.windows import TokenWindows

_UNKNOWN_CATEGORY = "other"


class ReadyClassifier:
    """Scores texts with a sequence classifier of six labels: the most probable level of each chunk
    of its window, the maximum over chunks.

    It knows no categories: an unsafe text is "other". Made by `load`.
    """

    name = "embedding"

    def __init__(self, source: str, tokenizer: Any, model: Any, threads: int) -> None:
        if model.config.num_labels != len(LEVELS):
            raise ModelError(
                f"{source}: its head has {model.config.num_labels} labels; a safety classifier has {len(LEVELS)}, 0-5 in order"
            )
        self._source, self._model, self._threads = source, model.eval(), threads
        self._windows = TokenWindows(tokenizer, model.config)
        self._sha256 = state_sha256(model)

    @classmethod
    def load(cls, source: str, threads: int = 1, remote_code_revision: str | None = None) -> "ReadyClassifier":
        """A local folder or a Hub id, e.g. `locuslab/safety-classifier_gte-large-en-v1.5` (paper, released artefacts).

        That model is defined by code on the Hub: it loads only where its revision is allow-listed. Raises ModelError.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        local = Path(source).is_dir()
        tokenizer = from_pretrained(AutoTokenizer, source, local, remote_code_revision)
        model = from_pretrained(AutoModelForSequenceClassification, source, local, remote_code_revision)
        return cls(source, tokenizer, model.to(torch.float32), threads)

    def score(self, texts: list[str]) -> list[Score]:
        """One score a text, in order; any string gets one (an empty one scores 0)."""
        return [self._score_one(text) if text.strip() else empty_score() for text in texts]

    def _score_one(self, text: str) -> Score:
        import torch

        with fixed_threads(self._threads), torch.inference_mode():
            logits = [
                self._model(input_ids=torch.tensor([chunk])).logits[0].numpy() for chunk in self._windows.all(text)
            ]
        categories = np.zeros((len(logits), len(UNSAFE_CATEGORY_NAMES)))
        categories[:, UNSAFE_CATEGORY_NAMES.index(_UNKNOWN_CATEGORY)] = 1.0
        return score_from_chunks(softmax(np.stack(logits).astype(np.float64)), categories)

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on: source, weights, threads, library versions."""
        return {
            "name": self.name,
            "model": self._source,
            "window": self._windows.longest,
            "threads": self._threads,
            "sha256": {"model": self._sha256},
            "versions": {package: version(package) for package in ("torch", "transformers", "tokenizers", "numpy")},
        }
