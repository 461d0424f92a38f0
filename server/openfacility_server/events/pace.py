"""Letting watchers go in turns, so that sending to many leaves room for the work that they are told of.

Without it a thousand idle watchers take the whole process for each single change, and the next change waits for them.
With it each waits a little, and its next response carries what happened meanwhile: fewer, fuller responses, and all of
them on time. Few watchers never wait.
"""

from __future__ import annotations

import asyncio
from collections import deque

_TICK_SECONDS = 0.002


class Pacer:
    """Grants a number of turns a second, some of them at once after a pause, in the order of asking."""

    def __init__(self, turns_per_second: float, at_once: int) -> None:
        self._rate = turns_per_second
        self._most = float(at_once)
        self._turns = float(at_once)
        self._counted = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._open = False

    async def turn(self) -> None:
        """Returns when it is one's turn."""
        if self._open:
            return
        loop = asyncio.get_running_loop()
        if not self._waiting:
            self._count(loop.time())
            if self._turns >= 1:
                self._turns -= 1
                return
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        if self._timer is None:
            self._timer = loop.call_later(_TICK_SECONDS, self._tick)
        await future

    def open(self) -> None:
        """Lets everybody go at once, from now on."""
        self._open = True
        while self._waiting:
            self._grant()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._count(loop.time())
        while self._waiting and self._turns >= 1:
            self._turns -= self._grant()
        self._timer = loop.call_later(_TICK_SECONDS, self._tick) if self._waiting else None

    def _grant(self) -> int:
        """Lets the first one go; returns whether it still wanted to."""
        future = self._waiting.popleft()
        if future.done():
            return 0
        future.set_result(None)
        return 1

    def _count(self, now: float) -> None:
        self._turns = min(self._most, self._turns + (now - self._counted) * self._rate)
        self._counted = now
