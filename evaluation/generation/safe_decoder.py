"""Safe Beam Search and sampling with its filter as the decoder of an evaluation: `decoder: {name: safe-beam}` in its recipe."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from classifiers.errors import RecipeError
from evaluation.generation.batches import length_sorted_batches
from evaluation.generation.local_model import LocalModel
from evaluation.generation.settings import GenerationSettings
from rephrasers.harmfulness_tag import HARMFULNESS_TAG


class SafeDecoding(BaseModel):
    """Settings of safe decoding; frozen, unknown keys are errors. Lengths, temperature, top_p and seed: of `generation`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["safe-beam", "safe-sample"] = "safe-beam"
    num_beams: int = Field(4, ge=1, description="of safe-beam")
    candidates_per_beam: int = Field(8, ge=1, description="continuations of a beam that are looked at")
    discard_fraction: float = Field(
        0.5, ge=0.0, lt=1.0, description="of the candidates, the riskiest; the paper's: 0.5"
    )
    risk: Literal["raw", "boundary"] = Field("raw", description="boundary: corrected for half-finished words")
    refill: bool = Field(False, description="of safe-beam: beams that end are replaced")
    length_penalty: float = Field(0.0, description="of safe-beam: score = log p / length^penalty")
    prompts_at_once: int = Field(4, ge=1, description="each with num_beams x candidates_per_beam rows")

    def check(self, generation: GenerationSettings) -> None:
        """Raises RecipeError for settings that no search can have, and for a temperature that does not fit: all that is wrong
        without looking at a model."""
        from decoding.safe_options import FilterOptions, SafeBeamOptions

        if (generation.temperature > 0) != (self.name == "safe-sample"):
            raise RecipeError(
                f"decoder {self.name} and generation.temperature {generation.temperature}: safe-beam takes 0, safe-sample "
                "a temperature above 0"
            )
        shared: dict[str, Any] = {
            "max_new_tokens": generation.max_new_tokens, "candidates_per_beam": self.candidates_per_beam,
            "discard_fraction": self.discard_fraction,
        }  # fmt: skip
        if self.name == "safe-sample":
            FilterOptions(**shared, temperature=generation.temperature, top_p=generation.top_p)
        else:
            SafeBeamOptions(**shared, num_beams=self.num_beams, length_penalty=self.length_penalty)

    def build(self, model: LocalModel) -> "SafeDecoder":
        """The decoder for a loaded model. Raises ModelError without the harmfulness tag, RecipeError as `check`."""
        return SafeDecoder(model, self)


class SafeDecoder:
    """A decoder (`evaluation.generation.answering.Decoder`)."""

    def __init__(self, model: LocalModel, settings: SafeDecoding) -> None:
        from decoding.prompt_checks import check_vocabulary, find_tag_id, word_start_ids

        self.name: str = settings.name
        self._model, self._settings = model, settings
        generation = model.settings
        settings.check(generation)
        check_vocabulary(model.model, model.tokenizer)
        self._tag_id = find_tag_id(model.tokenizer, HARMFULNESS_TAG)
        self._options: dict[str, Any] = {
            "discard_fraction": settings.discard_fraction,
            "risk": settings.risk,
            "word_start_ids": word_start_ids(model.tokenizer) if settings.risk == "boundary" else None,
            "eos_token_ids": sorted(model.end_ids - {self._tag_id}),
        }
        if settings.name == "safe-sample":
            sampling = {"temperature": generation.temperature, "top_p": generation.top_p, "seed": generation.seed}
            self._options |= sampling
        else:
            self._options |= {"refill": settings.refill, "length_penalty": settings.length_penalty}

    def identity(self) -> dict[str, Any]:
        """What of this decoder its answers depend on, beside the weights."""
        return {
            **self._settings.model_dump(exclude={"name", "prompts_at_once"}),
            "decoder": self.name,
            "dtype": str(self._model.model.dtype).removeprefix("torch."),
            **self._model.settings.of_answer(),
        }

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """The answers, in order, without special tokens. Raises DataError for a prompt that is empty or too long."""
        from classifiers.loading import fixed_threads
        from decoding.prompt_encoding import encode_chat

        encoded = [encode_chat(self._model.tokenizer, prompt, HARMFULNESS_TAG) for prompt in prompts]
        new, rows = self._model.settings.max_new_tokens, self._settings.prompts_at_once
        answers: dict[int, str] = {}
        with fixed_threads(self._model.settings.threads):
            for batch in length_sorted_batches(list(map(len, encoded)), new, self._model.settings.batch_tokens, rows):
                answers.update(zip(batch, self._decode([encoded[i] for i in batch]), strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _decode(self, encoded: Sequence[Sequence[int]]) -> list[str]:
        from decoding.prompt_encoding import left_padded
        from decoding.safe_beam import safe_beam_search
        from decoding.safe_sampling import safe_sample

        ids, mask = left_padded(encoded, min(self._model.end_ids))
        settings, new = self._settings, self._model.settings.max_new_tokens
        model, options = self._model.model, {"attention_mask": mask, **self._options}
        if settings.name == "safe-sample":
            found = safe_sample(model, ids, self._tag_id, settings.candidates_per_beam, new, **options)
        else:
            found = safe_beam_search(
                model, ids, self._tag_id, settings.num_beams, settings.candidates_per_beam, new, **options
            )
        # By length: a model's padding id may be an ordinary token, which decoding would show.
        new_ids = [
            row[:length] for row, length in zip(found.sequences[:, ids.shape[1] :], found.lengths.tolist(), strict=True)
        ]
        texts: list[str] = self._model.tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        return texts
