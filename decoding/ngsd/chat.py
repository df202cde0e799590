"""A model with its tokenizer, prompts in each family's own chat template, and what has to fit before anything is decoded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from classifiers.errors import DataError, ModelError
from decoding.ngsd.cached_model import context_length
from decoding.prompt_encoding import encode_chat, encode_completion

# Stands for a request while a template is taken apart.
_PLACE = "safetrove-request-place"


@dataclass(frozen=True)
class ChatModel:
    """A loaded transformers causal LM in eval mode, and its tokenizer. `name` stands in errors.

    template_options: variables of the chat template; one that a template does not know has no effect. tag: the harmfulness
    tag; an answer ends at it, and one that a prompt spells out stays ordinary pieces, where the tokenizer has it at all.
    """

    model: Any
    tokenizer: Any
    name: str = "model"
    template_options: Mapping[str, Any] = field(default_factory=lambda: {"enable_thinking": False})
    tag: str | None = None

    def tag_id(self) -> int | None:
        """Of the tag, where it is given and the tokenizer has it."""
        found: int | None = None if self.tag is None else self.tokenizer.get_vocab().get(self.tag)
        return found

    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer: those of the generation config, the tokenizer's and the tag. Raises ModelError without
        an end token."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        ids = {*(named if isinstance(named, list) else [named]), self.tokenizer.eos_token_id} - {None}
        if not ids:
            raise ModelError(f"{self.name} names no end token: set eos_token_id in its generation_config.json")
        return frozenset({*ids, self.tag_id()} - {None})

    def render(self, prompt: "Prompt") -> str:
        """The prompt as this model reads it. Raises ModelError without a chat template, or where that refuses the chat."""
        if prompt.text is not None:
            return prompt.text
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"{self.name} has no chat template: put the chat_template.jinja that it was trained with into its folder, "
                "or give prompts as texts (Prompt(text=...))"
            )
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in prompt.messages],
                tokenize=False,
                add_generation_prompt=True,
                **self.template_options,
            )
        except TemplateError as error:
            raise ModelError(f"the chat template of {self.name} refuses a chat: {error}") from error
        return str(text) + prompt.prefill

    def prompt_of(self, rendered: str, system: str | None = None) -> "Prompt":
        """The chat of one request whose rendering (with a prefilled answer) this is; a text that is none stays a text."""
        if not getattr(self.tokenizer, "chat_template", None):
            return Prompt(text=rendered)
        before, _, after = self.render(Prompt.ask(_PLACE, system)).partition(_PLACE)
        if not after or not rendered.startswith(before) or after not in rendered[len(before) :]:
            return Prompt(text=rendered)
        request, _, prefill = rendered[len(before) :].partition(after)
        prompt = Prompt.ask(request, system, prefill)
        # A template that trims or rewrites a request cannot be taken apart.
        return prompt if self.render(prompt) == rendered else Prompt(text=rendered)


@dataclass(frozen=True)
class Prompt:
    """A chat and how its answer begins; or, instead of both, a text that both models go on with.

    plain: the text is a user's own: it stands behind the start token, and nothing in it becomes special. Else it is a text as
    the models read it, with all special tokens spelled out.
    """

    messages: tuple[Mapping[str, str], ...] = ()
    prefill: str = ""
    text: str | None = None
    plain: bool = False

    @classmethod
    def ask(cls, request: str, system: str | None = None, prefill: str = "") -> "Prompt":
        """A chat of one request; `system` None: what the templates do without a system message."""
        first = ({"role": "system", "content": system},) if system is not None else ()
        return cls((*first, {"role": "user", "content": request}), prefill)

    def request(self) -> str:
        """What is rated: the last message of the user, or the text; never the prefilled answer or the template around it."""
        if self.text is not None:
            return self.text
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


def check_requests(prompts: Sequence[Prompt]) -> None:
    """Raises DataError that names the first prompt without a request."""
    for index, prompt in enumerate(prompts):
        if not prompt.request().strip():
            raise DataError(f"prompt {index} is empty: leave it out, or give it a request")


def encode(
    side: ChatModel,
    texts: Sequence[str],
    new_tokens: int,
    what: str = "prompt",
    remedy: str = "lower max_new_tokens or shorten the prompt",
    plain: Collection[int] = (),
) -> list[list[int]]:
    """Token ids of rendered prompts, no special ids added; of those numbered in `plain` as of `Prompt.plain`. Raises DataError
    for a prompt without tokens or beyond the context."""
    encoded = [
        encode_completion(side.tokenizer, text) if index in plain else _encode_rendered(side, text)
        for index, text in enumerate(texts)
    ]
    limit = context_length(side.model)
    for index, ids in enumerate(encoded):
        if not ids:
            raise DataError(f"prompt {index} is empty: leave it out, or give it a request")
        if limit is not None and len(ids) + new_tokens > limit:
            raise DataError(
                f"{what} {index}: {len(ids)} tokens and {new_tokens} new ones exceed the {limit} positions of {side.name}: "
                f"{remedy}"
            )
    return encoded


def _encode_rendered(side: ChatModel, text: str) -> list[int]:
    if side.tag_id() is not None:
        return encode_chat(side.tokenizer, text, str(side.tag))
    return list(side.tokenizer(text, add_special_tokens=False)["input_ids"])
