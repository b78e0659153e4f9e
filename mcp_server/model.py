"""The one lock around the model: who has it, who waits for it, and how long."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context

from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest

if TYPE_CHECKING:
    from spd_tools.investigate import Investigation

T = TypeVar("T")

KEPT_LOADED = 2
"""Models."""
WAIT_SECONDS = 240.0
"""How long a caller waits for the model; longer than any one experiment takes on a small model."""
PROGRESS_SECONDS = 2.0
"""Between two messages to a caller who waits."""


class Models:
    """Investigations whose models are loaded, and whose turn it is.

    One experiment runs at a time: while a component is clamped, the model gives wrong answers to everybody else.
    """

    def __init__(self, wait_seconds: float = WAIT_SECONDS, progress_seconds: float = PROGRESS_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._progress_seconds = progress_seconds
        self._lock = anyio.Lock()
        self._doing = ""
        self._since = 0.0
        self._loaded: OrderedDict[Path, Investigation] = OrderedDict()

    async def use(self, context: Context, harvest: Harvest, what: str, function: Callable[[Investigation], T]) -> T:
        """Call ``function`` in a thread, as soon as nobody else uses a model.

        A client that gives up does not stop the thread: the lock is held until the model is as it was.

        Args:
            context: where progress is reported to.
            harvest: whose model is used.
            what: what is done with it, for those who wait meanwhile.
            function: is given the investigation of the harvest.

        Raises:
            SpdToolsError: when others keep the model for too long, and whatever the function raises.
        """
        async with self._turn(context):
            self._doing, self._since = what, time.monotonic()
            return await self._reporting(
                context,
                lambda: f"{what} is running",
                lambda: anyio.to_thread.run_sync(lambda: function(self._investigation(harvest))),
            )

    @asynccontextmanager
    async def _turn(self, context: Context) -> AsyncIterator[None]:
        if not await self._reporting(context, lambda: f"the model is busy with {self._doing}", self._acquired):
            busy = time.monotonic() - self._since
            raise SpdToolsError(
                f"The model has been busy with {self._doing} for {busy:.0f} s, longer than the "
                f"{self._wait_seconds:.0f} s that a call waits; call again later, or ask for smaller experiments."
            )
        try:
            yield
        finally:
            self._lock.release()

    async def _acquired(self) -> bool:
        with anyio.move_on_after(self._wait_seconds) as waiting:
            await self._lock.acquire()
        return not waiting.cancelled_caught

    async def _reporting(self, context: Context, what: Callable[[], str], action: Callable[[], Awaitable[T]]) -> T:
        """Do something, telling the caller every few seconds that it is going on: clients extend time-outs by that."""
        begin = time.monotonic()

        async def report() -> None:
            while True:
                await anyio.sleep(self._progress_seconds)
                seconds = time.monotonic() - begin
                try:
                    await context.report_progress(seconds, None, f"{what()} ({seconds:.0f} s)")
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    return  # nobody listens any more

        failure: Exception | None = None
        done: list[T] = []
        async with anyio.create_task_group() as group:
            group.start_soon(report)
            try:
                done.append(await action())
            except Exception as error:
                failure = error  # raised outside of the group, which would wrap it
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return done[0]

    def _investigation(self, harvest: Harvest) -> Investigation:
        """The harvest's, with its model when that was loaded before; called by whoever has the lock."""
        from spd_tools.investigate import Investigation

        known = self._loaded.pop(harvest.folder, None)
        if known is None or known.harvest is not harvest:
            known = Investigation(harvest)
        self._loaded[harvest.folder] = known
        while len(self._loaded) > KEPT_LOADED:
            self._loaded.popitem(last=False)
        return known
