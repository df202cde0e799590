"""How many tokens a chat prompt has: counted with the model's tokenizer, or estimated where there is none."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rephrasers.models import ModelReference, resolve_model
from rephrasers.servers.open_servers import choose_server, model_of
from rephrasers.servers.settings import ServerSettings

Messages = list[dict[str, str]]

# Byte-level tokenizers spend about 4 bytes of English and 3 of most other text on a token.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8


def estimate_tokens(messages: Messages) -> int:
    """An estimate for an endpoint without a known tokenizer; mostly too high, rarely too low."""
    return sum(len(message["content"].encode()) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE for message in messages)


def token_counter(settings: ServerSettings, model: ModelReference) -> Callable[[Messages], int]:
    """A function from messages to prompt tokens, chat template and the opening of the answer included.

    An endpoint is counted with `settings.tokenizer`, else estimated; nothing is downloaded for an estimate.
    """
    if choose_server(settings) == "endpoint":
        if settings.tokenizer is None:
            return estimate_tokens
        model = resolve_model(settings.tokenizer, only_tokenizer=True)
    where = model.path_or_id, None if Path(model.path_or_id).is_dir() else model.revision
    return lambda messages: _count(*where, tuple((message["role"], message["content"]) for message in messages))


@functools.lru_cache(maxsize=2)
def _tokenizer(path_or_id: str, revision: str | None) -> Any:
    """Loaded once a process: that takes a quarter of a second, and each shard asks for it twice."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path_or_id, revision=revision, trust_remote_code=False)


@functools.lru_cache(maxsize=64)
def _count(path_or_id: str, revision: str | None, messages: tuple[tuple[str, str], ...]) -> int:
    """Remembers the last prompts: who cuts documents into pieces counts each, and soon after it who asks about them."""
    chat = [{"role": role, "content": content} for role, content in messages]
    tokens = _tokenizer(path_or_id, revision).apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    return len(tokens)


class PromptFits:
    """Whether chat messages leave room for an answer in the server's context. The tokenizer is loaded at the first call."""

    def __init__(self, settings: ServerSettings):
        self.settings = settings
        self._count: Callable[[Messages], int] | None = None

    def __call__(self, messages: Messages) -> bool:
        if self._count is None:
            self._count = token_counter(self.settings, model_of(self.settings))
        return self._count(messages) <= self.settings.max_prompt_tokens
