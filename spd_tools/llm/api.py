"""The Messages API through the anthropic SDK: one request at a time, every failure of a known kind."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.llm.retries import asked_pause, is_transient
from spd_tools.llm.wire import Reply, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anthropic.types.messages import MessageBatch

KEY = "ANTHROPIC_API_KEY"
_NO_ADDRESS = "ANTHROPIC_BASE_URL is no address of a server; write it as https://host."
_HOPELESS = {
    401: f"does not accept the key in {KEY}; set a valid one",
    402: "asks for a payment first; see the account's billing page",
    403: f"does not let the key in {KEY} do this; use another one",
    404: "does not know the model or the address; correct --model or ANTHROPIC_BASE_URL",
}
"""What no other call would fare better with: status -> what to do."""


class Rejected(Exception):
    """The server refused to do it. Nothing was done, nothing is paid."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str], request_id: str | None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers
        self.retry_after = asked_pause(headers)
        self.transient = is_transient(status)
        self.request_id = request_id


class Unreached(Exception):
    """There was no connection. Nothing was sent."""


class Lost(Exception):
    """Nobody knows whether it was done, and paid."""


@dataclass(frozen=True)
class Delivered:
    """A reply and what came with it."""

    reply: Reply
    headers: Mapping[str, str]
    request_id: str | None


class Api:
    """A connection pool. The key is read from the environment and known to the SDK's client only."""

    def __init__(self, *, max_concurrent: int, timeout_seconds: float) -> None:
        """
        Raises:
            SpdToolsError: when there is no key.
        """
        import anthropic
        import httpx2

        self._sdk = anthropic
        limits = httpx2.Limits(max_connections=max_concurrent + 8, max_keepalive_connections=max_concurrent + 8)
        timeout = httpx2.Timeout(timeout_seconds, connect=min(timeout_seconds, 10.0))
        key = _key()
        try:
            self._client = anthropic.AsyncAnthropic(
                api_key=key,
                max_retries=0,  # every attempt is a row of the ledger, so we make them ourselves
                timeout=timeout,
                http_client=anthropic.DefaultAsyncHttpxClient(limits=limits, timeout=timeout),
            )
        except httpx2.InvalidURL:
            raise SpdToolsError(_NO_ADDRESS) from None
        self.host = str(self._client.base_url.host)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def send(self, body: Mapping[str, Any]) -> Delivered:
        """One request for a message.

        Raises:
            Rejected, Unreached, Lost: see there.
            SpdToolsError: for failures that every other call would share.
        """
        with self._failures_named():
            raw = await self._client.messages.with_raw_response.create(**body)
        try:
            reply = Reply.model_validate_json(raw.http_response.content)
        except ValidationError:
            raise Lost("The server answered with something that is no message.") from None
        return Delivered(reply, raw.headers, raw.headers.get("request-id"))

    async def count_tokens(self, body: Mapping[str, Any]) -> int:
        """Input tokens of a request, as the server counts them. Raises as ``send``."""
        wanted = {name: value for name, value in body.items() if name != "max_tokens"}
        with self._failures_named():
            return (await self._client.messages.count_tokens(**wanted)).input_tokens

    async def create_batch(self, requests: list[dict[str, Any]]) -> MessageBatch:
        """A new message batch. Raises as ``send``."""
        with self._failures_named():
            return await self._client.messages.batches.create(requests=requests)  # pyright: ignore[reportArgumentType]

    async def batch(self, batch_id: str) -> MessageBatch:
        """Where a batch stands. Raises as ``send``."""
        with self._failures_named():
            return await self._client.messages.batches.retrieve(batch_id)

    async def newest_batches(self, until: Callable[[MessageBatch], bool]) -> list[MessageBatch]:
        """Batches of the workspace, newest first, as long as ``until`` does not hold. Raises as ``send``."""
        found = []
        with self._failures_named():
            async for batch in self._client.messages.batches.list(limit=100):
                if until(batch):
                    break
                found.append(batch)
        return found

    async def batch_results(self, batch_id: str) -> AsyncGenerator[dict[str, Any]]:
        """Results of a batch that has ended, as the server writes them. Raises as ``send``."""
        with self._failures_named():
            results = await self._client.messages.batches.results(batch_id)
            try:
                async for result in results:
                    yield result.to_dict(mode="json")
            finally:
                await results.close()

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        import httpx2

        sdk = self._sdk
        try:
            yield
        except sdk.APIStatusError as error:
            raise self._rejected(error) from None
        except sdk.APIConnectionError as error:
            raise self._disconnected(error) from None
        except (sdk.AnthropicError, httpx2.HTTPError, json.JSONDecodeError) as error:
            raise Lost(f"The server's answer could not be read ({type(error).__name__}).") from None

    def _rejected(self, error: Any) -> Exception:
        status = error.status_code
        said = plain(self._without_key(error.api_message or "no reason given"))
        if status in _HOPELESS:
            return SpdToolsError(f"The API at {self.host} {_HOPELESS[status]} (status {status}: {said}).")
        sentence = f"The API refused with status {status}: {said}."
        return Rejected(status, sentence, error.response.headers, error.request_id)

    def _disconnected(self, error: Exception) -> Exception:
        import httpx2

        cause = error.__cause__
        if isinstance(cause, (httpx2.UnsupportedProtocol, httpx2.InvalidURL)):
            return SpdToolsError(_NO_ADDRESS)
        if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)):
            return Unreached(f"There is no connection to {self.host} ({type(cause).__name__}).")
        if isinstance(cause, httpx2.TimeoutException):
            return Lost("The server did not answer in time.")
        return Lost(f"The connection was lost before the answer was there ({type(cause).__name__}).")

    def _without_key(self, text: str) -> str:
        key = self._client.api_key
        return text.replace(key, f"[{KEY}]") if key else text


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise SpdToolsError(f"{KEY} is not set; put a key of the Anthropic API into the environment.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SpdToolsError(f"{KEY} holds characters that no key has; copy it again.")
    return key


def has_key() -> bool:
    """Whether calls can be made at all."""
    return bool(os.environ.get(KEY, "").strip())


async def insistently(ask: Callable[[], Awaitable[Any]], pause: Callable[[int, float | None], float | None]) -> Any:
    """Repeat a question that costs nothing until it is answered, or ``pause`` gives up.

    Raises:
        SpdToolsError: then.
    """
    import asyncio

    attempt = 0
    while True:
        attempt += 1
        try:
            return await ask()
        except (Rejected, Unreached, Lost) as error:
            asked = error.retry_after if isinstance(error, Rejected) else None
            hopeless = isinstance(error, Rejected) and not error.transient
            seconds = None if hopeless else pause(attempt, asked)
            if seconds is None:
                raise SpdToolsError(f"{str(error).rstrip('.')}; try again later.") from None
        await asyncio.sleep(seconds)
