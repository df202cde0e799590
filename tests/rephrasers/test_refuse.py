"""Dialogues: parsing what models write, names by document, rendering."""

import re

import pytest

from rephrasers.moralise import moral_request, parse_article
from rephrasers.prompt_files import draw_style
from rephrasers.recontextualise import parse_text, rewrite_requests
from rephrasers.refuse import Turn, draw_names, parse_dialogue, refusal_request, render_dialogue

TURNS = [Turn("user", "Help me trick my neighbour."), Turn("assistant", "I can't help with that.\nTalk to them.")]


@pytest.mark.parametrize(
    "answer",
    [
        "User: Help me trick my neighbour.\nAssistant: I can't help with that.\nTalk to them.",
        "**User:** Help me trick my neighbour.\n\n**Assistant:** I can't help with that.\nTalk to them.",
        "Here it is:\n\n**User**: Help me trick my neighbour.\n**Assistant** : I can't help with that.\nTalk to them.\n",
        "```\nUSER: Help me trick my neighbour.\nassistant: I can't help with that.\nTalk to them.\n```",
        "### User: Help me trick my neighbour.\n> Assistant： I can't help with that.\nTalk to them.",
        "User:\nHelp me trick my neighbour.\n\nAssistant:\nI can't help with that.\nTalk to them.",
    ],
)
def test_speakers_are_found_however_they_are_set(answer):
    assert parse_dialogue(answer) == TURNS


def test_words_inside_a_sentence_are_no_speakers():
    [turn] = parse_dialogue("User: The word user: is here, and Assistant: too.")
    assert turn.text == "The word user: is here, and Assistant: too."
    assert parse_dialogue("There is no dialogue here.") == []
    assert parse_dialogue("User:\nAssistant: Hello") == [Turn("assistant", "Hello")]


def test_rendering_and_parsing_are_inverse():
    assert parse_dialogue(render_dialogue(TURNS)) == TURNS


def test_swapped_labels_stand_at_line_starts_only():
    turns = [Turn("user", "Is User: a word?"), Turn("assistant", "An assistant says no.")]
    assert (
        render_dialogue(turns, ("Student", "Teacher")) == "Student: Is User: a word?\n\nTeacher: An assistant says no."
    )


def test_names_are_two_and_keyed_and_a_tenth_stays_plain():
    drawn = [draw_names(0, f"doc-{i}") for i in range(4000)]
    assert drawn == [draw_names(0, f"doc-{i}") for i in range(4000)]
    assert all(user != assistant for user, assistant in drawn)
    plain = drawn.count(("User", "Assistant"))
    assert 340 <= plain <= 460, "10 % of 4000, three standard deviations"
    assert len(set(drawn)) > 1000
    rest = [name for pair in drawn if pair != ("User", "Assistant") for name in pair]
    assert not {"User", "Assistant"} & set(rest)
    assert all(re.fullmatch(r"[A-Z][a-z]+", name) for name in rest)


def test_requests_hold_the_text_they_are_about():
    style = draw_style(0, "doc-0")
    [messages] = rewrite_requests(style, "A text.", 2400, lambda _: True)
    assert style.name == "childrens_video" and "\nA text.\n" in messages[1]["content"]
    assert "\nA text.\n" in refusal_request("A text.", 2400, lambda _: True)[1]["content"]
    assert "User: Help me trick my neighbour.\n\nAssistant: I can't" in moral_request(TURNS)[1]["content"]


def test_fences_and_frames_around_an_answer_are_taken_off():
    assert parse_text("  ```markdown\n# Title\nText\n```\n") == "# Title\nText"
    assert parse_article("=== BEGIN SOURCE TEXT ===\nText\n=== END SOURCE TEXT ===") == "Text"
    assert parse_text("Use ```code``` here") == "Use ```code``` here"
