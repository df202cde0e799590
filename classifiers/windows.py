"""A document as windows of token ids, as long as a model reads at once."""

from typing import Any

from classifiers.chunks import balanced_spans, bounded_text, encodable

MOST_CHARACTERS = 200_000  # of one document; a longer one is sampled evenly
MOST_CHUNKS = 64
LONGEST_WINDOW = (
    8_192  # MiniLM: 512. Against 256, in cross-validation, the same recall at higher precision, for half the chunks
)


class TokenWindows:
    """Cuts texts for one model. `longest`: tokens of a window, with the special ones."""

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self._tokenizer = tokenizer
        self._first, self._last = _special_ids(tokenizer)
        self.longest = min(getattr(config, "max_position_embeddings", 512), tokenizer.model_max_length, LONGEST_WINDOW)

    def all(self, text: str) -> list[list[int]]:
        """Windows of equal size over the whole text. Nothing is dropped up to `MOST_CHARACTERS` and `MOST_CHUNKS`, beyond
        them the document is sampled evenly."""
        ids = self._ids(text)
        spans = balanced_spans(len(ids), self._room(self.longest), MOST_CHUNKS)
        return [self._first + ids[start:end] + self._last for start, end in spans]

    def first(self, text: str, longest: int) -> list[int]:
        """The beginning of the text, at most `longest` tokens."""
        return self._first + self._ids(text)[: self._room(min(longest, self.longest))] + self._last

    def _room(self, longest: int) -> int:
        return longest - len(self._first) - len(self._last)

    def _ids(self, text: str) -> list[int]:
        text = encodable(bounded_text(text, MOST_CHARACTERS))
        # verbose=False: the tokenizer warns of texts over its window, which are cut here.
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return ids


def _special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(index for index in range(len(whole)) if whole[index : index + len(plain)] == plain)
    return whole[:start], whole[start + len(plain) :]
