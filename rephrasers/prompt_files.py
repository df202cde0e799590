"""The prompts in `prompts/*.yaml`: loading, checking, filling in a document, drawing a style.

A document goes into the frame of `document_frame`, neutralised there; a piece of a long one with a note of
`piece_notes.yaml` that says which piece it is.
"""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from classifiers.errors import DataError, RecipeError
from rephrasers.checks.style import Expectations, read_expectations
from rephrasers.document_frame import FRAME_BEGIN, FRAME_END, fold, holds_control_tokens, neutralise
from rephrasers.keyed_draws import keyed_uniforms

# Whoever makes or reads prompts finds the frame here too.
__all__ = [
    "FRAME_BEGIN", "FRAME_END", "STYLE_NAMES", "Prompt", "draw_style", "fold", "holds_control_tokens", "load_prompt",
    "neutralise", "piece_note", "piece_notes_sha256", "read_prompt", "recontextualisation_styles",
]  # fmt: skip

FOLDER = Path(__file__).with_name("prompts")
PIECE_NOTES = Path(__file__).with_name("piece_notes.yaml")
SOURCE_SLOT, OUTPUT_SLOT = "{source}", "{output}"
KINDS = ("recontextualise", "refuse", "moralise")
# The order is part of the corpus: a draw is an index into it. Seven published kinds, then five of our own.
STYLE_NAMES = (
    "podcast_host", "textbook_chapter", "teacher_script", "stage_talk", "parent_and_child", "two_friends",
    "childrens_video", "encyclopaedia_entry", "museum_text_panel", "question_and_answer_page", "expert_interview",
    "news_explainer",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """One prompt file. sha256 is that of the file's bytes.

    audience, format: for people. output: what the answer must look like; it stands in the prompt, where `user` has its
    slot. expects: what verification demands of that form. `user` holds the source slot once, inside the frame.
    """

    name: str
    version: int
    kind: str
    audience: str
    format: str
    output: str
    system: str
    user: str
    expects: Expectations
    sha256: str = field(repr=False)

    def messages(self, text: str, part: int = 1, parts: int = 1) -> list[dict[str, str]]:
        """The chat messages for a document: system, then the frame with the neutralised text in it, once.

        part, parts: which piece of a longer document the text is, from 1; the prompt says so where there is more than one.
        """
        before, _, after = self.user.partition(SOURCE_SLOT)
        form = f"{self.output} {piece_note(part, parts)}" if parts > 1 else self.output
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": before.replace(OUTPUT_SLOT, form) + neutralise(text) + after},
        ]


def piece_note(part: int, parts: int) -> str:
    """What the prompt says about piece number `part` (from 1) of `parts`."""
    which = "first" if part == 1 else "last" if part == parts else "middle"
    return _piece_notes()[which].format(part=part, parts=parts)


@cache
def piece_notes_sha256() -> str:
    """sha256 of the file with the notes about pieces: part of the prompt of every style."""
    return hashlib.sha256(PIECE_NOTES.read_bytes()).hexdigest()


@cache
def _piece_notes() -> dict[str, str]:
    notes: dict[str, str] = yaml.safe_load(PIECE_NOTES.read_text(encoding="utf-8"))
    return notes


@cache
def load_prompt(name: str) -> Prompt:
    """The prompt `prompts/<name>.yaml`. Raises RecipeError for an unknown name, DataError for a wrong file."""
    path = FOLDER / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9_]+", name) or not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise RecipeError(f"there is no prompt {name!r}; known prompts: {known}")
    return read_prompt(path)


def read_prompt(path: Path) -> Prompt:
    """A checked prompt file. Raises DataError that names the file and the key."""
    content = path.read_bytes()
    try:
        values = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    texts = ("name", "kind", "audience", "format", "output", "system", "user")
    expected = {**dict.fromkeys(texts, str), "version": int, "expects": dict}
    if not isinstance(values, dict) or set(values) != set(expected):
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise DataError(f"{path} must hold exactly the keys {sorted(expected)}, found {found}")
    for key, kind in expected.items():
        if not isinstance(values[key], kind):
            raise DataError(f"{path}: `{key}` must be {kind.__name__}, got {values[key]!r}")
    if values["name"] != path.stem:
        raise DataError(f"{path}: `name` must be {path.stem!r}, as the file, got {values['name']!r}")
    if values["kind"] not in KINDS:
        raise DataError(f"{path}: `kind` must be one of {KINDS}, got {values['kind']!r}")
    frame = f"{FRAME_BEGIN}\n{SOURCE_SLOT}\n{FRAME_END}"
    if values["user"].count(frame) != 1 or values["user"].count(SOURCE_SLOT) != 1 or SOURCE_SLOT in values["system"]:
        raise DataError(f"{path}: `user` must hold the source once, framed as three lines:\n{frame}")
    if values["user"].partition(SOURCE_SLOT)[0].count(OUTPUT_SLOT) != 1:
        raise DataError(f"{path}: `user` must hold {OUTPUT_SLOT}, the place of `output`, once before the frame")
    try:
        values["expects"] = read_expectations(values["expects"], "`expects`")
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return Prompt(**values, sha256=hashlib.sha256(content).hexdigest())


@cache
def recontextualisation_styles() -> tuple[Prompt, ...]:
    """The twelve styles in their fixed order."""
    return tuple(load_prompt(name) for name in STYLE_NAMES)


def draw_style(seed: int, document_id: str) -> Prompt:
    """The style of one document: number floor(12 * u_1), stream "template" (Safety Pretraining, section 3.2: drawn at
    random per document; the keyed draw is ours)."""
    styles = recontextualisation_styles()
    return styles[int(len(styles) * keyed_uniforms(seed, "template", document_id, 1)[0])]
