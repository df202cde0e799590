"""A writer for tests: `with writer(answer) as (url, asked)`, where `answer(content of the last message)` is a text or a status."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def writer(answer: Callable[[str], str | int]) -> Iterator[tuple[str, list[str]]]:
    """(base URL, contents that were asked about so far)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = body["messages"][-1]["content"]
            asked.append(content)
            said = answer(content)
            choice = {"message": {"content": said}, "finish_reason": "stop"}
            reply = json.dumps({"choices": [choice], "usage": {}}).encode()
            self.send_response(said if isinstance(said, int) else 200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
