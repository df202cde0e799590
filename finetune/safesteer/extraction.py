"""Finds the refusal direction of a model (arXiv 2406.11717, with the settings of SafeSteer's released code)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from finetune.errors import FinetuneDataError, FinetuneModelError
from finetune.model_passes import TokenIds, batches_by_length, eval_mode, last_logits, left_padded
from finetune.safesteer.refusal_formulas import (
    CandidateScores,
    first_barred_layer,
    mean_kl,
    rank_candidates,
    refusal_score,
)
from finetune.safesteer.residual_hooks import ablating, decoder_blocks, reading_inputs, steering


@dataclass(frozen=True)
class DirectionPrompts:
    """Token ids of prompts under the chat template, the assistant's header at their end; all four sets are disjoint."""

    harmful_train: Sequence[TokenIds]
    harmful_validation: Sequence[TokenIds]
    harmless_train: Sequence[TokenIds]
    harmless_validation: Sequence[TokenIds]


@dataclass(frozen=True)
class RefusalDirection:
    """`vector` [width], float32, not normalised; `chosen` says where it was found. `table`: every candidate that was scored,
    `kept`: prompts of each set that the filter left; `harmless`: those of them that validate."""

    vector: Tensor
    chosen: CandidateScores
    table: tuple[CandidateScores, ...]
    kept: dict[str, int]
    harmless: tuple[TokenIds, ...]


def template_suffix_length(encode: Callable[[str], TokenIds]) -> int:
    """How many tokens the chat template puts behind the user's text, the assistant's header included.

    encode: token ids of the prompt that asks this text. Raises FinetuneModelError where there are none.
    """
    first, second = encode("north"), encode("9.")
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    if length == 0:
        raise FinetuneModelError(
            "the chat template puts no token behind the user's text: a refusal direction has no place"
        )
    return length


def filter_prompts(
    model: Any, prompts: DirectionPrompts, refusal_ids: Sequence[int], pad_id: int, batch_size: int
) -> DirectionPrompts:
    """Only harmful prompts that the model refuses (score above 0) and harmless ones that it answers (below 0).

    Raises FinetuneDataError where that empties a set.
    """

    def kept(name: str, refused: bool) -> list[TokenIds]:
        rows = getattr(prompts, name)
        if not rows:
            raise FinetuneDataError(f"direction: the set {name} holds no prompts")
        scores = refusal_score(last_logits(model, rows, pad_id, batch_size)[:, 0], refusal_ids)
        chosen = [
            row for row, score in zip(rows, scores.tolist(), strict=True) if (score > 0) == refused and score != 0
        ]
        if not chosen:
            verb = "refuses none" if refused else "refuses all"
            raise FinetuneDataError(
                f"direction: none of the {len(rows)} prompts of {name} is left: the model {verb} of them, by the first token "
                "of its answer. Start from a model that refuses harmful prompts, or name its openings in "
                "direction.refusal_openings"
            )
        return chosen

    return DirectionPrompts(
        kept("harmful_train", True),
        kept("harmful_validation", True),
        kept("harmless_train", False),
        kept("harmless_validation", False),
    )


def mean_inputs(model: Any, rows: Sequence[TokenIds], positions: int, pad_id: int, batch_size: int) -> Tensor:
    """Mean residual stream that enters each block at the last `positions` tokens: [layers, positions, width], float64."""
    blocks = decoder_blocks(model)
    sums: list[Tensor] = [torch.zeros(())] * len(blocks)

    def read(layer: int, hidden: Tensor) -> None:
        sums[layer] = sums[layer] + hidden[:, -positions:].double().sum(0).cpu()

    with torch.inference_mode(), eval_mode(model), reading_inputs(list(blocks), read):
        for indices in batches_by_length(rows, batch_size):
            batch = left_padded([rows[i] for i in indices], pad_id, model.device)
            model(**batch, use_cache=False, logits_to_keep=1)
    return torch.stack(sums) / len(rows)


def find_direction(
    model: Any,
    prompts: DirectionPrompts,
    refusal_ids: Sequence[int],
    suffix_length: int,
    pad_id: int,
    batch_size: int = 32,
    coefficient: float = 1.0,
    on_candidate: Callable[[int, int], None] | None = None,
) -> RefusalDirection:
    """The direction whose removal lowers refusal of harmful prompts most, among those that harm nothing else.

    model: a plain causal LM. Candidates are the differences of means at each of the last `suffix_length` tokens and each
    layer; layers from floor(0.8 layers) on could not be chosen and are not scored. coefficient: candidates are added so many
    times, as the teacher will (published: once). `on_candidate(done, all)` is told.
    Raises FinetuneDataError where the filter empties a set, FinetuneModelError where no candidate is allowed.
    """
    kept = filter_prompts(model, prompts, refusal_ids, pad_id, batch_size)
    harmful = mean_inputs(model, kept.harmful_train, suffix_length, pad_id, batch_size)
    harmless = mean_inputs(model, kept.harmless_train, suffix_length, pad_id, batch_size)
    differences = harmful - harmless
    layers = len(differences)
    base = last_logits(model, kept.harmless_validation, pad_id, batch_size)[:, 0]
    places = [(layer, place) for layer in range(first_barred_layer(layers)) for place in range(suffix_length)]
    table = []
    for number, (layer, place) in enumerate(places, 1):
        direction = differences[layer, place].float()
        scores = _score(model, kept, direction, coefficient, layer, base, refusal_ids, pad_id, batch_size)
        table.append(replace(scores, position=place - suffix_length))
        if on_candidate is not None:
            on_candidate(number, len(places))
    ranked = rank_candidates(table, layers)
    if not ranked:
        raise FinetuneModelError(
            f"none of {len(table)} candidate directions makes harmless prompts refused without harming them when it is "
            "removed; the model may refuse too little: align it first, give more prompts, or raise direction.coefficient"
        )
    best = ranked[0]
    counts = {name: len(getattr(kept, name)) for name in prompts.__dataclass_fields__}
    vector = differences[best.layer, best.position].float()
    return RefusalDirection(vector, best, tuple(table), counts, tuple(kept.harmless_validation))


def _score(
    model: Any,
    prompts: DirectionPrompts,
    direction: Tensor,
    coefficient: float,
    layer: int,
    base: Tensor,
    refusal_ids: Sequence[int],
    pad_id: int,
    batch_size: int,
) -> CandidateScores:
    """The three scores of one candidate; `position` is filled in by the caller. A direction of length 0 scores NaN."""
    blocks = list(decoder_blocks(model))
    if not float(direction.norm()) > 0:
        return CandidateScores(0, layer, float("nan"), float("nan"), float("nan"))
    with ablating(blocks, direction):
        harmless = last_logits(model, prompts.harmless_validation, pad_id, batch_size)[:, 0]
        harmful = last_logits(model, prompts.harmful_validation, pad_id, batch_size)[:, 0]
    with steering(blocks[layer], direction, coefficient):
        steered = last_logits(model, prompts.harmless_validation, pad_id, batch_size)[:, 0]
    return CandidateScores(
        0,
        layer,
        kl=mean_kl(base, harmless),
        ablated=float(refusal_score(harmful, refusal_ids).mean()),
        added=float(refusal_score(steered, refusal_ids).mean()),
    )


def refusal_token_ids(openings: Sequence[str], tokenizer: Any) -> list[int]:
    """The one token that each opening of a refusal is, each token once. Raises FinetuneModelError where one is several tokens."""
    ids = []
    for opening in openings:
        tokens = tokenizer(opening, add_special_tokens=False)["input_ids"]
        if len(tokens) != 1:
            raise FinetuneModelError(
                f"direction.refusal_openings: {opening!r} is {len(tokens)} tokens of this tokenizer; name first tokens of "
                "refusals, each of them one token, for example I"
            )
        ids.append(int(tokens[0]))
    # Twice the same one would count its probability twice.
    return list(dict.fromkeys(ids))
