"""When a defended answer may be cut: it has begun to refuse or to degenerate (NGSD's stop rule, without its newline trigger)."""

import re
import unicodedata
from dataclasses import dataclass

_PHRASES = (
    "i cannot", "i can't", "i can not", "i won't", "i will not", "i'm unable", "i am unable", "i'm not able",
    "i'm sorry", "i am sorry", "i apologize", "as an ai",
)  # fmt: skip
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\U0001f1e6-\U0001f1ff]")
_SENTENCE_MARKS = (".", "!", "?")


@dataclass(frozen=True)
class EarlyStop:
    """At lengths of `first` to `last` tokens that are multiples of `every`, the text of the last `tail_tokens` is looked at.

    It triggers on a refusal, three or more spaces at the end, an emoji or a control character. The released code counts
    newlines among the control characters and so cuts lists; newline, tab and carriage return do not trigger here. After a
    trigger the answer ends at the first sentence mark from `grace_tokens` further on. Asked only for strengths from
    `minimum_strength`.
    """

    first: int = 128
    last: int = 256
    every: int = 7
    tail_tokens: int = 64
    grace_tokens: int = 128
    minimum_strength: float = 0.5

    def checks_at(self, length: int) -> bool:
        """Whether an answer of so many tokens is looked at: 133, 140, ... 252 by default."""
        return self.first <= length <= self.last and length % self.every == 0

    def trigger(self, tail: str) -> str | None:
        """Why this text triggers: "refusal", "trailing spaces", "emoji", "control character"; None: it does not."""
        lowered = tail.lower().replace("\u2019", "'")
        if any(phrase in lowered for phrase in _PHRASES):
            return "refusal"
        if tail.endswith("   "):
            return "trailing spaces"
        if _EMOJI.search(tail):
            return "emoji"
        if any(unicodedata.category(letter) == "Cc" and letter not in "\n\t\r" for letter in tail):
            return "control character"
        return None

    def ends_at(self, token_text: str) -> bool:
        """Whether an answer beyond its cap ends with this token."""
        return token_text.rstrip().endswith(_SENTENCE_MARKS)
