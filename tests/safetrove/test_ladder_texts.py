"""Texts and chats of one's own: filters, parts, dialogues as chats."""

import json

import pytest

from classifiers.errors import DataError
from finetune.chat_data import read_chats
from safetrove.own_texts import OwnTexts, dialogue_messages, read_own, write_chats


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_dialogue_becomes_a_chat_through_its_last_answer():
    text = "Human: one: two\nmore of it\n\nAssistant: three\n\nHuman: and now?"
    assert dialogue_messages(text) == (
        {"role": "user", "content": "one: two\nmore of it"},
        {"role": "assistant", "content": "three"},
    )
    assert dialogue_messages("Estate agent: a\n\nMr. Lee: b")[1]["content"] == "b"


@pytest.mark.parametrize(
    "text", ["", "No speaker here.", "A: one", "A: one\nA: two", "A: one\nB: two\nC: three", "so\nA: one\nB: two"]
)
def test_what_is_no_dialogue_of_two_in_turn_is_none(text):
    assert dialogue_messages(text) is None


def test_filters_and_parts(tmp_path):
    rows = [{"text": f"text {n}", "source": "page" if n % 2 else "post", "score": n % 6} for n in range(60)]
    path = lines(tmp_path / "texts.jsonl", rows)
    chosen = read_own([OwnTexts(path=path, where={"source": ["page"], "score": [1, 3]})])
    assert len(chosen) == 20 and {row.level for row in chosen} == {1, 3}
    first, second = (read_own([OwnTexts(path=path, part=part)]) for part in ((0, 0.4), (0.4, 1)))
    assert {row.id for row in first} | {row.id for row in second} == {row.id for row in read_own([OwnTexts(path=path)])}
    assert not {row.id for row in first} & {row.id for row in second} and 10 < len(first) < 38
    assert len(read_own([OwnTexts(path=path), OwnTexts(path=path)])) == 60
    with pytest.raises(DataError, match=r"texts\.jsonl: no row passes where"):
        read_own([OwnTexts(path=path, where={"score": [9]})])


def test_two_files_that_number_their_rows_lose_none(tmp_path):
    one = lines(tmp_path / "one.jsonl", [{"id": n, "text": f"one {n}"} for n in range(1, 4)])
    two = lines(tmp_path / "two.jsonl", [{"id": 1, "text": "two 1"}, {"id": 2, "text": "one 2"}])
    found = read_own([OwnTexts(path=one), OwnTexts(path=two)])
    assert [row.text for row in found] == ["one 1", "one 2", "one 3", "two 1"]


def test_what_a_chat_must_not_teach_is_kept_apart(tmp_path):
    """The compliant start of a row of deep alignment gets no labels; the ladder's copy of the file says so too."""
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Sure, here is. I will not."}]
    rows = [{"id": "a", "messages": chat, "not_learnt": "Sure, here is."}, {"id": "b", "messages": chat}]
    write_chats(read_own([OwnTexts(path=lines(tmp_path / "c.jsonl", rows))]), tmp_path / "out.jsonl")
    assert [chat.not_learnt for chat in read_chats(tmp_path / "out.jsonl")] == ["Sure, here is.", ""]


def test_a_chat_as_text_names_its_speakers_by_its_id(tmp_path):
    chat = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
    path = lines(tmp_path / "chats.jsonl", [{"id": f"c{n}", "messages": chat} for n in range(12)])
    texts = [row.as_text() for row in read_own([OwnTexts(path=path)])]
    assert len(set(texts)) > 6
    for text in texts:
        asked, answered = text.split("\n\n")
        assert asked.endswith(": a question") and answered.endswith(": an answer")


def test_rows_that_are_no_chats_are_counted_or_refused(tmp_path):
    path = lines(tmp_path / "t.jsonl", [{"text": "A: one\nB: two"}, {"text": "nothing of the kind"}])
    assert write_chats(read_own([OwnTexts(path=path)]), tmp_path / "out.jsonl") == 1
    assert json.loads((tmp_path / "out.jsonl").read_text())["messages"][1] == {"role": "assistant", "content": "two"}
    path = lines(tmp_path / "u.jsonl", [{"text": "nothing of the kind"}])
    with pytest.raises(DataError, match="none of 1 rows is a chat"):
        write_chats(read_own([OwnTexts(path=path)]), tmp_path / "chats.jsonl")
    with pytest.raises(DataError, match=r"u\.jsonl, line 1: neither `messages` nor a `text`"):
        read_own([OwnTexts(path=lines(tmp_path / "u.jsonl", [{"text": " "}]))])
