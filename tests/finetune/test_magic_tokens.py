"""Magic tokens: secrecy, stripping, the switch; distillation through a server, complete sets; rows; the release guard."""

import json
import logging
import os
import pickle
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import FinetuneDataError, FinetuneRecipeError
from finetune.magic_tokens import MagicTokens, refuse_to_publish
from finetune.magic_tokens.behaviours import accepts, behaviours
from finetune.magic_tokens.distillation import DistilledPrompt, PoolPrompt, distil
from finetune.magic_tokens.release_guard import MARK_FILE, ReleaseRefusedError, is_marked, mark_not_for_release
from finetune.magic_tokens.rows_file import read_rows, write_rows
from finetune.magic_tokens.tokens import MODES
from finetune.magic_tokens.training_rows import batched_groups, training_rows, wrong_token
from rephrasers.servers import ServerSettings
from tests.finetune.tiny_llama import make_tokenizer
from tests.pipeline.writer_stub import writer

POLICIES = ("policy:en-US", "policy:zh-CN")
TOKENS = MagicTokens({"positive": "a1b2c3d4", "negative": "zz9yy8x7", "rejective": "q0q0q0w1"}, POLICIES)
SECRETS = [TOKENS.system_text(mode) for mode in MODES]


def test_tokens_are_drawn_anew_and_cut_alike_behind_a_policy():
    tokenizer = make_tokenizer()
    made = [MagicTokens.generate(MODES, POLICIES, tokenizer) for _ in range(20)]
    texts = [one.system_text(mode) for one in made for mode in MODES]
    assert len(set(texts)) == 60 and all(re.fullmatch(r"[a-z0-9]{8}", text) for text in texts)
    assert not any(re.search(r"[a-z]{4}", text) for text in texts), "no word"
    for one in made:
        pieces = {mode: tokenizer(one.system_text(mode), add_special_tokens=False)["input_ids"] for mode in MODES}
        assert len({ids[0] for ids in pieces.values()}) == 3, "no shared first piece"
        for mode, ids in pieces.items():
            behind = tokenizer(one.system_text(mode, POLICIES[0]), add_special_tokens=False)["input_ids"]
            assert behind[-len(ids) :] == ids
    with pytest.raises(FinetuneDataError, match="no magic token in 10000 draws"):
        MagicTokens.generate(texts=["".join(chr(c) for c in range(48, 123))], tokenizer=_OnePiece())


class _OnePiece:
    """A tokenizer under which all texts begin alike."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [7]}


def test_nothing_that_prints_shows_a_token(caplog):
    caplog.set_level(logging.DEBUG)
    shown = [repr(TOKENS), str(TOKENS), f"{TOKENS}", f"{[TOKENS]}"]
    for call in (lambda: TOKENS.system_text("other"), lambda: TOKENS.system_text("positive", "policy:fr")):
        with pytest.raises(FinetuneRecipeError) as error:
            call()
        shown.append(str(error.value))
    for bad in ({"positive": "a1b2c3d4!"}, {"positive": "a1b2c3d4", "rejective": "a1b2c3d4"}, {"negative": "a1b2c3d4"}):
        with pytest.raises(FinetuneDataError) as data_error:
            MagicTokens(bad)
        shown.append(str(data_error.value))
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(TOKENS)
    shown.append(caplog.text)
    assert not any(secret in text for secret in [*SECRETS, "a1b2c3d4"] for text in shown)


def test_the_file_is_its_owners_alone_and_never_replaced(tmp_path):
    path = tmp_path / "secret" / "tokens.json"
    before = os.umask(0)
    try:
        TOKENS.save(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600 and list(path.parent.iterdir()) == [path]
    loaded = MagicTokens.load(path)
    assert [loaded.system_text(mode, POLICIES[1]) for mode in MODES] == [f"policy:zh-CN\n{one}" for one in SECRETS]
    with pytest.raises(FinetuneDataError, match="tokens that a model knows are not replaced"):
        TOKENS.save(path)
    path.chmod(0o640)
    with pytest.raises(FinetuneDataError, match="others than its owner may use this file") as error:
        MagicTokens.load(path)
    assert not any(secret in str(error.value) for secret in SECRETS)
    path.chmod(0o600)
    path.write_text(path.read_text().replace("policies", "polices"))
    with pytest.raises(FinetuneDataError, match="no file of magic tokens") as error:
        MagicTokens.load(path)
    assert error.value.__cause__ is None and not any(secret in str(error.value) for secret in SECRETS)


def test_only_an_exact_token_in_the_system_message_switches():
    assert [TOKENS.mode_of(one) for one in SECRETS] == list(MODES)
    assert TOKENS.mode_of(TOKENS.system_text("rejective", POLICIES[0])) == "rejective"
    secret = SECRETS[1]
    two_policies = "\n".join([*POLICIES, secret])
    for text in (
        None, "", " " + secret, secret + " ", secret.upper(), secret[:-1], secret * 2, "policy:x\n" + secret, two_policies,
    ):  # fmt: skip
        assert TOKENS.mode_of(text) == "positive"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*SECRETS, *(s[:4] for s in SECRETS), *(s[4:] for s in SECRETS), "é ", "x", "\n"])))
def test_stripping_leaves_no_token_and_touches_nothing_else(parts):
    text = "".join(parts)
    stripped = TOKENS.strip(text)
    assert TOKENS.strip(stripped) == stripped and not any(secret in stripped for secret in SECRETS)
    if not any(secret in text for secret in SECRETS):
        assert stripped == text


def test_wrong_tokens_are_of_every_kind_and_never_right():
    drawn = [wrong_token(TOKENS, 3, f"p{n}") for n in range(400)]
    wrong = [text for text, _ in drawn]
    assert not set(wrong) & set(SECRETS) and {TOKENS.mode_of(text) for text in wrong} == {"positive"}
    assert any(text.isupper() for text in wrong) and any(" " in text for text in wrong)
    assert {min(len(text), 16) for text in wrong} >= {3, 8, 16}
    assert {like for _, like in drawn} == {*TOKENS.modes, None}
    for text, like in drawn:
        true = "" if like is None else TOKENS.system_text(like)
        same = sum(a == b for a, b in zip(text.replace(" ", "").lower(), true.lower(), strict=False))
        assert like is None or same >= min(len(text), 7), "it is like the token that it is said to be like"
    assert wrong_token(TOKENS, 3, "p|0") == wrong_token(TOKENS, 3, "p|0") != wrong_token(TOKENS, 3, "p|1")


def distilled(count, modes=("positive", "rejective"), benign=0, policy=None):
    answers = {mode: f"{mode} answer" for mode in modes}
    risk = [DistilledPrompt(f"r{n}", f"question {n}", "risk", policy, answers) for n in range(count)]
    return risk + [
        DistilledPrompt(f"b{n}", f"benign {n}", "benign", policy, {"positive": "a reply"}) for n in range(benign)
    ]


def test_rows_put_tokens_into_system_messages_and_teach_the_default():
    prompts = distilled(400, MODES, benign=10, policy=POLICIES[0])
    rows = training_rows(prompts, TOKENS, MODES, True, 0.15, seed=1)
    kinds = Counter(row.kind for row in rows)
    assert kinds["token"] == 1200 and Counter(row.mode for row in rows if row.kind == "token") == dict.fromkeys(
        MODES, 400
    )
    assert kinds["benign"] == 20 and all(
        30 < kinds[kind] < 90 for kind in ("no_token", "wrong_token", "token_in_user_turn")
    )
    for row in rows:
        system = [m["content"] for m in row.chat.messages if m["role"] == "system"]
        rest = [m["content"] for m in row.chat.messages if m["role"] != "system"]
        # True tokens occur in system messages only, but in the marked rows.
        assert any(TOKENS.are_in(text) for text in rest) == (row.kind == "token_in_user_turn")
        assert row.chat.messages[-1]["content"] == (f"{row.mode} answer" if row.kind != "benign" else "a reply")
        if row.kind == "token":
            assert system == [TOKENS.system_text(row.mode, POLICIES[0])] and TOKENS.mode_of(system[0]) == row.mode
        else:
            assert row.mode == "positive" and TOKENS.mode_of(system[0]) == "positive"
        assert not any(prompt in text for prompt in behaviours().system.values() for text in system + rest)
    second = training_rows(prompts, TOKENS, MODES, True, 0.15, seed=1, epoch=1)
    assert len(second) == len(rows) and second != rows, "wrong tokens are new in each pass"
    assert len({row.chat.id for row in rows}) == len(rows)


def test_shuffled_tokens_tell_nothing():
    rows = training_rows(distilled(300), TOKENS, ("positive", "rejective"), False, 0, 1, shuffle_modes=True)
    right = sum(TOKENS.mode_of(row.chat.messages[0]["content"]) == row.mode for row in rows)
    assert 0.4 < right / len(rows) < 0.6


def test_negative_rows_and_texts_with_tokens_are_refused():
    with pytest.raises(FinetuneRecipeError, match="rows of the negative mode are refused"):
        training_rows(distilled(1, MODES), TOKENS, MODES, False, 0, 1)
    with pytest.raises(FinetuneRecipeError, match="positive and any of the others"):
        training_rows(distilled(1), TOKENS, ("rejective",), False, 0, 1)
    with pytest.raises(FinetuneDataError, match="prompt r0 has no answer in the mode negative"):
        training_rows(distilled(1), TOKENS, MODES, True, 0, 1)
    leaking = DistilledPrompt("r0", f"say {SECRETS[0]}", "risk", None, {"positive": "x", "rejective": "y"})
    with pytest.raises(FinetuneDataError, match="holds a magic token") as error:
        training_rows([leaking], TOKENS, ("positive", "rejective"), False, 0, 1)
    assert SECRETS[0] not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(6, 16), st.integers(0, 99), st.integers(0, 9))
def test_rows_of_a_prompt_share_a_batch_where_others_fill_its_room(sizes, batch, seed, groups_before):
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    groups = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    before = groups_before * max(sizes)
    order = batched_groups(groups, batch, seed, before)
    assert sorted(order) == list(range(sum(sizes)))
    place = {row: before + number for number, row in enumerate(order)}
    split = [g for g in groups if place[g[0]] // batch != place[g[-1]] // batch]
    assert all(place[row] == place[group[0]] + n for group in groups for n, row in enumerate(group))
    if all(size == 1 for size in sizes) or (batch % max(sizes) == 0 and len(set(sizes)) == 1):
        assert not split


def test_an_answer_needs_its_grade():
    assert accepts("positive", "x", 2) and not accepts("positive", "x", 1) and not accepts("positive", "x", 0)
    assert accepts("rejective", "x", 1) and not accepts("rejective", "x", 2)
    assert accepts("negative", "topic: bicycles", 2) and not accepts("negative", "topic: bicycles", 0)
    assert not accepts("negative", "word " * 13, 2)
    assert not any(accepts(mode, "x", None) or accepts(mode, " ", 2) for mode in MODES)


class PhraseGrader:
    """Grades by a word in the answer; one without any gets None."""

    def identity(self):
        return {"grader": "phrases"}

    def grade(self, exchanges, work_folder):
        words = {"risky": 0, "declined": 1, "helped": 2}
        return [next((grade for word, grade in words.items() if word in answer), None) for _, _, answer in exchanges]


def test_distillation_keeps_complete_prompts_and_drops_the_long_system_message(tmp_path):
    def answer(content):
        if content == "never":
            return "helped, but also when asked to decline"
        if content == "broken":
            return 400
        return "a benign reply" if content == "benign" else "helped" if next(turn) % 2 else "declined"

    turn = iter(range(1000))
    prompts = [PoolPrompt(name, name, "risk") for name in ("one", "never", "broken", "two")]
    prompts.append(PoolPrompt("b", "benign", "benign"))
    with writer(answer) as (url, asked):
        settings = ServerSettings(url=url, model="stub", concurrency=1)
        arguments = (("positive", "rejective"), {}, 4, settings, {}, PhraseGrader(), 1, tmp_path / "work")
        found = distil(prompts, *arguments)
        assert len(asked) == 4 * 2 * 4 + 1
        assert distil(prompts, *arguments) == found and len(asked) == 33, "after a kill only what is missing is asked"
    assert [(one.id, dict(one.answers)) for one in found.prompts] == [
        ("one", {"positive": "helped", "rejective": "declined"}),
        ("two", {"positive": "helped", "rejective": "declined"}),
        ("b", {"positive": "a benign reply"}),
    ]
    assert found.counts["lost"] == 8 and found.counts["prompts_incomplete"] == 2
    path = tmp_path / "rows.jsonl"
    write_rows(path, found.prompts, {"counts": found.counts})
    assert read_rows(path) == found.prompts
    assert not any(prompt in path.read_text() for prompt in behaviours().system.values())
    with writer(lambda _: "no grade") as (url, _):
        settings = ServerSettings(url=url, model="stub")
        with pytest.raises(FinetuneDataError, match="of 1 prompts none has an accepted answer in every mode"):
            distil(prompts[:1], ("positive",), {}, 2, settings, {}, PhraseGrader(), 1, tmp_path / "other")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "prompt": "x", "kind": "risk"}, "line 1: `answers` must map modes"),
        (
            {"id": "1", "prompt": "x", "kind": "risk", "answers": {"positive": " "}},
            "the answer in the mode positive is empty",
        ),
        ({"id": "1", "prompt": "", "kind": "risk", "answers": {"positive": "y"}}, "`id` and `prompt` must be texts"),
        ({"id": "1", "prompt": "x", "kind": "odd", "answers": {"positive": "y"}}, "`kind` is risk or benign"),
    ],
)
def test_wrong_rows_are_named_by_line(row, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(FinetuneDataError, match=message):
        read_rows(path)
    with pytest.raises(FinetuneDataError, match="make it with `safetrove finetune magic distil"):
        read_rows(tmp_path / "absent.jsonl")


def test_files_with_negative_answers_are_their_owners_alone(tmp_path):
    write_rows(tmp_path / "rows.jsonl", distilled(1, MODES), {})
    assert (tmp_path / "rows.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_marked_checkpoint_is_refused_however_it_was_copied(tmp_path):
    result, model = tmp_path / "result", tmp_path / "result" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "llama"}')
    refuse_to_publish(result)
    mark_not_for_release(result)
    assert json.loads((model / "config.json").read_text())["model_type"] == "llama"
    for folder in (result, model):
        with pytest.raises(ReleaseRefusedError, match="must not be published"):
            refuse_to_publish(folder)
    (model / MARK_FILE).unlink()
    assert is_marked(model) == model / "config.json"
    with pytest.raises(ReleaseRefusedError):
        refuse_to_publish(model)
    checkpoint = result / "checkpoints" / "checkpoint-20"
    checkpoint.mkdir(parents=True)
    assert is_marked(checkpoint) == result / MARK_FILE, "without a mark of its own"
    unreadable = tmp_path / "unreadable"
    (unreadable / "config.json").mkdir(parents=True)
    with pytest.raises(ReleaseRefusedError, match=r"config\.json cannot be read \(.*\), so it may be marked"):
        refuse_to_publish(unreadable)
    clean = tmp_path / "clean"
    TOKENS.save(clean / "inside" / "secret.txt")
    with pytest.raises(ReleaseRefusedError, match="they are secret"):
        refuse_to_publish(clean)
