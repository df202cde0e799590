"""The frame around a document in a prompt, and what is done to the document so that it cannot leave it.

A document is data. A chat template joins it with the control tokens of a model into one string, which is then cut into
tokens: a control token spelled out in a document would become a real one. So control tokens of the usual model families
are split by a space, and anything that reads as one of our frame lines is replaced, in any case, spacing and spelling
with look-alike characters. Only the prompt holds the changed text.
"""

import re
import unicodedata
from functools import cache

from rephrasers.harmfulness_tag import HARMFULNESS_TAG

FRAME_BEGIN, FRAME_END = "=== BEGIN SOURCE TEXT ===", "=== END SOURCE TEXT ==="
FRAME_MARK = "[frame mark]"

# Characters without a width hide a delimiter from a pattern but not from a reader; bidi controls reorder lines.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e01ef]"
)
# Several scripts and emoji need these between their own characters; beside plain ones they only hide. Each run of them is
# tried once, from its beginning.
_JOINER = "[\u034f\u200c\u200d\ufe00-\ufe0f]"
_JOINERS = re.compile(f"(?<=[ -~]){_JOINER}+|(?<!{_JOINER}){_JOINER}++(?=[ -~])")
# Single characters that compatibility normalisation, as some tokenizers do it, spells out as several.
_LIGATURES = {0xFB00 + n: s for n, s in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"))}

_ANGLE_NAMES = (
    # SentencePiece models (Llama 2, Mistral, Gemma), BERT
    r"s|bos|eos|pad|unk|mask|sep|cls|(?:start|end)_of_(?:turn|image)|image_soft_token|(?:begin|end)_of_(?:text|image)|"
    # reasoning and tools
    r"think|tool_(?:call|response|code|output)|tools|"
    # SmolLM2, StarCoder, other code models
    r"repo_?name|file_sep|filename|gh_stars|issue_(?:start|comment|closed)|jupyter_(?:start|text|code|output|script)|"
    r"empty_output|fim_(?:prefix|middle|suffix|pad)|commit_(?:before|msg|after)|"
    # spare ids, bytes
    r"unused_?\d+|reserved_?\d+|extra_id_\d+|special_?\d+|0x[0-9a-f]{2}|" + HARMFULNESS_TAG.strip("<>")
)
_BRACKET_NAMES = (
    r"inst|system_prompt|available_tools|tool_(?:calls|results|content)|args|call_id|img|img_break|img_end|prefix|middle|"
    r"suffix|think|audio|begin_audio|transcribe|control_\d+|model_settings"
)
# A space goes in behind each match: <|im_start|>, <｜User｜>, </s>, <start_of_turn>, <<SYS>>, [INST]; matched in folded text.
_CONTROL_TOKEN = re.compile(
    r"<(?=\|)|\|(?=>)"
    rf"|<(?=/?(?:{_ANGLE_NAMES})>)"
    r"|<(?=</?sys>>)"
    rf"|\[(?=/?(?:{_BRACKET_NAMES})\])"
)


def _spaced(word: str) -> str:
    """A word whose letters may stand apart. Repeats are bounded: a page of such letters must not take quadratic time."""
    return r"[\W_]{0,3}".join(word)


_GAP = r"[\W_]{0,20}"
_FRAME_WORDS = re.compile(
    rf"(?<![a-z])(?:{_spaced('begin')}|{_spaced('end')})(?:{_GAP}of)?(?:{_GAP}the)?{_GAP}{_spaced('source')}{_GAP}"
    rf"{_spaced('text')}(?![a-z])"
)
_RULES = frozenset("=＝═━─—–‐‑‒―-_*#~<>|[](){}:.+ \t꞊﹦⹀゠᐀〓≡≣")
_LONGEST_RULE = 80

# Blocks whose characters are other forms of plain ones: full-width, mathematical, circled, accented, small, super- and subscript.
_COMPATIBLE = ((0xA0, 0x250), (0x1D00, 0x1E00), (0x1E00, 0x1F00), (0x2070, 0x2190), (0x2460, 0x24F0), (0x3000, 0x3001),
               (0xFE10, 0xFE70), (0xFF00, 0xFFF0), (0x1D400, 0x1D800), (0x1F130, 0x1F190))  # fmt: skip
# Letters of other scripts, and letters and signs without a normal form, that look like the ones we look for.
_LOOK_ALIKES = {
    "a": "АаΑαᎪɑ", "b": "ВвЬьΒβᏴʙɓ", "c": "СсϹϲᏟᴄҪҫⲤⲥ", "d": "ԀԁᎠᴅɗժĐđÐð", "e": "ЕеΕεЭэЄєᎬᴇɛҽ℮ϵɘ", "f": "ϜϝꜰƑƒք",
    "g": "ԌԍᏀɢɡցǤǥ", "h": "НнΗһҺᎻʜհ", "i": "ІіΙιıɪɩӀӏᎥ", "m": "МмΜᎷᴍ", "n": "ΝηɴոռПпИиƝɲŊŋ", "o": "ОоΟοσՕօᴏӨөØø০०໐ⵔ",
    "p": "РрΡρᏢᴘ", "r": "ГгЯяʀƦᎡᏒᴦɾ", "s": "ЅѕՏꜱᏚʂ", "t": "ТтΤτᎢᴛⲦⲧƬƭ", "u": "ՍսυʋᴜЦц∪⋃", "x": "ХхΧχ᙭×ⵝⲬⲭ",
    "<": "‹〈⟨❮˂", ">": "›〉⟩❯˃", "|": "∣ǀ❘⏐│┃￨", "[": "⟦【〔", "]": "⟧】〕",
}  # fmt: skip


@cache
def _folding() -> dict[int, str]:
    """Code point -> the plain lower-case character that it looks like; one for one, so that positions stay."""
    table = {code: chr(code).lower() for code in range(ord("A"), ord("Z") + 1)}
    for start, end in _COMPATIBLE:
        for code in range(start, end):
            plain, *marks = list(unicodedata.normalize("NFKD", chr(code)).strip("()") or " ")
            # squared and circled letters beyond the normal forms: their names say what they show
            name = unicodedata.name(chr(code), "")
            if 0x1F130 <= code < 0x1F190 and "LETTER " in name:
                plain, marks = name.rsplit("LETTER ", 1)[1][0], []
            if plain.isascii() and not any(unicodedata.category(mark)[0] != "M" for mark in marks):
                table[code] = plain.lower()
    return table | {ord(character): plain for plain, characters in _LOOK_ALIKES.items() for character in characters}


def fold(text: str) -> str:
    """The text in plain lower-case characters as far as its characters look like such; as long as the text."""
    return text.lower() if text.isascii() else text.translate(_folding())


def neutralise(text: str) -> str:
    """The text with nothing in it that a chat template or our frame would act on; other text stays as it is.

    Invisible characters go, what reads as a frame line becomes "[frame mark]", control tokens are split by a space.
    Applying it twice changes nothing more. Linear in the text.
    """
    text = _INVISIBLE.sub("", text)
    if not text.isascii():
        text = _without_joiners(text).translate(_LIGATURES)
    text = _without_frame_lines(text)
    parts, start = [], 0
    for match in _CONTROL_TOKEN.finditer(fold(text)):
        parts += [text[start : match.end()], " "]
        start = match.end()
    return "".join([*parts, text[start:]])


def holds_control_tokens(text: str) -> bool:
    """True where a text holds what `neutralise` would take apart (invisible characters aside)."""
    folded = fold(text)
    return bool(_CONTROL_TOKEN.search(folded) or _FRAME_WORDS.search(folded))


def cut(text: str, spans: list[tuple[int, int]], replacement: str) -> str:
    """The text with the replacement in the place of each of the spans (start, end), which ascend and do not overlap."""
    parts, position = [], 0
    for start, end in spans:
        parts += [text[position:start], replacement]
        position = end
    return "".join([*parts, text[position:]])


def _without_joiners(text: str) -> str:
    return cut(text, [match.span() for match in _JOINERS.finditer(fold(text))], "")


def _without_frame_lines(text: str) -> str:
    """Each frame line with its rules (===, ---) as one mark."""
    folded = fold(text)
    spans: list[tuple[int, int]] = []
    for match in _FRAME_WORDS.finditer(folded):
        start, end = match.span()
        first = max(spans[-1][1] if spans else 0, start - _LONGEST_RULE)
        last = min(len(text), end + _LONGEST_RULE)
        while start > first and text[start - 1] in _RULES:
            start -= 1
        while end < last and text[end] in _RULES:
            end += 1
        spans.append((start, end))
    return cut(text, spans, FRAME_MARK)
