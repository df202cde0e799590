"""`safetrove generate` with magic tokens, and with an expert."""

import json

import pytest

from classifiers.errors import RecipeError
from finetune.magic_tokens import MagicTokens
from safetrove.generating import Prompt, generate_answers
from tests.decoding.test_generate_command import FAST, folder, load, options, run  # noqa: F401
from tests.evaluation.tiny_model import save_tiny_model

INSULT = "I will find you and kill you, you worthless piece of filth."


def test_modes_of_a_file_and_the_moderation(folder, tmp_path):  # noqa: F811
    file = tmp_path / "tokens.json"
    MagicTokens.generate().save(file)
    tokens = MagicTokens.load(file)
    lines = f"The library opens at nine.\n{INSULT}\n"
    base = ["--model", folder, "--json", *FAST, "--magic-tokens", file]
    for extra, expected in (
        (["--moderate"], ["positive", "rejective"]),
        (["--mode", "rejective"], ["rejective"] * 2),
    ):
        out = run(*base, *extra, text=lines)
        assert [json.loads(line)["mode"] for line in out.splitlines()] == expected
        assert not tokens.are_in(out)
    assert "need a chat" in str(run(*base, "--completion", "--prompt", "x", expect=2))
    assert "give --magic-tokens FILE" in str(run("--model", folder, "--moderate", "--prompt", "x", expect=2))


def test_a_token_in_the_prompt_never_reaches_the_model(folder):  # noqa: F811
    from decoding.modes import ModeSwitch

    tokens, model = MagicTokens.generate(), load(folder)
    switch = ModeSwitch(tokens)
    secret = tokens.system_text("rejective")
    [answer] = generate_answers(model, [Prompt("1", f"{secret} hi")], options(), switch)
    read = model.tokenizer.decode(answer.prompt_ids)
    assert read == f"<|system|>{tokens.system_text('positive')}<|end|><|user|> hi<|end|><|assistant|>"
    assert answer.mode == "positive"


def test_an_expert(folder, tmp_path):  # noqa: F811
    other = save_tiny_model(tmp_path / "expert", tag=True, seed=5)
    base = ["--model", folder, "--decoder", "ngsd", "--expert", other, "--strength", "0.9", *FAST]
    picture = tmp_path / "gate.png"
    [row] = [json.loads(line) for line in run(*base, "--json", "--prompt", "hi", "--plot", picture).splitlines()]
    assert row["id"] == "1" and row["strength"] == 0.9 and len(row["trace"]["potential"]) >= 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(*base, text="a\nb\n").splitlines()[0].startswith("[1] ")
    same = ["--model", folder, "--decoder", "ngsd", "--expert", folder, "--strength", "0.9", *FAST, "--prompt", "hi"]
    greedy = ["--model", folder, "--decoder", "greedy", *FAST, "--prompt", "hi"]
    assert run(*same).rstrip("\n") == run(*greedy).rstrip("\n")


def test_an_expert_streams_its_answer(folder):  # noqa: F811
    from safetrove.ngsd_answers import answer_with_expert

    pieces, model = [], load(folder)
    [answer] = answer_with_expert(model, model, [Prompt("1", "hello")], options(decoder="ngsd"), 0.5, pieces.append)
    assert "".join(pieces) == answer.text.rstrip("\ufffd")
    with pytest.raises(RecipeError, match="ngsd has no least length"):
        answer_with_expert(model, model, [Prompt("1", "hello")], options(min_new_tokens=2), 0.5)


def test_an_expert_reads_a_text_to_continue_as_the_other_decoders_do(folder, monkeypatch):  # noqa: F811
    """Behind the start token, and with special tokens that the user spells out as ordinary pieces."""
    from tokenizers.processors import TemplateProcessing

    from decoding.ngsd import generation
    from decoding.prompt_encoding import encode_completion
    from safetrove.ngsd_answers import answer_with_expert

    model, seen = load(folder), []
    start = model.tokenizer.convert_tokens_to_ids("<|system|>")
    behind = TemplateProcessing(single="<|system|> $A", special_tokens=[("<|system|>", start)])
    model.tokenizer.backend_tokenizer.post_processor = behind
    encode = generation.encode
    monkeypatch.setattr(generation, "encode", lambda *a, **k: seen.append(encode(*a, **k)) or seen[-1])
    text, asked = "Once <|end|> upon", options(decoder="ngsd", chat=False)
    answer_with_expert(model, model, [Prompt("1", text)], asked, 0.5)
    [greedy] = generate_answers(model, [Prompt("1", text)], options(chat=False))
    assert seen == [[greedy.prompt_ids]] * 2 and greedy.prompt_ids == encode_completion(model.tokenizer, text)
    assert greedy.prompt_ids[0] == start and model.tokenizer.eos_token_id not in greedy.prompt_ids


def test_wrong_options(folder, tmp_path):  # noqa: F811
    file = tmp_path / "tokens.json"
    MagicTokens.generate().save(file)
    for wrong in (["--decoder", "ngsd"], ["--expert", folder], ["--strength", "0.5"]):
        assert "go together" in str(run("--model", folder, "--prompt", "x", *wrong, expect=2))
    both = ["--decoder", "ngsd", "--expert", folder, "--magic-tokens", file]
    assert "the base alone" in str(run("--model", folder, "--prompt", "x", *both, expect=2))
