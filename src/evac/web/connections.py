"""Connections that are held for nothing: whoever connects says a whole request soon, or is let go.

Anybody can connect, with a login or without one, and a process has only so many connections. uvicorn ends
those that say nothing after an answer; this ends those that say nothing at all, and those that never come to
an end. Answers take as long as they take, streams too.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

WAIT_S: Final = 15.0
"""A request is there, head and body, after so long or twice as long."""


class Prompt(asyncio.Protocol):
    """Mixed into a protocol of uvicorn, whose `cycle` is the request that was read last."""

    wait_s = WAIT_S
    cycle: Any
    _before: Any = None
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

    def _look(self) -> None:
        now = self.cycle
        waits = now is None or now.response_complete or now.more_body
        if waits and now is self._before and self._line is not None:
            self._line.close()
            return
        self._before = now
        self._again()


def prompt_protocol(wait_s: float = WAIT_S) -> type[asyncio.Protocol]:
    """The protocol of uvicorn that is installed, for those who do not keep it waiting."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    made = type("PromptHTTP", (Prompt, AutoHTTPProtocol), {"wait_s": wait_s})
    return cast("type[asyncio.Protocol]", made)
