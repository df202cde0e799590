"""Cuts documents into pieces that a classifier can read at once, in bounded time whatever the document."""


def bounded_text(text: str, most_characters: int, passages: int = 16) -> str:
    """The text itself, or of a longer one `passages` evenly spaced passages, the first and the last characters included.

    The result has at most `most_characters` characters. A 20 MB document is thus read in samples from everywhere in it
    and not only at its beginning.
    """
    if len(text) <= most_characters:
        return text
    size = most_characters // passages - 1
    starts = [(len(text) - size) * passage // (passages - 1) for passage in range(passages)]
    return "\n".join(text[start : start + size] for start in starts)


def balanced_spans(length: int, window: int, most: int) -> list[tuple[int, int]]:
    """(start, end) of the fewest spans of equal size (up to one) that cover `length` units with at most `window` each.

    Equal sizes, since a short last piece lacks context and its score would decide the maximum over chunks.
    Where more than `most` spans would be needed, `most` of them, evenly chosen. An empty document is one empty span.
    """
    number = max(1, -(-length // window))
    spans = [(length * index // number, length * (index + 1) // number) for index in range(number)]
    if number > most:
        spans = [spans[(number - 1) * index // (most - 1)] for index in range(most)]
    return spans


def encodable(text: str) -> str:
    """The text with NUL as a space and lone surrogates as question marks: what tokenizers written in C++ or Rust accept."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
