"""Every function that searches a document or an answer with patterns takes time in proportion to its length."""

import time

import pytest

from classifiers.fasttext_classifier import words_of
from classifiers.judge import is_refusal, judge_messages, parse_judge_answer
from classifiers.masking import mask_identifiers
from classifiers.never_train import exposed_private_data
from pipeline.ingest.decontamination import normalised_words
from pipeline.ingest.documents import normalise_text
from pipeline.ingest.extraction import decode_html
from pipeline.words import word_spans
from rephrasers.checks import facts, languages, phrases, style, wording
from rephrasers.document_frame import holds_control_tokens, neutralise
from rephrasers.pieces import split_text
from rephrasers.recontextualise import parse_text
from rephrasers.refuse import parse_dialogue

ALL = style.read_expectations(
    {**{key: {"least": 1} for key in style.COUNTED}, **dict.fromkeys(style.DEMANDED, True)}, "test"
)
FUNCTIONS = {
    "masking": mask_identifiers,
    "never_train": exposed_private_data,
    "fasttext words": words_of,
    "judge's prompt": lambda text: judge_messages(text, 4000),
    "judge's answer": lambda text: (parse_judge_answer(text), is_refusal(text)),
    "neutralise": neutralise,
    "control tokens": holds_control_tokens,
    "words": word_spans,
    "decode": lambda text: decode_html(text.encode("utf-16"), "text/html"),
    "normalise": normalise_text,
    "decontamination": normalised_words,
    "pieces": lambda text: split_text(text, 2400, lambda piece: True),
    "dialogue": parse_dialogue,
    "answer": parse_text,
    "facts": facts.facts_of,
    "facts by sentence": facts.facts_by_sentence,
    "kept facts": lambda text: facts.kept_facts({facts.Fact("number", "3")}, text),
    "loops": wording.loops,
    "copies": lambda text: wording.copies(text, text),
    "ends": wording.ends_abruptly,
    "style": lambda text: style.unmet(text, ALL, "en"),
    "meta talk": phrases.has_meta_talk,
    "refuses": phrases.refuses_to_write,
    "declines": phrases.declines,
    "detail": phrases.has_operational_detail,
    "language": lambda text: languages.off_language(text, "de"),
}
# What patterns stumble over: long runs of what they repeat, without the end that they look for.
UNITS = [
    "a", " ", "\n", "1", "\t", "-", ".", "@", "_", "=", ">", "#", "'", '"', "“", "安", "é", "\r", "\u00a0", "\u200d",
    "1-", "1 ", "123 ", "1.", "1,", "1,000", "123-45-", "a.", "a@", "a@b.", "a:", "u/", "a-", "a b", "A ", "I ", "— a\n",
    "(", "<", "<|", "[", "*", "**", "```", "|", "===\n", "# a\n", " \n", "\n\n", "\n ", "1)", "? ", "http://", "www.", "user",
    "User:", "user ", "b e g", "begin of the ", "source ", "can i ", "I am not ", "first ", "step ", "x" * 63 + ".",
]  # fmt: skip
LONG, SHORT = 16_000, 2_000
UNNOTICED = 0.04  # seconds of processor time; less is linear in all but name
MOST_GROWTH = 24  # of the time, for 8 times the text: quadratic work grows 64-fold


def seconds(function, text):
    """The least processor time of three calls."""
    times = []
    for _ in range(3):
        started = time.process_time()
        function(text)
        times.append(time.process_time() - started)
        if times[-1] < UNNOTICED:
            break
    return min(times)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_time_grows_with_the_text(name):
    function = FUNCTIONS[name]
    function("A short text, so that lists are read before the clock runs.")
    for unit in UNITS:
        for head, end in (("", ""), ("user", "!"), ('"', "\nx")):
            long = seconds(function, head + (unit * LONG)[:LONG] + end)
            if long >= UNNOTICED:
                short = seconds(function, head + (unit * SHORT)[:SHORT] + end)
                assert long < MOST_GROWTH * short, f"{unit!r}: {short:.4f} s, and for 8 times the text {long:.4f} s"
