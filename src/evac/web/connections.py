"""Connections that are held for nothing: whoever connects says a whole request soon, or is let go.

Anybody can connect, with a login or without one, and a process has only so many connections. uvicorn ends
those that say nothing after an answer; this ends those that say nothing at all, and those that never come to
an end, or come drop by drop. A plan over a slow line takes its time, up to a bound. Answers take as long as
they take, streams too.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

WAIT_S: Final = 15.0
"""A head is there after so long or twice as long, and so is a body that does not come steadily."""
STEADY: Final = 2_000
"""Bytes a second that a body comes with at least, to be waited for longer."""
WHOLE_S: Final = 130.0
"""A body is there after so long, give or take `WAIT_S`: those who hand over a plan wait no longer either."""


class Prompt(asyncio.Protocol):
    """Mixed into a protocol of uvicorn, whose `cycle` is the request that was read last."""

    wait_s = WAIT_S
    whole_s = WHOLE_S
    cycle: Any
    _before: Any = None
    _came = 0
    _since = 0.0
    _line: asyncio.BaseTransport | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._line = transport
        self._again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.wait_s, self._look)

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        super().data_received(data)

    def _look(self) -> None:
        now, time, came = self.cycle, asyncio.get_running_loop().time(), self._came
        self._came = 0
        if now is not self._before:
            self._before, self._since = now, time
        elif self._line is not None and self._waits(now) and not self._comes(now, came, time):
            self._line.close()
            return
        self._again()

    def _waits(self, now: Any) -> bool:
        """Whether it is the other side that should say something."""
        return now is None or bool(now.response_complete or now.more_body)

    def _comes(self, now: Any, came: int, time: float) -> bool:
        """Whether a body is under way. came: bytes since the last look."""
        body = now is not None and now.more_body and not now.response_complete
        return body and came >= STEADY * self.wait_s and time - self._since < self.whole_s


def prompt_protocol(wait_s: float = WAIT_S, whole_s: float = WHOLE_S) -> type[asyncio.Protocol]:
    """The protocol of uvicorn that is installed, for those who do not keep it waiting."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    made = type("PromptHTTP", (Prompt, AutoHTTPProtocol), {"wait_s": wait_s, "whole_s": whole_s})
    return cast("type[asyncio.Protocol]", made)
