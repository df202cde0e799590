"""The answers of a model to a suite: those that are kept are not generated again, new ones are kept batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from classifiers.errors import ModelError, RecipeError
from evaluation.files import KeptAnswers, json_sha256
from evaluation.generation.local_model import Form, LocalModel
from evaluation.generation.server_model import ServerModel
from evaluation.suites.loading import SuitePrompt

Progress = Callable[[int, int], None]


class Decoder(Protocol):
    """Whatever turns prompts into answers: safe beam search, neuron-guided decoding, or one of your own.

    `generate`: the answers in order; prompts are texts as the model reads them, special tokens spelled out (encode them with
    `add_special_tokens=False`). `identity`: all that an answer depends on beside the weights of the evaluated model.
    """

    name: str

    def identity(self) -> dict[str, Any]: ...

    def generate(self, prompts: Sequence[str]) -> list[str]: ...


def answer_key(model: dict[str, str], decoder: dict[str, Any], prompt: str) -> str:
    """The key of an answer: a hash of the model, the decoder with its settings, and the prompt as the model reads it."""
    return json_sha256({"model": model, "decoder": decoder, "prompt": prompt})


def answer_locally(
    prompts: Sequence[SuitePrompt],
    model: LocalModel,
    decoder: Decoder | None,
    form: Form,
    system: str | None,
    prefill_tokens: int,
    kept: KeptAnswers,
    on_progress: Progress,
) -> list[str | None]:
    """One answer a prompt, in order; `decoder` None: the model's own batched decoding. Raises ModelError for a decoder that
    gives another number of answers, and what rendering raises."""
    rendered = [model.render(prompt, form, system, prefill_tokens) for prompt in prompts]
    identity = (decoder or model).identity()
    keys = [answer_key(model.model_identity(), identity, text) for text in rendered]
    missing = frozenset(index for index, key in enumerate(keys) if key not in kept)
    done = len(keys) - len(missing)
    on_progress(done, len(keys))
    batches = (
        model.generate_batches(rendered, missing)
        if decoder is None
        else _decoder_batches(decoder, rendered, missing, model.settings.max_rows)
    )
    for indices, answers in batches:
        done += len(missing.intersection(indices))
        kept.add((keys[i], text) for i, text in zip(indices, answers, strict=True) if keys[i] not in kept)
        on_progress(done, len(keys))
    return [kept[key] for key in keys]


def _decoder_batches(
    decoder: Decoder, prompts: Sequence[str], wanted: frozenset[int], rows: int
) -> Iterator[tuple[list[int], list[str]]]:
    """As `LocalModel.generate_batches`: prompts that are not wanted still decide which ones share a batch."""
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    for start in range(0, len(order), rows):
        indices = order[start : start + rows]
        if wanted.isdisjoint(indices):
            continue
        answers = decoder.generate([prompts[i] for i in indices])
        if len(answers) != len(indices):
            raise ModelError(f"decoder {decoder.name} gave {len(answers)} answers to {len(indices)} prompts")
        yield indices, answers


def answer_by_server(
    prompts: Sequence[SuitePrompt],
    model: ServerModel,
    form: Form,
    system: str | None,
    prefill_tokens: int,
    kept: KeptAnswers,
    work_folder: Path,
    on_progress: Progress,
) -> list[str | None]:
    """One answer a prompt, in order; None where the server gave none (asked again by the next run). Raises RecipeError for
    what servers do not do: completion prompts and prefilled answers."""
    if form != "chat" or prefill_tokens:
        raise RecipeError(
            "a server is asked in chats, without prefilled answers: set `form: chat` and `prefill_tokens: [0]`, or name the "
            "model's folder in `model` and leave `server` out"
        )
    # An empty system message is not none: some chat templates put one of their own where there is none.
    identity, said = model.identity(), {"system": system}
    keys = [answer_key(model.model_identity(), {**identity, **said}, prompt.text) for prompt in prompts]
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in kept}
    done = len(keys) - len(missing)
    on_progress(done, len(keys))
    if missing:
        found = model.answers(missing.items(), system, work_folder, lambda n: on_progress(done + n, len(keys)))
        kept.add((key, text) for key, text in found.items() if text is not None)
    return [kept.get(key) for key in keys]
