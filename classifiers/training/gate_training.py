"""Distils the cascade's chunk gate from the embedding classifier: its own outputs are the labels, so any text serves."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifiers.cascade_rules import never_train_margin
from classifiers.embedding import EmbeddingClassifier
from classifiers.encoder import Encoder

WIDTH = 96  # of a token vector in the gate; the table is the file's size: vocabulary x width bytes
HIDDEN = 128
_EPOCHS, _BATCH, _RATE, _DECAY = 60, 64, 2e-3, 1e-2
_INPUT_DROPOUT, _DROPOUT = 0.3, 0.3
_VECTOR_LOSS = 3.0  # weight of predicting the encoder's vector beside its levels: richer than three numbers
_MOST_LOGIT = 7.0
_FREQUENCY_PRIOR = 1e-3
_SEED = 1
_INPUT_SCALE = 20.0  # the sums have length 1 in some hundred dimensions; networks learn from values of about 1


@dataclass(frozen=True)
class Teaching:
    """What the embedding classifier says of every chunk of some texts.

    `windows`: token ids of each chunk; `document` [chunks]: index of its text, ascending; `vectors` [chunks, size];
    `levels` [chunks]; `targets` [chunks, 3]: logits of score >= 1 and >= 3, and the never_train margin.
    """

    windows: list[list[int]]
    document: np.ndarray
    vectors: np.ndarray
    levels: np.ndarray
    targets: np.ndarray


def teach(embedding: EmbeddingClassifier, texts: list[str]) -> Teaching:
    """The always-embed run over the texts, chunk by chunk."""
    cut = [embedding.encoder.windows(text) for text in texts]
    windows = [window for part in cut for window in part]
    document = np.repeat(np.arange(len(cut)), np.array([len(part) for part in cut], dtype=np.int64))
    vectors = embedding.encoder.embed_windows(windows)
    levels, _, never_train = embedding.heads.chunk_probabilities(vectors)
    reached = np.stack([1.0 - levels[:, 0], levels[:, 3:].sum(axis=1)], axis=1)
    clipped = np.clip(reached, 1e-4, 1 - 1e-4)
    targets = np.column_stack([np.log(clipped / (1 - clipped)), never_train_margin(never_train)])
    return Teaching(
        windows, document, vectors, embedding.heads.chunk_levels(levels), np.clip(targets, -_MOST_LOGIT, _MOST_LOGIT)
    )


def token_vectors(encoder: Encoder) -> np.ndarray:
    """What the encoder makes of each token alone, between its special tokens. [vocabulary, size], float32."""
    empty = encoder.windows("")[0]  # the special tokens
    middle = (len(empty) + 1) // 2
    return encoder.embed_windows(
        [[*empty[:middle], token, *empty[middle:]] for token in range(encoder.vocabulary_size)]
    )


def token_features(vectors: np.ndarray, windows: list[list[int]]) -> np.ndarray:
    """[vocabulary, size]: the token vectors, frequent tokens weighed down by a / (a + share), as in smooth inverse
    frequency (Arora et al. 2017), after taking away the mean token of `windows`."""
    counts = np.ones(len(vectors))
    for window in windows:
        np.add.at(counts, window, 1)
    share = counts / counts.sum()
    weighed: np.ndarray = (vectors - share @ vectors) * (_FREQUENCY_PRIOR / (_FREQUENCY_PRIOR + share))[:, None]
    return weighed.astype(np.float32)


def fit_gate(features: np.ndarray, teachings: list[tuple[Teaching, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tensors of a gate file, from the named chunks of each teaching; `features` [vocabulary, size] of tokens.

    The first layer has no bias and its scale is normed away, so it may act on the tokens before they are summed: the
    gate file holds it as a table. The same input gives the same tensors.
    """
    import torch

    sums = np.stack([features[teaching.windows[row]].sum(axis=0) for teaching, rows in teachings for row in rows])
    sums /= np.linalg.norm(sums, axis=1, keepdims=True) + 1e-9
    targets = np.concatenate([teaching.targets[rows] for teaching, rows in teachings])
    vectors = np.concatenate([teaching.vectors[rows] for teaching, rows in teachings])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fitted = _train(sums * np.float32(_INPUT_SCALE), targets.astype(np.float32), vectors.astype(np.float32))
    finally:
        torch.set_num_threads(before)
    table = features @ fitted.pop("token.weight").T
    largest = np.quantile(np.abs(table), 0.9999)
    return {"table": np.round(np.clip(table / largest, -1, 1) * 127).astype(np.int8), **fitted}


def _train(features: np.ndarray, targets: np.ndarray, vectors: np.ndarray) -> dict[str, np.ndarray]:
    import torch
    from torch import nn

    features_nd, targets_no, vectors_nd = (torch.from_numpy(part) for part in (features, targets, vectors))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        token, hidden = nn.Linear(features.shape[1], WIDTH, bias=False), nn.Linear(WIDTH, HIDDEN)
        norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        body = nn.Sequential(nn.Dropout(_INPUT_DROPOUT), token, norm, hidden, nn.ReLU(), nn.Dropout(_DROPOUT))
        output, imitation = nn.Linear(HIDDEN, targets.shape[1]), nn.Linear(HIDDEN, vectors.shape[1])
        parameters = [*body.parameters(), *output.parameters(), *imitation.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
        steps = _EPOCHS * -(-len(features_nd) // _BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(_EPOCHS):
            for batch in torch.randperm(len(features_nd)).split(_BATCH):
                optimizer.zero_grad()
                units = body(features_nd[batch])
                alike = torch.nn.functional.cosine_similarity(imitation(units), vectors_nd[batch], dim=1)
                loss = ((output(units) - targets_no[batch]) ** 2).mean() + _VECTOR_LOSS * (1 - alike).mean()
                loss.backward()
                optimizer.step()
                schedule.step()
    tensors = {
        "token.weight": token.weight, "hidden.weight": hidden.weight, "hidden.bias": hidden.bias,
        "output.weight": output.weight, "output.bias": output.bias,
    }  # fmt: skip
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def gate_bytes(tensors: dict[str, np.ndarray], encoder_sha256: str) -> bytes:
    """The content of a gate file. One metadata entry only: safetensors writes several in any order."""
    from safetensors.numpy import save

    content: bytes = save(tensors, metadata={"encoder_sha256": encoder_sha256})
    return content


def save_gate(tensors: dict[str, np.ndarray], encoder_sha256: str, file: Path) -> str:
    """Write a gate file whole or not at all. Returns its sha256 (hexadecimal)."""
    content = gate_bytes(tensors, encoder_sha256)
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_name(file.name + ".tmp")
    whole.write_bytes(content)
    whole.replace(file)
    return hashlib.sha256(content).hexdigest()


def fold_of(text: str, folds: int) -> int:
    """Which fold a text belongs to: by its content, so that equal texts never stand on both sides."""
    return zlib.crc32(text.encode("utf-8", "replace")) % folds
