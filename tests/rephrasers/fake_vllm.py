"""Stands in for vLLM where a test needs a server that ends: `fake_vllm.py FOLDER [what our command line passes to python]`.

FOLDER/plan.json: {"die_at": numbers of requests, over all lives, at which it kills itself before it answers;
"bad_lives": numbers of starts that fail}. FOLDER/asked and FOLDER/answered get a word a request, FOLDER/lives a line a start.
"""

import json
import os
import re
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder = Path(sys.argv[1])
plan = json.loads((folder / "plan.json").read_text())
port = int(sys.argv[sys.argv.index("--port") + 1])
host = sys.argv[sys.argv.index("--host") + 1]
lock = threading.Lock()


def note(name: str, line: str) -> int:
    """Append a line and return how many there are."""
    with (folder / name).open("a+") as file:
        file.write(line + "\n")
        file.flush()
        file.seek(0)
        return len(file.readlines())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({})

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        found = re.search(r"Page about (\S+) and", prompt)
        word = found[1] if found else None
        if word:
            with lock:
                number = note("asked", word)
                if number in plan["die_at"]:
                    print(f"Engine core died at request {number}", flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
                note("answered", word)
        text = "User: May I do it?\nAssistant: I can't help with that, since it would hurt people."
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self.reply({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    def reply(self, body):
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    if note("lives", str(os.getpid())) in plan["bad_lives"]:
        sys.exit("RuntimeError: CUDA error: device lost")
    ThreadingHTTPServer((host, port), Handler).serve_forever()
