"""SafeSteer's losses: reverse KL from student to teacher on a fixed set of tokens, in three forms, and on all tokens.

Shapes: logits [..., positions, vocabulary], masks [..., positions]. Logits at a position are those that predict its token.
p is the student, q the teacher, S the token set; probabilities are of the full vocabulary, in float32 at least, temperature 1.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Form = Literal["partial", "generalised", "bucketed"]
Reduction = Literal["answers", "sum", "none"]


def partial_reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    token_ids: Tensor,
    response_mask: Tensor,
    form: Form = "partial",
    reduction: Reduction = "answers",
) -> Tensor:
    """SafeSteer's loss in nats (arXiv 2606.02530; the formula of its released code).

    token_ids [K]: S, different ids. response_mask: nonzero where a position predicts a token of the answer, its end token
    included. No gradient flows into the teacher.

    form, at each position:
    - "partial" (published): sum over S of p ln(p/q). No divergence: its free minimum is p = q/e on S, below zero.
    - "generalised" (ours): sum over S of p ln(p/q) - p + q. Never negative, zero exactly where p = q on S.
    - "bucketed" (ours): "partial" plus p_R ln(p_R/q_R), with everything outside S as one outcome R.

    reduction: "answers" is the mean over an answer's positions, then over the answers that have any; "sum" adds up the
    answers' means, for who divides by the answers of a whole step; "none" leaves the positions (zero outside the mask).
    Raises ValueError for shapes that do not fit, an empty S, and ids outside the vocabulary.
    """
    _check(student_logits, teacher_logits, response_mask)
    _check_tokens(token_ids, student_logits.shape[-1])
    log_p = log_probabilities(student_logits, token_ids)
    log_q = log_probabilities(teacher_logits.detach(), token_ids)
    losses = position_losses(student_logits, teacher_logits.detach(), log_p, log_q, token_ids, form)
    return reduce_positions(losses, response_mask, reduction)


def position_losses(
    student_logits: Tensor, teacher_logits: Tensor, log_p: Tensor, log_q: Tensor, token_ids: Tensor, form: Form
) -> Tensor:
    """The loss at each position [..., positions] from the log-probabilities of S [..., positions, K]; see
    `partial_reverse_kl`. The logits themselves are read for "bucketed" alone."""
    p, q = log_p.exp(), log_q.exp()
    terms = p * (log_p - log_q)
    if form == "generalised":
        terms = terms - p + q
    losses = terms.sum(-1)
    if form == "bucketed" and len(token_ids) < student_logits.shape[-1]:
        rest_p, rest_q = (_log_rest(_precise(one), token_ids) for one in (student_logits, teacher_logits))
        losses = losses + rest_p.exp() * (rest_p - rest_q)
    return losses


def full_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, response_mask: Tensor, reduction: Reduction = "answers"
) -> Tensor:
    """Reverse KL over the whole vocabulary: ordinary distillation, the baseline. See `partial_reverse_kl`."""
    _check(student_logits, teacher_logits, response_mask)
    log_p = torch.log_softmax(_precise(student_logits), -1)
    log_q = torch.log_softmax(_precise(teacher_logits.detach()), -1)
    return reduce_positions((log_p.exp() * (log_p - log_q)).sum(-1), response_mask, reduction)


def log_probabilities(logits: Tensor, token_ids: Tensor) -> Tensor:
    """ln p of the tokens [..., positions, K], normalised over the full vocabulary; only these columns are made."""
    found: Tensor = _LogProbabilities.apply(_precise(logits), token_ids)
    return found


class _LogProbabilities(torch.autograd.Function):
    """z[S] - logsumexp(z); the gradient needs one buffer of the vocabulary, where separate steps would need four."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, token_ids: Tensor) -> Tensor:
        normaliser = logits.logsumexp(-1, keepdim=True)
        ctx.save_for_backward(logits, normaliser, token_ids)
        return logits.index_select(-1, token_ids) - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, normaliser, token_ids = ctx.saved_tensors
        on_logits = (logits - normaliser).exp_().mul_(-gradient.sum(-1, keepdim=True))
        return on_logits.index_add_(-1, token_ids, gradient), None


def reduce_positions(losses: Tensor, response_mask: Tensor, reduction: Reduction) -> Tensor:
    """Position losses [..., positions] by the length rule: mean over an answer's positions first, then over answers.

    A row without a masked position is no answer: it adds nothing and is not counted.
    """
    mask = response_mask != 0
    # Where, not a product: a padding position may hold an infinite value.
    losses = torch.where(mask, losses, torch.zeros((), dtype=losses.dtype, device=losses.device))
    if reduction == "none":
        return losses
    lengths = mask.sum(-1)
    means = losses.sum(-1) / lengths.clamp(min=1)
    if reduction == "sum":
        return means.sum()
    return means.sum() / (lengths > 0).sum().clamp(min=1)


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _log_rest(logits: Tensor, token_ids: Tensor) -> Tensor:
    """ln of the probability of everything outside the set [..., positions]."""
    outside = logits.index_fill(-1, token_ids, float("-inf"))
    return outside.logsumexp(-1) - logits.logsumexp(-1)


def _check(student: Tensor, teacher: Tensor, mask: Tensor) -> None:
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(f"the student has {student.shape[-1]} columns of logits, the teacher {teacher.shape[-1]}")
    if student.shape != teacher.shape or student.shape[:-1] != mask.shape:
        raise ValueError(
            f"student logits {tuple(student.shape)}, teacher logits {tuple(teacher.shape)}, mask {tuple(mask.shape)}: "
            "expected [..., positions, vocabulary] twice and [..., positions]"
        )


def _check_tokens(token_ids: Tensor, vocabulary: int) -> None:
    if token_ids.ndim != 1 or len(token_ids) == 0:
        raise ValueError("token_ids: expected a list of at least one id; the token set is empty")
    if token_ids.device.type == "cpu" and not 0 <= int(token_ids.min()) <= int(token_ids.max()) < vocabulary:
        raise ValueError(f"token_ids: ids must lie in 0 ... {vocabulary - 1}")
