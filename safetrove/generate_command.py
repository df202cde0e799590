"""`safetrove generate`: answers of a model by one of the decoders."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Decoder(StrEnum):
    """How answers are decoded."""

    GREEDY = "greedy"
    BEAM = "beam"
    SAFE_BEAM = "safe-beam"
    SAFE_SAMPLE = "safe-sample"
    NGSD = "ngsd"


class Mode(StrEnum):
    """The behaviours of a model that was co-trained with magic tokens."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    REJECTIVE = "rejective"


class Risk(StrEnum):
    """Which risk of a candidate is read."""

    RAW = "raw"
    BOUNDARY = "boundary"


Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE ...]", help="a prompt a line, or JSON lines with `prompt`; default: standard input"),
]
ModelName = Annotated[str, typer.Option(help="a folder, a Hub id, or the embedded model")]
DecoderName = Annotated[Decoder, typer.Option(help="safe-beam and safe-sample need a model with the harmfulness tag")]
RiskName = Annotated[Risk, typer.Option(help="raw: as published; boundary: corrected for half-finished words")]
Chat = Annotated[
    bool | None, typer.Option("--chat/--completion", help="default: a chat where the model has a template")
]
Moderate = Annotated[
    bool, typer.Option("--moderate", help="prompts that our classifiers score >= 3 get the rejective mode")
]
Strength = Annotated[
    float | None, typer.Option(help="of ngsd: the expert's weight, 0 to 1; default: the model rates each request")
]
Plot = Annotated[Path | None, typer.Option(help="PNG of P(tag), or of the gate, along the answer to a single prompt")]


def generate(
    files: Files = None,
    model: ModelName = "embedded:SmolLM2-135M-Instruct",
    decoder: DecoderName = Decoder.GREEDY,
    prompt: Annotated[str | None, typer.Option(help="the prompt itself")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="no end before")] = 0,
    beams: Annotated[int, typer.Option(min=1)] = 4,
    candidates: Annotated[int, typer.Option(min=1, help="continuations of a beam that are looked at")] = 8,
    discard: Annotated[float, typer.Option(help="share of the candidates that is discarded, the riskiest")] = 0.5,
    risk: RiskName = Risk.RAW,
    refill: Annotated[bool, typer.Option("--refill", help="beams that end are replaced")] = False,
    length_penalty: Annotated[float, typer.Option(help="score = log p / length^penalty")] = 0.0,
    temperature: Annotated[float, typer.Option(help="of sampling")] = 1.0,
    top_p: Annotated[float, typer.Option(help="of sampling")] = 1.0,
    seed: Annotated[int, typer.Option(help="of sampling")] = 0,
    chat: Chat = None,
    system: Annotated[str | None, typer.Option(help="system message of the chats")] = None,
    magic_tokens: Annotated[Path | None, typer.Option(help="the server's file of magic tokens, for chats")] = None,
    mode: Annotated[Mode, typer.Option(help="which magic token is the system message")] = Mode.POSITIVE,
    moderate: Moderate = False,
    expert: Annotated[str | None, typer.Option(help="of ngsd: a folder or Hub id, same tokenizer as the model")] = None,
    strength: Strength = None,
    batch: Annotated[int, typer.Option(min=1, help="prompts decoded together")] = 8,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="of torch, on CPU")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines: text, tokens, risk of each")] = False,
    plot: Plot = None,
) -> None:
    """Answer prompts, safely where the model knows the harmfulness tag. On a terminal one answer appears as it is decoded."""
    from classifiers.errors import RecipeError
    from safetrove.generating import GenerateOptions, generate_answers, picture, read_prompts

    prompts = read_prompts(prompt, files or [], sys.stdin)
    if plot is not None and len(prompts) > 1:
        raise RecipeError(f"--plot draws the answer to one prompt; there are {len(prompts)}")
    if plot is not None and plot.is_dir():
        raise RecipeError(f"--plot {plot} is a folder: name the picture's file, for example {plot / 'tag.png'}")
    options = GenerateOptions(
        decoder.value, max_new_tokens, min_new_tokens, beams, candidates, discard, risk.value, refill, length_penalty,
        temperature, top_p, seed, chat, system, batch,
    )  # fmt: skip
    if (decoder is Decoder.NGSD) != (expert is not None) or (strength is not None and expert is None):
        raise RecipeError("--decoder ngsd, its --expert and --strength go together: give the expert's folder")
    switch = _switch(magic_tokens, mode.value, moderate, threads)
    loaded = _load(model, dtype, threads)
    streamed = sys.stdout.isatty() and len(prompts) == 1 and not as_json
    on_text = _print_piece if streamed else None
    if expert is not None:
        if switch is not None:
            raise RecipeError(
                "magic tokens are for the base alone, and ngsd's expert reads the same chat: leave one out"
            )
        _print_ngsd(loaded, _load(expert, dtype, threads), prompts, options, strength, on_text, as_json, plot)
        return
    for answer in generate_answers(loaded, prompts, options, switch, on_text):
        _print_answer(loaded.tokenizer, answer, as_json, streamed, several=len(prompts) > 1)
        if plot is not None:
            _write_picture(plot, picture(loaded, answer))


def _switch(file: Path | None, mode: str, moderate: bool, threads: int) -> Any:
    """The mode switch that the options ask for, or None."""
    from classifiers.errors import RecipeError

    if file is None:
        if moderate or mode != Mode.POSITIVE:
            raise RecipeError("--mode and --moderate choose among magic tokens: give --magic-tokens FILE")
        return None
    from classifiers.evaluating.members import load_classifiers
    from decoding.modes import ClassifierModeration, ModeSwitch
    from finetune.magic_tokens import MagicTokens

    moderation = ClassifierModeration(load_classifiers(None, threads)) if moderate else None
    return ModeSwitch(MagicTokens.load(file), mode, moderation)


def _print_ngsd(
    base: Any,
    expert: Any,
    prompts: Any,
    options: Any,
    strength: float | None,
    on_text: Any,
    as_json: bool,
    plot: Path | None,
) -> None:
    from safetrove.ngsd_answers import answer_with_expert, gate_picture

    answers = answer_with_expert(base, expert, prompts, options, strength, on_text)
    for prompt, answer in zip(prompts, answers, strict=True):
        if as_json:
            print(json.dumps({"id": prompt.id, **answer.to_json(base.tokenizer)}), flush=True)
        elif on_text is not None:
            print()
        else:
            print(f"[{prompt.id}] {answer.text}" if len(prompts) > 1 else answer.text, flush=True)
        if plot is not None:
            _write_picture(plot, gate_picture(base, answer))


def _write_picture(plot: Path, png: bytes) -> None:
    from classifiers.errors import DataError
    from evaluation.files import write_whole

    try:
        write_whole(plot, png)
    except OSError as error:
        raise DataError(f"--plot {plot} cannot be written: {error}") from error
    print(plot, file=sys.stderr)


def _load(name: str, dtype: str, threads: int) -> Any:
    from classifiers.errors import RecipeError
    from evaluation.generation.local_model import LocalModel
    from evaluation.generation.settings import GenerationSettings

    if dtype not in ("auto", "bfloat16", "float32"):
        raise RecipeError(f"--dtype {dtype}: auto, bfloat16 or float32")
    return LocalModel.load(name, GenerationSettings(dtype=dtype, threads=threads))  # type: ignore[arg-type]


def _print_piece(text: str) -> None:
    print(text, end="", flush=True)


def _print_answer(tokenizer: Any, answer: Any, as_json: bool, streamed: bool, several: bool) -> None:
    from safetrove.generating import token_texts

    if as_json:
        print(json.dumps(answer.to_json(token_texts(tokenizer, answer.token_ids))), flush=True)
    elif streamed:
        print()
    else:
        print(f"[{answer.prompt.id}] {answer.text}" if several else answer.text, flush=True)
