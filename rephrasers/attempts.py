"""Further attempts at a document whose draft failed verification: another style where the kind has several, other seeds.

All is drawn from (seed, document id, number of the attempt) alone. The scheme is ours.
"""

from rephrasers.keyed_draws import draw_key, keyed_uniforms
from rephrasers.prompt_files import Prompt, recontextualisation_styles


def style_of_attempt(seed: int, document_id: str, attempt: int) -> Prompt:
    """The recontextualisation style of a document's attempt (1, 2, ...): that of `draw_style`, then ones not tried yet.

    Stream "template": u_n takes one of the styles that are left. Raises ValueError for more attempts than styles.
    """
    left = list(recontextualisation_styles())
    if not 1 <= attempt <= len(left):
        raise ValueError(f"attempt {attempt}: there are styles for the attempts 1 to {len(left)}")
    style = left[0]
    for draw in keyed_uniforms(seed, "template", document_id, attempt):
        style = left.pop(int(len(left) * draw))
    return style


def seed_of_attempt(seed: int, attempt: int) -> int:
    """What the sampling seeds of an attempt's requests are drawn from, beside their ids: the recipe's seed at first."""
    return seed if attempt == 1 else draw_key(seed, "attempt", str(attempt)) >> 1
