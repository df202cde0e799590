"""A model on this machine: its prompts as it reads them, its answers, first-token logits and probabilities of a token."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from classifiers.errors import ModelError, RecipeError
from classifiers.loading import fixed_threads
from evaluation.generation.batched_decoding import decode_batch, prompt_draws
from evaluation.generation.batches import length_sorted_batches
from evaluation.generation.settings import GenerationSettings
from evaluation.suites.loading import SuitePrompt
from evaluation.suites.prompt_forms import completion_prompt, compliant_opening
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from rephrasers.models import ModelReference, resolve_model

Form = Literal["chat", "completion"]


class LocalModel:
    """Answers by batched decoding. Made by `load`. A decoder of one's own needs `name`, `identity` and `generate` only.

    Prompts are texts as the model reads them, with all special tokens spelled out: encode them without adding any.
    """

    name = "batched"

    def __init__(self, reference: ModelReference, tokenizer: Any, model: Any, settings: GenerationSettings) -> None:
        self.reference, self.tokenizer, self.settings = reference, tokenizer, settings
        self.model = model.eval()
        # The harmfulness tag ends an answer of ordinary decoding, and is seen in it (Safety Pretraining, evaluations).
        self.tag_id = tokenizer.get_vocab().get(HARMFULNESS_TAG)
        self.end_ids = _end_ids(tokenizer, model) | ({self.tag_id} - {None})
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.end_ids)

    @classmethod
    def load(cls, name: str, settings: GenerationSettings) -> "LocalModel":
        """The model that a recipe's name means (`rephrasers.models.resolve_model`). Raises ModelError, DependencyError."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        reference = resolve_model(name)
        tokenizer = reference.load(AutoTokenizer)
        model = reference.load(AutoModelForCausalLM)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(reference, tokenizer, model.to(device, _dtype(settings.dtype)), settings)

    def model_identity(self) -> dict[str, str]:
        """What identifies the weights."""
        return {"model": self.reference.description, "revision": self.reference.revision}

    def identity(self) -> dict[str, Any]:
        """What of this decoder its answers depend on, beside the weights."""
        return {
            "decoder": self.name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            **self.settings.of_answer(),
        }

    def render(self, prompt: SuitePrompt, form: Form, system: str | None = None, prefill_tokens: int = 0) -> str:
        """The prompt as the model reads it: in its chat template, or as a text to continue; then the first
        `prefill_tokens` tokens of a compliant answer. Raises ModelError without a chat template, RecipeError where the
        compliant opening is shorter than the prefill."""
        if form == "completion":
            text = self._bos() + completion_prompt(prompt.text)
        else:
            text = self._chat(prompt.text, system)
        return text + self._opening(prompt, prefill_tokens)

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """The answers, in order, without the prompts and without special tokens."""
        answers: dict[int, str] = {}
        for indices, texts in self.generate_batches(prompts):
            answers.update(zip(indices, texts, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def generate_batches(
        self, prompts: Sequence[str], wanted: frozenset[int] | None = None
    ) -> Iterator[tuple[list[int], list[str]]]:
        """(indices, answers) of each batch as it is done. `wanted`: only these prompts; the others still decide which
        prompts share a batch, since bfloat16 rounds by the batch."""
        settings = self.settings
        encoded = [self._encode(prompt, settings.max_new_tokens) for prompt in prompts]
        lengths = [len(ids) for ids in encoded]
        for batch in length_sorted_batches(lengths, settings.max_new_tokens, settings.batch_tokens, settings.max_rows):
            if wanted is not None and wanted.isdisjoint(batch):
                continue
            yield batch, self._decode([prompts[i] for i in batch], [encoded[i] for i in batch])

    def next_token_logits(self, prompts: Sequence[str]) -> np.ndarray:
        """Logits [prompts, vocabulary of the tokenizer] at the position after each prompt, float32: columns that only pad
        the vocabulary are cut off. For a mode's margin give prompts that end where the first content token comes."""
        return np.concatenate([rows for _, rows in sorted(self._last_logits(prompts))])

    def next_token_probability(self, prompts: Sequence[str], token_id: int) -> np.ndarray:
        """P(token | prompt) [prompts]: the softmax, over the whole vocabulary, at the position after each prompt.

        Raises RecipeError for an id that the model does not have.
        """
        size = int(self.model.get_input_embeddings().weight.shape[0])
        if not 0 <= token_id < size:
            raise RecipeError(f"token id {token_id}: {self.reference.description} has ids from 0 to {size - 1}")
        found = np.empty(len(prompts))
        for index, logits in self._last_logits(prompts, crop=False):
            shifted = logits[0].astype(np.float64) - logits[0].max()
            found[index] = np.exp(shifted[token_id]) / np.exp(shifted).sum()
        return found

    def _last_logits(self, prompts: Sequence[str], crop: bool = True) -> Iterator[tuple[int, np.ndarray]]:
        import torch

        encoded = [self._encode(prompt, 0) for prompt in prompts]
        width = len(self.tokenizer) if crop else None
        batches = length_sorted_batches(list(map(len, encoded)), 0, self.settings.batch_tokens, self.settings.max_rows)
        with fixed_threads(self.settings.threads), torch.inference_mode():
            for batch in batches:
                longest = max(len(encoded[i]) for i in batch)
                ids = torch.tensor([[self._pad_id] * (longest - len(encoded[i])) + encoded[i] for i in batch])
                mask = torch.tensor([[0] * (longest - len(encoded[i])) + [1] * len(encoded[i]) for i in batch])
                logits = self.model(
                    input_ids=ids.to(self.model.device),
                    attention_mask=mask.to(self.model.device),
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(self.model.device),
                    use_cache=False,
                    logits_to_keep=1,
                ).logits[:, -1, :width]
                yield from ((i, row[None]) for i, row in zip(batch, logits.float().cpu().numpy(), strict=True))

    def _decode(self, prompts: list[str], encoded: list[list[int]]) -> list[str]:
        import torch

        settings = self.settings
        draws = prompt_draws(prompts, settings.max_new_tokens, settings.seed) if settings.temperature > 0 else None
        with fixed_threads(settings.threads), torch.inference_mode():
            tokens = decode_batch(
                self.model, encoded, settings.max_new_tokens, self.end_ids, self._pad_id, draws,
                settings.temperature, settings.top_p,
            )  # fmt: skip
        return [self._text(ids) for ids in tokens]

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        tagged = self.tag_id is not None and ids[-1:] == [self.tag_id]
        return text.removesuffix(HARMFULNESS_TAG) + HARMFULNESS_TAG if tagged else text

    def _encode(self, prompt: str, new_tokens: int) -> list[int]:
        from decoding.prompt_encoding import encode_chat

        # As every other decoder reads it: a tag that a prompt spells out is ordinary pieces, other signs stay special.
        ids = encode_chat(self.tokenizer, prompt, HARMFULNESS_TAG)
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if not ids:
            raise ModelError("a prompt has no tokens: a base model without a BOS token cannot continue an empty text")
        if limit is not None and len(ids) + new_tokens > limit:
            answer, remedy = "", ""
            if new_tokens:
                answer, remedy = f" and an answer of {new_tokens}", "lower generation.max_new_tokens or "
            raise ModelError(
                f"a prompt of {len(ids)} tokens{answer} {'exceed' if new_tokens else 'exceeds'} the {limit} positions of "
                f"{self.reference.description}: {remedy}leave that prompt out"
            )
        return ids

    def _bos(self) -> str:
        ids = self.tokenizer("a")["input_ids"]
        return self.tokenizer.bos_token if ids and ids[0] == self.tokenizer.bos_token_id else ""

    def _chat(self, request: str, system: str | None) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"{self.reference.description} has no chat template: it is a base model, so set `form: completion`, "
                "or put the chat_template.jinja that it was trained with into its folder"
            )
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": request})
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def _opening(self, prompt: SuitePrompt, tokens: int) -> str:
        if tokens == 0:
            return ""
        ids = self.tokenizer(compliant_opening(prompt), add_special_tokens=False)["input_ids"]
        if len(ids) < tokens:
            raise RecipeError(
                f"a prefill of {tokens} tokens is longer than the opening of prompt {prompt.id} ({len(ids)} tokens): "
                "take a shorter one"
            )
        return str(self.tokenizer.decode(ids[:tokens]))


def _end_ids(tokenizer: Any, model: Any) -> frozenset[int]:
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = {*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id} - {None}
    if not ids:
        raise ModelError("the model names no end token: set eos_token_id in its generation_config.json")
    return frozenset(ids)


def _dtype(name: str) -> Any:
    import torch

    if name == "auto":
        fast = torch.cuda.is_available() or "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()
        name = "bfloat16" if fast else "float32"
    return getattr(torch, name)


def _cpu_flags() -> str:
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
