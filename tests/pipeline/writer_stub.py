"""A writer for tests: `with writer(answer) as (url, asked)`, where `answer(content of the last message)` is a text or a status."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chat_server import ChatHandler, completion, running


@contextmanager
def writer(answer: Callable[[str], str | int]) -> Iterator[tuple[str, list[str]]]:
    """(base URL, contents that were asked about so far)."""
    asked: list[str] = []

    class Handler(ChatHandler):
        def answer(self, body: bytes) -> None:
            content = json.loads(body)["messages"][-1]["content"]
            asked.append(content)
            said = answer(content)
            self.reply(completion(said), said if isinstance(said, int) else 200)

    with running(Handler) as url:
        yield url, asked
