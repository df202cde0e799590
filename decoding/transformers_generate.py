"""Safe decoding through transformers: `model.generate(..., custom_generate=safe_generate, tag_token_id=...)`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from classifiers.errors import RecipeError
from decoding.candidate_forward import LookAhead
from decoding.safe_beam import safe_beam_search
from decoding.safe_options import Risk, SafeOutput
from decoding.safe_sampling import safe_sample

if TYPE_CHECKING:
    from torch import Tensor


def safe_generate(
    model: Any,
    input_ids: "Tensor",
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    tag_token_id: int,
    candidates_per_beam: int = 8,
    discard_fraction: float = 0.5,
    risk: Risk = "raw",
    word_start_ids: Sequence[int] | None = None,
    refill: bool = False,
    look_ahead: LookAhead = "auto",
    seed: int = 0,
    token_streamer: Any = None,
    **model_kwargs: Any,
) -> "Tensor | SafeOutput":
    """What `generate` calls. From the generation config it takes num_beams, num_return_sequences, lengths, length_penalty,
    early_stopping, end and padding ids; its own defaults hold (length_penalty 1, early_stopping False).

    do_sample with one beam: `safe_sample`; with several: beams whose candidates are drawn. Returns the ids, or with
    return_dict_in_generate a `SafeOutput`. token_streamer: one of transformers' streamers, for a single prompt; gets it, then what
    is certain of the answer, and the end. (`generate` keeps its own `streamer` from a function.) Raises as `safe_beam_search` does,
    and RecipeError for a streamer of several answers.
    """
    config = generation_config
    copies = max(config.num_beams, config.num_return_sequences)  # generate repeats each prompt so often
    prompts, mask = input_ids[::copies], model_kwargs.get("attention_mask")
    agreed: list[int] = []
    if token_streamer is not None:
        if len(input_ids) > copies or config.num_return_sequences > 1:
            raise RecipeError("token_streamer: it takes one answer to one prompt; leave it out for several")
        token_streamer.put(prompts.cpu())

    def on_agreed(prompt: int, ids: list[int]) -> None:
        for token in ids[len(agreed) :]:
            agreed.append(token)
            token_streamer.put(prompts.new_tensor([token]).cpu())

    ends = config.eos_token_id
    options: dict[str, Any] = {
        "candidates_per_beam": candidates_per_beam,
        "discard_fraction": discard_fraction,
        "risk": risk,
        "word_start_ids": word_start_ids,
        "look_ahead": look_ahead,
        "seed": seed,
        "max_new_tokens": config.max_length - input_ids.shape[1],
        "attention_mask": None if mask is None else mask[::copies],
        "eos_token_ids": ends if ends is None or isinstance(ends, list) else [ends],
        "pad_token_id": config.pad_token_id,
        "logits_processor": logits_processor,
        "stopping_criteria": stopping_criteria,
        "num_return_sequences": config.num_return_sequences,
        "on_agreed": None if token_streamer is None else on_agreed,
    }
    if config.do_sample and config.num_beams == 1:
        found = safe_sample(model, prompts, tag_token_id, **options)
    else:
        found = safe_beam_search(
            model, prompts, tag_token_id, config.num_beams, refill=refill, length_penalty=config.length_penalty or 0.0,
            early_stopping=config.early_stopping or False, candidates="sampled" if config.do_sample else "top", **options,
        )  # fmt: skip
    if token_streamer is not None:
        # What hypotheses did not agree on until the end.
        on_agreed(0, found.sequences[0, input_ids.shape[1] :][: int(found.lengths[0])].tolist())
        token_streamer.end()
    return found if config.return_dict_in_generate else found.sequences
