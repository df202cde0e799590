"""Safe Beam Search (Safety Pretraining, arXiv 2504.16980): beams without the continuations after which the harmfulness tag is
likeliest. The paper leaves open what happens at an end token, at ties and with the tag itself; see docs/decoding.md."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifiers.errors import ModelError
from decoding.candidate_filter import best_possible_score, discard_riskiest, penalised_score, top_candidates
from decoding.safe_options import SafeBeamOptions, SafeOutput
from decoding.safe_step import SafeStep
from decoding.token_draws import draw_scores, gumbel_noise, prompt_generator

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Hypothesis:
    """`row`, `column`: where the last look-ahead fed its last token; `ended`: no token follows."""

    tokens: tuple[int, ...]
    log_prob: float
    risks: tuple[float, ...]
    row: int = 0
    column: int = 0
    ended: bool = False


@dataclass
class _PromptSearch:
    """The search of one prompt."""

    prompt: int
    options: SafeBeamOptions
    generator: Any
    live: list[_Hypothesis] = field(default_factory=lambda: [_Hypothesis((), 0.0, ())])
    done: list[_Hypothesis] = field(default_factory=list)
    stuck: bool = False  # nothing may follow any live hypothesis
    closed: bool = False  # early stopping: live hypotheses do not count any more

    def survivors(self, candidates: Sequence[_Hypothesis]) -> list[_Hypothesis]:
        """The candidates that are not discarded, the likeliest first; of equal ones the earlier first."""
        self.stuck = not candidates
        if self.stuck:
            return []
        kept = discard_riskiest(
            [c.risks[-1] for c in candidates], [c.log_prob for c in candidates], self.options.discard_fraction
        )
        return sorted((candidates[i] for i in kept), key=lambda c: -c.log_prob)

    def advance(self, survivors: Sequence[_Hypothesis]) -> None:
        """Ended ones of the k best are done. Live: the others of the k best; with `refill`, the k best of all others."""
        if self.stuck:
            return
        best = survivors[: self.options.num_beams]
        self.done += [c for c in best if c.ended]
        pool = survivors if self.options.refill else best
        self.live = [c for c in pool if not c.ended][: self.options.num_beams]

    def over(self) -> bool:
        """Whether no live hypothesis can change the result."""
        options = self.options
        if self.stuck or not self.live:
            return True
        if len(self.done) < options.wanted:
            return False
        first = self.live[0]
        if options.early_stopping is True:
            self.closed = len(first.tokens) < options.max_new_tokens
            return True
        bound = best_possible_score(
            first.log_prob, len(first.tokens), options.max_new_tokens, options.length_penalty, options.early_stopping
        )
        return self._by_score(self.done)[options.wanted - 1][0] >= bound

    def best(self) -> list[tuple[float, _Hypothesis]]:
        """(score, hypothesis), best first. Raises ModelError where there are fewer than asked for."""
        found = self._by_score(self.done + ([] if self.closed else self.live))
        if len(found) < self.options.num_return_sequences or not found[0][1].tokens:
            raise ModelError(
                f"prompt {self.prompt}: only {len(found)} continuations are possible; a logits processor or min_new_tokens "
                "rules out every token"
            )
        return found[: self.options.num_return_sequences]

    def agreed(self) -> list[int]:
        """The ids that every hypothesis which may still win begins with."""
        tokens = [h.tokens for h in self.live] + [h.tokens for _, h in self._by_score(self.done)[:1]]
        same = 0
        while all(len(ids) > same and ids[same] == tokens[0][same] for ids in tokens):
            same += 1
        return list(tokens[0][:same])

    def _by_score(self, hypotheses: Sequence[_Hypothesis]) -> list[tuple[float, _Hypothesis]]:
        penalty = self.options.length_penalty
        # A prompt's empty hypothesis has no length to divide by; it only remains where nothing can follow.
        scored = [(penalised_score(h.log_prob, max(len(h.tokens), 1), penalty), h) for h in hypotheses]
        return sorted(scored, key=lambda pair: -pair[0])


def safe_beam_search(
    model: Any,
    input_ids: "Tensor",
    tag_token_id: int,
    num_beams: int,
    candidates_per_beam: int,
    max_new_tokens: int,
    attention_mask: "Tensor | None" = None,
    **options: Any,
) -> SafeOutput:
    """Safe Beam Search on prompts [batch, length], padded on the left where `attention_mask` is 0.

    Each step: `candidates_per_beam` continuations of each beam, one look-ahead pass over all of them, the `discard_fraction`
    with the highest risk goes, the `num_beams` likeliest of the rest stay. A prompt's result does not depend on the batch, up
    to the rounding of the model's dtype. options: `decoding.safe_options.SafeBeamOptions`.
    Raises RecipeError (options), DataError (empty prompt, right padding, context exceeded), ModelError (tag id, cache).
    """
    import torch

    chosen = SafeBeamOptions(
        num_beams=num_beams, candidates_per_beam=candidates_per_beam, max_new_tokens=max_new_tokens, **options
    )
    with torch.no_grad():
        step = SafeStep(model, input_ids, attention_mask, tag_token_id, chosen)
        searches = [
            _PromptSearch(i, chosen, prompt_generator(chosen.seed, _unpadded(step, attention_mask, i)))
            for i in range(len(input_ids))
        ]
        active = searches
        for _ in range(max_new_tokens):
            active = _advance(step, active, chosen)
            if not active:
                break
    rows = [(search.prompt, score, h) for search in searches for score, h in search.best()]
    return step.output([(prompt, (h.tokens, h.log_prob, h.risks), score) for prompt, score, h in rows])


def _advance(step: SafeStep, active: list[_PromptSearch], options: SafeBeamOptions) -> list[_PromptSearch]:
    """One token for every search; those that go on."""
    beams = [(search, h) for search in active for h in search.live]
    candidates = _candidates(step, beams, active, options)
    survivors = [search.survivors(candidates[search.prompt]) for search in active]
    owners = [search.prompt for search, kept in zip(active, survivors, strict=True) for _ in kept]
    flags = iter(step.ended(owners, [c.tokens for kept in survivors for c in kept]))
    for search, kept in zip(active, survivors, strict=True):
        search.advance([_with_end(c, next(flags)) for c in kept])
        if options.on_agreed is not None:
            options.on_agreed(search.prompt, search.agreed())
    going = [search for search in active if not search.over()]
    live = [h for search in going for h in search.live]
    if live:
        step.keep([h.row for h in live], [h.column for h in live], [h.risks[-1] for h in live])
    return going


def _candidates(
    step: SafeStep,
    beams: Sequence[tuple[_PromptSearch, _Hypothesis]],
    active: Sequence[_PromptSearch],
    options: SafeBeamOptions,
) -> dict[int, list[_Hypothesis]]:
    """{prompt: candidates with their risks}, in the order of the beams, within a beam by falling score."""
    import numpy as np
    import torch

    scores_rv = step.scores([search.prompt for search, _ in beams], [h.tokens for _, h in beams])
    ranking = scores_rv
    if options.candidates == "sampled":
        noise = np.concatenate([gumbel_noise(s.generator, len(s.live), scores_rv.shape[-1]) for s in active])
        ranking = draw_scores(scores_rv, noise, options.temperature, options.top_p)
    ids_rn = top_candidates(ranking, min(options.candidates_per_beam, ranking.shape[-1]))
    sums_rn = scores_rv.gather(-1, ids_rn) + torch.tensor([h.log_prob for _, h in beams]).to(scores_rv)[:, None]
    risks = step.look_ahead(ids_rn)
    possible = ranking.gather(-1, ids_rn).isfinite().tolist()
    found: dict[int, list[_Hypothesis]] = {search.prompt: [] for search in active}
    for row, ((search, h), ids, sums) in enumerate(zip(beams, ids_rn.tolist(), sums_rn.tolist(), strict=True)):
        for column, (token, log_prob) in enumerate(zip(ids, sums, strict=True)):
            if possible[row][column]:
                risk = risks[row][column]
                found[search.prompt].append(_Hypothesis((*h.tokens, token), log_prob, (*h.risks, risk), row, column))
    return found


def _with_end(candidate: _Hypothesis, ended: bool) -> _Hypothesis:
    c = candidate
    return _Hypothesis(c.tokens, c.log_prob, c.risks, c.row, c.column, True) if ended else c


def _unpadded(step: SafeStep, attention_mask: "Tensor | None", prompt: int) -> list[int]:
    ids = step.prompt_ids(prompt)
    return ids if attention_mask is None else ids[-int(attention_mask[prompt].sum()) :]
