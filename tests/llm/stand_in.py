"""A stand-in for the Messages API: real HTTP on loopback, answers by a rule, and remembers what it was asked.

    with StandIn(lambda asked: Say({"label": "commas"})) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)

The rule is called once per request with an ``Asked`` and returns a ``Say``, ``Refuse``, ``Raw`` or ``Drop``. As a
script, it serves a fixed answer until its standard input is closed: see ``benchmarks/bench_llm.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "sk-ant-stand-in-0123456789abcdef"
"""The only key that it accepts."""


@dataclass(frozen=True)
class Asked:
    """One request for a message, alone or in a batch."""

    body: dict[str, Any]
    times: int
    """How often the same body was asked for before."""

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"]

    @property
    def system(self) -> str:
        return "".join(block["text"] for block in self.body.get("system", []))


@dataclass(frozen=True)
class Say:
    """A message. ``said`` is sent as JSON, or as it is when it is a text."""

    said: Any
    stop_reason: str = "end_turn"
    seconds: float | None = None
    """None: the stand-in's own delay."""
    model: str | None = None
    output_tokens: int = 20
    cache_read: int = 0
    cache_write: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refuse:
    """An HTTP error."""

    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """A body of status 200 that is no message; ``claimed``: its length as the header says."""

    body: bytes
    claimed: int | None = None


class Drop:
    """The connection is closed without an answer."""


class Canceled:
    """In a batch only."""


class Expired:
    """In a batch only."""


Reply = Say | Refuse | Raw | Drop | Canceled | Expired
Rule = Callable[[Asked], Reply]


@dataclass
class Batch:
    id: str
    requests: list[dict[str, Any]]
    created: datetime
    polls: int = 0
    results: list[dict[str, Any]] | None = None


class StandIn:
    def __init__(self, rule: Rule, *, seconds: float = 0.0, at_once: int | None = None, polls: int = 1) -> None:
        """``polls``: looks at a batch after which it has ended."""
        self.rule = rule
        self.seconds = seconds
        self.at_once = at_once
        self.polls = polls
        self.asked: list[Asked] = []
        """Requests for messages, outside of batches, in the order of their arrival; refused ones too."""
        self.billed_tokens: list[tuple[str, int, int]] = []
        """(prompt, input, output) of every message that was made, whether or not its reader lived to see it."""
        self.batches: list[Batch] = []
        self.on_batch: Callable[[int], Reply | None] = lambda n: None
        """Called with the number of earlier attempts to create a batch; a reply is sent instead of the batch."""
        self.create_before_failing = False
        """Whether such a batch is made all the same."""
        self.n_batch_attempts = 0
        self.n_counted = 0
        self.under_way = 0
        self.most_under_way = 0
        self.strangers = 0
        """Requests with another key."""
        self._times: Counter[str] = Counter()
        self._n_replies = 0

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> StandIn:
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        self._loop.run_forever()
        server.close()
        for writer in self._writers:
            writer.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    @property
    def prompts(self) -> list[str]:
        return [asked.prompt for asked in list(self.asked)]

    # --- HTTP -------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                reply = await self._respond(method, target, headers, json.loads(body) if body else {})
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
                if b"\r\nx-cut: " in reply:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _respond(self, method: str, target: str, headers: dict[str, str], body: Any) -> bytes | None:
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if key != KEY:
            self.strangers += 1
            return self._error(Refuse(401, f"invalid key {key}"))
        url = urlsplit(target)
        match method, url.path.strip("/").split("/"):
            case "POST", ["v1", "messages"]:
                return await self._message(body)
            case "POST", ["v1", "messages", "count_tokens"]:
                self.n_counted += 1
                return self._json(200, {"input_tokens": count_tokens(body)})
            case "POST", ["v1", "messages", "batches"]:
                return self._create_batch(body)
            case "GET", ["v1", "messages", "batches"]:
                return self._list_batches(parse_qs(url.query))
            case "GET", ["v1", "messages", "batches", batch]:
                return self._retrieve(batch)
            case "GET", ["v1", "messages", "batches", batch, "results"]:
                lines = [json.dumps(result) for result in self._find(batch).results or []]
                return self._bytes(200, "".join(line + "\n" for line in lines).encode())
            case _:
                return self._error(Refuse(404, f"no such path {url.path}"))

    def _json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> bytes:
        return self._bytes(status, json.dumps(document).encode(), headers)

    def _bytes(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, claimed: int | None = None
    ) -> bytes:
        self._n_replies += 1
        fields = {"content-type": "application/json", "request-id": f"req_{self._n_replies:06}"} | (headers or {})
        fields["content-length"] = str(len(body) if claimed is None else claimed)
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status} -\r\n{head}\r\n".encode() + body

    def _error(self, refuse: Refuse) -> bytes:
        error = {"type": "error", "error": {"type": f"error_{refuse.status}", "message": refuse.message}}
        return self._json(refuse.status, error, refuse.headers)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _ask(self, body: dict[str, Any]) -> Asked:
        identity = json.dumps(body, sort_keys=True)
        asked = Asked(body, self._times[identity])
        self._times[identity] += 1
        return asked

    async def _message(self, body: dict[str, Any]) -> bytes | None:
        asked = self._ask(body)
        self.asked.append(asked)
        if self.at_once is not None and self.under_way >= self.at_once:
            return self._error(Refuse(429, "too many at once", {"retry-after": "0.05"}))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            reply = self.rule(asked)
            if isinstance(reply, Say):
                await asyncio.sleep(self.seconds if reply.seconds is None else reply.seconds)
        finally:
            self.under_way -= 1
        match reply:
            case Say():
                return self._json(200, self._made(asked, reply), reply.headers)
            case Refuse():
                return self._error(reply)
            case Raw():
                return self._bytes(200, reply.body, {"x-cut": "yes"} if reply.claimed else {}, reply.claimed)
            case _:
                return None

    def _made(self, asked: Asked, say: Say) -> dict[str, Any]:
        tokens = max(1, count_tokens(asked.body) - say.cache_read - say.cache_write)
        self.billed_tokens.append((asked.prompt, tokens, say.output_tokens))
        text = say.said if isinstance(say.said, str) else json.dumps(say.said)
        return {
            "id": f"msg_{len(self.billed_tokens):06}",
            "type": "message",
            "role": "assistant",
            "model": say.model or asked.body["model"],
            "content": [{"type": "text", "text": text}],
            "stop_reason": say.stop_reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": tokens,
                "output_tokens": say.output_tokens,
                "cache_read_input_tokens": say.cache_read,
                "cache_creation_input_tokens": say.cache_write,
            },
        }

    # --- batches ----------------------------------------------------------------------------------------------------

    def _create_batch(self, body: dict[str, Any]) -> bytes | None:
        reply = self.on_batch(self.n_batch_attempts)
        self.n_batch_attempts += 1
        if reply is not None and not self.create_before_failing:
            return self._error(reply) if isinstance(reply, Refuse) else None
        batch = Batch(f"msgbatch_{len(self.batches):04}", body["requests"], datetime.now(UTC))
        self.batches.append(batch)
        if reply is not None:
            return self._error(reply) if isinstance(reply, Refuse) else None
        return self._json(200, self._described(batch))

    def _list_batches(self, query: dict[str, list[str]]) -> bytes:
        newest = self.batches[::-1]
        after = query.get("after_id", [None])[0]
        start = 0 if after is None else [batch.id for batch in newest].index(after) + 1
        page = newest[start : start + int(query.get("limit", ["20"])[0])]
        more = start + len(page) < len(newest)
        ids = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        return self._json(200, {"data": [self._described(batch) for batch in page], "has_more": more, **ids})

    def _find(self, batch_id: str) -> Batch:
        return next(batch for batch in self.batches if batch.id == batch_id)

    def _retrieve(self, batch_id: str) -> bytes:
        batch = self._find(batch_id)
        batch.polls += 1
        if batch.polls >= self.polls:
            self.end(batch)
        return self._json(200, self._described(batch))

    def end(self, batch: Batch) -> None:
        """Process all of its requests, last one first."""
        if batch.results is None:
            batch.results = [self._result(request) for request in batch.requests[::-1]]

    def _result(self, request: dict[str, Any]) -> dict[str, Any]:
        asked = self._ask(request["params"])
        reply = self.rule(asked)
        match reply:
            case Say():
                result = {"type": "succeeded", "message": self._made(asked, reply)}
            case Refuse():
                error = {"type": "api_error", "message": reply.message}
                result = {"type": "errored", "error": {"type": "error", "error": error}}
            case Canceled():
                result = {"type": "canceled"}
            case _:
                result = {"type": "expired"}
        return {"custom_id": request["custom_id"], "result": result}

    def _described(self, batch: Batch) -> dict[str, Any]:
        kinds = Counter(result["result"]["type"] for result in batch.results or [])
        counts = {kind: kinds[kind] for kind in ("succeeded", "errored", "canceled", "expired")}
        ended = batch.results is not None
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts | {"processing": 0 if ended else len(batch.requests)},
            "created_at": batch.created.isoformat(),
            "expires_at": (batch.created + timedelta(hours=24)).isoformat(),
            "ended_at": datetime.now(UTC).isoformat() if ended else None,
            "results_url": f"{self.url}/v1/messages/batches/{batch.id}/results" if ended else None,
        }


def count_tokens(body: dict[str, Any]) -> int:
    """The stand-in's tokenizer: four characters of prompt and system are a token."""
    texts = [message["content"] for message in body["messages"]]
    texts += [block["text"] for block in body.get("system", [])]
    return sum(map(len, texts)) // 4 + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--at-once", type=int)
    parser.add_argument("--say", type=json.loads, required=True)
    args = parser.parse_args()
    with StandIn(lambda asked: Say(args.say), seconds=args.seconds, at_once=args.at_once) as api:
        print(api.url, flush=True)
        sys.stdin.read()
        print(json.dumps({"asked": len(api.asked), "most_under_way": api.most_under_way}), flush=True)


if __name__ == "__main__":
    main()
