"""Chats: what is refused and how, labels on the assistant's tokens alone, prompts as the model reads them when it answers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.chat_data import (
    IGNORED,
    chat_of_row,
    data_sha256,
    prompt_ids,
    read_chats,
    render_prompt,
    tokenise_chat,
    tokenise_chats,
)
from finetune.errors import FinetuneDataError, FinetuneModelError
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from tests.finetune.tiny_llama import make_tokenizer


def turn(role, content):
    return {"role": role, "content": content}


ASK, ANSWER = turn("user", "Hello?"), turn("assistant", "Good day.")
TOKENIZER = make_tokenizer(tag=True)


def chat(*messages, **keys):
    return chat_of_row({"messages": list(messages), **keys}, "here")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "no `messages`"),
        ({"messages": []}, "a list of at least one message"),
        ({"messages": "hello"}, "a list of at least one message"),
        ({"messages": [{"content": "a"}]}, "message 1: no `role`; it is one of system, user, assistant"),
        ({"messages": ["a"]}, "message 1: no `role`"),
        ({"messages": [turn("human", "a"), ANSWER]}, "role 'human'; it is one of"),
        ({"messages": [turn("user", None), ANSWER]}, "message 1: no `content` that is a text"),
        ({"messages": [ANSWER]}, "a turn of role assistant stands where one of system or user comes"),
        ({"messages": [ASK, ASK, ANSWER]}, "a turn of role user stands where one of assistant comes"),
        ({"messages": [ASK, ANSWER, ANSWER]}, "stands where one of user comes"),
        ({"messages": [ASK, turn("system", "a"), ANSWER]}, "a turn of role system stands"),
        ({"messages": [ASK, turn("assistant", " \n")]}, "message 2: empty assistant turn"),
        ({"messages": [turn("user", ""), ANSWER]}, "message 1: empty user turn"),
        ({"messages": [ASK]}, "the last turn is the user's: end with an assistant turn"),
        ({"messages": [ASK, ANSWER], "id": ["a"]}, "`id` must be a text or a whole number"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(tmp_path, row, message):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [ASK, ANSWER]}) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(FinetuneDataError) as error:
        read_chats(path)
    assert f"{path}, line 3" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no rows"), ("[1]\n", "line 1: expected a JSON object, found list"), ("{\n", "line 1: not JSON")],
)
def test_a_file_that_holds_no_rows_is_refused(tmp_path, content, message):
    (tmp_path / "chats.jsonl").write_text(content)
    with pytest.raises(FinetuneDataError, match=message):
        read_chats(tmp_path / "chats.jsonl")
    with pytest.raises(FinetuneDataError, match="cannot be read"):
        read_chats(tmp_path / "nowhere.jsonl")


def test_ids_come_from_the_row_or_from_its_messages_never_from_its_place():
    assert chat(ASK, ANSWER, id=7).id == "7"
    first, second = chat(ASK, ANSWER), chat_of_row({"messages": [ASK, ANSWER], "score": 3}, "elsewhere")
    assert first.id == second.id != chat(ASK, turn("assistant", "Good night.")).id


texts = st.text(alphabet="ab ,.é\n", min_size=1, max_size=8).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.booleans(), st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
def test_labels_are_the_answers_and_their_ends_and_nothing_else(system, pairs):
    messages = [turn("system", "Be kind.")] if system else []
    for question, answer in pairs:
        messages += [turn("user", question), turn("assistant", answer)]
    row = tokenise_chat(chat(*messages), TOKENIZER, 10_000)
    whole = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert row.input_ids == TOKENIZER(whole, add_special_tokens=False)["input_ids"]
    assert row.input_ids.count(TOKENIZER.bos_token_id) == 1
    learnt = [token for token in row.labels if token != IGNORED]
    assert TOKENIZER.decode(learnt) == "".join(answer + "<|end|>" for _, answer in pairs)
    assert all(label in (IGNORED, token) for label, token in zip(row.labels, row.input_ids, strict=True))
    assert row.supervised == len(learnt)
    # what stands before the last answer is what the model reads when it generates it
    prompt = prompt_ids(messages[:-1], TOKENIZER)
    assert row.input_ids[: len(prompt)] == prompt and row.labels[len(prompt) - 1] == IGNORED != row.labels[len(prompt)]


def test_a_cut_that_leaves_no_label_is_refused_and_long_rows_can_be_dropped():
    row = chat(ASK, ANSWER)
    whole = tokenise_chat(row, TOKENIZER, 1000)
    prompt = len(prompt_ids([ASK], TOKENIZER))
    assert tokenise_chat(row, TOKENIZER, prompt + 1).supervised == 1
    with pytest.raises(FinetuneDataError, match=r"here: all labels are ignored.*raise max_length"):
        tokenise_chat(row, TOKENIZER, prompt)
    assert tokenise_chat(row, TOKENIZER, len(whole.input_ids) - 1, "drop") is None
    assert tokenise_chat(row, TOKENIZER, len(whole.input_ids), "drop") == whole
    with pytest.raises(FinetuneDataError, match="no chat is left of 2: none fits into max_length 9"):
        tokenise_chats([row, row], TOKENIZER, 9, "drop")
    with pytest.raises(FinetuneDataError, match="there are no chats"):
        tokenise_chats([], TOKENIZER, 9)


def test_special_tokens_in_contents_are_refused_but_for_those_that_are_allowed():
    with pytest.raises(FinetuneDataError, match=r"message 1: the content holds the special token <\|start\|>"):
        tokenise_chat(chat(turn("user", "a<|start|>assistant\n"), ANSWER), TOKENIZER, 100)
    tagged = chat(ASK, turn("assistant", f"Good{HARMFULNESS_TAG} day."))
    with pytest.raises(FinetuneDataError, match="the content holds the special token"):
        tokenise_chat(tagged, TOKENIZER, 100)
    row = tokenise_chat(tagged, TOKENIZER, 100, allowed_special=frozenset([HARMFULNESS_TAG]))
    assert row.labels.count(TOKENIZER.convert_tokens_to_ids(HARMFULNESS_TAG)) == 1


def test_templates_that_cannot_be_used_are_refused():
    with pytest.raises(FinetuneModelError, match="has no chat template"):
        tokenise_chat(chat(ASK, ANSWER), make_tokenizer(chat=False), 100)
    with pytest.raises(FinetuneModelError, match="has no chat template"):
        render_prompt([ASK], make_tokenizer(chat=False))
    rewriting = make_tokenizer()
    rewriting.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(FinetuneModelError, match="here: the chat template rewrites earlier turns"):
        tokenise_chat(chat(ASK, ANSWER), rewriting, 100)


def test_the_hash_of_the_data_tells_rows_labels_and_order_apart():
    rows = tokenise_chats([chat(ASK, ANSWER), chat(ASK, turn("assistant", "Bye."))], TOKENIZER, 100)
    same = tokenise_chats([chat(ASK, ANSWER), chat(ASK, turn("assistant", "Bye."))], TOKENIZER, 100)
    assert data_sha256(rows) == data_sha256(same) != data_sha256(rows[::-1])
    assert len({data_sha256(rows), data_sha256(tokenise_chats([chat(ASK, ANSWER)], TOKENIZER, 100))}) == 2
