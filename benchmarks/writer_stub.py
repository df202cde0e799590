"""A chat server with the latency of a real one: `python -m benchmarks.writer_stub LEAST MOST [RECORD]`, in milliseconds.

Prints its port. A request takes between LEAST and MOST, drawn from its bytes, however many are in flight. Its answer is a
text of 120 to 240 words of the prompt. RECORD: a file that gets each request's body as a line.
"""

import asyncio
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import BinaryIO

_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


def answer(body: bytes, draw: float) -> bytes:
    """A chat completion."""
    words = json.loads(body)["messages"][-1]["content"].split()
    count = 120 + int(120 * draw)
    text = " ".join((words * (1 + count // len(words)))[:count])
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": len(words), "completion_tokens": count, "total_tokens": len(words) + count}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


async def serve(least: float, most: float, record: BinaryIO | None) -> None:
    """Until killed."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if record is not None:
                    record.write(body + b"\n")
                    record.flush()
                draw = int.from_bytes(hashlib.blake2b(body, digest_size=4).digest(), "big") / 2**32
                content = answer(body, draw)
                await asyncio.sleep((least + (most - least) * draw) / 1000)
                header = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                writer.write(header.encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):  # the client closed the connection
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 22, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    file = Path(sys.argv[3]).open("wb") if len(sys.argv) > 3 else None  # noqa: SIM115
    asyncio.run(serve(float(sys.argv[1]), float(sys.argv[2]), file))
