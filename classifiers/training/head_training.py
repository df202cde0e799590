"""Trains the linear heads on chunk embeddings: convex problems, solved in float64 on one thread, so the bytes repeat."""

from pathlib import Path

import numpy as np
import yaml

from classifiers.embedding import HEAD_ROWS
from classifiers.encoder import Encoder
from classifiers.rubric import LEVELS, NEVER_TRAIN_CATEGORIES, UNSAFE_CATEGORY_NAMES
from classifiers.training.labels import LabelledText

SEEDS_FILE = Path(__file__).parent.parent / "data" / "never_train_seeds.yaml"
HARMLESS_SEEDS = "harmless"

INVERSE_REGULARISATION = {"level": 3.0, "category": 3.0, "never_train": 30.0}
# Exponent of the inverse class frequency; 0 leaves the mix of the rows as it is, 1 makes all classes weigh the same.
CLASS_BALANCE = {"level": 0.65, "category": 0.5, "never_train": 0.5}
SEED_WEIGHT = 2.0
_NEVER_TRAIN_LEAST_SCORE = 3  # below it a row of these categories is an ordinary mention


def class_weights(targets: np.ndarray, classes: int, exponent: float) -> np.ndarray:
    """Weight of each row: (rows / (classes * rows of its class)) ** exponent. Shape [rows]."""
    counts = np.maximum(np.bincount(targets, minlength=classes), 1)
    return (len(targets) / (classes * counts[targets])) ** exponent


def fit_multinomial(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, classes: int, inverse_regularisation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted multinomial logistic regression with an L2 penalty |W|^2 / (2 C), by L-BFGS.

    `features` [rows, size], `targets` [rows] in 0..classes-1, `weights` [rows]. Returns W [classes, size], b [classes].
    """
    import torch

    features_rd, targets_r, weights_r = (
        torch.from_numpy(np.ascontiguousarray(part)) for part in (features, targets, weights)
    )
    features_rd, weights_r = features_rd.double(), weights_r.double()
    matrix_cd = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias_c = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([matrix_cd, bias_c], max_iter=300, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses_r = torch.nn.functional.cross_entropy(features_rd @ matrix_cd.T + bias_c, targets_r, reduction="none")
        loss = (weights_r * losses_r).sum() + (matrix_cd**2).sum() / (2 * inverse_regularisation)
        loss.backward()
        return loss

    optimizer.step(closure)
    return matrix_cd.detach().numpy(), bias_c.detach().numpy()


def fit_one_against_rest(
    features: np.ndarray, positive: np.ndarray, weights: np.ndarray, inverse_regularisation: float
) -> tuple[np.ndarray, np.ndarray]:
    """One row of weights [1, size] and its bias [1]: log odds of `positive` [rows, bool], from the two-class problem."""
    matrix, bias = fit_multinomial(features, positive.astype(np.int64), weights, 2, inverse_regularisation)
    return matrix[1:] - matrix[:1], bias[1:] - bias[:1]


def read_seeds() -> list[tuple[str, str]]:
    """(never-train category or "harmless", text) of each seed."""
    raw = yaml.safe_load(SEEDS_FILE.read_text(encoding="utf-8"))
    return [(name, text) for name in (*NEVER_TRAIN_CATEGORIES, HARMLESS_SEEDS) for text in raw[name]]


def train_heads(rows: list[LabelledText], encoder: Encoder, target: Path) -> None:
    """Writes one safetensors file with the level, category and never-train heads for this encoder."""
    import torch
    from safetensors.numpy import save_file

    seeds = read_seeds()
    chunks = encoder.embed([row.text for row in rows] + [text for _, text in seeds])
    document, vectors = chunks.document, chunks.vectors.astype(np.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tensors = _fit_all(rows, [name for name, _ in seeds], document, vectors)
    finally:
        torch.set_num_threads(before)
    target.parent.mkdir(parents=True, exist_ok=True)
    whole = target.with_suffix(".tmp")
    save_file(tensors, str(whole), metadata={"encoder": encoder.name, "encoder_sha256": encoder.weights_sha256})
    whole.replace(target)


def _fit_all(
    rows: list[LabelledText], seeds: list[str], document: np.ndarray, vectors: np.ndarray
) -> dict[str, np.ndarray]:
    labelled = document < len(rows)
    scores = np.array([row.score for row in rows])
    fitted = {"level": _fit("level", vectors[labelled], scores[document[labelled]], len(LEVELS))}
    unsafe = labelled.copy()
    unsafe[labelled] = scores[document[labelled]] > 0
    categories = np.array([UNSAFE_CATEGORY_NAMES.index(rows[index].category) for index in document[unsafe]])
    fitted["category"] = _fit("category", vectors[unsafe], categories, len(UNSAFE_CATEGORY_NAMES))
    fitted["never_train"] = _fit_never_train(rows, seeds, document, vectors)
    tensors = {}
    for name, (matrix, bias) in fitted.items():
        assert matrix.shape[0] == HEAD_ROWS[name]
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = matrix.astype(np.float32), bias.astype(np.float32)
    return tensors


def _fit(name: str, vectors: np.ndarray, targets: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    weights = class_weights(targets, classes, CLASS_BALANCE[name])
    return fit_multinomial(vectors, targets, weights, classes, INVERSE_REGULARISATION[name])


def _fit_never_train(
    rows: list[LabelledText], seeds: list[str], document: np.ndarray, vectors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    matrices, biases = [], []
    for category in NEVER_TRAIN_CATEGORIES:
        positive_rows = [row.category == category and row.score >= _NEVER_TRAIN_LEAST_SCORE for row in rows]
        positive = np.array([*positive_rows, *(name == category for name in seeds)])[document]
        weights = class_weights(positive.astype(np.int64), 2, CLASS_BALANCE["never_train"])
        weights[document >= len(rows)] *= SEED_WEIGHT
        matrix, bias = fit_one_against_rest(vectors, positive, weights, INVERSE_REGULARISATION["never_train"])
        matrices.append(matrix)
        biases.append(bias)
    return np.concatenate(matrices), np.concatenate(biases)
