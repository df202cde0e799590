"""A chat-completions server that counts: `python counting_server.py LOG ANSWERS`.

Prints its port. Appends to LOG "asked HASH" for each request and "answered HASH" before each answer is sent; after
ANSWERS answers it holds all further requests. The answer is a short dialogue, so that every kind has a draft.
"""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

log, limit = Path(sys.argv[1]), int(sys.argv[2])
lock = threading.Lock()
answered = 0


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        global answered
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = hashlib.sha256(json.dumps([body["messages"], body["seed"]]).encode()).hexdigest()
        with lock, log.open("a") as file:
            file.write(f"asked {name}\n")
            hold = answered >= limit
            if not hold:
                answered += 1
                file.write(f"answered {name}\n")
        if hold:
            threading.Event().wait()
        text = f"User: A question about {name[:8]}?\nAssistant: I can't help with that, since it would hurt people."
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        content = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
