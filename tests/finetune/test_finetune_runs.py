"""Whole runs through the command line on a tiny Llama with SmolLM2's tokenizer: results load, references agree, errors are clear."""

import json

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from typer.testing import CliRunner

from finetune.dpo_training import DpoRecipe, _trainer, read_pairs
from finetune.errors import (
    DivergenceError,
    FinetuneDataError,
    FinetuneModelError,
    FinetuneRecipeError,
    ReferenceCacheError,
    ResultFolderError,
)
from finetune.loading import load_starting_model
from finetune.recipe import load_recipe
from finetune.safe_lora import SafeLoraSettings, alignment_matrix, chosen_layers, projection_cosine
from finetune.sft_training import SftRecipe, run_sft
from finetune.str_training import StrRecipe, run_str
from finetune.training import on_one_device, training_arguments
from safetrove.cli import app
from tests.finetune.tiny_llama import make_model, save_tiny_llama, save_tiny_writer

BASE = {
    "lora": {"rank": 2},
    "data": [{"name": "sums", "builder": "arithmetic_problems", "rows": 20}],
    "evaluation_rows": 4,
    "max_length": 160,
    "batch_size": 8,
    "micro_batch_size": 4,
    "max_steps": 3,
    "lr": 3.0e-3,
    "seed": 5,
    "threads": 1,
}
TOKENS = {"rule": "given", "ids": [28, 339, 2055, 416]}


def silent(_):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_writer(tmp_path_factory.mktemp("tiny"))


def sft(folder, output, **keys):
    return SftRecipe(**{**BASE, "model": str(folder), "output": output, **keys})


def str_recipe(folder, output, penalty=None, **keys):
    chosen = {"tokens": TOKENS, "weight": 1.0, **(penalty or {})}
    return StrRecipe(**{**BASE, "model": str(folder), "output": output, "penalty": chosen, **keys})


def command(tmp_path, name, recipe, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return CliRunner().invoke(app, ["finetune", name, str(path), *overrides])


@pytest.fixture
def tiny(tmp_path):
    """Recipes of short runs from a model of bytes, each with an adapter alone."""
    base, rows = save_tiny_llama(tmp_path / "base"), tmp_path / "chats.jsonl"
    turns = [[("user", f"Sum {n}?"), ("assistant", f"It is {n}.")] for n in range(8)]
    rows.write_text("".join(json.dumps({"messages": [{"role": r, "content": c} for r, c in t]}) + "\n" for t in turns))
    keys = {**BASE, "data": [{"name": "chats", "path": rows}], "evaluation_rows": 0, "lr": 1e-2, "merge": False}
    return lambda output, **more: SftRecipe(**{**keys, "model": str(base), "output": output, **more})


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(9)[None]).logits


def test_str_through_the_command_line_gives_an_adapter_and_a_model_that_load(folder, tmp_path):
    recipe = {**BASE, "model": str(folder), "output": str(tmp_path / "out"), "penalty": {"tokens": TOKENS}}
    done = command(tmp_path, "str", recipe, "--set", "penalty.weight=1.0")
    assert done.exit_code == 0, done.output
    assert "4 safety tokens: " in done.output and "held_out_loss_after" in done.output
    result = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert (result["method"], result["recipe"]["penalty"]["weight"]) == ("str", 1.0)
    assert result["safety_tokens"]["ids"] == TOKENS["ids"] and len(result["data"]["sha256"]) == 64
    assert [entry["step"] for entry in result["log"]] == [1, 2, 3] and result["log"][0]["str_penalty"] == 0
    for entry in result["log"]:
        assert entry["loss"] == pytest.approx(entry["cross_entropy"] + entry["str_penalty"], rel=1e-4)
    assert result["metrics"]["held_out_loss_after"] < result["metrics"]["held_out_loss_before"]
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter")
    start = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.allclose(logits(whole), logits(adapter), atol=1e-4) and not torch.allclose(
        logits(whole), logits(start), atol=1e-2
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").chat_template
    card = (tmp_path / "out" / "README.md").read_text()
    for shown in (
        "STR-style fine-tuning (reconstructed",
        result["data"]["sha256"],
        "held out loss after",
        "LoRA of rank 2",
    ):
        assert shown in card
    assert not list((tmp_path / "out").glob(".*.tmp"))
    # once more: nothing to do; another recipe: refused
    again = command(tmp_path, "str", recipe, "--set", "penalty.weight=1.0")
    assert again.exit_code == 0 and "finished already, nothing to do" in again.output
    other = command(tmp_path, "str", recipe)
    assert isinstance(other.exception, ResultFolderError) and "(penalty differ)" in str(other.exception)
    # a result folder is a starting model, with and without its merged weights
    first = logits(load_starting_model(str(tmp_path / "out")).model)
    (tmp_path / "out" / "model" / "config.json").unlink()
    merged = load_starting_model(str(tmp_path / "out"))
    assert torch.allclose(first, logits(merged.model), atol=1e-4) and "+" in merged.reference.revision


def test_kept_and_online_references_give_the_same_run_with_adapters_and_without(folder, tmp_path):
    for lora in (BASE["lora"], None):
        losses = []
        for reference in ("online", "cached"):
            out = tmp_path / f"{reference}-{lora is None}"
            result = run_str(str_recipe(folder, out, {"reference": reference}, lora=lora, lr=1e-3), report=silent)
            losses.append([entry["str_penalty"] for entry in result["log"]])
            assert (out / "adapter").is_dir() == (lora is not None) and (out / "model").is_dir()
        assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-7) and losses[0][-1] > 0
        kept = tmp_path / f"cached-{lora is None}" / "reference"
        with pytest.raises(ReferenceCacheError, match=r"another run \(space: "):
            penalty = {"reference": "cached", "cache": kept, "space": "mass"}
            run_str(str_recipe(folder, tmp_path / f"other-{lora is None}", penalty, lora=lora, lr=1e-3), report=silent)


def test_a_weight_of_zero_is_plain_fine_tuning_and_one_seed_is_one_run(folder, tmp_path):
    plain = run_sft(sft(folder, tmp_path / "plain"), report=silent)
    zero = run_str(str_recipe(folder, tmp_path / "zero", {"weight": 0.0}), report=silent)
    other = run_sft(sft(folder, tmp_path / "seed", seed=6), report=silent)
    for key in ("loss", "grad_norm"):
        assert [e[key] for e in plain["log"]] == [e[key] for e in zero["log"]] != [e[key] for e in other["log"]]
    weights = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "model").state_dict() for name in ("plain", "zero")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("log_steps", [1, 2])
def test_a_run_that_was_ended_goes_on_from_its_checkpoint(folder, tmp_path, log_steps):
    keys = {"max_steps": 4, "save_steps": 2, "log_steps": log_steps}
    whole = run_str(str_recipe(folder, tmp_path / "whole", **keys), report=silent)
    cut = tmp_path / "cut"
    (tmp_path / "whole" / "checkpoints").rename(tmp_path / "kept")
    cut.mkdir()
    (cut / "checkpoints").mkdir()
    (tmp_path / "kept" / "checkpoint-2").rename(cut / "checkpoints" / "checkpoint-2")
    resumed = run_str(str_recipe(folder, cut, **keys), report=silent)
    for part in ("loss", "cross_entropy", "str_penalty"):
        assert [entry[part] for entry in resumed["log"]] == pytest.approx(
            [entry[part] for entry in whole["log"]], rel=1e-5
        )


@pytest.mark.parametrize("torn", [None, '{"epoch": 0.5, "log_hist'])
def test_a_checkpoint_that_was_cut_short_is_passed_over(folder, tmp_path, torn):
    recipe = sft(folder, tmp_path / "out", max_steps=3, save_steps=1, merge=False)
    whole = run_sft(recipe, report=silent)
    (tmp_path / "out" / "finetune.json").unlink()
    # killed while the last one was saved: weights and optimizer are there, the state is not
    state = tmp_path / "out" / "checkpoints" / "checkpoint-3" / "trainer_state.json"
    state.unlink() if torn is None else state.write_text(torn)
    assert run_sft(recipe, report=silent)["log"] == whole["log"]
    assert json.loads(state.read_text())["global_step"] == 3
    (tmp_path / "out" / "finetune.json").unlink()
    for path in (tmp_path / "out" / "checkpoints").glob("*/trainer_state.json"):
        path.unlink()
    assert [entry["step"] for entry in run_sft(recipe, report=silent)["log"]] == [1, 2, 3], "none is whole: anew"


def test_constrained_fine_tuning_by_hand(folder, tmp_path):
    from finetune.constrained_sft import ConstrainedSettings, constrained_loss, constrained_weights, token_betas

    offsets = torch.tensor([1, 2, 5, 6, 1])
    assert token_betas(offsets, ConstrainedSettings()).tolist() == pytest.approx([0.5, 2.0, 2.0, 0.1, 0.5])
    log_p, start = torch.randn(5, requires_grad=True), torch.randn(5)
    betas = token_betas(offsets, ConstrainedSettings())
    constrained_loss(log_p, start, betas).sum().backward()
    assert torch.allclose(log_p.grad, -constrained_weights(log_p, start, betas, 0.0), atol=1e-6)
    assert torch.allclose(constrained_weights(start, start, betas, 1e-3), torch.ones(5))
    assert torch.allclose(constrained_loss(start, start, betas), 2 / betas * torch.tensor(2.0).log())
    far = constrained_weights(torch.tensor([50.0]), torch.tensor([0.0]), torch.tensor([2.0]), 1e-3)
    assert float(far) == pytest.approx(1e-3)
    result = run_sft(sft(folder, tmp_path / "out", constrained={"reference": "cached"}), report=silent)
    first = result["log"][0]
    assert result["method"] == "constrained_sft"
    assert first["loss"] == pytest.approx(first["cross_entropy"], rel=1e-4)  # all weights are 1 at the start
    last = result["log"][-1]
    assert last["loss"] < last["cross_entropy"]  # what has become likelier is pulled less


def test_safe_lora_by_hand(folder, tmp_path):
    aligned, base = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    matrix = alignment_matrix(aligned, base)
    difference = aligned - base
    assert torch.allclose(matrix, difference @ difference.T / difference.square().sum().sqrt())
    assert not alignment_matrix(base, base).any()
    b, a = torch.randn(4, 2, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    one = (matrix @ b @ a).flatten() @ (b @ a).flatten() / ((matrix @ b @ a).norm() * (b @ a).norm())
    assert projection_cosine(matrix, b, a) == pytest.approx(float(one)) and projection_cosine(matrix, b * 0, a) == 0
    cosines = {"x": 0.9, "y": 0.2, "z": 0.5}
    assert chosen_layers(cosines, SafeLoraSettings(base_model="b")) == ["y", "z"]
    assert chosen_layers(cosines, SafeLoraSettings(base_model="b", layers=1)) == ["y"]

    # the model is its own base: V = 0, so every adapter is taken out and the start is back
    result = run_sft(sft(folder, tmp_path / "own", safe_lora={"base_model": str(folder)}), report=silent)
    assert len(result["safe_lora"]["projected"]) == 14 and result["method"] == "safe_lora"
    assert result["metrics"]["held_out_loss_after"] == pytest.approx(
        result["metrics"]["held_out_loss_before"], rel=1e-5
    )
    other = tmp_path / "other"
    AutoTokenizer.from_pretrained(folder).save_pretrained(other)
    make_model(49152, hidden_size=32).save_pretrained(other)
    with pytest.raises(FinetuneModelError, match="q_proj is missing or of another shape"):
        run_sft(sft(folder, tmp_path / "wrong", safe_lora={"base_model": str(other)}), report=silent)


def test_dpo_through_the_command_line_prefers_the_chosen(folder, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(
        json.dumps({"prompt": f"Do the bad thing number {n}.", "chosen": "I will not do that.", "rejected": "Sure, first you"})
        + "\n"
        for n in range(16)
    ))  # fmt: skip
    keys = {key: value for key, value in BASE.items() if key not in ("data", "evaluation_rows")}
    recipe = {
        **keys,
        "model": str(folder),
        "output": str(tmp_path / "out"),
        "pairs": str(pairs),
        "lr": 1e-2,
        "max_steps": 6,
    }
    done = command(tmp_path, "dpo", recipe)
    assert done.exit_code == 0, (done.output, done.exception)
    result = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert result["metrics"]["last_loss"] < 0.6 and result["data"]["pairs"] == 16
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    # trl's copy of the first adapter is no part of the result
    assert not [path for path in (tmp_path / "out" / "adapter").iterdir() if path.is_dir()]
    adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter")
    assert torch.allclose(logits(whole), logits(adapter), atol=1e-4)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, "a list of at least one message"),
        ({"prompt": "a", "chosen": "b"}, "line 1: no `rejected` that is a text"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the same text"),
        (
            {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "chosen": "b"},
            "must be the user's",
        ),
    ],
)
def test_wrong_pairs_are_refused(tmp_path, row, message):
    from finetune.dpo_training import read_pairs

    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    with pytest.raises(FinetuneDataError, match=message):
        read_pairs(tmp_path / "pairs.jsonl")


def test_what_diverges_behind_the_last_log_entry_is_not_saved(tiny, tmp_path):
    broken = tiny(tmp_path / "out", lr=1e30, warmup=0, log_steps=5)
    with pytest.raises(DivergenceError, match="not finite after the last update, so nothing is saved; lower lr"):
        run_sft(broken, report=silent)
    assert not (tmp_path / "out" / "finetune.json").exists() and not (tmp_path / "out" / "adapter").exists()


def test_an_adapter_on_an_adapter_alone_never_loads_on_the_model_below(tiny, tmp_path):
    run_sft(tiny(tmp_path / "first"), report=silent)
    second = tiny(tmp_path / "second", model=str(tmp_path / "first"), seed=6)
    run_sft(second, report=silent)
    config = json.loads((tmp_path / "second" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "first")
    with pytest.raises((OSError, ValueError), match="first"):  # peft: there is no model
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "second" / "adapter")
    first, both = (logits(load_starting_model(str(tmp_path / name)).model) for name in ("first", "second"))
    assert not torch.allclose(first, both, atol=1e-3)
    # peft's own card is an empty form that names folders of this machine; ours is beside the adapter
    assert not (tmp_path / "second" / "adapter" / "README.md").exists()
    # the reference of full preference tuning is the model that is tuned, whatever lies under its name
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "Why?", "chosen": "No.", "rejected": "So."}) + "\n")
    keys = {"batch_size": 1, "micro_batch_size": 1, "threads": 1, "lora": None, "max_length": 64}
    recipe = DpoRecipe(**keys, model=str(tmp_path / "first"), output=tmp_path / "dpo", pairs=pairs)
    start = load_starting_model(recipe.model)
    trainer = _trainer(recipe, start.model, start.tokenizer, read_pairs(pairs))
    assert torch.equal(logits(trainer.ref_model), first)
    assert not any(weight.requires_grad for weight in trainer.ref_model.parameters())


def test_errors_come_before_training_and_end_with_the_right_code(folder, tmp_path):
    recipe = {**BASE, "model": str(folder), "output": str(tmp_path / "out")}
    wrong = command(tmp_path, "sft", {**recipe, "packing": True})
    assert wrong.exception.exit_code == 2 and "packed rows change each other's contexts" in str(wrong.exception)
    no_lora = command(tmp_path, "sft", {**recipe, "lora": None, "safe_lora": {"base_model": "x"}})
    assert no_lora.exception.exit_code == 2 and "safe_lora projects LoRA adapters" in str(no_lora.exception)
    empty = command(
        tmp_path, "str", {**recipe, "output": str(tmp_path / "e"), "penalty": {"tokens": {"rule": "given"}}}
    )
    assert empty.exception.exit_code == 1 and "finds no safety token" in str(empty.exception)
    foreign = {"tokens": {"rule": "given", "ids": [60000]}}
    far = command(tmp_path, "str", {**recipe, "output": str(tmp_path / "f"), "penalty": foreign})
    assert "safety token 60000: the model has ids from 0 to 49151" in str(far.exception)
    with pytest.raises(DivergenceError, match=r"update \d+: the loss or its gradient is not finite; lower lr"):
        run_sft(sft(folder, tmp_path / "d", lr=1e30, max_steps=20, warmup=0), report=silent)


def test_recipes_override_by_dotted_keys(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**BASE, "output": "out"}))
    loaded = load_recipe(path, StrRecipe, ["penalty.space=mass", "penalty.tokens.most=7"])
    assert (loaded.penalty.space, loaded.penalty.tokens.most) == ("mass", 7)


def test_a_launcher_of_several_processes_is_refused_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FinetuneRecipeError, match="WORLD_SIZE is 2: a run is one process"):
        run_sft(sft(folder, tmp_path / "out"), report=silent)
    assert not (tmp_path / "out").exists()


def test_of_several_accelerators_one_is_used(folder, tmp_path):
    arguments = TrainingArguments(**training_arguments(sft(folder, tmp_path / "out")))
    assert arguments.device.type == "cpu" and on_one_device(arguments).n_gpu == 0
    arguments._n_gpu = 8  # as transformers counts them where there are eight
    assert on_one_device(arguments).n_gpu == 1 and arguments.train_batch_size == BASE["micro_batch_size"]
