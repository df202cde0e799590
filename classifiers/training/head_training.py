"""Trains the linear heads on chunk embeddings: convex problems, solved in float64 on one thread, so the bytes repeat."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

from classifiers.embedding import HEAD_ROWS
from classifiers.encoder import Embeddings, Encoder
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


def level_weights(scores: np.ndarray, unsafe_weight: float) -> np.ndarray:
    """Weight of each row in the loss: the class balance, times `unsafe_weight` (the paper's lambda) for scores above 0."""
    weights = class_weights(scores, len(LEVELS), CLASS_BALANCE["level"])
    return np.where(scores > 0, unsafe_weight, 1.0) * weights


def fit_heads(rows: list[LabelledText], embeddings: Embeddings, unsafe_weight: float = 1.0) -> dict[str, np.ndarray]:
    """`level.weight` [6, size], `level.bias`, `category.weight` [18, size], `category.bias`, float32, of a frozen encoder.

    Each chunk has the label of its text.
    """
    vectors, document = embeddings.vectors.astype(np.float64), embeddings.document
    scores = np.array([row.score for row in rows])[document]
    categories = np.array([UNSAFE_CATEGORY_NAMES.index(row.category) if row.score else -1 for row in rows])[document]
    unsafe = categories >= 0
    weights = {
        "level": level_weights(scores, unsafe_weight),
        "category": class_weights(categories[unsafe], len(UNSAFE_CATEGORY_NAMES), CLASS_BALANCE["category"]),
    }
    fitted = {
        "level": (vectors, scores),
        "category": (vectors[unsafe], categories[unsafe]),
    }
    tensors = {}
    with one_thread():
        for name, (features, targets) in fitted.items():
            matrix, bias = fit_multinomial(
                features, targets, weights[name], HEAD_ROWS[name], INVERSE_REGULARISATION[name]
            )
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = matrix.astype(np.float32), bias.astype(np.float32)
    return tensors


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: the order of additions, and so the bytes, then repeat."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_never_train(rows: list[LabelledText], encoder: Encoder) -> dict[str, np.ndarray]:
    """`never_train.weight` [3, size] and `never_train.bias`: one against the rest for each category, from rows and seeds."""
    seeds = read_seeds()
    embeddings = encoder.embed([row.text for row in rows] + [text for _, text in seeds])
    matrices, biases = [], []
    with one_thread():
        for category in NEVER_TRAIN_CATEGORIES:
            matrix, bias = _fit_category(category, rows, [name for name, _ in seeds], embeddings)
            matrices.append(matrix)
            biases.append(bias)
    weight, bias = np.concatenate(matrices), np.concatenate(biases)
    return {"never_train.weight": weight.astype(np.float32), "never_train.bias": bias.astype(np.float32)}


def _fit_category(
    category: str, rows: list[LabelledText], seeds: list[str], embeddings: Embeddings
) -> tuple[np.ndarray, np.ndarray]:
    positive_rows = [row.category == category and row.score >= _NEVER_TRAIN_LEAST_SCORE for row in rows]
    positive = np.array([*positive_rows, *(name == category for name in seeds)])[embeddings.document]
    weights = class_weights(positive.astype(np.int64), 2, CLASS_BALANCE["never_train"])
    weights[embeddings.document >= len(rows)] *= SEED_WEIGHT
    vectors = embeddings.vectors.astype(np.float64)
    return fit_one_against_rest(vectors, positive, weights, INVERSE_REGULARISATION["never_train"])
