"""A server of the OpenAI protocol for tests and benchmarks, in a process of its own.

    python tests/openai_server.py --latency 0.05 --log requests.log

It prints its port, answers after the latency, and writes one line a request, its time and its text, into the log. A question that contains
`fault:KIND` meets that fault: 429 (once), 429-always, 500, auth, half, garbage, hang, html, empty.
The answer is the question's text between `<` and `>`, or its last word.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time


class Server(asyncio.Protocol):
    "One connection: parses requests by content-length and answers them in order."

    seen: dict[str, int] = {}
    open_now = 0
    most_open = 0

    def __init__(self, latency: float, log: int | None):
        self.latency, self.log, self.buffer = latency, log, b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (at := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:at].lower()
            found = re.search(rb"content-length: *(\d+)", head)
            length = int(found.group(1)) if found else 0
            if len(self.buffer) < at + 4 + length:
                return
            body, self.buffer = self.buffer[at + 4 : at + 4 + length], self.buffer[at + 4 + length :]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get"):
            self.send(200, {"open": Server.open_now, "most_open": Server.most_open, "seen": Server.seen})
            return
        request = json.loads(body)
        if b"/embeddings " in head.partition(b"\r\n")[0]:
            self.embed(request)
            return
        text = request["messages"][-1]["content"]
        Server.seen[text] = Server.seen.get(text, 0) + 1
        if self.log is not None:
            os.write(self.log, json.dumps([time.time(), text]).encode() + b"\n")
        Server.open_now += 1
        Server.most_open = max(Server.most_open, Server.open_now)
        asyncio.get_running_loop().call_later(self.latency, self.reply, request, text)

    def embed(self, request: dict) -> None:  # type: ignore[type-arg]
        "Letter counts as vectors, in an order that is not the order asked for; `fault:` as for questions."
        texts = request["input"]
        key = "|".join(texts)
        Server.seen[key] = Server.seen.get(key, 0) + 1
        if self.log is not None:
            os.write(self.log, json.dumps([time.time(), texts]).encode() + b"\n")
        rows = [{"object": "embedding", "index": n, "embedding": [1.0 + text.lower().count(letter) for letter in "etaoinsh"]} for n, text in enumerate(texts)]
        if "fault:429" in key and Server.seen[key] == 1:
            self.send(429, {"error": {"message": "Slow down"}}, "retry-after: 0\r\n")
        elif "fault:auth" in key:
            self.send(401, {"error": {"message": "Incorrect API key provided: sk-verysecret123"}})
        elif "fault:short" in key:
            self.send(200, {"data": rows[:-1], "usage": {"prompt_tokens": 1, "total_tokens": 1}})
        elif "fault:zero" in key:
            self.send(200, {"data": [{**row, "embedding": [0.0] * 8} for row in rows], "usage": {"prompt_tokens": 1, "total_tokens": 1}})
        else:
            tokens = sum(len(text.split()) for text in texts)
            self.send(200, {"object": "list", "model": request["model"], "data": rows[::-1], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    def reply(self, request: dict, text: str) -> None:  # type: ignore[type-arg]
        Server.open_now -= 1
        found = re.search(r"fault:(\S+)", text)
        fault = found.group(1) if found else ""
        if fault == "429" and Server.seen[text] == 1 or fault == "429-always":
            self.send(429, {"error": {"message": "Slow down"}}, "retry-after: 0\r\n")
        elif fault == "500":
            self.send(500, {"error": {"message": "Out of order"}})
        elif fault == "auth":
            self.send(401, {"error": {"message": "Incorrect API key provided: sk-verysecret123"}})
        elif fault == "half":
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"choices\": [")
            self.transport.close()
        elif fault == "garbage":
            self.send(200, {"choices": "none"})
        elif fault == "html":
            self.send(200, "<html>")
        elif fault == "empty":
            self.transport.close()
        elif fault != "hang":
            said = re.search(r"<(.*?)>", text)
            content = said.group(1) if said else text.split()[-1]
            usage = {"prompt_tokens": len(text.split()), "completion_tokens": 1, "total_tokens": len(text.split()) + 1}
            self.send(200, {"id": "c", "object": "chat.completion", "model": request["model"], "usage": usage,
                            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}]})  # fmt: skip

    def send(self, status: int, value: object, more: str = "") -> None:
        data = json.dumps(value).encode()
        self.transport.write(f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{more}\r\n".encode() + data)


async def main(latency: float, log: int | None) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Server(latency, log), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started it


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--log", default="")
    options = parser.parse_args()
    asyncio.run(main(options.latency, os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if options.log else None))
