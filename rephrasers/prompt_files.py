"""The prompts in `prompts/*.yaml`: loading, checking, filling in a document, drawing a style.

A document is data. Before it goes into the frame, control tokens of chat models and our own frame lines inside it
are made harmless, so that no document can close the frame or open a turn of its own.
"""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from classifiers.errors import DataError, RecipeError
from rephrasers.keyed_draws import keyed_uniforms

FOLDER = Path(__file__).with_name("prompts")
SOURCE_SLOT = "{source}"
FRAME_BEGIN, FRAME_END = "=== BEGIN SOURCE TEXT ===", "=== END SOURCE TEXT ==="
KINDS = ("recontextualise", "refuse", "moralise")
# The order is part of the corpus: a draw is an index into it. Seven published kinds, then five of our own.
STYLE_NAMES = (
    "podcast_host", "textbook_chapter", "teacher_script", "stage_talk", "parent_and_child", "two_friends",
    "childrens_video", "encyclopaedia_entry", "museum_text_panel", "question_and_answer_page", "expert_interview",
    "news_explainer",
)  # fmt: skip

# Characters without a width hide a delimiter from a pattern but not from a reader; bidi controls reorder lines.
# The two joiners stay: several scripts need them.
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_JOINERS = "[\u200c\u200d]*"
# <|im_start|>, <|eot_id|>, <|end|> ... and the same with full-width bars or brackets.
_BAR_OPEN = re.compile(f"([<＜]){_JOINERS}([|｜])")
_BAR_CLOSE = re.compile(f"([|｜]){_JOINERS}([>＞])")
_TAG_TOKENS = re.compile(
    r"<(?=/?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response|start_of_turn|end_of_turn|begin_of_text|sep|cls)>)",
    re.IGNORECASE,
)
_BRACKET_TOKENS = re.compile(
    r"(\[)(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])|(<)(?=</?SYS>>)", re.IGNORECASE
)
# Bounded repeats: a page of equals signs must not take quadratic time.
_FRAME_LINE = re.compile(
    r"[=＝][=＝ \t]{0,40}+((?:BEGIN|END)[\W_]{0,20}SOURCE[\W_]{0,20}TEXT)[=＝ \t]{0,40}", re.IGNORECASE
)


def neutralise(text: str) -> str:
    """The text with nothing in it that a chat template or our frame would act on; other text stays as it is.

    Control tokens are split by a space and frame lines lose their rule of equals signs; invisible characters go.
    Applying it twice changes nothing more.
    """
    text = _INVISIBLE.sub("", text)
    text = _BAR_OPEN.sub(r"\1 \2", text)
    text = _BAR_CLOSE.sub(r"\1 \2", text)
    text = _TAG_TOKENS.sub("< ", text)
    text = _BRACKET_TOKENS.sub(lambda match: f"{match.group()} ", text)
    return _FRAME_LINE.sub(r"- \1 -", text)


def holds_control_tokens(text: str) -> bool:
    """True where a text holds what `neutralise` would take apart (invisible characters aside)."""
    return any(p.search(text) for p in (_BAR_OPEN, _BAR_CLOSE, _TAG_TOKENS, _BRACKET_TOKENS, _FRAME_LINE))


@dataclass(frozen=True)
class Prompt:
    """One prompt file. sha256 is that of the file's bytes; `user` holds the source slot once, inside the frame."""

    name: str
    version: int
    kind: str
    audience: str
    format: str
    system: str
    user: str
    sha256: str = field(repr=False)

    def messages(self, text: str) -> list[dict[str, str]]:
        """The chat messages for a document: system, then the frame with the neutralised text in it, once."""
        before, _, after = self.user.partition(SOURCE_SLOT)
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": before + neutralise(text) + after},
        ]


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
    expected = {"name": str, "version": int, "kind": str, "audience": str, "format": str, "system": str, "user": str}
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
