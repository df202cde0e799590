"""`safetrove generate` on a tiny model: decoders, inputs, JSON, picture, streaming, errors; the decoder of an evaluation."""

import json

import pytest
from typer.testing import CliRunner

from classifiers.errors import DataError, ModelError, RecipeError
from evaluation.generation.local_model import LocalModel
from evaluation.generation.safe_decoder import SafeDecoding
from evaluation.generation.settings import GenerationSettings
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from safetrove.cli import app
from safetrove.generating import GenerateOptions, generate_answers, read_prompts
from safetrove.generating import Prompt as GivenPrompt
from tests.evaluation.tiny_model import save_tiny_model

FAST = ["--threads", "1", "--dtype", "float32", "--max-new-tokens", "6", "--beams", "2", "--candidates", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tagged"), tag=True)


@pytest.fixture(scope="module")
def untagged(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("untagged"), chat=False)


def run(*arguments, text=None, expect=0):
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)], input=text)
    if expect:
        assert result.exception is not None
        return result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.mark.parametrize("decoder", ["greedy", "beam", "safe-beam", "safe-sample"])
def test_decoders_on_lines_of_standard_input(folder, decoder):
    lines = 'first line\n\n{"id": "x", "prompt": "second"}\n{not json\n'
    out = run("--model", folder, "--decoder", decoder, "--json", *FAST, text=lines)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == ["1", "x", "3"]
    for row in rows:
        assert row["ended"] in ("end", "length", "tag") and 1 <= len(row["tokens"]) <= 6
        if decoder.startswith("safe"):
            assert (
                len(row["risk"]) == len(row["tokens"]) and row["log_prob"] < 0 and HARMFULNESS_TAG not in row["tokens"]
            )
        else:
            assert "risk" not in row


def test_one_prompt_a_file_and_the_picture(folder, tmp_path):
    asked = tmp_path / "prompts.txt"
    asked.write_text("good day\n")
    for decoder in ("safe-beam", "greedy"):
        picture = tmp_path / decoder / "tag.png"
        by_prompt = run("--model", folder, "--decoder", decoder, *FAST, "--prompt", "good day", "--plot", picture)
        by_file = run("--model", folder, "--decoder", decoder, *FAST, asked)
        assert by_prompt.splitlines()[0] == by_file.splitlines()[0]
        assert picture.read_bytes().startswith(b"\x89PNG") and len(picture.read_bytes()) > 5000
        assert [path.name for path in picture.parent.iterdir()] == ["tag.png"]


def options(**change):
    values = {
        "decoder": "safe-beam", "max_new_tokens": 10, "min_new_tokens": 0, "num_beams": 2, "candidates": 4,
        "discard_fraction": 0.5, "risk": "raw", "refill": False, "length_penalty": 0.0, "temperature": 1.0, "top_p": 1.0,
        "seed": 0, "chat": None, "system": None, "batch_rows": 2,
    }  # fmt: skip
    return GenerateOptions(**{**values, **change})


def load(folder, **settings):
    return LocalModel.load(str(folder), GenerationSettings(dtype="float32", threads=1, **settings))


@pytest.mark.parametrize("decoder", ["greedy", "beam", "safe-beam", "safe-sample"])
def test_what_is_streamed_is_the_answer(folder, decoder):
    pieces = []
    [answer] = generate_answers(
        load(folder), [GivenPrompt("1", "hello")], options(decoder=decoder), on_text=pieces.append
    )
    assert "".join(pieces) == answer.text.rstrip("\ufffd")
    assert len(pieces) > 1 or decoder == "beam" or len(answer.text) < 3


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_what_a_checkpoint_asks_of_generate_does_not_count(folder, decoder):
    prompt, wanted = GivenPrompt("1", "hello"), options(decoder=decoder, max_new_tokens=8)
    model, penalised = load(folder), load(folder)
    [plain] = generate_answers(model, [prompt], wanted)
    own = penalised.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.suppress_tokens = 50.0, 1, plain.token_ids
    [answer] = generate_answers(penalised, [prompt], wanted)
    assert answer == plain and penalised.model.generation_config is own


def test_a_batch_gives_what_each_prompt_gives_alone(folder):
    model = load(folder)
    prompts = [GivenPrompt(str(i), text) for i, text in enumerate(["one", "a longer text", "3"])]
    together = list(generate_answers(model, prompts, options(risk="boundary")))
    alone = [next(generate_answers(model, [prompt], options(risk="boundary"))) for prompt in prompts]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]


def test_a_tag_in_user_text_is_ordinary_pieces(folder):
    model = load(folder)
    for chat in (True, False):
        [answer] = generate_answers(model, [GivenPrompt("1", f"say {HARMFULNESS_TAG} twice")], options(chat=chat))
        assert model.tag_id not in answer.prompt_ids
        assert HARMFULNESS_TAG in model.tokenizer.decode(answer.prompt_ids)


def test_system_message_is_read(folder):
    model = load(folder)
    [answer] = generate_answers(model, [GivenPrompt("1", "hi")], options(system="be kind"))
    assert model.tokenizer.decode(answer.prompt_ids) == "<|system|>be kind<|end|><|user|>hi<|end|><|assistant|>"


def test_errors(folder, untagged, tmp_path):
    base = ["--model", untagged, *FAST, "--prompt", "hi"]
    error = run(*base, "--decoder", "safe-beam", expect=1)
    assert isinstance(error, ModelError) and "was not trained with the harmfulness tag" in str(error)
    assert "there is no prompt" in str(run("--model", folder, text="\n", expect=1))
    assert "nowhere.txt cannot be read" in str(run("--model", folder, tmp_path / "nowhere.txt", expect=1))
    two = tmp_path / "two"
    two.write_text("a\nb\n")
    assert "--plot draws the answer to one prompt" in str(
        run(two, "--model", folder, "--plot", tmp_path / "x.png", expect=2)
    )
    assert "not both" in str(run(two, "--prompt", "x", expect=2))
    assert "--dtype int8" in str(run("--model", folder, "--dtype", "int8", "--prompt", "x", expect=2))
    assert "has no chat template" in str(run(*base, "--chat", expect=1))
    assert "need a chat" in str(run(*base, "--system", "be kind", expect=2))
    with pytest.raises(DataError, match="standard input, line 2: a JSON object needs a `prompt`"):
        read_prompts(None, [], iter(["fine\n", '{"text": "x"}\n']))
    with pytest.raises(DataError, match="--prompt is empty"):
        read_prompts(" ", [], iter([]))
    long = "--model", folder, "--decoder", "safe-beam", "--max-new-tokens", "500", "--prompt", "a" * 100
    assert "exceed the 512 positions" in str(run(*long, expect=1))


def test_what_is_no_text_is_said_with_its_place(folder, tmp_path):
    with pytest.raises(DataError, match="there is no prompt"):
        read_prompts(None, [], None)  # standard input is closed
    assert "standard input cannot be read as text" in str(run("--model", folder, text=b"fine\n\xff\n", expect=1))
    for text, given in (('{"prompt": "\\ud83d hi"}\n', None), ("ok\nhi \udcff\n", None), (None, "hi \udcff")):
        with pytest.raises(DataError, match=r"(standard input, line [12]|--prompt): .*no text"):
            read_prompts(given, [], iter((text or "").splitlines(keepends=True)))


def test_lines_that_begin_oddly(tmp_path):
    """A mark of byte order, as some editors write it; an absent id; braces that are no object that could be read."""
    line = '{"id": null, "prompt": "second"}'
    file = tmp_path / "prompts.jsonl"
    file.write_text(line + "\n", encoding="utf-8-sig")
    wanted = [GivenPrompt("1", "second")]
    assert read_prompts(None, [file], iter([])) == read_prompts(None, [], iter(["\ufeff" + line])) == wanted
    deep = '{"a":' * 100_000
    assert read_prompts(None, [], iter([deep])) == [GivenPrompt("1", deep)]


def test_a_picture_that_cannot_be_written(folder, tmp_path):
    error = run("--model", "/nowhere", "--prompt", "hi", "--plot", tmp_path, expect=2)  # before a model is loaded
    assert f"--plot {tmp_path} is a folder" in str(error)
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "x.png"
    assert "cannot be written" in str(run("--model", folder, *FAST, "--prompt", "hi", "--plot", inside, expect=1))


def test_decoder_of_an_evaluation(folder, untagged):
    model = load(folder, max_new_tokens=8)
    decoder = SafeDecoding(num_beams=2, candidates_per_beam=4, prompts_at_once=2).build(model)
    prompts = ["<|user|>one<|end|><|assistant|>", "<|user|>a second<|end|><|assistant|>", "x"]
    together = decoder.generate(prompts)
    assert together == [decoder.generate([prompt])[0] for prompt in prompts]
    assert decoder.identity()["decoder"] == "safe-beam" and decoder.identity()["discard_fraction"] == 0.5
    sampled = SafeDecoding(name="safe-sample", candidates_per_beam=4).build(
        load(folder, max_new_tokens=8, temperature=0.8)
    )
    assert sampled.generate(prompts) == sampled.generate(prompts) and sampled.identity()["temperature"] == 0.8
    with pytest.raises(RecipeError, match="safe-beam takes 0"):
        SafeDecoding().build(load(folder, temperature=0.8))
    with pytest.raises(ModelError, match="was not trained with the harmfulness tag"):
        SafeDecoding().build(load(untagged))


def test_evaluation_recipe_with_the_decoder(folder, tmp_path):
    from evaluation.recipe import load_recipe
    from evaluation.run import evaluate

    settings = [
        f"model={folder}", "limit=2", "generation.max_new_tokens=4", "generation.dtype=float32", "generation.threads=1",
        "decoder.name=safe-beam", "decoder.num_beams=2", "decoder.candidates_per_beam=4",
    ]  # fmt: skip
    summary = evaluate(load_recipe(None, settings), tmp_path / "result")
    assert summary["decoder"]["decoder"] == "safe-beam" and summary["decoder"]["num_beams"] == 2
    assert summary["recipe"]["decoder"]["name"] == "safe-beam"
