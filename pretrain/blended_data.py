"""The data of a run: its i-th training sample, where that carries loss, what it counts as, and a fingerprint of all."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pretrain.blend_file import load_blend, source_weights
from pretrain.data_settings import DataStage, LossMaskSettings
from pretrain.levels import UNKNOWN_LEVEL, level_name
from pretrain.loss_mask import loss_mask
from pretrain.source_samples import SourceSamples
from pretrain.stages import stage_samples, staged_blend
from pretrain.tokenizer_check import check_corpus_tokenizer, check_model_tokenizer

if TYPE_CHECKING:
    from pretrain.recipe import PretrainRecipe

_REPETITION: Final = " repetition"


class BlendedData:
    """Sample `i` of the run, for `i` below `samples`.

    `stages` defaults to the weights of the blend file for the whole run. Raises `PretrainDataError` for files that do not
    fit the blend file, weights that do not fit its sources, and stages that do not fit the run.
    """

    def __init__(
        self,
        path: Path,
        sequence_length: int,
        samples: int,
        seed: int,
        stages: Sequence[DataStage] = (),
        mask: LossMaskSettings | None = None,
        model_tokenizer: Path | None = None,
    ) -> None:
        self.blend = load_blend(path)
        self._path, self._sequence_length, self._seed = path, sequence_length, seed
        self._mask = mask or LossMaskSettings()
        check_corpus_tokenizer(path, self.blend)
        if model_tokenizer is not None:
            check_model_tokenizer(model_tokenizer, path, self.blend)
        self._stages = list(stages)
        self._weights = [source_weights(path, self.blend, stage.weights) for stage in stages] or [
            source_weights(path, self.blend, None)
        ]
        counts = stage_samples(stages, sequence_length, samples) if stages else [samples]
        self._source_of, self._number_of, wanted = staged_blend(self._weights, counts)
        # Sources that no stage reads are not opened: they may be empty, or too short for a sample.
        self._sources = [
            SourceSamples(path.parent, source, self.blend, sequence_length, number, seed) if number else None
            for source, number in zip(self.blend.sources, wanted, strict=True)
        ]

    @classmethod
    def of_recipe(cls, recipe: "PretrainRecipe", samples: int) -> Self:
        """The data that a recipe asks for, laid out for `samples` or the recipe's `data_samples`, whichever is more."""
        return cls(
            recipe.data,
            recipe.seq_length,
            max(samples, recipe.data_samples or 0),
            recipe.seed,
            recipe.data_stages(),
            recipe.loss_mask,
            recipe.tokenizer,
        )

    def tokens(self, sample: int) -> NDArray[np.int64]:
        """Token ids int64 [sequence_length + 1]: the first are the inputs, shifted by one the labels."""
        return self._opened(int(self._source_of[sample])).tokens(int(self._number_of[sample]))

    def loss_mask(self, sample: int) -> NDArray[np.float32]:
        """float32 [sequence_length]: 1.0 where the label counts. Not normalised."""
        if not self._mask.any:
            return np.ones(self._sequence_length, dtype=np.float32)
        return loss_mask(self.tokens(sample), self._mask, self.blend.tag_token_id, self.blend.end_of_document_id)

    def counts(self, samples: range) -> tuple[dict[str, int], dict[str, int]]:
        """Input tokens of the given samples by source (all of them) and by level ("0" to "5", "unknown"; none that is 0).

        A document's level is the rubric's score of its text. Masked tokens are counted like others.
        """
        sources = self._source_of[samples.start : samples.stop]
        numbers = self._number_of[samples.start : samples.stop]
        by_source: dict[str, int] = {}
        levels = np.zeros(UNKNOWN_LEVEL + 1, dtype=np.int64)
        for which, source in enumerate(self.blend.sources):
            mine = numbers[sources == which]
            by_source[source.name] = len(mine) * self._sequence_length
            if len(mine):
                levels += self._opened(which).level_counts(mine)
        return by_source, {level_name(int(level)): int(levels[level]) for level in np.flatnonzero(levels)}

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What order, content and masks of the samples depend on, as readable `what: value` pairs."""
        facts = {
            "seed": str(self._seed),
            "seq_length": str(self._sequence_length),
            "dtype": self.blend.dtype,
            "vocabulary_size": str(self.blend.vocabulary_size),
            "tokenizer": str(self.blend.tokenizer_sha256),
            "loss_mask": ", ".join(name for name, masked in self._mask if masked) or "none",
        }
        for number, weights in enumerate(self._weights):
            tokens = self._stages[number].tokens if self._stages else None
            facts[f"stage {number + 1}"] = f"{tokens or 'remaining'} tokens: " + ", ".join(
                f"{source.name} {weight!r}" for source, weight in zip(self.blend.sources, weights, strict=True)
            )
        for samples in self._sources:
            if samples is not None:
                plan = samples.plan
                facts[f"{samples.name}{_REPETITION}"] = _describe(plan.epochs, plan.samples_before_last_epoch)
                facts[f"{samples.name} files"] = samples.digest()
        return facts

    def _opened(self, which: int) -> SourceSamples:
        source = self._sources[which]
        if source is None:
            raise AssertionError(f"source {which} is read by no stage")
        return source


def layout_advice(saved: Mapping[str, Any], now: Mapping[str, Any], longer_than_needed: bool) -> str:
    """What to do where two fingerprints differ in nothing but the number of samples that the order is laid out for; empty
    where they differ otherwise, or not at all. `longer_than_needed`: the run's own layout is, by its data_samples."""
    differing = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    if any(key in saved and key in now and not key.endswith(_REPETITION) for key in differing):
        return ""
    changed = [key for key in differing if key.endswith(_REPETITION)]
    before, after = ([_rank(facts.get(key)) for key in changed] for facts in (saved, now))
    if not changed:
        return ""
    if all(first > second for first, second in zip(before, after, strict=True)):
        return (
            "The first part was laid out for more samples, which is another order: set data_samples to what it had (where it "
            "had none, to its train_iters x global_batch_size)."
        )
    if longer_than_needed:
        return (
            "data_samples lays the data out for more samples than the first part, which is another order: set data_samples to "
            "what the first part had, or leave it out where it had none."
        )
    return (
        "The longer run repeats its sources more often, in another order, and what was read cannot be read anew: go on to the "
        "old train_iters only, or begin anew in a new save folder, with load: this folder and finetune: true to keep the "
        "weights. A run that may have to grow needs data_samples from its start."
    )


def _rank(repetition: object) -> tuple[int, bool]:
    """Orders what `_describe` says by the samples laid out for; (0, False) for a source that is not read."""
    match = re.fullmatch(r"(\d{1,9}) epochs(, the last shuffled apart)?", str(repetition))
    return (0, False) if match is None else (int(match[1]), match[2] is None)


def _describe(epochs: int, samples_before_last_epoch: int | None) -> str:
    return f"{epochs} epochs" + ("" if samples_before_last_epoch is None else ", the last shuffled apart")
