"""Under systemd: says when it is ready, how it stands, and that it is alive; nothing where nobody listens.

The protocol is one datagram to the socket that `NOTIFY_SOCKET` names, and systemd documents it as one to be
spoken without its library: the small libraries for it are no longer kept up, and the one that is needs
libsystemd. Whatever goes wrong here is nobody's problem but systemd's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

STATUS_MOST: Final = 200
LOOK_S: Final = 5.0
LISTENS_S: Final = 0.1


class Supervisor:
    """Made once, at the start: it takes the variables out of the environment, so that no process that is
    started later speaks in our name.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None, pid: int | None = None) -> None:
        found = os.environ if environment is None else environment
        self._address = found.pop("NOTIFY_SOCKET", "")
        usec, whose = found.pop("WATCHDOG_USEC", ""), found.pop("WATCHDOG_PID", "")
        ours = whose in ("", str(os.getpid() if pid is None else pid))
        self._watched_s = int(usec) / 1_000_000 if ours and usec.isascii() and usec.isdigit() else 0.0
        self._status = ""

    @property
    def period_s(self) -> float:
        """How often it says that it is alive: twice as often as it must."""
        return min(LOOK_S, self._watched_s / 2) if self._watched_s else LOOK_S

    def ready(self, status: str = "") -> None:
        self._send(*self._words(status), "READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=ends")

    def alive(self, status: str = "") -> None:
        """That the loop goes round, and how things stand where that changed."""
        states = self._words(status)
        if self._watched_s:
            states.append("WATCHDOG=1")
        if states:
            self._send(*states)

    async def once_listening(self, host: str, port: int, status: str = "") -> None:
        """Ready as soon as somebody listens there, and alive from then on; until it is cancelled."""
        while self._address:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                break
            await asyncio.sleep(LISTENS_S)
        self.ready(status)
        await self.watch()

    async def watch(self, status: Callable[[], str] = lambda: "") -> None:
        """Says so until it is cancelled. A loop that hangs says nothing, and is started again by systemd."""
        while self._address:
            self.alive(status())
            await asyncio.sleep(self.period_s)
        await asyncio.Event().wait()

    def _words(self, status: str) -> list[str]:
        plain = "".join(letter if letter.isprintable() else " " for letter in status)[:STATUS_MOST]
        if not plain or plain == self._status:
            return []
        self._status = plain
        return [f"STATUS={plain}"]

    def _send(self, *states: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, kind) as sending:
            sending.setblocking(False)  # whoever does not read is not waited for
            sending.sendto("\n".join(states).encode(), name)
