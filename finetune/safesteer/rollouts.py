"""Which answers a step of SafeSteer samples, and the batches that its loss is computed on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.errors import FinetuneDataError
from finetune.safesteer.sampling import SampledAnswer
from rephrasers.keyed_draws import keyed_uniforms


@dataclass(frozen=True)
class TrainingPrompt:
    """A prompt as the student reads it. `id` is the row's."""

    id: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class PlannedAnswer:
    """One answer of the run, numbered in the order of training."""

    prompt: TrainingPrompt
    sample: int


def plan_answers(
    prompts: Sequence[TrainingPrompt], samples: int, answers_per_step: int, seed: int
) -> list[PlannedAnswer]:
    """All answers of one pass: prompts in an order drawn by their ids, the samples of each behind one another.

    100 prompts, 8 samples and 32 answers a step are 25 steps of 4 prompts. Raises FinetuneDataError where a step would
    split a prompt's samples, for ids that occur twice, and where all answers are fewer than one step's. A last step may be
    short.
    """
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise FinetuneDataError("two training prompts have the same id; ids must be unique")
    if answers_per_step % samples:
        raise FinetuneDataError(
            f"batch_size {answers_per_step} is no multiple of samples_per_prompt {samples}: a step would split a prompt"
        )
    if len(prompts) * samples < answers_per_step:
        raise FinetuneDataError(
            f"{len(prompts)} prompts with {samples} samples each are fewer than the batch_size of {answers_per_step} answers: "
            "give more prompts or lower batch_size"
        )
    order = sorted(prompts, key=lambda prompt: float(keyed_uniforms(seed, "prompt order", prompt.id, 1)[0]))
    return [PlannedAnswer(prompt, sample) for prompt in order for sample in range(samples)]


def rollout_batch(answers: Sequence[SampledAnswer], pad_id: int) -> dict[str, Tensor]:
    """One batch of the loss: `input_ids`, `attention_mask`, `position_ids` [answers, length], and `response_mask`
    [answers, longest answer].

    Prompts are padded on the left, answers on the right, so that the last columns hold the answers of all rows: with
    `answer_logits`' slice, logits exist for these columns alone. Every token of an answer counts, the end token and those
    of a cut answer too.
    """
    widest_prompt = max(len(answer.prompt) for answer in answers)
    widest_answer = max(len(answer.answer) for answer in answers)
    ids = torch.full((len(answers), widest_prompt + widest_answer), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    response = torch.zeros((len(answers), widest_answer), dtype=torch.bool)
    for row, answer in enumerate(answers):
        start, end = widest_prompt - len(answer.prompt), widest_prompt + len(answer.answer)
        ids[row, start:end] = torch.tensor([*answer.prompt, *answer.answer])
        mask[row, start:end] = 1
        response[row, : len(answer.answer)] = True
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "response_mask": response}


def answer_logits(logits: Tensor) -> Tensor:
    """The logits that predict the answers' tokens [answers, longest answer, vocabulary], of a forward pass with
    `logits_to_keep` = longest answer + 1: the last column predicts what comes behind."""
    return logits[:, :-1]
