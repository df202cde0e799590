"""The HTTP of the chat servers that tests start in their own process; what a server answers is its test's."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatHandler(BaseHTTPRequestHandler):
    """To be given an `answer` that calls `reply`."""

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body: bytes) -> None:
        raise NotImplementedError

    def reply(self, value: Any, status: int = 200, reason: str | None = None, **headers: str) -> None:
        """`value` as JSON; `headers` with underscores for hyphens."""
        content = json.dumps(value).encode()
        self.send_response(status, reason)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def completion(text: Any, finish_reason: str = "stop") -> dict[str, Any]:
    """A chat completion that says `text`."""
    return {"choices": [{"message": {"content": text}, "finish_reason": finish_reason}], "usage": {}}


@contextmanager
def running(handler: type[ChatHandler]) -> Iterator[str]:
    """The base URL of a server that lives as long as the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
