"""Selects the safety tokens: those whose probability the refusal direction raises in answers to harmless prompts."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from finetune.chat_data import special_tokens
from finetune.errors import SafetyTokenError
from finetune.model_passes import TokenIds, batches_by_length, last_logits
from finetune.safesteer.sampling import AnswerRequest, SamplingLimits, paired, sample_answers
from finetune.safesteer.teacher import SteeredTeacher
from finetune.safesteer.token_votes import SafetyToken, steps_before_end, vote
from rephrasers.keyed_draws import keyed_uniforms


def select_safety_tokens(
    teacher: SteeredTeacher,
    prompts: Sequence[TokenIds],
    tokenizer: Any,
    end_ids: frozenset[int],
    horizon: int,
    floor: float,
    size: int,
    votes_per_record: int,
    samples: int,
    seed: int,
    batch_size: int = 32,
) -> list[SafetyToken]:
    """The safety tokens by votes, at most `size` (released code of arXiv 2606.02530; see `token_votes.vote`).

    prompts: harmless ones. Each is continued `samples` times by the steered model for `horizon` - 1 tokens, no end token
    among them; at the `horizon` positions that begin with the prompt's last, a record compares steered and plain model.
    Holds one row of the vocabulary in float32 for each record (prompts * samples * horizon). Raises SafetyTokenError where
    no token is left.
    """
    rows = _continued(teacher, prompts, end_ids, horizon, samples, seed, batch_size)
    gains, plain_sum, steered_sum = [], torch.zeros(()), torch.zeros(())
    for indices in batches_by_length(rows, batch_size):
        some = [rows[index] for index in indices]
        log_steered = _log_probabilities(teacher, some, horizon, batch_size, steered=True)
        log_plain = _log_probabilities(teacher, some, horizon, batch_size, steered=False)
        valid = steps_before_end(log_plain.argmax(-1), end_ids)
        gains.append((log_steered - log_plain)[valid])
        plain_sum = plain_sum + log_plain[valid].exp().double().sum(0)
        steered_sum = steered_sum + log_steered[valid].exp().double().sum(0)
    records = sum(map(len, gains))
    if not records:
        raise SafetyTokenError(
            "token selection: the unsteered model ends its turn at once on every harmless prompt, so nothing can be compared"
        )
    vocabulary = gains[0].shape[-1]
    banned = banned_ids(tokenizer, vocabulary)
    chosen = vote(
        torch.cat(gains), plain_sum / records, steered_sum / records, banned, floor, votes_per_record, size
    )  # fmt: skip
    if not chosen:
        raise SafetyTokenError(
            f"token selection: the token set is empty: no token has a mean steered probability of {floor} or more; lower "
            "tokens.floor"
        )
    return chosen


def random_tokens(size: int, tokenizer: Any, vocabulary: int, seed: int) -> list[int]:
    """`size` different tokens that might have been chosen, drawn by the seed: the control of an ablation."""
    banned = set(banned_ids(tokenizer, vocabulary))
    allowed = [token for token in range(vocabulary) if token not in banned]
    draws = keyed_uniforms(seed, "random tokens", "", len(allowed))
    return [allowed[place] for place in draws.argsort(kind="stable")[:size]]


def banned_ids(tokenizer: Any, vocabulary: int) -> list[int]:
    """Ids that no safety token may have: special ones, spellings with `<|`, and columns beyond the tokenizer's tokens."""
    spellings = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), vocabulary)))
    marked = [number for number, spelling in enumerate(spellings) if spelling is None or "<|" in spelling]
    special = [token for token in special_tokens(tokenizer) if token < vocabulary]
    return sorted({*marked, *special, *range(len(tokenizer), vocabulary)})


def _continued(
    teacher: SteeredTeacher,
    prompts: Sequence[TokenIds],
    end_ids: Collection[int],
    horizon: int,
    samples: int,
    seed: int,
    batch_size: int,
) -> list[TokenIds]:
    if horizon == 1:
        return list(prompts)
    requests = [
        AnswerRequest(f"tokens {number}#{sample}", tuple(prompt))
        for number, prompt in enumerate(prompts)
        for sample in range(samples)
    ]
    limits = SamplingLimits(horizon - 1, frozenset(), frozenset(end_ids))
    pad_id = min(end_ids)
    with teacher.frozen():
        answers = paired(requests, sample_answers(teacher.model, requests, limits, seed, pad_id, batch_size))
    return [(*answer.prompt, *answer.answer) for answer in answers]


def _log_probabilities(
    teacher: SteeredTeacher, rows: Sequence[TokenIds], horizon: int, batch_size: int, steered: bool
) -> Tensor:
    """[rows, horizon, vocabulary], float32."""
    with teacher.frozen(steered):
        logits = last_logits(teacher.model, rows, 0, batch_size, keep=horizon)
    return torch.log_softmax(logits, -1)
