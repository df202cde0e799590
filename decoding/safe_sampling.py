"""Sampling with Safe Beam's filter: of the candidates drawn, the riskiest are discarded, then the first that is left is taken."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifiers.errors import ModelError
from decoding.candidate_filter import discard_riskiest, top_candidates
from decoding.safe_options import FilterOptions, SafeOutput
from decoding.safe_step import SafeStep
from decoding.token_draws import draw_scores, gumbel_noise, prompt_generator

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class _Sample:
    prompt: int
    generator: Any
    tokens: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    risks: list[float] = field(default_factory=list)


def safe_sample(
    model: Any,
    input_ids: "Tensor",
    tag_token_id: int,
    candidates_per_beam: int,
    max_new_tokens: int,
    attention_mask: "Tensor | None" = None,
    num_return_sequences: int = 1,
    **options: Any,
) -> SafeOutput:
    """Samples of prompts [batch, length], padded on the left where `attention_mask` is 0.

    Each step: `candidates_per_beam` tokens are drawn one after the other without replacement from the tempered distribution,
    the `discard_fraction` of them with the highest risk goes, and the first drawn of the rest is the next token. With fraction 0
    this is ordinary sampling, exactly. log_probs are those of the model, not tempered. A prompt's samples depend on the seed and
    its ids, not on the batch. options: `decoding.safe_options.FilterOptions`. Raises as `safe_beam_search` does. Ours.
    """
    import torch

    chosen = FilterOptions(candidates_per_beam=candidates_per_beam, max_new_tokens=max_new_tokens, **options)
    with torch.no_grad():
        repeats = torch.arange(len(input_ids)).repeat_interleave(num_return_sequences)
        mask = None if attention_mask is None else attention_mask[repeats]
        step = SafeStep(model, input_ids[repeats], mask, tag_token_id, chosen)
        samples = []
        for row in range(len(repeats)):
            ids = step.prompt_ids(row) if mask is None else step.prompt_ids(row)[-int(mask[row].sum()) :]
            samples.append(_Sample(row, prompt_generator(chosen.seed, ids, row % num_return_sequences)))
        active = samples
        for _ in range(max_new_tokens):
            active = _advance(step, active, chosen)
            if not active:
                break
    return step.output([(s.prompt, (s.tokens, s.log_prob, s.risks), s.log_prob) for s in samples])


def _advance(step: SafeStep, active: list[_Sample], options: FilterOptions) -> list[_Sample]:
    """One token for every sample; those that go on."""
    import numpy as np

    scores_rv = step.scores([s.prompt for s in active], [s.tokens for s in active])
    noise = np.concatenate([gumbel_noise(s.generator, 1, scores_rv.shape[-1]) for s in active])
    drawn_rv = draw_scores(scores_rv, noise, options.temperature, options.top_p)
    ids_rn = top_candidates(drawn_rv, min(options.candidates_per_beam, drawn_rv.shape[-1]))
    risks = step.look_ahead(ids_rn)
    log_probs, possible = scores_rv.gather(-1, ids_rn).tolist(), drawn_rv.gather(-1, ids_rn).isfinite().sum(-1).tolist()
    columns = []
    for row, sample in enumerate(active):
        count = possible[row]  # banned tokens come last
        if count == 0:
            raise ModelError(f"prompt {sample.prompt}: a logits processor or min_new_tokens rules out every token")
        kept = discard_riskiest(risks[row][:count], log_probs[row][:count], options.discard_fraction)
        column = kept[0]
        columns.append(column)
        sample.tokens.append(int(ids_rn[row, column]))
        sample.log_prob += log_probs[row][column]
        sample.risks.append(risks[row][column])
        if options.on_agreed is not None:
            options.on_agreed(sample.prompt, list(sample.tokens))
    ended = step.ended([s.prompt for s in active], [s.tokens for s in active])
    stay = [row for row, end in enumerate(ended) if not end]
    if stay:
        step.keep(stay, [columns[row] for row in stay], [active[row].risks[-1] for row in stay])
    return [active[row] for row in stay]
