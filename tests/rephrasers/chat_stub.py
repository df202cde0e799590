"""A chat-completions server for client tests, as a process of its own: `python chat_stub.py [HOLD_AFTER]`.

Prints its port, then one line per request: "<prompt's last word>". From request HOLD_AFTER + 1 on it never answers.
The prompt's last word may ask for trouble: "busy-…" is 503 the first time, "bad-…" 400, "broken-…" 200 with no JSON.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

hold_after = int(sys.argv[1]) if len(sys.argv) > 1 else 10**9
lock = threading.Lock()
seen: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        word = body["messages"][-1]["content"].split()[-1]
        with lock:
            seen.append(word)
            number, times = len(seen), seen.count(word)
            print(word, flush=True)
        if number > hold_after:
            threading.Event().wait()
        if word.startswith("busy-") and times == 1:
            self.reply(503, b"{}")
        elif word.startswith("bad-"):
            self.reply(400, b"{}")
        elif word.startswith("broken-"):
            self.reply(200, b"<html>")
        elif word.startswith("key-"):
            self.reply(200 if self.headers["Authorization"] == "Bearer right" else 401, completion(word))
        else:
            self.reply(200, completion(word))

    def reply(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def completion(word):
    choice = {"index": 0, "message": {"role": "assistant", "content": f"answer to {word}"}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
