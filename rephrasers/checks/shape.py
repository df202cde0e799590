"""What a text looks like: its headings, speakers, questions and paragraphs. Markdown, bold and plain marks count alike."""

import re
from collections import Counter

# A mark of a list or quotation, then (maybe in bold) a label of up to four words, then a colon. No URL, no clock time.
_LABEL = re.compile(
    r"^[ \t>#*_\[-]{0,8}(?P<label>[^\W\d_][^\n:：*\[\]]{0,38}?)\]?(?:[ \t]?\([^)\n]{1,30}\))?[*_]{0,3}[ \t]?[:：][*_]{0,3}"
    r"(?=$|[ \t]|[^\s/\d])",
    re.MULTILINE,
)
_DASH_TURN = re.compile(r"^[ \t]*[—–―][ \t]*\S", re.MULTILINE)
_LIST_MARK = re.compile(r"^\s*(?:[-*+•]|\d{1,2}[.)])\s+")
_MARKED_HEADING = re.compile(r"^\s{0,3}#{1,6}\s+\S|^\s*(\*\*|__)[^*_\n]{2,100}\1:?\s*$")
_UNDERLINE = re.compile(r"^\s*(?:={3,}|-{3,})\s*$")
_MARKS = "*_#>`\"'”’»）) \t"
_NO_HEADING_END = ".!,;:。！，；："
_QUESTION_MARKS = ("?", "？", "؟")
LONGEST_HEADING, LEAST_TEXT, LEAST_ANSWER = 80, 40, 10
LONGEST_LABEL_WORDS = 4
LEAST_DASH_TURNS = 4


def lines_of(text: str) -> list[str]:
    """The lines that hold something, without white space around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def width(text: str) -> int:
    """Length as Latin letters would have it: a letter of a script without spaces between words says more."""
    return sum(3 if ord(character) > 0x2E80 else 1 for character in text)


def headings(text: str) -> list[str]:
    """The lines that are headings: marked with #, bold or underlined, or short, without an end mark, before a text."""
    lines = lines_of(text)
    found = []
    for index, line in enumerate(lines):
        after = lines[index + 1] if index + 1 < len(lines) else ""
        underlined = _UNDERLINE.match(after) and not _UNDERLINE.match(line)
        if underlined or _MARKED_HEADING.match(line) or _is_plain_heading(line, after):
            found.append(line)
    return found


def _is_plain_heading(line: str, after: str) -> bool:
    short = width(line) <= LONGEST_HEADING and not _LIST_MARK.match(line) and line[-1] not in _NO_HEADING_END
    return short and not _UNDERLINE.match(line) and width(after) >= max(LEAST_TEXT, width(line))


def has_title(text: str) -> bool:
    """True where the first line is a heading."""
    lines = lines_of(text)
    return bool(lines) and lines[0] in headings(text)[:1]


def turn_labels(text: str) -> list[str]:
    """Who speaks, turn by turn: the labels that begin at least two lines ("Mia:", "**Expert:**", "Q:").

    Turns that begin with a dash, as in French or Spanish prose, count as those of two speakers where there are four.
    """
    labels = [match["label"].strip().casefold() for match in _LABEL.finditer(text)]
    labels = [label for label in labels if len(label.split()) <= LONGEST_LABEL_WORDS]
    often = {label for label, times in Counter(labels).items() if times >= 2}
    if often:
        return [label for label in labels if label in often]
    dashes = len(_DASH_TURN.findall(text))
    return ["—" if index % 2 else "–" for index in range(dashes)] if dashes >= LEAST_DASH_TURNS else []


def paragraphs(text: str) -> int:
    """Blocks between empty lines that hold more than a heading."""
    return sum(width(block.strip()) >= LEAST_TEXT for block in re.split(r"\n[ \t]*\n", text))


def questions(text: str) -> int:
    """How many question marks there are."""
    return sum(text.count(mark) for mark in _QUESTION_MARKS)


def ends_with_question(text: str) -> bool:
    """True where a question stands in the last 40 % of the text."""
    return questions(text[int(0.6 * len(text)) :]) > 0


def question_answer_pairs(text: str) -> int:
    """Lines that ask and are followed by one that answers; or both in one line, the question numbered, bold or labelled."""
    lines = lines_of(text)
    asks = [_asks(line) for line in lines]
    pairs = sum(asks[i] and not asks[i + 1] and width(lines[i + 1]) >= LEAST_ANSWER for i in range(len(lines) - 1))
    return pairs + sum(_asks_and_answers(line) for line in lines)


def _asks(line: str) -> bool:
    return line.rstrip(_MARKS).endswith(_QUESTION_MARKS)


def _asks_and_answers(line: str) -> bool:
    if _asks(line) or not (_LIST_MARK.match(line) or line.startswith(("**", "__", "#")) or _LABEL.match(line)):
        return False
    question = min((line.find(mark) for mark in _QUESTION_MARKS if mark in line), default=-1)
    return question > 0 and width(line[question + 1 :].strip(_MARKS)) >= LEAST_ANSWER
