"""A run goes on, or is called finished, with the rows and the model that it began with, and with no others."""

import json

import pytest
import yaml

from finetune.dpo_training import DpoRecipe, run_dpo
from finetune.errors import FinetuneDataError, ResultFolderError
from finetune.loading import load_starting_model, load_starting_tokenizer, starting_reference
from finetune.magic_tokens import MagicTokens
from finetune.magic_tokens.recipe import MagicRecipe
from finetune.magic_tokens.run import train_magic_tokens
from finetune.run_inputs import INPUTS_FILE
from finetune.sft_training import SftRecipe, run_sft
from finetune.str_training import StrRecipe, run_str
from tests.finetune.tiny_llama import save_tiny_llama

COMMON = {"lora": {"rank": 2}, "max_steps": 1, "batch_size": 4, "micro_batch_size": 4, "threads": 1, "merge": False}


def silent(_):
    pass


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chats(path, word, rows=6):
    turns = [[("user", f"{word} {n}?"), ("assistant", f"It is {n}.")] for n in range(rows)]
    return lines(path, [{"messages": [{"role": r, "content": c} for r, c in pair]} for pair in turns])


def refused(run, keys):
    with pytest.raises(ResultFolderError) as caught:
        run()
    assert f"made of something else: {keys} changed since (hashes in inputs.json)" in str(caught.value)
    assert "name another output, or delete it" in str(caught.value)


def stopped(output):
    """As an interruption before the result leaves it."""
    (output / "finetune.json").unlink()


@pytest.fixture
def sft(tmp_path):
    """A finished run with checkpoints."""
    recipe = SftRecipe(
        **COMMON, model=str(save_tiny_llama(tmp_path / "start")), output=tmp_path / "out", save_steps=1, evaluation_rows=2,
        data=[{"name": "chats", "path": chats(tmp_path / "chats.jsonl", "Sum")}],
    )  # fmt: skip
    run_sft(recipe, report=silent)
    return recipe


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_rows_and_another_model_are_refused(sft, is_finished, tmp_path):
    kept = json.loads((tmp_path / "out" / INPUTS_FILE).read_text())
    assert kept["model"] == starting_reference(sft.model).revision and set(kept) == {"rows", "held_out_rows", "model"}
    if not is_finished:
        stopped(tmp_path / "out")
    chats(tmp_path / "chats.jsonl", "Difference")
    refused(lambda: run_sft(sft, report=silent), "held_out_rows, rows")
    chats(tmp_path / "chats.jsonl", "Sum")
    save_tiny_llama(tmp_path / "start", seed=1)
    refused(lambda: run_sft(sft, report=silent), "model")
    assert (tmp_path / "out" / "finetune.json").is_file() == is_finished
    assert json.loads((tmp_path / "out" / INPUTS_FILE).read_text()) == kept
    # what it was made of is brought back
    save_tiny_llama(tmp_path / "start")
    assert run_sft(sft, report=silent)["data"]["sha256"] == kept["rows"]


def test_a_finished_run_is_compared_without_loading_or_training_a_model(sft, monkeypatch):
    monkeypatch.setattr("finetune.training.load_starting_model", lambda name: pytest.fail("loads weights"))
    said = []
    assert run_sft(sft, report=said.append)["method"] == "sft" and said[-1].endswith("finished already, nothing to do")


def test_a_finished_run_from_before_hashes_were_kept_stays_finished(sft, tmp_path):
    (tmp_path / "out" / INPUTS_FILE).unlink()
    (tmp_path / "chats.jsonl").unlink()
    assert run_sft(sft, report=silent)["method"] == "sft"
    assert not (tmp_path / "out" / INPUTS_FILE).exists(), "nobody knows what it was made of"


def test_missing_rows_of_a_finished_run_are_named(sft, tmp_path):
    (tmp_path / "chats.jsonl").unlink()
    with pytest.raises(FinetuneDataError, match=r"chats\.jsonl cannot be read"):
        run_sft(sft, report=silent)


def test_reference_and_tokenizer_are_those_of_the_loaded_model(sft, tmp_path):
    """Of a plain folder, and of a result folder that holds an adapter alone."""
    for name in (sft.model, str(tmp_path / "out")):
        start = load_starting_model(name)
        assert starting_reference(name) == start.reference
        assert load_starting_tokenizer(name).get_vocab() == start.tokenizer.get_vocab()


def test_another_base_of_safe_lora_is_refused(tmp_path):
    recipe = SftRecipe(
        **COMMON, model=str(save_tiny_llama(tmp_path / "start")), output=tmp_path / "out",
        safe_lora={"base_model": str(save_tiny_llama(tmp_path / "base", seed=1))},
        data=[{"name": "chats", "path": chats(tmp_path / "chats.jsonl", "Sum")}],
    )  # fmt: skip
    run_sft(recipe, report=silent)
    save_tiny_llama(tmp_path / "base", seed=2)
    refused(lambda: run_sft(recipe, report=silent), "safe_lora.base_model")


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_anchors_and_prompts_of_the_tokens_are_refused(tmp_path, is_finished, monkeypatch):
    prompts = lines(tmp_path / "harmful.jsonl", [{"prompt": "harm 0"}])
    monkeypatch.setattr("finetune.safety_tokens.declines", lambda text: True)
    tokens = {"harmful_prompts": prompts, "least_refusals": 2, "answer_tokens": 4, "least_lift": 1}
    anchors = {"path": chats(tmp_path / "refusals.jsonl", "Harm")}
    recipe = StrRecipe(
        **COMMON, model=str(save_tiny_llama(tmp_path / "start")), output=tmp_path / "out",
        data=[{"name": "chats", "path": chats(tmp_path / "chats.jsonl", "Sum")}],
        penalty={"tokens": tokens, "anchors": anchors},
    )  # fmt: skip
    with pytest.raises(FinetuneDataError, match="refuses 1 of 1 harmful prompts"):
        run_str(recipe, report=silent)
    # what is put right before the first update is no other run
    lines(prompts, [{"prompt": f"harm {n}"} for n in range(4)])
    run_str(recipe, report=silent)
    if not is_finished:
        stopped(tmp_path / "out")
    chats(tmp_path / "refusals.jsonl", "Other")
    lines(prompts, [{"prompt": "harm"}])
    refused(lambda: run_str(recipe, report=silent), "anchors, harmful_prompts")


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_pairs_are_refused(tmp_path, is_finished):
    pair = {"prompt": "Why?", "chosen": "No.", "rejected": "So."}
    pairs = lines(tmp_path / "pairs.jsonl", [pair] * 4)
    recipe = DpoRecipe(
        **COMMON, model=str(save_tiny_llama(tmp_path / "start")), output=tmp_path / "out", pairs=pairs, max_length=64
    )
    result = run_dpo(recipe, silent)
    assert result["data"]["sha256"] == json.loads((tmp_path / "out" / INPUTS_FILE).read_text())["pairs"]
    assert run_dpo(recipe, silent) == result
    if not is_finished:
        stopped(tmp_path / "out")
    lines(pairs, [{**pair, "chosen": "Never."}] * 4)
    refused(lambda: run_dpo(recipe, silent), "pairs")


@pytest.fixture
def magic(tmp_path):
    """A finished run of magic tokens."""
    answers = {"positive": "helpful", "rejective": "declining"}
    rows = [{"id": str(n), "prompt": f"risk {n}", "kind": "risk", "policy": None, "answers": answers} for n in range(4)]
    values = {
        **COMMON, "model": str(save_tiny_llama(tmp_path / "start")), "output": str(tmp_path / "out"), "epochs": 1,
        "rows": str(lines(tmp_path / "rows.jsonl", rows)), "tokens": str(tmp_path / "secrets" / "tokens.json"),
        "distil": {"prompts": "none.jsonl"},
    }  # fmt: skip
    recipe = MagicRecipe(**yaml.safe_load(yaml.safe_dump(values)))
    train_magic_tokens(recipe, silent)
    return recipe


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_rows_and_other_magic_tokens_are_refused(magic, is_finished, tmp_path):
    if not is_finished:
        stopped(tmp_path / "out")
    rows = magic.rows.read_text()
    magic.rows.write_text(rows.replace("helpful", "friendly"))
    refused(lambda: train_magic_tokens(magic, silent), "rows")
    magic.rows.write_text(rows)
    secret = MagicTokens.load(magic.tokens)
    kept = (tmp_path / "out" / INPUTS_FILE).read_text()
    assert json.loads(kept)["magic_tokens"] == secret.fingerprint()
    assert not any(secret.system_text(mode) in kept for mode in secret.modes)
    magic.tokens.rename(tmp_path / "aside.json")
    MagicTokens.generate().save(magic.tokens)
    refused(lambda: train_magic_tokens(magic, silent), "magic_tokens")


def test_lost_magic_tokens_are_not_replaced_in_a_run_that_has_begun(magic, tmp_path):
    magic.tokens.unlink()
    assert train_magic_tokens(magic, silent)["method"] == "magic_tokens", "a whole run does not need them"
    stopped(tmp_path / "out")
    with pytest.raises(ResultFolderError, match=r"tokens\.json, which is not there: put that file back"):
        train_magic_tokens(magic, silent)
    assert not magic.tokens.exists()
