"""Further attempts at a document whose draft failed verification: another style where the kind has several, another seed.

Both are drawn from (seed, document id, number of the attempt) alone. The scheme is ours.
"""

from rephrasers.keyed_draws import draw_key, keyed_uniforms
from rephrasers.prompt_files import Prompt, recontextualisation_styles


def style_of_attempt(seed: int, document_id: str, attempt: int) -> Prompt:
    """The recontextualisation style of a document's attempt (1, 2, ...): that of `draw_style`, then ones not tried yet.

    Stream "template": u_n takes one of the styles that are left. Raises ValueError for more attempts than styles.
    """
    left = list(recontextualisation_styles())
    if not 1 <= attempt <= len(left):
        raise ValueError(f"attempt {attempt} is not one of the {len(left)} that there are styles for")
    style = left[0]
    for draw in keyed_uniforms(seed, "template", document_id, attempt):
        style = left.pop(int(len(left) * draw))
    return style


def seed_of_attempt(seed: int, document_id: str, attempt: int) -> int:
    """The sampling seed of a document's attempt, in [0, 2^31): a server that honours it answers anew each time."""
    return draw_key(seed, f"attempt-{attempt}", document_id) >> 33
