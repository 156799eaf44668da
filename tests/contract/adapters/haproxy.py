"""A real HAProxy in front of real backends, for the suites."""

from __future__ import annotations

import asyncio
import http.server
import signal
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import Fences, ReportsTraffic, RoutesTraffic
from evac.drivers.haproxy import DRIVER
from evac.drivers.haproxy.driver import HaproxyDriver
from evac.drivers.port import Action, Value, Verb
from evac_lab.process import MissingProgram
from evac_lab.servers import haproxy as servers
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import Case, nothing, order, until_stopped
from tests.contract.capabilities.suites import Adapter, AskedTraffic
from tests.contract.ports import free_port

SITES = ("pangyo", "anyang", "ansan")


class Site:
    """A small web server that says which site it is."""

    def __init__(self, name: str) -> None:
        closing, holding = threading.Event(), threading.Event()

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/hold":
                    holding.set()
                    closing.wait(10)
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing: the test reads the answers."""

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A session that was shut down is what a test asked for."""

        self.closing, self.holding = closing, holding
        self.server = Server(("127.0.0.1", 0), Answer)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class World:
    """One balancer in front of three sites; anyang and ansan are drained at first, so pangyo takes all."""

    def __init__(self, folder: Path) -> None:
        self.sites = {name: Site(name) for name in SITES}
        backends = tuple(
            servers.Backend(f"{name}-1", "127.0.0.1", self.sites[name].port, drained=name != "pangyo")
            for name in SITES
        )
        self.balancer = servers.Balancer(
            "lb",
            "127.0.0.1",
            free_port(),
            free_port(),
            folder / "lb",
            "chat",
            backends,
            check="/",
            check_ms=50,
        )
        servers.prepare(self.balancer)
        self.process = servers.start(self.balancer)

    def close(self) -> None:
        self.process.signal(signal.SIGCONT)
        self.process.stop()
        for site in self.sites.values():
            site.close()

    def rows(self) -> list[tuple[str, ...]]:
        """Name, administrative state and weight of each server, as HAProxy itself says."""
        return [(row[3], row[6], row[7]) for row in self._state()]

    def is_down(self, server: str) -> bool:
        """Whether the health checks of HAProxy found a server down."""
        return (server, "0") in {(row[3], row[5]) for row in self._state()}

    def _state(self) -> list[list[str]]:
        lines = servers.ask(self.balancer, "show servers state chat").splitlines()
        return [row for row in map(str.split, lines) if len(row) > 7 and row[0].isdigit()]

    def who_answers(self, requests: int = 40) -> Counter[str]:
        return Counter(self.ask_once() for _ in range(requests))

    def ask_once(self) -> str:
        with socket.create_connection((self.balancer.host, self.balancer.port), 2) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            parts = []
            while part := client.recv(4_096):
                parts.append(part)
        return b"".join(parts).rpartition(b"\r\n")[2].decode()

    def settings(self, **more: Value) -> dict[str, Value]:
        return {
            "host": self.balancer.host,
            "port": self.balancer.admin_port,
            "backend": "chat",
            "servers": tuple(f"{name}={name}-1" for name in SITES),
            **more,
        }

    def shift(self, share: int = 1_000, **more: Value) -> Action:
        parameters = {"to": "anyang", "away": "pangyo", "share": share, **more}
        return Action("shift", "chat", "haproxy", "anyang", self.settings(), parameters)

    def site_action(self, verb: str, site: str, **more: Value) -> Action:
        return Action(verb, "chat", "haproxy", site, self.settings(), {"site": site, **more})  # type: ignore[arg-type]


@contextmanager
def balancer(folder: Path) -> Iterator[World]:
    try:
        made = World(folder)
    except MissingProgram as error:
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.close()


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with balancer(folder) as world:
        closed = ("pangyo-1", "1", "100")

        async def served_by(*sites: str) -> bool:
            return set(await asyncio.to_thread(world.who_answers, 6)) == set(sites)

        async def is_closed() -> bool:
            return closed in world.rows()

        async def anyang_takes_work() -> None:
            await HaproxyDriver().execute(world.site_action("ready", "anyang"), order())

        def case(action: Action, is_done: Callable[[], Awaitable[bool]], prepare: Any = nothing) -> Case:
            return _case(world, action, is_done, prepare)

        match verb:
            case "shift":
                yield case(world.shift(), lambda: served_by("anyang"))
            case "drain":
                drain = world.site_action("drain", "pangyo")
                yield case(drain, lambda: served_by("anyang"), anyang_takes_work)
            case "ready":
                yield case(world.site_action("ready", "anyang"), lambda: served_by("pangyo", "anyang"))
            case "fence":
                given = {"old": "pangyo", "proof": "network"}
                fence = Action("fence", "chat-store", "haproxy", "pangyo", world.settings(), given)
                yield case(fence, is_closed)


def _case(world: World, action: Action, is_done: Callable[[], Awaitable[bool]], prepare: Any) -> Case:
    async def state() -> object:
        return world.rows()

    async def silence() -> None:
        world.process.signal(signal.SIGSTOP)
        await until_stopped(world.process.pid)

    async def speak() -> None:
        world.process.signal(signal.SIGCONT)

    lb = world.balancer
    return Case(
        HaproxyDriver(),
        action,
        state,
        is_done,
        prepare,
        silence,
        speak,
        undo="done",
        silent_codes=("haproxy-no-answer", "haproxy-unreachable"),
        wires=(TcpWire(lb.host, lb.admin_port, "haproxy", with_settings(host="{host}", port="{port}")),),
    )


@contextmanager
def _traffic(folder: Path) -> Iterator[AskedTraffic]:
    with balancer(folder) as world:
        asks = world.site_action("verify", "pangyo")

        def asked(servers_of: str, **more: Value) -> Action:
            return replace(asks, settings={**asks.settings, "servers": servers_of, **more})

        async def send_to(sites: tuple[str, ...]) -> None:
            for number, name in enumerate(("pangyo", "anyang")):
                state = "ready" if name in sites else ("drain", "maint")[number]
                await asyncio.to_thread(
                    servers.ask, world.balancer, f"set server chat/{name}-1 state {state}"
                )

        common = _case(world, asks, _never, nothing)
        yield AskedTraffic(
            common.driver,
            asks,
            common.silence,
            common.speak,
            wires=common.wires,
            send_to=send_to,
            unclear={
                "a server of no site": asked("anyang=anyang-1,ansan=ansan-1"),
                "of two sites": asked("anyang=pangyo-1,pangyo=pangyo-1"),
                "one that the backend does not have": asked("pangyo=pangyo-1+pangyo-2,anyang=anyang-1"),
            },
        )


async def _never() -> bool:
    return False


ADAPTER = Adapter(
    DRIVER,
    acts=dict.fromkeys((RoutesTraffic, Fences), _acts),
    asks={ReportsTraffic: _traffic},
)
