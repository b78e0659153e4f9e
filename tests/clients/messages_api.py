"""A stand-in of the Anthropic Messages API on loopback: real HTTP, a scripted assistant.

A script is a list of steps; a step sees every tool result of its conversation so far and answers with text or with
calls of tools. Which step comes next follows from the conversation itself, so repeated requests get equal answers.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "stand-in"


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered, as the client sent it on."""

    name: str
    """Without the prefix that the client gives the tools of a server."""
    arguments: dict[str, Any]
    text: str
    failed: bool


@dataclass(frozen=True)
class Conversation:
    """One request: what the model would see."""

    request: dict[str, Any]
    results: list[ToolResult]

    def last(self, name: str) -> ToolResult:
        """The newest result of a tool."""
        found = [result for result in self.results if result.name == name]
        assert found, f"{name} was not called; called were {[result.name for result in self.results]}"
        return found[-1]

    @property
    def tools(self) -> list[str]:
        """Full names of the tools that the model may call."""
        return [tool["name"] for tool in self.request.get("tools", [])]


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    name: str
    """As the server under test calls it, or one of the client's own."""
    arguments: dict[str, Any]


Answer = str | list[Call]
Step = Callable[[Conversation], Answer]


@dataclass
class MessagesApi:
    """The running stand-in."""

    url: str
    conversations: list[Conversation] = field(default_factory=list)
    """Requests of the scripted conversation, in order."""
    broken: list[str] = field(default_factory=list)
    """What the script could not do; the client sees an error 400, which it does not repeat."""


@contextmanager
def messages_api(
    script: Sequence[Step], delegated: Mapping[str, Sequence[Step]] | None = None
) -> Iterator[MessagesApi]:
    """Serve a script to every conversation that may call an MCP tool; others (titles and the like) get "ok".

    Args:
        script: of the main conversation.
        delegated: task of a subagent, as it stands in its first message -> its script.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    api = MessagesApi(url=f"http://127.0.0.1:{server.server_port}")
    server.api, server.script, server.delegated = api, script, delegated or {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read what they need from ``MessagesApi``."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self._error(404, "not_found_error", f"no {self.path} here")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        api: MessagesApi = self.server.api  # type: ignore[attr-defined]
        if not (self.headers.get("x-api-key") or self.headers.get("authorization", "").startswith("Bearer ")):
            self._error(401, "authentication_error", "x-api-key or Authorization: Bearer is needed")
            return
        path = self.path.partition("?")[0]
        request = json.loads(body) if body else {}
        if path == "/v1/messages/count_tokens":
            self._json(200, {"input_tokens": len(body) // 4})
        elif path == "/v1/messages":
            self._message(api, request)
        else:
            self._error(404, "not_found_error", f"no {path} here")

    def _message(self, api: MessagesApi, request: dict[str, Any]) -> None:
        conversation = Conversation(request, _tool_results(request["messages"]))
        is_scripted = any(name.startswith("mcp__") for name in conversation.tools)
        try:
            content = _blocks(self._answer(api, conversation) if is_scripted else "ok", conversation.tools)
        except Exception as error:  # whatever a step raises must reach the test, not only this thread
            api.broken.append(f"{type(error).__name__}: {error}")
            self._error(400, "invalid_request_error", api.broken[-1])
            return
        called = any(block["type"] == "tool_use" for block in content)
        message = {
            "id": f"msg_{len(request['messages']):04d}",
            "type": "message",
            "role": "assistant",
            "model": request.get("model", MODEL),
            "content": content,
            "stop_reason": "tool_use" if called else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        if request.get("stream"):
            self._stream(message)
        else:
            self._json(200, message)

    def _answer(self, api: MessagesApi, conversation: Conversation) -> Answer:
        script: Sequence[Step] = self.server.script  # type: ignore[attr-defined]
        first = json.dumps(conversation.request["messages"][0]["content"])
        for task, steps in self.server.delegated.items():  # type: ignore[attr-defined]
            if task in first:
                script = steps
        api.conversations.append(conversation)
        done = sum(_calls_tools(message) for message in conversation.request["messages"])
        assert done < len(script), "the script has ended, but the client goes on"
        return script[done](conversation)

    def _stream(self, message: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in _events(message):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        self.close_connection = True

    def _json(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, kind: str, message: str) -> None:
        self._json(status, {"type": "error", "error": {"type": kind, "message": message}})


def _calls_tools(message: dict[str, Any]) -> bool:
    content = message["content"]
    return message["role"] == "assistant" and any(block["type"] == "tool_use" for block in content)


def _tool_results(messages: Sequence[dict[str, Any]]) -> list[ToolResult]:
    calls: dict[str, dict[str, Any]] = {}
    results: list[ToolResult] = []
    for block in itertools.chain.from_iterable(m["content"] for m in messages if isinstance(m["content"], list)):
        if block["type"] == "tool_use":
            calls[block["id"]] = block
        elif block["type"] == "tool_result":
            call = calls[block["tool_use_id"]]
            content = block.get("content") or ""
            parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            failed = bool(block.get("is_error"))
            results.append(ToolResult(call["name"].rpartition("__")[2], call["input"], "\n".join(parts), failed))
    return results


def _blocks(answer: Answer, tools: Sequence[str]) -> list[dict[str, Any]]:
    if isinstance(answer, str):
        return [{"type": "text", "text": answer}]
    return [
        {"type": "tool_use", "id": f"toolu_{next(_IDS):06d}", "name": _full_name(call, tools), "input": call.arguments}
        for call in answer
    ]


def _full_name(call: Call, tools: Sequence[str]) -> str:
    """What the client calls a tool: its own by their names, those of a server "mcp__<server>__<name>"."""
    found = [name for name in tools if name == call.name or name.endswith(f"__{call.name}")]
    assert len(found) == 1, f"{call.name} stands for {found}; there are {tools}"
    return found[0]


_IDS = itertools.count(1)


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    for index, block in enumerate(message["content"]):
        if block["type"] == "text":
            start = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield {"type": "content_block_start", "index": index, "content_block": start}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}
