"""A limit in dollars that is never crossed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from spd_tools.errors import SpdToolsError
from spd_tools.llm.prices import NANO

T = TypeVar("T")


class Budget:
    """Lets requests start while what the job has cost, and those under way can cost at most, stay within the limit.

    The sums are kept in the ledger, where the transaction that notes a request also checks the limit: they count
    earlier sittings and other processes of the same job. Here it is decided whether to wait: a request that does not
    fit may fit when others have ended for less than their worst.
    """

    def __init__(self, dollars: float | None) -> None:
        if dollars is not None and not (math.isfinite(dollars) and dollars >= 0):
            raise SpdToolsError(f"A budget of {dollars} dollars is none; give a number from 0 on.")
        self.dollars = dollars
        self.limit = None if dollars is None else math.floor(dollars * NANO)
        """Nanodollars."""
        self.exhausted = False
        """A request did not fit although none was under way: nothing more is sent."""
        self._under_way = 0
        self._ended = asyncio.Event()

    async def admit(self, begin: Callable[[], Awaitable[T | None]]) -> T | None:
        """Try to ``begin`` a request, which gives None when it does not fit; None when the budget is exhausted.

        Whoever gets something calls ``end`` afterwards.
        """
        while not self.exhausted:
            self._under_way += 1
            try:
                begun = await begin()
            except BaseException:
                self.end()
                raise
            if begun is not None:
                return begun
            self._under_way -= 1
            if self._under_way == 0:
                self.exhausted = True
                self._wake()
            else:
                await self._ended.wait()
        return None

    def end(self) -> None:
        """A request has ended, and its cost is in the ledger."""
        self._under_way -= 1
        self._wake()

    def _wake(self) -> None:
        self._ended.set()
        self._ended = asyncio.Event()

    def sentence(self) -> str:
        """Why a call was not sent."""
        return f"Not sent: it might have crossed the budget of ${self.dollars:,.4g}; a larger one goes on from here."
