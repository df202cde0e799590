"""Runs AskLLM over numbered documents until it is killed: `python ask_in_process.py URL WORK_FOLDER COUNT`."""

import sys

from datatrove.data import Document

from rephrasers.ask import AskLLM
from rephrasers.servers import ServerSettings


def ask_about(document):
    return [{"role": "user", "content": document.text}]


if __name__ == "__main__":
    url, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    step = AskLLM(ask_about, ServerSettings(url=url, model="stub", concurrency=1), folder)
    for document in step.run(Document(text=f"word-{i}", id=f"id-{i}") for i in range(count)):
        print(document.id, document.metadata["answer"]["text"], flush=True)
