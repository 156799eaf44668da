"""A limit in time for work that mostly answers at once: a timer is set only where something is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Within(Generic[T]):
    """Awaits work for at most limit_s; raises TimeoutError then, as `asyncio.timeout` does.

    The work runs in the task that awaits it. Until it waits for the first time nothing could end it, so the
    limit counts from there.
    """

    __slots__ = ("_limit_s", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], limit_s: float) -> None:
        self._work, self._limit_s = work, limit_s

    def __await__(self) -> Generator[Any, Any, T]:
        try:
            waits_for = self._work.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        return (yield from self._go_on(waits_for).__await__())

    async def _go_on(self, waits_for: Any) -> T:
        async with asyncio.timeout(self._limit_s):
            return await _Rest(self._work, waits_for)


class _Rest(Generic[T]):
    """A coroutine from where it waits for the first time."""

    __slots__ = ("_waits_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._work, self._waits_for = work, waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._waits_for
        while True:
            try:
                answer = yield waits_for
            except BaseException as error:
                step = self._throw(error)
            else:
                step = self._send(answer)
            if step[0]:
                return step[1]  # type: ignore[no-any-return]
            waits_for = step[1]

    def _send(self, answer: Any) -> tuple[bool, Any]:
        try:
            return False, self._work.send(answer)
        except StopIteration as end:
            return True, end.value

    def _throw(self, error: BaseException) -> tuple[bool, Any]:
        try:
            return False, self._work.throw(error)
        except StopIteration as end:
            return True, end.value
