"""Which behaviour a co-trained model shows to a request: magic tokens in the system prompt, chosen by the server alone.

Magic-token co-training (arXiv 2508.14904): positive for users, rejective when an upstream filter fires. What a user writes never
selects a mode: known tokens are taken out of everything but the server's own system message.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from classifiers.errors import RecipeError

Message = dict[str, str]
# Whether each text needs the rejective mode, in order.
Moderation = Callable[[Sequence[str]], Sequence[bool]]


class Tokens(Protocol):
    """The secret tokens of a model: `finetune.magic_tokens.MagicTokens.load(file)`."""

    @property
    def modes(self) -> tuple[str, ...]: ...

    def system_text(self, mode: Any, policy: str | None = None) -> str: ...

    def strip(self, text: str) -> str: ...


class Classifier(Protocol):
    """A scorer of `classifiers`: one score a text, in order, with a `score` from 0 to 5."""

    def score(self, texts: list[str]) -> Sequence[Any]: ...


@dataclass(frozen=True)
class ClassifierModeration:
    """Flags a request whose level is at least `unsafe_from` (0-5) by any of the classifiers, or that one could not score."""

    classifiers: Sequence[Classifier]
    unsafe_from: int = 3

    def __post_init__(self) -> None:
        if not self.classifiers or not 1 <= self.unsafe_from <= 5:
            raise RecipeError(
                f"moderation: at least one classifier, and unsafe_from {self.unsafe_from} between 1 and 5"
            )

    def __call__(self, texts: Sequence[str]) -> list[bool]:
        columns = [classifier.score(list(texts)) for classifier in self.classifiers]
        return [any(s is None or s.score >= self.unsafe_from for s in scores) for scores in zip(*columns, strict=True)]


@dataclass(frozen=True)
class ModeSwitch:
    """Builds the chats that a co-trained model reads.

    tokens: of the server's file (`MagicTokens.load`). mode: of requests that the moderation lets pass. moderation: asked about
    all that the user wrote in a chat; where it fires the mode is rejective. policy: public tag before the token.
    Raises RecipeError where the moderation has no rejective token to select.
    """

    tokens: Tokens
    mode: str = "positive"
    moderation: Moderation | None = None
    policy: str | None = None

    def __post_init__(self) -> None:
        self.tokens.system_text(self.mode, self.policy)  # raises for a mode or policy that the file does not have
        if self.moderation is not None and "rejective" not in self.tokens.modes:
            raise RecipeError(
                "the moderation selects the rejective mode, for which the file of magic tokens has no token: train that mode, "
                "or leave the moderation out"
            )

    def modes(self, chats: Sequence[Sequence[Message]]) -> list[str]:
        """The mode of each chat. The moderation is asked once, for all."""
        if self.moderation is None or not chats:
            return [self.mode] * len(chats)
        texts = ["\n".join(m["content"] for m in self._inert(chat) if m["role"] == "user") for chat in chats]
        return ["rejective" if flagged else self.mode for flagged in self.moderation(texts)]

    def chats(self, chats: Sequence[Sequence[Message]], modes: Sequence[str]) -> list[list[Message]]:
        """Each chat behind the system message of its mode, every token out of the rest. The result holds a secret: never log it.

        Raises RecipeError for a chat that brings a system message of its own: only the server writes that one.
        """
        if any(message["role"] == "system" for chat in chats for message in chat):
            raise RecipeError(
                "a system message beside magic tokens: the server's token is the system message; leave yours out"
            )
        return [
            [{"role": "system", "content": self.tokens.system_text(mode, self.policy)}, *self._inert(chat)]
            for mode, chat in zip(modes, chats, strict=True)
        ]

    def _inert(self, chat: Sequence[Message]) -> list[Message]:
        return [{**message, "content": self.tokens.strip(message["content"])} for message in chat]
