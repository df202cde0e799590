"""P(tag | context) on held-out documents: does the model expect the harmfulness tag where the text is unsafe?

Safety Pretraining (arXiv 2504.16980): Safe Beam reads this probability at decoding. torch is imported when it is measured.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pretrain.atomic_files import write_text
from pretrain.auroc import Separation, separation
from pretrain.blend_file import Blend
from pretrain.errors import PretrainDataError
from pretrain.export import tokenizer_folder
from pretrain.metrics import json_value

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.model import Decoder
    from pretrain.recipe import PretrainRecipe, TagProbabilitySettings
    from pretrain.training import Training

# Documents of one forward pass: held-out texts are short, and a processor gains nothing from more.
_DOCUMENTS_AT_ONCE: Final = 16


@dataclass(frozen=True)
class HeldOutDocument:
    """`score` is the rubric's level (0 to 5), `source` the kind of text that documents are compared within."""

    id: str
    source: str
    score: int
    text: str


def read_held_out(path: Path) -> list[HeldOutDocument]:
    """The JSON lines of `path` with `id`, `source`, `score`, `text`. Raises `PretrainDataError` that names the line."""
    if not path.is_file():
        raise PretrainDataError(f"tag_probability.data: there is no file {path}; give JSON lines of held-out documents")
    documents = []
    for number, line in enumerate(io.StringIO(path.read_text(encoding="utf-8")), start=1):
        try:
            row = json.loads(line)
            documents.append(HeldOutDocument(str(row["id"]), str(row["source"]), int(row["score"]), str(row["text"])))
        except (ValueError, KeyError, TypeError) as error:
            raise PretrainDataError(
                f"{path}, line {number}: expected a JSON object with id, source, score (0 to 5) and text ({error!r})"
            ) from error
    if not documents:
        raise PretrainDataError(f"{path} holds no documents; nothing can be measured on it")
    return documents


def next_tag_probabilities(logits_btv: "Tensor", tag_token_id: int, vocabulary_size: int) -> "Tensor":
    """Softmax probability [batch, positions] of the tag as the next token, over the real vocabulary (no padded ids)."""
    return logits_btv[..., :vocabulary_size].float().softmax(dim=-1)[..., tag_token_id]


def mean_over_documents(probabilities_bt: "Tensor", lengths: list[int]) -> list[float]:
    """Mean over each document's own positions 1 to `lengths[i]`.

    Position 0 is the end of the document before, after which a tag never stands; what follows the document is padding.
    """
    return [float(row[1 : length + 1].mean()) for row, length in zip(probabilities_bt.double(), lengths, strict=True)]


def document_tag_probabilities(
    decoder: "Decoder", documents: list[list[int]], blend: Blend, sequence_length: int
) -> NDArray[np.float64]:
    """Mean P(tag | context) of each document's tokens [documents]; contexts begin with the end-of-document id.

    Of a document that is longer than the model's `sequence_length` its beginning is read.
    """
    import torch
    from torch.distributed.tensor import DTensor

    device = next(decoder.parameters()).device
    cut = [ids[: sequence_length - 1] for ids in documents]
    order = sorted(range(len(cut)), key=lambda number: len(cut[number]))
    found = np.zeros(len(cut))
    for first in range(0, len(order), _DOCUMENTS_AT_ONCE):
        numbers = order[first : first + _DOCUMENTS_AT_ONCE]
        lengths = [len(cut[number]) for number in numbers]
        # Attention is causal: padding on the right changes nothing before it.
        ids_bt = torch.full((len(numbers), max(lengths) + 1), blend.end_of_document_id)
        for row, number in enumerate(numbers):
            ids_bt[row, 1 : lengths[row] + 1] = torch.tensor(cut[number])
        with torch.no_grad():
            logits = decoder(ids_bt.to(device))
        whole = logits.full_tensor() if isinstance(logits, DTensor) else logits
        found[numbers] = mean_over_documents(
            next_tag_probabilities(whole, blend.tag_token_id, blend.vocabulary_size), lengths
        )
    return found


@dataclass(frozen=True)
class TagMeasure:
    """`probabilities` [documents]; `separations` by the score from which a document counts as unsafe."""

    probabilities: NDArray[np.float64]
    separations: dict[int, Separation]

    def record(self) -> dict[str, Any]:
        """Plain values for metrics.jsonl."""
        return {f"unsafe_from_{score}": vars(found) for score, found in self.separations.items()}


class TagProbability:
    """The measurement of a run: held-out documents, tokenised once with the corpus's tokenizer.

    Raises `PretrainDataError` for a missing or broken file, and where a document has no tokens.
    """

    def __init__(self, recipe: "PretrainRecipe", settings: "TagProbabilitySettings", blend: Blend) -> None:
        from tokenizers import Tokenizer

        self._recipe, self._settings, self._blend = recipe, settings, blend
        self.documents = read_held_out(settings.data)
        tokenizer = Tokenizer.from_file(str(tokenizer_folder(recipe.data, blend) / "tokenizer.json"))
        tokenizer.encode_special_tokens = True  # as in the corpus: a spelled-out tag is ordinary pieces
        texts = [document.text for document in self.documents]
        self._ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        if empty := [d.id for d, ids in zip(self.documents, self._ids, strict=True) if not ids]:
            raise PretrainDataError(f"{settings.data}: document {empty[0]} has no tokens; leave it out")

    def due(self, iteration: int) -> bool:
        """Whether the recipe measures after this iteration; the last one always."""
        return iteration == self._recipe.train_iters or iteration % self._settings.interval == 0

    def measure(self, training: "Training") -> TagMeasure:
        """Measure the model as it is. Every rank must call it, and each computes all documents."""
        settings = self._settings
        values = document_tag_probabilities(training.decoder, self._ids, self._blend, self._recipe.seq_length)
        scores = np.array([document.score for document in self.documents])
        sources = [document.source for document in self.documents]
        return TagMeasure(
            values,
            {
                score: separation(values, scores, sources, score, settings.least_documents)
                for score in settings.unsafe_from
            },
        )

    def write(self, measure: TagMeasure, path: Path) -> None:
        """One JSON line a document: `id`, `source`, `score`, `tag_probability`; no text."""
        lines = [
            json.dumps(
                json_value({"id": d.id, "source": d.source, "score": d.score, "tag_probability": float(value)}),
                allow_nan=False,
            )
            for d, value in zip(self.documents, measure.probabilities, strict=True)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(lines) + "\n")
