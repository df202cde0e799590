"""NGSD as a decoder object for `evaluation.run.evaluate(recipe, output, make_decoder=...)`."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from decoding.ngsd.chat import ChatModel
from decoding.ngsd.generation import Rater, generate
from decoding.ngsd.settings import NgsdSettings


class NgsdDecoder:
    """`name`, `identity()` and `generate(prompts) -> texts`, whose prompts are texts as the base reads them.

    Each is taken apart into request and prefilled answer, so that the expert reads it in its own template and the request
    alone is rated. expert_identity, rater_identity: what identifies their weights, part of the kept answers' key.
    `fire_shares`: {hash of a rendered prompt: (share of tokens at which the gate opened, share that was changed)}.
    """

    name = "ngsd"

    def __init__(
        self,
        base: ChatModel,
        expert: ChatModel,
        settings: NgsdSettings,
        expert_identity: dict[str, str],
        system: str | None = None,
        rate: Rater | None = None,
        rater_identity: str = "base",
    ) -> None:
        self._base, self._expert, self._settings, self._system, self._rate = base, expert, settings, system, rate
        self._identity = {
            "decoder": self.name,
            "expert": expert_identity,
            "dtype": str(base.model.dtype).removeprefix("torch."),
            "rater": rater_identity if settings.strength is None else None,
            "gate": type(settings.gate).__name__,
            # An answer that the tag ends shows it; without a tag none does.
            **({"ends_with": base.tag} if base.tag_id() is not None else {}),
            # How the work is batched and deferred changes no answer.
            "settings": {k: v for k, v in asdict(settings).items() if k not in ("deferral", "max_rows")},
        }
        self.fire_shares: dict[str, tuple[float, float]] = {}

    def identity(self) -> dict[str, Any]:
        """All that an answer depends on beside the base's weights."""
        return self._identity

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """The answers, in order. One that the harmfulness tag ended has it at its end, by which evaluations count it apart."""
        chats = [self._base.prompt_of(text, self._system) for text in prompts]
        settings = replace(self._settings, max_rows=max(self._settings.max_rows, len(prompts)))
        answers = generate(self._base, self._expert, chats, settings, self._rate)
        for text, answer in zip(prompts, answers, strict=True):
            self.fire_shares[hashlib.sha256(text.encode()).hexdigest()] = (answer.fire_share(), answer.changed_share())
        tag = self._base.tag or ""
        return [answer.text + tag if answer.ended_by == "tag" else answer.text for answer in answers]
