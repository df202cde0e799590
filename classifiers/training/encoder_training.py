"""One fine-tuning from start to end, what heads predict from an encoder's vectors, and the files of the result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.decision import Decision
from classifiers.embedding import softmax
from classifiers.encoder import Embeddings, Encoder
from classifiers.rubric import UNSAFE_CATEGORY_NAMES
from classifiers.training.finetuning import Finetuner, Finetuning, TrainingRow
from classifiers.training.head_training import fit_heads, level_weights
from classifiers.training.labels import LabelledText
from classifiers.weights_file import save_weights


@dataclass(frozen=True)
class FineTuned:
    """`adapter`: tensors of its file, none for a frozen encoder; `heads`: level and category."""

    adapter: dict[str, np.ndarray]
    heads: dict[str, np.ndarray]


def finetune(
    target: Path, rows: list[LabelledText], encoder: str, unsafe_weight: float, settings: Finetuning
) -> FineTuned:
    """Trains on `rows`. The result is kept at `target`; where that is whole already it is read."""
    from safetensors.numpy import load_file, save_file

    if not target.is_file():
        result = _finetune(rows, encoder, unsafe_weight, settings, target.with_suffix(".log"))
        tensors = {f"adapter/{name}": value for name, value in result.adapter.items()}
        tensors |= {f"heads/{name}": value for name, value in result.heads.items()}
        save_file(tensors, str(target.with_suffix(".tmp")))
        target.with_suffix(".tmp").replace(target)
    stored = load_file(str(target))
    adapter, heads = (
        {name.removeprefix(kind): value for name, value in stored.items() if name.startswith(kind)}
        for kind in ("adapter/", "heads/")
    )
    return FineTuned(adapter, heads)


def _finetune(
    rows: list[LabelledText], encoder_name: str, unsafe_weight: float, settings: Finetuning, log: Path
) -> FineTuned:
    import torch

    torch.set_num_threads(1)
    encoder = Encoder(encoder_name)
    heads = fit_heads(rows, encoder.embed([row.text for row in rows]), unsafe_weight)  # head first
    if settings.method == "head":
        return FineTuned({}, heads)
    tokens = encoder.first_windows([row.text for row in rows], settings.longest)
    weights = level_weights(np.array([row.score for row in rows]), unsafe_weight)
    training_rows = [
        TrainingRow(ids, row.score, _category(row), float(weight))
        for ids, row, weight in zip(tokens, rows, weights, strict=True)
    ]
    finetuner = Finetuner(encoder.model, encoder.pad_id, heads, settings)
    with log.open("w", encoding="utf-8", buffering=1) as lines:
        finetuner.train(training_rows, lambda text: lines.write(text + "\n"))
    finetuner.merge()
    return FineTuned(finetuner.adapter_tensors(), finetuner.trained_heads())


def _category(row: LabelledText) -> int:
    return UNSAFE_CATEGORY_NAMES.index(row.category) if row.score > 0 else -1


def document_probabilities(embeddings: Embeddings, heads: dict[str, np.ndarray]) -> np.ndarray:
    """Level probabilities [texts, 6] of the chunk of each text that is surest not to be safe."""
    vectors = embeddings.vectors.astype(np.float16).astype(np.float64)
    chunks = softmax(vectors @ heads["level.weight"].T.astype(np.float64) + heads["level.bias"])
    best: dict[int, int] = {}
    for chunk, document in enumerate(embeddings.document.tolist()):
        if document not in best or chunks[chunk, 0] < chunks[best[document], 0]:
            best[document] = chunk
    return chunks[[best[document] for document in sorted(best)]]


def save_adapter(adapter: dict[str, np.ndarray], path: Path, encoder: Encoder) -> None:
    """The adapter's file, with the encoder that it belongs to."""
    save_weights(adapter, path, {"encoder": encoder.name, "encoder_sha256": encoder.weights_sha256})


def save_heads(
    heads: dict[str, np.ndarray], path: Path, encoder: Encoder, adapter: Path | None, decision: Decision
) -> None:
    """The heads' file; `encoder` is the one they read, with its adapter (a file in the same folder) merged."""
    facts: dict[str, Any] = {"encoder": encoder.name, "encoder_sha256": encoder.weights_sha256}
    facts["thresholds"] = decision.thresholds
    if adapter is not None:
        facts["adapter"] = adapter.name
    save_weights({name: value.astype(np.float32) for name, value in heads.items()}, path, facts)
