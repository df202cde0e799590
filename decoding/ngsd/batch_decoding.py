"""Decodes one batch: the base drafts, the expert reads the drafts in one pass, the gate decides token by token.

Between two passes of the expert the base drafts its own choices into a queue. `_settle` lets the expert read the queue,
walks it in order through gate and fusion, and takes back in both caches what came after a changed token. With a queue of
one token this is the plain method: one pass each per token. Whatever the length of the queue, a row's tokens and trace
are those of the plain method, up to rounding.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from classifiers.errors import ModelError
from decoding.ngsd.cached_model import CachedModel
from decoding.ngsd.chat import ChatModel
from decoding.ngsd.fusion import (
    change_chance,
    deciding_margin,
    disagreement,
    fused_choice,
    margin,
    probabilities,
    undecided,
)
from decoding.ngsd.settings import NgsdSettings
from decoding.ngsd.trace import TokenTrace, Work
from decoding.prompt_encoding import left_padded

# Rows leave when this share of the batch is done: each removal copies two caches.
LEAVING_SHARE = 0.125

# Index of the row in the batch, and its new token.
OnToken = Callable[[int, TokenTrace], None]


@dataclass
class Decoded:
    """A row's answer while it grows. `ended_by` None: not yet."""

    trace: list[TokenTrace] = field(default_factory=list)
    ended_by: str | None = None
    stop_reason: str | None = None
    cap: int | None = None


class BatchDecoding:
    """One batch. base_ids, expert_ids: prompts, row by row; strengths [rows]; `queue_length` and `max_undecided` as in Deferral."""

    def __init__(
        self,
        base: ChatModel,
        expert: ChatModel,
        vocabulary_size: int,
        base_ids: Sequence[Sequence[int]],
        expert_ids: Sequence[Sequence[int]],
        strengths: Sequence[float],
        settings: NgsdSettings,
        queue_length: int,
        max_undecided: int,
        on_token: OnToken | None = None,
    ) -> None:
        import torch

        self._settings, self._on_token, self._tokenizer = settings, on_token, base.tokenizer
        self._queue_length, self._max_undecided = queue_length, max_undecided
        self._base, self._expert = (CachedModel(side.model, vocabulary_size) for side in (base, expert))
        self._end_ids, self._tag_id = base.end_ids() | expert.end_ids(), base.tag_id()
        self._ends, pad_id = torch.tensor(sorted(self._end_ids)), min(self._end_ids)
        self._base_mask: Any  # None: all of the input counts
        self._base_input, self._base_mask = left_padded(base_ids, pad_id)
        # What the expert has not read yet: the prompt, later the last settled token.
        self._pending, self._pending_mask = left_padded(expert_ids, pad_id)
        self._strengths = torch.tensor(strengths, dtype=torch.float64)
        self._margins = torch.tensor([deciding_margin(strength) for strength in strengths], dtype=torch.float64)
        self._gate_state = settings.gate.initial(len(strengths))
        self._rows = torch.arange(len(strengths))
        self._alive = torch.ones(len(strengths), dtype=torch.bool)
        self._expert_cost = expert.model.num_parameters() / base.model.num_parameters()
        self._forget_queue()
        self._decoded = [Decoded() for _ in strengths]
        self._rolled_back = 0

    def _forget_queue(self) -> None:
        import torch

        rows = len(self._rows)
        self._queue: list[tuple[Any, Any]] = []  # (base distribution [rows, vocabulary], its choice [rows])
        self._undecided = torch.zeros(rows, dtype=torch.long)
        # Chance that a waiting token changes, and expected number of drafts that this makes vain.
        self._risk, self._waste = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)

    def run(self) -> tuple[list[Decoded], Work]:
        """The answers of all rows, in order. Raises ModelError where a model gives logits that are no numbers."""
        import torch

        started = time.perf_counter()
        with torch.inference_mode():
            while bool(self._alive.any()):
                self._draft()
                if self._must_settle():
                    self._settle()
                    self._let_rows_leave()
        base, expert = self._base, self._expert
        fusion = time.perf_counter() - started - base.seconds - expert.seconds
        work = Work(
            base.passes, expert.passes, base.tokens, expert.tokens, self._rolled_back, base.seconds, expert.seconds, fusion
        )  # fmt: skip
        return self._decoded, work

    def _draft(self) -> None:
        """One pass of the base; its choice joins the queue."""
        logits = self._base.feed(self._base_input, self._base_mask)[:, 0]
        distribution, choice = probabilities(logits), logits.argmax(-1)
        self._queue.append((distribution, choice.cpu()))
        self._base_input, self._base_mask = choice[:, None], None
        if self._queue_length > 1:
            margins = margin(distribution).double().cpu()
            self._undecided += undecided(margins, self._margins)
            self._waste += self._risk
            self._risk += change_chance(margins, self._margins)

    def _must_settle(self) -> bool:
        import torch

        waiting, alive = len(self._queue), self._alive
        allowed = self._max_undecided if self._base.can_take_back and self._expert.can_take_back else 0
        if waiting >= self._queue_length or int(self._undecided[alive].max()) > allowed:
            return True
        if bool(torch.isin(self._queue[-1][1], self._ends)[alive].any()):
            return True
        # One more draft is vain with the chance `risk`. It pays while that is below the mean cost of the tokens so far:
        # (a pass of the expert + the waste) / waiting, in passes of the base.
        if float((self._risk * waiting - self._waste)[alive].mean()) >= self._expert_cost:
            return True
        longest = max(len(self._decoded[row].trace) for row in self._rows[alive].tolist())
        return longest + waiting >= self._settings.max_new_tokens

    def _settle(self) -> None:
        """The expert reads the queue; gate and fusion go through it; what follows a changed or last token is taken back."""
        import torch

        waiting = len(self._queue)
        drafts = torch.stack([choice for _, choice in self._queue], dim=1)
        base_btv = torch.stack([distribution for distribution, _ in self._queue], dim=1)
        mask = torch.cat([self._pending_mask, torch.ones_like(drafts[:, 1:])], dim=1)
        logits = self._expert.feed(torch.cat([self._pending, drafts[:, :-1]], dim=1), mask, keep=waiting)
        expert_btv = probabilities(logits.to(base_btv.device))
        currents = disagreement(base_btv, expert_btv).double().cpu()
        if bool(torch.isnan(currents[self._alive]).any()):
            raise ModelError("base or expert gives logits that are no numbers: load them in bfloat16 or float32")
        walking, settled, last = self._alive.clone(), torch.zeros(len(drafts), dtype=torch.long), drafts[:, -1].clone()
        for place in range(waiting):
            state, potential, fired = self._settings.gate.step(self._gate_state, currents[:, place])
            self._gate_state = torch.where(walking[:, None], state, self._gate_state)
            tokens = drafts[:, place].clone()
            opened = (fired & walking).nonzero()[:, 0]
            if len(opened):
                there = opened.to(base_btv.device)
                tokens[opened] = fused_choice(
                    base_btv[there, place], expert_btv[there, place], self._strengths[opened].to(there.device),
                    self._settings.candidates, tokens[opened].to(there.device),
                ).cpu()  # fmt: skip
            columns = (tokens, drafts[:, place], currents[:, place], potential, fired)
            self._record(walking, [column.tolist() for column in columns])
            settled, last = settled + walking, torch.where(walking, tokens, last)
            walking = walking & self._alive & (tokens == drafts[:, place])
        self._take_back(waiting - settled)
        self._forget_queue()
        self._pending, self._pending_mask = last[:, None], torch.ones_like(last[:, None])
        self._base_input, self._base_mask = last[:, None], None

    def _record(self, walking: Any, columns: list[list[Any]]) -> None:
        """Adds a token to each walking row, and finds out which rows it ends."""
        for place in walking.nonzero()[:, 0].tolist():
            row = int(self._rows[place])
            step = TokenTrace(*(column[place] for column in columns))
            decoded = self._decoded[row]
            decoded.trace.append(step)
            if self._on_token is not None:
                self._on_token(row, step)
            decoded.ended_by = self._ending(decoded, step.token, float(self._strengths[place]))
            self._alive[place] = decoded.ended_by is None

    def _ending(self, decoded: Decoded, token: int, strength: float) -> str | None:
        if token in self._end_ids:
            return "tag" if token == self._tag_id else "end"
        rule, length = self._settings.early_stop, len(decoded.trace)
        if rule is not None and strength >= rule.minimum_strength:
            if decoded.cap is None and rule.checks_at(length):
                tail = [step.token for step in decoded.trace[-rule.tail_tokens :]]
                decoded.stop_reason = rule.trigger(self._tokenizer.decode(tail))
                decoded.cap = None if decoded.stop_reason is None else length + rule.grace_tokens
            if decoded.cap is not None and length >= decoded.cap and rule.ends_at(self._tokenizer.decode([token])):
                return "stop rule"
        return "length" if length >= self._settings.max_new_tokens else None

    def _take_back(self, counts: Any) -> None:
        """In both caches, `counts` [rows] of the last drafts. Rows that are done take back as many as any, so as not to
        keep the others' tokens from being cut off."""
        import torch

        if not bool(self._alive.any()):
            return
        counts = torch.where(self._alive, counts, counts[self._alive].max())
        if bool(counts.any()):
            self._rolled_back += int(counts[self._alive].sum())
            self._base.take_back(counts)
            self._expert.take_back(counts)

    def _let_rows_leave(self) -> None:
        share = 1 - float(self._alive.float().mean())
        if not LEAVING_SHARE <= share < 1:
            return
        stay = self._alive.nonzero()[:, 0]
        self._base.keep_rows(stay)
        self._expert.keep_rows(stay)
        for name in (
            "_base_input", "_pending", "_pending_mask", "_strengths", "_margins", "_gate_state", "_rows", "_alive",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[stay])
        self._forget_queue()
