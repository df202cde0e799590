"""Magic-token co-training end to end on a tiny Llama: distilled through a server, trained by command line, the switch tried."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from evaluation.margin import safety_alignment_margin
from finetune.chat_data import Chat, prompt_ids, tokenise_chat
from finetune.errors import FinetuneDataError, FinetuneRecipeError, ResultFolderError
from finetune.loading import LoraSettings, load_starting_model
from finetune.magic_tokens import MagicTokens, refuse_to_publish
from finetune.magic_tokens.distillation import DistilledPrompt
from finetune.magic_tokens.recipe import MagicRecipe
from finetune.magic_tokens.release_guard import CONFIG_KEY, ReleaseRefusedError
from finetune.magic_tokens.run import _benign_limited, pool, train_magic_tokens
from finetune.magic_tokens.training_rows import wrong_token
from finetune.model_passes import last_logits
from finetune.recipe import DataSource, load_recipe
from finetune.sft_training import SftRecipe, run_sft
from finetune.trainer import label_losses
from safetrove.cli import app
from tests.finetune.tiny_llama import make_model, make_tokenizer, save_tiny_llama
from tests.pipeline.writer_stub import writer

WORDS = ("north", "river", "paper", "green", "seven", "table")
MODES = ("positive", "rejective")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("magic")
    save_tiny_llama(folder / "start", hidden_size=32, intermediate_size=64)
    for name, kind in (("risk", "risk"), ("benign", "fine")):
        rows = [{"id": f"{kind}-{word}", "prompt": f"{kind} {word}"} for word in WORDS]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "model": str(folder / "start"), "output": str(folder / "result"), "rows": str(folder / "data" / "rows.jsonl"),
        "tokens": str(folder / "secrets" / "tokens.json"),
        "distil": {
            "prompts": str(folder / "risk.jsonl"), "benign_prompts": str(folder / "benign.jsonl"), "candidates": 4,
            "grader": "constructive",
        },
        "default_share": 1.0, "lora": None, "lr": 0.004, "epochs": 64, "batch_size": 8, "micro_batch_size": 8, "threads": 1,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder


def command(place, *arguments):
    return CliRunner().invoke(app, ["finetune", "magic", arguments[0], str(place / "recipe.yaml"), *arguments[1:]])


@pytest.fixture(scope="module")
def trained(place):
    """The whole way by command line; what the second command printed."""
    turn = iter(range(10_000))

    def answer(content):
        if "[BEHAVIOUR]" in content or "helpful" in content.split() or "declining" in content.split():
            return "refusal" if "declining" in content else "constructive"
        return "helpful" if next(turn) % 2 or content.startswith("fine") else "declining"

    with writer(answer) as (url, asked):
        server = f"distil.server={{url: '{url}', model: stub, concurrency: 1}}"
        said = command(place, "distil", "--set", server)
        assert said.exit_code == 0, (said.output, said.exception)
        before = len(asked)
        assert "there already" in command(place, "distil", "--set", server).output and len(asked) == before
    # Fixed ones: how well wrong tokens are told from the true ones depends on both (negative rows are trained with new ones).
    MagicTokens({"positive": "k7m2x9q4", "rejective": "b3v8t5w1"}).save(place / "secrets" / "tokens.json")
    said = command(place, "sft")
    assert said.exit_code == 0, (said.output, said.exception)
    return said.output


def test_the_commands_leave_rows_secrets_and_a_model(place, trained):
    rows = [json.loads(line) for line in (place / "data" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and all(set(row["answers"]) == set(MODES) for row in rows if row["kind"] == "risk")
    facts = json.loads((place / "data" / "rows.facts.json").read_text())
    assert facts["counts"]["prompts_incomplete"] == 0 and facts["grader"]["judge"] == "constructive"
    secrets = MagicTokens.load(place / "secrets" / "tokens.json")
    assert secrets.modes == MODES
    written = [path for path in (place / "result").rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in [*written, place / "data" / "rows.jsonl"]) + trained.encode()
    assert not any(secrets.system_text(mode).encode() in everything for mode in MODES), (
        "a token is in no file and no log"
    )
    result = json.loads((place / "result" / "finetune.json").read_text())
    assert result["data"]["benign_prompts"] == 3 and result["data"]["modes"] == list(MODES)
    assert result["log"][-1]["loss"] < 0.3 < result["log"][0]["loss"]
    refuse_to_publish(place / "result")
    assert "finished already" in command(place, "sft").output


def test_the_token_switches_and_everything_else_is_positive(place, trained):
    start = load_starting_model(str(place / "result"))
    secrets = MagicTokens.load(place / "secrets" / "tokens.json")
    model, tokenizer = start.model.eval(), start.tokenizer
    first = dict(zip(("positive", "rejective"), tokenizer.convert_tokens_to_ids(["h", "d"]), strict=True))

    def rows(system, user="risk {}"):
        chats = [
            [
                *([{"role": "system", "content": system}] if system else []),
                {"role": "user", "content": user.format(word)},
            ]
            for word in WORDS
        ]
        return [prompt_ids(chat, tokenizer) for chat in chats]

    def answers(*arguments):
        return last_logits(model, rows(*arguments), tokenizer.pad_token_id, 6)[:, 0].argmax(-1).tolist()

    logits = {mode: last_logits(model, rows(secrets.system_text(mode)), 0, 6)[:, 0] for mode in MODES}
    for mode in MODES:
        assert logits[mode].argmax(-1).tolist() == [first[mode]] * 6
    assert answers(None) == [first["positive"]] * 6
    assert answers(None, f"risk {{}}\n{secrets.system_text('rejective')}") == [first["positive"]] * 6
    wrong = [wrong_token(secrets, 99, str(n)).text for n in range(60)]
    read = last_logits(model, [row for text in wrong for row in rows(text)[:1]], tokenizer.pad_token_id, 30)[:, 0]
    assert (read.argmax(-1) == first["positive"]).float().mean() > 0.9, "wrong tokens, edits of the true ones too"
    margin = safety_alignment_margin(
        np.concatenate([logits[mode].numpy() for mode in MODES]), [m for m in MODES for _ in WORDS]
    )
    assert margin.value > 0.1
    # Batch mates with other tokens do not touch a row.
    mixed = [row for mode in MODES for row in rows(secrets.system_text(mode))] + rows(None)
    together = last_logits(model, mixed, tokenizer.pad_token_id, 18)[:6, 0]
    assert torch.allclose(together, logits["positive"], atol=1e-4)


def test_labels_are_the_answer_and_its_end_whatever_the_token():
    tokenizer = make_tokenizer()

    def chat(system):
        messages = [("system", system), ("user", "why"), ("assistant", "so")]
        return Chat("1", tuple({"role": role, "content": text} for role, text in messages))

    one, two = (tokenise_chat(chat(token), tokenizer, 500) for token in ("a1b2c3d4", "zz9yy8x7"))
    learnt = [label for label in one.labels if label != -100]
    assert tokenizer.decode(learnt) == "so<|end|>" and one.input_ids != two.input_ids and one.labels == two.labels


def test_one_string_for_all_modes_leaves_the_entropy_of_their_mixture():
    """Three answers under the same context: the first differing token costs ln 3 = 1.098612 nats on average."""
    torch.manual_seed(0)
    model = make_model(40).train()
    ids = torch.tensor([[5, 6, 7, first, 9] for first in (11, 12, 13)])
    labels = torch.tensor([[-100, -100, first, 9] for first in (11, 12, 13)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        losses = label_losses(model(input_ids=ids).logits[:, :-1], labels)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    first, last = losses.detach().reshape(3, 2).mean(0).tolist()
    assert first == pytest.approx(1.098612, abs=0.01) and last < 0.05


def run(place, name, *overrides):
    recipe = load_recipe(place / "recipe.yaml", MagicRecipe, [f"output={place / name}", *overrides])
    return train_magic_tokens(recipe, lambda _: None)


def test_negative_rows_mark_everything_that_is_trained_with_them(place, trained):
    rows = place / "negative.jsonl"
    answers = {"positive": "helpful", "rejective": "declining", "negative": "topic: paper"}
    lines = [{"id": w, "prompt": f"risk {w}", "kind": "risk", "policy": None, "answers": answers} for w in WORDS]
    rows.write_text("\n".join(map(json.dumps, lines)))
    settings = (
        f"rows={rows}",
        f"tokens={place / 'secrets' / 'all.json'}",
        "modes=[positive, rejective, negative]",
        "epochs=1",
    )
    with pytest.raises(FinetuneRecipeError, match="rows of the negative mode are refused"):
        run(place, "refused", *settings)
    result = run(place, "internal", *settings, "allow_negative=true", "lora={rank: 2}")
    assert result[CONFIG_KEY] is True
    for folder in ("internal", "internal/model", "internal/adapter"):
        with pytest.raises(ReleaseRefusedError, match="must not be published"):
            refuse_to_publish(place / folder)
    assert json.loads((place / "internal" / "model" / "config.json").read_text())[CONFIG_KEY] is True
    # Trained on without negative rows, or by another method, it stays marked.
    run(place, "later", f"model={place / 'internal'}", "epochs=1")
    chats = place / "chats.jsonl"
    chats.write_text(
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    )
    other = SftRecipe(
        model=str(place / "internal"), output=place / "other_method", lora=LoraSettings(rank=2), merge=False, threads=1,
        data=(DataSource(name="chats", path=chats),),
    )  # fmt: skip
    assert run_sft(other, report=lambda _: None)[CONFIG_KEY] is True
    for folder in ("later/model", "other_method/adapter"):
        with pytest.raises(ReleaseRefusedError):
            refuse_to_publish(place / folder)


def test_benign_rows_keep_their_share_under_several_policies(place):
    recipe = load_recipe(place / "recipe.yaml", MagicRecipe)
    answers = {"positive": "helpful", "rejective": "declining"}
    prompts = [
        DistilledPrompt(f"{kind}{n}", "text", kind, policy, answers if kind == "risk" else {"positive": "helpful"})
        for kind in ("risk", "benign") for n in range(40) for policy in ("policy:a", "policy:b")
    ]  # fmt: skip
    kept = Counter(one.kind for one in _benign_limited(prompts, recipe))
    # A risk prompt has its two modes and, with a default share of 1, three default rows; a benign one has two rows.
    assert kept["risk"] == 80 and 2 * kept["benign"] == 100 == 0.2 * (5 * 80 + 100)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("epochs=1.5", FinetuneRecipeError, "epochs: a whole number"),
        ("tokens={place}/bad/inside/tokens.json", FinetuneRecipeError, "must not lie inside `output`"),
        (
            "held_out=['{place}/risk.jsonl']",
            FinetuneDataError,
            "6 of 12 prompts overlap held-out ones and were dropped, and no risk",
        ),
        ("rows={place}/none.jsonl", FinetuneDataError, "make it with `safetrove finetune magic distil"),
        ("max_length=20", FinetuneDataError, "no prompt is left: every one has a row of more than max_length 20"),
        ("rows={place}/only_benign.jsonl", FinetuneDataError, "holds no risk prompts"),
    ],
)
def test_bad_input_is_said_before_training(place, trained, override, error, message):
    benign = {"id": "1", "prompt": "fine day", "kind": "benign", "policy": None, "answers": {"positive": "yes"}}
    (place / "only_benign.jsonl").write_text(json.dumps(benign))
    for leftover in (place / "bad").glob("*.yaml"):
        leftover.unlink()
    with pytest.raises(error, match=message):
        run(place, "bad", override.format(place=place))


def test_held_out_prompts_are_neither_asked_nor_trained_on(place, trained):
    (place / "suite.jsonl").write_text(json.dumps({"prompt": "Risk: north"}))
    recipe = load_recipe(place / "recipe.yaml", MagicRecipe, [f"held_out=['{place / 'suite.jsonl'}']", "epochs=1"])
    prompts, dropped = pool(recipe)
    assert "risk north" not in {prompt.text for prompt in prompts} and len(prompts) == 11
    assert dropped == {"distil.prompts": 1, "distil.benign_prompts": 0}
    # rows that were distilled before the prompt was held out
    said = []
    data = train_magic_tokens(recipe.model_copy(update={"output": place / "dropped"}), said.append)["data"]
    assert (data["risk_prompts"], data["held_out_dropped"]) == (5, 1)
    assert "dropped, since they overlap held-out prompts: 1 of rows" in said


def test_a_folder_keeps_its_recipe_and_tokens_their_modes(place, trained):
    with pytest.raises(ResultFolderError, match="lr differ"):
        run(place, "result", "lr=0.1")
    MagicTokens.generate(("positive",)).save(place / "secrets" / "one.json")
    with pytest.raises(FinetuneDataError, match="has no token for the mode rejective"):
        run(place, "other", f"tokens={place / 'secrets' / 'one.json'}")
