"""What a classifier must beat: a list of swear words, a small profanity model, and the source of a text alone."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from classifiers.errors import DependencyError, ModelError
from classifiers.training.labels import LabelledText

PROFANITY_FILE = Path(__file__).parent.parent / "data" / "profanity.yaml"
# A profanity checker says yes or no. Yes counts as the level at which the ensemble calls a text unsafe beyond doubt.
PROFANE_LEVEL, _NO_PROFANITY = 3, 0
_PROFANE_PROBABILITY = 0.5
_ALT_PROFANITY_SCRIPT = Path(__file__).parent / "alt_profanity_process.py"
_ALT_PROFANITY_SECONDS = 600


@cache
def _profanity_patterns() -> tuple[tuple[int, re.Pattern[str]], ...]:
    words: dict[int, list[str]] = yaml.safe_load(PROFANITY_FILE.read_text(encoding="utf-8"))
    return tuple(
        (level, re.compile(rf"\b(?:{'|'.join(map(re.escape, words[level]))})\b", re.IGNORECASE))
        for level in sorted(words, reverse=True)
    )


def profanity_list_levels(texts: Sequence[str]) -> list[int]:
    """The highest level of the swear words in each text, 0 where there is none."""
    return [
        next((level for level, pattern in _profanity_patterns() if pattern.search(text)), _NO_PROFANITY)
        for text in texts
    ]


def alt_profanity_levels(texts: Sequence[str]) -> list[int]:
    """Level 3 for each text that alt-profanity-check calls profane, else 0; asked in a process of its own.

    Raises DependencyError where the package is not installed, ModelError where it fails (its pickles fit one version of
    scikit-learn).
    """
    if importlib.util.find_spec("profanity_check") is None:
        raise DependencyError("alt-profanity-check is not installed: pip install alt-profanity-check")
    # -I: neither the working directory nor PYTHONPATH; the environment is cut down to what finds and loads libraries
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    command = [sys.executable, "-I", str(_ALT_PROFANITY_SCRIPT)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(list(texts)),
            capture_output=True,
            text=True,
            env=environment,
            timeout=_ALT_PROFANITY_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"alt-profanity-check did not answer within {_ALT_PROFANITY_SECONDS} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"alt-profanity-check failed ({last}); install the release that fits your scikit-learn")
    return [PROFANE_LEVEL if p >= _PROFANE_PROBABILITY else _NO_PROFANITY for p in json.loads(done.stdout)]


def upper_median(levels: Sequence[int]) -> int:
    """The highest level that at least half of the levels reach: at every boundary the vote of the majority, a tie counts as
    unsafe. Raises ValueError without any."""
    if not levels:
        raise ValueError("no levels: there is no median")
    return sorted(levels)[len(levels) // 2]


def source_levels(rows: Sequence[LabelledText], training: Sequence[LabelledText] | None) -> list[int]:
    """What one can say who knows the source of a text and nothing of its words: the upper median of that source.

    Of the `training` rows; where there are none (None), of the other rows of the same source (leave one out). A source
    without further rows gets the median of all.
    """
    known: dict[str, list[int]] = defaultdict(list)
    everything: list[int] = []
    for row in rows if training is None else training:
        known[row.source].append(row.score)
        everything.append(row.score)
    levels = []
    for row in rows:
        candidates = [list(known.get(row.source, ())), list(everything)]
        if training is None:
            for others in candidates:
                others.remove(row.score)
        levels.append(upper_median(candidates[0] or candidates[1]))
    return levels
