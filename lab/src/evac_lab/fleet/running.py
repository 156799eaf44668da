"""The process of a fleet: sockets, timers, folder, password and pid file; also in the background."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from evac.app.side_process import raise_limit
from evac.model.errors import EvacError, InvalidInput
from evac.model.records import dataclass
from evac_lab import process as processes
from evac_lab.fleet import estates
from evac_lab.fleet.admin import AdminDoor
from evac_lab.fleet.connections import (
    CONNECTIONS_MOST,
    TLS_CONNECTIONS_MOST,
    ControllerDoor,
    Door,
    HttpConnection,
)
from evac_lab.fleet.estates import Reach
from evac_lab.fleet.fleet import Fleet, Settings
from evac_lab.fleet.ground import CIRCUITS_ADDRESS, SERVERS_MOST, FleetGround, Shares, address_of


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files, and the certificate's SHA-256 in hex for pinning."""

    authority: Path
    chain: Path
    key: Path
    pin: str

    def context(self) -> ssl.SSLContext:
        """The context to listen with."""
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.minimum_version = ssl.TLSVersion.TLSv1_2
        found.load_cert_chain(self.chain, self.key)
        # Each ticket would keep a session in a cache of 20,000, and no controller is reconnected to soon.
        found.num_tickets = 0
        return found


def make_certificates(folder: Path) -> Certificates:
    """Writes new keys and certificates to a folder, in a process of its own so that the memory is freed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_make_here, folder).result()


def _make_here(folder: Path) -> Certificates:
    from evac_lab import authorities

    return authorities.make_for_fleet(folder)


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
    """0: the machine chooses."""

    controllers: int
    admin: int


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `FleetFailed` if the port is in use."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        where = f"port {port}" if host == "0.0.0.0" else f"{host}:{port}"
        raise FleetFailed(
            "fleet-port",
            f"{where} is not available: {error.strerror}",
            "choose another: --port, --admin-port",
        ) from error
    found.setblocking(False)
    return found


def connections_most(wanted: int) -> int:
    """How many connections the open-file limit allows, after raising it as far as permitted."""
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
        """Serves until stopped, or for `longest_s`."""
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
        """Processes due events even without requests."""
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


def _maker(door: Door, loop: asyncio.AbstractEventLoop) -> Callable[[], HttpConnection]:
    return lambda: HttpConnection(door, loop)


def serve(
    fleet: Fleet,
    ports: Ports,
    tls: ssl.SSLContext | None,
    about: Mapping[str, object],
    ready: Callable[[Ports], None],
    longest_s: float | None = None,
) -> None:
    """Serves a fleet until SIGTERM or SIGINT, or for `longest_s`. Uses uvloop if installed."""

    async def main() -> None:
        await Server(fleet, ports, tls, about).run(ready, longest_s)

    if tls is not None:
        _map_large_blocks()
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(main())


def _map_large_blocks() -> None:
    """Makes the C library map every block above 64 KiB separately and return it when freed.

    uvloop takes 256 KiB for each TLS connection and touches only a few pages of it.
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


STATE_FILE: Final = "fleet.json"
PASSWORD_FILE: Final = "bmc-password"
USER: Final = "evac"


@dataclass(frozen=True, slots=True)
class Wish:
    """Options of a fleet. out: where its estate is written; password: a reference, "" creates one; longest_s:
    time limit.
    """

    folder: Path
    ports: Ports
    shares: Shares
    settings: Settings
    tls: bool = False
    user: str = USER
    password: str = ""
    out: Path | None = None
    longest_s: float | None = None


def check_size(servers: int) -> None:
    if not 1 <= servers <= SERVERS_MOST:
        raise InvalidInput("fleet-size", f"{servers} servers do not fit", f"1 to {SERVERS_MOST}")


def run(ground: FleetGround, wish: Wish, told: Callable[[Mapping[str, Any]], None]) -> None:
    """Serves until SIGTERM or SIGINT. told: called with the description once it listens. Raises
    `FleetFailed`.
    """
    check_size(len(ground))
    if wish.out is not None:
        estates.check_folder(wish.out)
    with _only_one(wish.folder):
        reference, password = _password(wish)
        made = make_certificates(wish.folder) if wish.tls else None
        fleet = Fleet(ground, wish.shares, wish.settings, wish.user, password)

        def ready(ports: Ports) -> None:
            signed = (made.pin, made.authority) if made else ("", None)
            reach = Reach(ports.controllers, wish.user, reference, *signed)
            if wish.out is not None:
                estates.write(wish.out, fleet, reach)
            about = description(fleet, ports, reach, wish)
            _write(wish.folder / STATE_FILE, about)
            told(about)

        serve(
            fleet,
            wish.ports,
            made.context() if made else None,
            {"fleet": ground.site, "servers": len(ground)},
            ready,
            wish.longest_s,
        )


def description(fleet: Fleet, ports: Ports, reach: Reach, wish: Wish) -> dict[str, Any]:
    """What a client must know, and the pid."""
    return {
        "pid": os.getpid(),
        "started": processes.started(os.getpid()),
        "servers": len(fleet.ground),
        "site": fleet.ground.site,
        "scheme": "https" if reach.pin else "http",
        "port": ports.controllers,
        "first": address_of(0),
        "last": address_of(len(fleet.ground) - 1),
        "circuits": CIRCUITS_ADDRESS,
        "admin": f"http://{ADMIN_HOST}:{ports.admin}",
        "user": reach.user,
        "password": reach.password,
        "pin": reach.pin,
        "ca": str(reach.authority or ""),
        "estate": str(wish.out) if wish.out else "",
        "seed": wish.settings.seed,
        "speed": wish.settings.speed,
    }


def _password(wish: Wish) -> tuple[str, str]:
    """(reference, password). A new password is stored in the folder, readable by its owner only."""
    from evac.net.secrets import resolve

    if wish.password:
        return wish.password, resolve(wish.password).reveal()
    file = (wish.folder / PASSWORD_FILE).absolute()
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(15), encoding="utf-8")
    return f"file:{file}", file.read_text(encoding="utf-8").strip()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One fleet per folder; a file left by a killed fleet does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / STATE_FILE
    if (found := read_state(folder)) is not None:
        raise FleetFailed(
            "fleet-runs",
            f"a fleet is already running here, pid {found['pid']}",
            "stop it, or choose another --folder",
        )
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if json.loads(file.read_text(encoding="utf-8")).get("pid") == os.getpid():
                file.unlink()


def read_state(folder: Path) -> dict[str, Any] | None:
    """The initial description of a folder's fleet, if it still runs."""
    try:
        found: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if processes.same(int(found.get("pid", 0)), int(found.get("started", 0))) else None


def _write(file: Path, content: Mapping[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    new.replace(file)


LOG_FILE: Final = "fleet.log"
START_S: Final = 180.0
END_S: Final = 30.0
_LOOK_S: Final = 0.1
STOP_S: Final = 5.0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a fleet that failed to start; nothing of it is left afterwards."""
    for number, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return


def begin(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Starts `evac ARGUMENTS` in its own session; returns its description once it answers. Raises
    `FleetFailed` with its last output if it ends before that or takes too long.
    """
    if (found := read_state(folder)) is not None:
        raise FleetFailed(
            "fleet-runs",
            f"a fleet is already running here, pid {found['pid']}",
            "stop it: evac lab fleet --end",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "evac", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        about = read_state(folder)
        if about is not None and about["pid"] == process.pid:
            process.returncode = 0  # it lives on when this command ends: not ours to wait for
            return about
        time.sleep(_LOOK_S)
    _end(process)
    words = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise FleetFailed(
        "fleet-start", "it did not start: " + " ".join(words[-3:])[-400:], f"see {folder / LOG_FILE}"
    )


def end(folder: Path) -> bool:
    """Ends the fleet of a folder; False if none runs. Raises `FleetFailed` if it does not end."""
    found = read_state(folder)
    if found is None:
        return False
    pid, started = int(found["pid"]), int(found["started"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + END_S
    while processes.same(pid, started):
        if time.monotonic() > until:
            raise FleetFailed("fleet-end", f"pid {pid} is still running", f"kill -9 {pid}")
        time.sleep(_LOOK_S)
    return True
