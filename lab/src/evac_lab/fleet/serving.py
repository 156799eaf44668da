"""The process of a fleet: its two sockets, its clockwork, and a clean end on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from evac.app.side_process import raise_limit
from evac.model.errors import EvacError
from evac_lab.fleet.admin import AdminDoor
from evac_lab.fleet.connections import Connection, Door
from evac_lab.fleet.doors import CONNECTIONS_MOST, TLS_CONNECTIONS_MOST, ControllerDoor
from evac_lab.fleet.fleet import Fleet

ADMIN_HOST: Final = "127.0.0.1"
_BACKLOG: Final = 1_024
_TICK_SECONDS: Final = 0.25
_SWEEP_SECONDS: Final = 5.0
_FILES_SPARE: Final = 64
_M_MMAP_THRESHOLD: Final = -3


class FleetFailed(EvacError):
    """The fleet cannot be served here."""


@dataclass(frozen=True, slots=True)
class Ports:
    """0 lets the machine choose."""

    controllers: int
    admin: int


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `FleetFailed` when the port is taken."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        where = f"port {port}" if host == "0.0.0.0" else f"{host}:{port}"
        raise FleetFailed(
            "fleet-port", f"{where} cannot be had: {error.strerror}", "take another: --port, --admin-port"
        ) from error
    found.setblocking(False)
    return found


def connections_most(wanted: int) -> int:
    """How many connections the limit of open files leaves; the limit is raised as far as it may be."""
    return max(16, min(wanted, raise_limit() - _FILES_SPARE))


class Server:
    """A fleet with its sockets."""

    def __init__(
        self, fleet: Fleet, ports: Ports, tls: ssl.SSLContext | None, about: Mapping[str, object]
    ) -> None:
        self.fleet, self._tls, self._about = fleet, tls, about
        self._stopping = asyncio.Event()
        self._controllers = listen("0.0.0.0", ports.controllers)
        try:
            self._admin = listen(ADMIN_HOST, ports.admin)
        except FleetFailed:
            self._controllers.close()
            raise

    @property
    def ports(self) -> Ports:
        return Ports(self._controllers.getsockname()[1], self._admin.getsockname()[1])

    def stop(self) -> None:
        self._stopping.set()

    async def run(self, ready: Callable[[Ports], None], longest_s: float | None = None) -> None:
        """Serves until it is told to stop, or for so long."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        most = connections_most(TLS_CONNECTIONS_MOST if self._tls else CONNECTIONS_MOST)
        door = ControllerDoor(self.fleet, loop, most)
        admin = AdminDoor(self.fleet, self._about)
        servers = [
            await loop.create_server(
                _maker(door, loop), sock=self._controllers, ssl=self._tls, backlog=_BACKLOG
            ),
            await loop.create_server(_maker(admin, loop), sock=self._admin),
        ]
        clockwork = loop.create_task(self._clockwork(door))
        try:
            ready(self.ports)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), longest_s)
        finally:
            clockwork.cancel()
            for server in servers:
                server.close()
            door.close()
            admin.close()
            with contextlib.suppress(asyncio.CancelledError):
                await clockwork

    async def _clockwork(self, door: ControllerDoor) -> None:
        """Lets happen what is due, also while nobody asks."""
        loop = asyncio.get_running_loop()
        swept = loop.time()
        while True:
            self.fleet.now()
            due = self.fleet.machines.next_due()
            pause = _TICK_SECONDS if due is None else self.fleet.clock.seconds_until(due)
            await asyncio.sleep(min(max(pause, 0.002), _TICK_SECONDS))
            if loop.time() - swept > _SWEEP_SECONDS:
                swept = loop.time()
                door.sweep()


def _maker(door: Door, loop: asyncio.AbstractEventLoop) -> Callable[[], Connection]:
    return lambda: Connection(door, loop)


def serve(
    fleet: Fleet,
    ports: Ports,
    tls: ssl.SSLContext | None,
    about: Mapping[str, object],
    ready: Callable[[Ports], None],
    longest_s: float | None = None,
) -> None:
    """Serves a fleet until SIGTERM or SIGINT, or for so long. With uvloop where it is installed."""

    async def main() -> None:
        await Server(fleet, ports, tls, about).run(ready, longest_s)

    if tls is not None:
        _map_large_blocks()
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(main())


def _map_large_blocks() -> None:
    """Lets the C library map every block above 64 KiB by itself for good, and give it back when it is freed.

    uvloop takes 256 KiB for each connection with TLS, and touches a few pages of them.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 65_536)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
