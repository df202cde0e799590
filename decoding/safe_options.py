"""The options of safe decoding and what it returns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from classifiers.errors import RecipeError
from decoding.candidate_filter import EarlyStopping, discarded_count
from decoding.candidate_forward import LookAhead

if TYPE_CHECKING:
    from torch import Tensor

Risk = Literal["raw", "boundary"]
# (prompt, ids that every hypothesis of it begins with): they will not change any more.
OnAgreed = Callable[[int, list[int]], None]


def check_length_penalty(length_penalty: float, max_new_tokens: int) -> None:
    """Raises RecipeError where the length^penalty by which a score is divided is too large or too small for a number."""
    try:
        divisor = float(max_new_tokens) ** length_penalty
    except OverflowError:
        divisor = math.inf
    if not math.isfinite(length_penalty) or not 0 < divisor < math.inf:
        raise RecipeError(
            f"length_penalty {length_penalty}: log p / length^penalty is no number for {max_new_tokens} tokens; expected "
            "about -2 to 2"
        )


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """What beam search and sampling share. Raises RecipeError for values that make no sense."""

    max_new_tokens: int
    candidates_per_beam: int = 8  # continuations of a beam that are looked at
    discard_fraction: float = 0.5  # of the candidates, the riskiest; the paper's value; 0 discards none
    risk: Risk = "raw"  # "raw": as published; "boundary": corrected for half-finished words, needs word_start_ids
    word_start_ids: Sequence[int] | None = None  # prompt_checks.word_start_ids(tokenizer)
    risk_token_id: int | None = None  # whose probability is the risk; default: the tag; an ordinary token is a control
    eos_token_ids: Sequence[int] | None = None  # default: the model's
    pad_token_id: int | None = None  # default: the model's, else the first end token
    min_new_tokens: int = 0  # no end token before so many others
    look_ahead: LookAhead = "auto"  # see candidate_forward
    seed: int = 0  # of draws; with the prompt's ids it fixes them, whatever the batch
    temperature: float = 1.0  # of draws
    top_p: float = 1.0  # of draws: only the likeliest tokens that reach this share
    logits_processor: Any = None  # transformers' LogitsProcessorList; gets ids and log-probabilities
    stopping_criteria: Any = None  # transformers' StoppingCriteriaList; a candidate that meets it has ended
    on_agreed: OnAgreed | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.candidates_per_beam < 1:
            raise RecipeError("max_new_tokens and candidates_per_beam: at least 1")
        if not 0.0 <= self.discard_fraction < 1.0:
            raise RecipeError(f"discard_fraction {self.discard_fraction}: a share of at least 0 and below 1")
        if self.risk not in ("raw", "boundary"):
            raise RecipeError(f"risk {self.risk!r}: raw or boundary")
        if self.risk == "boundary" and not self.word_start_ids:
            raise RecipeError(
                'risk "boundary" needs word_start_ids: give decoding.prompt_checks.word_start_ids(tokenizer), and a '
                "tokenizer whose pieces carry the white space before a word"
            )
        if not 0 < self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise RecipeError(
                f"temperature {self.temperature} must be above 0 and finite, top_p {self.top_p} above 0 and at most 1"
            )
        if self.look_ahead not in ("auto", "rows", "tree"):
            raise RecipeError(f"look_ahead {self.look_ahead!r}: auto, rows or tree")


@dataclass(frozen=True, kw_only=True)
class SafeBeamOptions(FilterOptions):
    """Options of `safe_beam_search`."""

    num_beams: int = 4
    candidates: Literal["top", "sampled"] = "top"  # the likeliest, or drawn without replacement
    # False: a hypothesis that ends takes its place among the k of its step, as in the paper's box. True: k live ones go on
    # beside k finished ones, as in transformers.
    refill: bool = False
    length_penalty: float = 0.0  # score = log p / length^penalty; the paper has none
    early_stopping: EarlyStopping = (
        "never"  # True: as soon as enough hypotheses have ended; else see best_possible_score
    )
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_beams < 1 or not 1 <= self.num_return_sequences <= self.num_beams:
            raise RecipeError(
                f"num_beams {self.num_beams}, num_return_sequences {self.num_return_sequences}: expected "
                "1 <= num_return_sequences <= num_beams"
            )
        count = self.candidates_per_beam
        if count - discarded_count(count, self.discard_fraction) < self.num_beams:
            raise RecipeError(
                f"{count} candidates, of which {discarded_count(count, self.discard_fraction)} are discarded, cannot fill "
                f"{self.num_beams} beams at the first step: raise candidates_per_beam (2 * num_beams - 1 at a "
                "discard_fraction of 0.5)"
            )
        if self.candidates not in ("top", "sampled"):
            raise RecipeError(f"candidates {self.candidates!r}: top or sampled")
        check_length_penalty(self.length_penalty, self.max_new_tokens)

    @property
    def wanted(self) -> int:
        """How many finished hypotheses end the search: those asked for, or all beams where finished ones are refilled."""
        return self.num_beams if self.refill else self.num_return_sequences


@dataclass(frozen=True)
class SafeOutput:
    """Rows are prompts, each `num_return_sequences` times, best first. T: the most tokens that a row has generated.

    sequences [rows, prompt + T]: ids, padded behind the end token. scores [rows]: log p / length^penalty. log_probs [rows]: of
    the generated tokens together, natural logarithm. lengths [rows]: generated tokens, the end token included.
    risks [rows, T]: of each generated token, P(tag) after it (before it, for an end token) or its boundary-corrected form; nan
    behind the end.
    """

    sequences: "Tensor"
    scores: "Tensor"
    log_probs: "Tensor"
    lengths: "Tensor"
    risks: "Tensor"
