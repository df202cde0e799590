"""Rows of a run: shares, held-out rows, tags, repeated rows, built problems."""

import json
import re

import pytest

from finetune.arithmetic_problems import arithmetic_problem, arithmetic_problems
from finetune.errors import FinetuneDataError
from finetune.mixture import build_rows
from finetune.recipe import ChatRecipe
from pipeline.tagging import insert_tags, remove_tags
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from tests.finetune.tiny_llama import make_tokenizer

PLAIN, TAGGED = make_tokenizer(), make_tokenizer(tag=True)


def write_chats(path, count, kind, words=6):
    lines = [
        {
            "id": f"{kind}-{number}",
            "messages": [
                {"role": "user", "content": f"Question {number} of {kind}?"},
                {"role": "assistant", "content": " ".join(f"{kind}{number}" for _ in range(words))},
            ],
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(folder, *sources, **keys):
    return ChatRecipe(output=folder / "out", data=sources, **keys)


@pytest.fixture
def files(tmp_path):
    return {
        kind: write_chats(tmp_path / f"{kind}.jsonl", count, kind)
        for kind, count in (("chat", 80), ("no", 40), ("bad", 40))
    }


def test_shares_are_of_all_rows_and_draws_follow_the_ids(tmp_path, files):
    sources = [
        {"name": "chat", "path": files["chat"]},
        {"name": "refusals", "path": files["no"], "share": 0.1},
        {"name": "unsafe", "path": files["bad"], "share": 0.1, "tag_rate": 0.05},
    ]
    rows = build_rows(recipe(tmp_path, *sources), TAGGED, insert_tags)
    assert rows.facts["sources"] == {"chat": 80, "refusals": 10, "unsafe": 10} and rows.facts["rows"] == 100
    tag = TAGGED.convert_tokens_to_ids(HARMFULNESS_TAG)
    assert {row.id.split("-")[0] for row in rows.train if tag in row.labels} == {"bad"}
    assert sum(tag in row.labels for row in rows.train) == 10 and not any(row.labels[0] == tag for row in rows.train)
    untagged = {chat.id: remove_tags(chat.messages[1]["content"]) for chat in rows.train_chats}
    assert untagged["bad-" + rows.train[-1].id.split("-")[1]] == " ".join([rows.train[-1].id.replace("-", "")] * 6)
    # the same rows are chosen when the file is turned round
    lines = files["no"].read_text().splitlines()[::-1]
    files["no"].write_text("\n".join(lines))
    again = build_rows(recipe(tmp_path, *sources), TAGGED, insert_tags)
    assert {row.id for row in again.train} == {row.id for row in rows.train}
    assert build_rows(recipe(tmp_path, *sources, seed=1), TAGGED, insert_tags).facts["sha256"] != rows.facts["sha256"]


def test_held_out_rows_are_not_trained_on(tmp_path, files):
    sources = [{"name": "chat", "path": files["chat"]}, {"name": "sums", "builder": "arithmetic_problems", "rows": 20}]
    rows = build_rows(recipe(tmp_path, *sources, evaluation_rows=15), PLAIN)
    assert (len(rows.train), len(rows.held_out)) == (85, 15) == (rows.facts["rows"], rows.facts["held_out_rows"])
    assert not {row.id for row in rows.train} & {row.id for row in rows.held_out}
    assert [chat.id for chat in rows.train_chats] == [row.id for row in rows.train]


@pytest.mark.parametrize(
    ("sources", "keys", "tokenizer", "tagger", "message"),
    [
        ([{"share": 0.6}], {}, PLAIN, None, "data 'no': 120 rows are wanted, 40 are there; lower its share"),
        ([{"rows": 50}], {}, PLAIN, None, "50 rows are wanted, 40 are there; lower its rows"),
        ([{"tag_rate": 0.1}], {}, PLAIN, insert_tags, f"tokenizer has no {HARMFULNESS_TAG}"),
        ([{"tag_rate": 0.1}], {}, TAGGED, None, r"call this with pipeline\.tagging\.insert_tags"),
        ([{}], {"evaluation_rows": 120}, PLAIN, None, "evaluation_rows 120 leaves nothing of 120 rows"),
        (
            [{}],
            {"max_length": 3, "too_long": "drop"},
            PLAIN,
            None,
            "no chat is left of 120: none fits into max_length 3",
        ),
        (
            [{}, {"name": "again"}],
            {},
            PLAIN,
            None,
            r"no\.jsonl, line 1: its id 'no-0' is that of .*no\.jsonl, line 1 too",
        ),
    ],
)
def test_data_that_cannot_be_mixed_is_refused(tmp_path, files, sources, keys, tokenizer, tagger, message):
    sources = [
        {"name": "chat", "path": files["chat"]},
        *({"name": "no", "path": files["no"], **more} for more in sources),
    ]
    with pytest.raises(FinetuneDataError, match=message):
        build_rows(recipe(tmp_path, *sources, **keys), tokenizer, tagger)


def test_tagged_texts_that_hold_the_tag_already_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"b{HARMFULNESS_TAG} c"}]
    path.write_text(json.dumps({"messages": turns}))
    source = {"name": "a", "path": path, "tag_rate": 0.5}
    with pytest.raises(FinetuneDataError, match="line 1, message 2: the text holds"):
        build_rows(recipe(tmp_path, source), TAGGED, insert_tags)


def test_exact_repetitions_count_once_and_one_id_for_two_chats_is_refused(tmp_path, files):
    lines = files["no"].read_text().splitlines()
    files["no"].write_text("\n".join([*lines, lines[0]]))
    source = {"name": "no", "path": files["no"]}
    assert build_rows(recipe(tmp_path, source), PLAIN).facts["rows"] == 40
    files["no"].write_text("\n".join([*lines, lines[0].replace("Question", "Query")]))
    with pytest.raises(FinetuneDataError, match="give rows distinct ids"):
        build_rows(recipe(tmp_path, source), PLAIN)


def test_problems_are_right_and_a_longer_set_begins_with_the_shorter_one():
    problems = arithmetic_problems(300, 5)
    assert problems[:40] == arithmetic_problems(40, 5) and problems[7] == arithmetic_problem(7, 5)
    assert len({chat.messages[0]["content"] for chat in problems}) > 290
    for chat in problems:
        solution = chat.messages[1]["content"]
        for left, result in re.findall(r"(\d+(?: [x/+-] \d+)+) = (\d+)", solution):
            total, *rest = left.split(" ")
            value = int(total)
            for sign, number in zip(rest[::2], map(int, rest[1::2]), strict=True):
                value = {"x": value * number, "/": value / number, "+": value + number, "-": value - number}[sign]
            assert value == int(result), solution
        final = int(solution.rsplit("#### ", 1)[1])
        assert final > 0 and str(final) in solution.rsplit("\n", 1)[0]
    assert problems[0] != arithmetic_problem(0, 6)
