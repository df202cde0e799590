"""A chat server in this process that answers as a judge might: every kind of answer a document asks for by its first word."""

import contextlib
import json
import threading

from tests.chat_server import ChatHandler, running


def digit(level, logprobs=None, text=None):
    """A chat completion with one digit; `logprobs` are its candidates as {token: log-probability}."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text or str(level)}, "finish_reason": "stop"}
    if logprobs:
        top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
        choice["logprobs"] = {"content": [{"token": str(level), "logprob": 0.0, "top_logprobs": top}]}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


class JudgeServer:
    """`answer(document, number of times it was asked)` gives (status, body); `requests` are the bodies that came."""

    def __init__(self, answer):
        self.answer, self.requests, self.times = answer, [], {}
        self.lock = threading.Lock()


@contextlib.contextmanager
def judging(answer):
    """(base url, JudgeServer) of a server that lives as long as the block."""
    state = JudgeServer(answer)

    class Handler(ChatHandler):
        def answer(self, body):
            request = json.loads(body)
            document = request["messages"][-1]["content"].removeprefix("<document>\n").removesuffix("\n</document>")
            with state.lock:
                state.requests.append(request)
                state.times[document] = state.times.get(document, 0) + 1
            status, value = state.answer(document, state.times[document])
            self.reply(value, status)

    with running(Handler) as url:
        yield url, state
