"""Which prompts go into one batch."""

from collections.abc import Sequence


def length_sorted_batches(lengths: Sequence[int], new_tokens: int, batch_tokens: int, max_rows: int) -> list[list[int]]:
    """Indices of the prompts of each batch: every prompt once, those of similar length together, the longest first.

    rows x (longest prompt + new_tokens) <= batch_tokens, unless one row alone is over; at most `max_rows` rows. The longest
    come first, so that memory that does not suffice shows at once.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and len(batches[-1]) < max_rows and (len(batches[-1]) + 1) * (longest + new_tokens) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches
