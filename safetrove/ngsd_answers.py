"""The ngsd decoder of `safetrove generate`: answers of a base that a small safety expert corrects where a gate opens."""

from collections.abc import Callable, Sequence
from typing import Any

from classifiers.errors import RecipeError
from evaluation.generation.local_model import LocalModel
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from safetrove.generating import GenerateOptions, Prompt, TextStream


def answer_with_expert(
    base: LocalModel,
    expert: LocalModel,
    prompts: Sequence[Prompt],
    options: GenerateOptions,
    strength: float | None,
    on_text: Callable[[str], None] | None = None,
) -> list[Any]:
    """One `decoding.ngsd.NgsdAnswer` a prompt, in order. strength: of every prompt; None: the base rates each request.

    Raises RecipeError for what this decoder does not do, and what `decoding.ngsd.generate` raises.
    """
    from classifiers.loading import fixed_threads
    from decoding.ngsd import ChatModel, NgsdSettings, generate
    from decoding.ngsd import Prompt as NgsdPrompt

    if options.min_new_tokens:
        raise RecipeError("--min-new-tokens: ngsd has no least length; leave it out")
    chat = bool(base.tokenizer.chat_template) if options.chat is None else options.chat
    if not chat and options.system is not None:
        raise RecipeError("a system message needs a chat: the prompts here are texts to continue")
    asked = [NgsdPrompt.ask(p.text, options.system) if chat else NgsdPrompt(text=p.text, plain=True) for p in prompts]
    settings = NgsdSettings(
        max_new_tokens=options.max_new_tokens, strength=strength, max_rows=options.batch_rows
    )  # fmt: skip
    stream = None if on_text is None or len(prompts) > 1 else TextStream(base.tokenizer, on_text)
    seen: list[int] = []

    def on_token(row: int, step: Any) -> None:
        assert stream is not None  # given only then
        seen.append(step.token)
        stream.show(seen)

    with fixed_threads(base.settings.threads):
        return generate(
            ChatModel(base.model, base.tokenizer, base.reference.description, tag=HARMFULNESS_TAG),
            ChatModel(expert.model, expert.tokenizer, expert.reference.description, tag=HARMFULNESS_TAG),
            asked, settings, on_token=None if stream is None else on_token,
        )  # fmt: skip


def gate_picture(base: LocalModel, answer: Any) -> bytes:
    """PNG of the gate's potential along an answer, and of the tokens at which it opened."""
    from decoding.trace_plot import draw_gate
    from safetrove.generating import token_texts

    return draw_gate(
        token_texts(base.tokenizer, [step.token for step in answer.trace]),
        [step.potential for step in answer.trace],
        [step.fired for step in answer.trace],
        answer.threshold,
        f"{base.reference.description}: gate, strength {answer.strength:.2f}",
    )
