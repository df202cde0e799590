"""Long documents: where they are cut, that pieces fit, and what is asked about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrasers.pieces import SHORTEST_PIECE, split_text
from rephrasers.prompt_files import load_prompt
from rephrasers.prompt_length import PromptFits, estimate_tokens
from rephrasers.recontextualise import join_pieces, rewrite_requests
from rephrasers.refuse import refusal_request
from rephrasers.servers import ServerSettings

SENTENCE = "The ferry to the island leaves at nine and at noon. "
PARAGRAPH = SENTENCE * 5


def always(_):
    return True


def pieces(text, longest, fits=always):
    return [text[start:end] for start, end in split_text(text, longest, fits)]


def test_a_short_text_is_one_piece():
    assert pieces("short", 200) == ["short"] and pieces("", 200) == [""]


def test_paragraphs_are_preferred_then_lines_then_sentences_then_words():
    text = "\n\n".join([PARAGRAPH] * 4)
    assert [piece.strip() for piece in pieces(text, 2 * len(PARAGRAPH) + 10)] == [
        "\n\n".join([PARAGRAPH] * 2).strip()
    ] * 2
    text = "\n".join([PARAGRAPH] * 4)
    assert all(piece.strip() == "\n".join([PARAGRAPH] * 2).strip() for piece in pieces(text, 2 * len(PARAGRAPH) + 10))
    assert all(piece.rstrip().endswith("noon.") for piece in pieces(SENTENCE * 40, 500))
    assert all(not piece.startswith("ord") for piece in pieces("word " * 400, 500))
    assert "".join(pieces("渡船九点出发。" * 200, 300)).count("渡船九点出发。") == 200
    assert all(piece.endswith("。") for piece in pieces("渡船九点出发。" * 200, 300))
    assert max(map(len, pieces("x" * 5000, 300))) <= 300


def test_pieces_are_of_similar_size():
    sizes = [len(piece) for piece in pieces(SENTENCE * 43, 1000)]
    assert len(sizes) == 3 and min(sizes) > 0.6 * max(sizes)


@given(st.text(alphabet="ab .\n。\u200d", max_size=3000), st.integers(200, 700), st.integers(100, 2000))
def test_pieces_cover_the_text_and_fit(text, longest, room):
    spans = split_text(text, longest, lambda piece: len(piece) <= room)
    assert [start for start, _ in spans] == [0, *(end for _, end in spans)][:-1] and spans[-1][1] == len(text)
    for start, end in spans:
        assert end - start <= longest
        assert end - start <= max(room, SHORTEST_PIECE)


def test_every_piece_is_framed_alone_numbered_and_leaves_room_for_its_answer():
    style = load_prompt("podcast_host")
    settings = ServerSettings(url="http://127.0.0.1:9", model="m", max_context=1024, max_tokens=256)
    fits = PromptFits(settings)
    text = "\n\n".join(f"Paragraph {n}. {PARAGRAPH}" for n in range(12))
    requests = rewrite_requests(style, text, 2400, fits)
    assert len(requests) > len(text) / 2400, "the context is the closer bound here"
    for number, messages in enumerate(requests, 1):
        assert estimate_tokens(messages) <= 768 and f"part {number} of {len(requests)}" in messages[1]["content"]
    contents = [messages[1]["content"] for messages in requests]
    for n in range(12):
        assert sum(f"Paragraph {n}. " in content for content in contents) == 1


def test_a_whole_document_is_asked_about_once_without_a_note():
    style = load_prompt("podcast_host")
    assert rewrite_requests(style, SENTENCE, 2400, always) == [style.messages(SENTENCE.strip())]
    assert rewrite_requests(style, "\n \n" * 900, 300, always) == [style.messages("")]


def test_a_prompt_that_never_fits_ends_in_pieces_that_the_server_step_refuses():
    requests = rewrite_requests(load_prompt("podcast_host"), SENTENCE * 20, 2400, lambda _: False)
    assert len(requests) > 4


def test_a_dialogue_is_asked_for_once_about_passages_from_everywhere():
    text = "".join(f"[{n}] {SENTENCE}" for n in range(400))
    content = refusal_request(text, 1000, always)[1]["content"]
    assert "[0]" in content and "[399]" in content and len(content) < 1800
    smaller = refusal_request(text, 1000, lambda messages: len(messages[1]["content"]) < 900)[1]["content"]
    assert len(smaller) < 900 and "[0]" in smaller
    assert refusal_request(SENTENCE, 1000, always) == load_prompt("refuse").messages(SENTENCE)


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (["One.", "Two."], "One.\n\nTwo."),
        ([" One.\n", "```\nTwo.\n```", ""], "One.\n\nTwo."),
        ([""], ""),
    ],
)
def test_answers_are_joined_in_order(answers, text):
    assert join_pieces(answers) == text
