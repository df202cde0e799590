"""Sampled answers at temperature 1 from the whole distribution, each from draws of its own, paired to prompts by id."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.errors import FinetuneDataError
from finetune.model_passes import TokenIds, answer_batch, batches_by_length
from rephrasers.keyed_draws import keyed_uniforms


@dataclass(frozen=True)
class AnswerRequest:
    """One answer to sample. `id` is unique among those asked together; `prompt`: token ids."""

    id: str
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class SampledAnswer:
    """`prompt` is what the sampler read; `answer` ends with an end token, unless it was cut at the longest length."""

    id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class SamplingLimits:
    """`end_ids` end an answer; `suppressed_ids` are never drawn."""

    new_tokens: int
    end_ids: frozenset[int]
    suppressed_ids: frozenset[int] = frozenset()


def sample_answers(
    model: Any, requests: Sequence[AnswerRequest], limits: SamplingLimits, seed: int, pad_id: int, batch_size: int
) -> Iterator[SampledAnswer]:
    """The answers, in the order in which they are done, which is not that of the requests: see `paired`.

    Nothing of the checkpoint's own generation settings is used. An answer depends on the seed, its request's id and its
    prompt alone, up to the rounding of batches.
    """
    for indices in batches_by_length([request.prompt for request in requests], batch_size):
        batch = [requests[index] for index in indices]
        draws = np.stack([keyed_uniforms(seed, "rollout", one.id, limits.new_tokens) for one in batch])
        answers = _sample_batch(model, [one.prompt for one in batch], draws, limits, pad_id)
        for request, answer in zip(batch, answers, strict=True):
            yield SampledAnswer(request.id, request.prompt, tuple(answer))


def paired(requests: Sequence[AnswerRequest], answers: Iterable[SampledAnswer]) -> list[SampledAnswer]:
    """The answers in the order of the requests, each under the prompt that it was sampled from.

    Answers come in the order in which they were finished; zipping them with prompts by position scores them under wrong
    prompts. Raises FinetuneDataError where an id is missing, foreign or twice, or where a prompt is not the one asked for.
    """
    by_id: dict[str, SampledAnswer] = {}
    for answer in answers:
        if answer.id in by_id:
            raise FinetuneDataError(f"two sampled answers have the id {answer.id}")
        by_id[answer.id] = answer
    wanted = {request.id for request in requests}
    if len(wanted) != len(requests) or wanted != by_id.keys():
        strange = sorted(wanted ^ by_id.keys())[:3]
        raise FinetuneDataError(f"requests and sampled answers do not match by id, for example {strange}")
    for request in requests:
        if by_id[request.id].prompt != request.prompt:
            raise FinetuneDataError(
                f"the answer {request.id} was sampled from another prompt than the one it is scored under"
            )
    return [by_id[request.id] for request in requests]


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """The token of each row [rows] at which the cumulated probability passes u; float64 inside, so that the tail counts.

    logits [rows, vocabulary]; uniforms [rows] in [0, 1).
    """
    cumulated = torch.softmax(logits.double(), -1).cumsum(-1)
    target = uniforms.to(cumulated)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _sample_batch(
    model: Any, prompts: Sequence[TokenIds], draws: np.ndarray, limits: SamplingLimits, pad_id: int
) -> list[list[int]]:
    uniforms = torch.from_numpy(draws).to(model.device)
    suppressed = torch.tensor(sorted(limits.suppressed_ids), dtype=torch.long, device=model.device)

    def choose(logits: Tensor, step: int) -> Tensor:
        return draw(logits.index_fill(-1, suppressed, float("-inf")), uniforms[:, step])

    return answer_batch(model, prompts, choose, limits.new_tokens, limits.end_ids, pad_id)
