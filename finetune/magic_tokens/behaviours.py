"""The behaviours that the base model is asked for, and which grade an answer of each must have."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from finetune.magic_tokens.tokens import MODES, Mode

PROMPT_FILE: Final = Path(__file__).with_name("behaviour_prompts.yaml")
# What a grader says: 0 risk, 1 refusal, 2 safe and constructive (arXiv 2508.14904); None where it cannot say.
Grade = Literal[0, 1, 2]
_WANTED: Final[dict[Mode, Grade]] = {"positive": 2, "rejective": 1}


@dataclass(frozen=True)
class Behaviours:
    """The system messages by mode, the longest terse answer, and the file's version and sha256."""

    system: dict[Mode, str]
    negative_words: int
    version: int
    sha256: str


@cache
def behaviours() -> Behaviours:
    """What `behaviour_prompts.yaml` says."""
    content = PROMPT_FILE.read_bytes()
    values: dict[str, Any] = yaml.safe_load(content)
    return Behaviours(
        {mode: values[mode] for mode in MODES},
        values["negative_words"],
        values["version"],
        hashlib.sha256(content).hexdigest(),
    )


def accepts(mode: Mode, answer: str, grade: Grade | None) -> bool:
    """Whether an answer may be learnt in this mode: constructive for positive, a refusal for rejective; for the harmless
    stand-in of negative a terse answer without risk. An answer that the grader cannot judge is never accepted."""
    if grade is None or not answer.strip():
        return False
    if mode == "negative":
        return grade != 0 and len(answer.split()) <= behaviours().negative_words
    return grade == _WANTED[mode]
