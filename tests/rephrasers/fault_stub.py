"""A chat server in this process that misbehaves as a test says, and counts: `with misbehaving(answer) as server`."""

import contextlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server does with one request. body: a value for JSON, or bytes. cut: the connection is reset in the middle.

    held: it never answers. endless: the body is sent over and over, without a length.
    """

    body: Any = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    held: bool = False
    endless: bool = False


def said(text: str) -> Reply:
    """A good answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})


class Misbehaving:
    """`asked`: how often each prompt came; `statuses`: what was answered; `sent`: bytes of the endless answers."""

    def __init__(self, answer: Callable[[str, int], Reply]):
        self.answer, self.lock, self.ended = answer, threading.Lock(), threading.Event()
        self.asked: Counter[str] = Counter()
        self.statuses: list[int] = []
        self.sent = 0
        self.url = ""


@contextlib.contextmanager
def misbehaving(answer: Callable[[str, int], Reply]) -> Iterator[Misbehaving]:
    """A running server; `answer(prompt, how often it came)` is called for one request at a time."""
    state = Misbehaving(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = request["messages"][-1]["content"]
            with state.lock:
                state.asked[prompt] += 1
                reply = state.answer(prompt, state.asked[prompt])
                state.statuses.append(reply.status)
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            if reply.held:
                state.ended.wait()
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.endless:
                self.send_without_end(content)
                return
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if reply.cut else content)
            if reply.cut:
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

        def send_without_end(self, content: bytes) -> None:
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            with contextlib.suppress(OSError):
                while not state.ended.is_set():
                    state.sent += self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that goes away is part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
