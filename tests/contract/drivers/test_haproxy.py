"""The HAProxy driver against a real HAProxy with real backends: contract, shares, order of changes, drift."""

from __future__ import annotations

import asyncio
import http.server
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.capabilities import Fences, RoutesTraffic
from evac.drivers.haproxy.driver import HaproxyDriver
from evac.drivers.port import Action, Value
from evac.model.errors import Permanent, Retryable
from evac_lab.process import MissingProgram
from evac_lab.servers import haproxy as servers
from tests.contract.drivers.ports import free_port
from tests.contract.drivers.suite import Case, covers, keep_contract, order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

SITES = ("pangyo", "anyang", "ansan")


class Site:
    """A small web server that says which site it is."""

    def __init__(self, name: str) -> None:
        closing = threading.Event()

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/hold":
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

        self.closing = closing
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
        lines = servers.ask(self.balancer, "show servers state chat").splitlines()
        return [
            (row[3], row[6], row[7]) for row in map(str.split, lines) if len(row) > 7 and row[0].isdigit()
        ]

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


@pytest.fixture
def world(server_folder: Path) -> Iterator[World]:
    try:
        made = World(server_folder)
    except MissingProgram as error:
        pytest.skip(str(error))
    yield made
    made.close()


@covers("haproxy", RoutesTraffic)
def test_the_contract_is_kept(world: World) -> None:
    async def state() -> object:
        return world.rows()

    async def is_done() -> bool:
        return await asyncio.to_thread(world.who_answers, 6) == {"anyang": 6}

    async def silence() -> None:
        world.process.signal(signal.SIGSTOP)
        await asyncio.sleep(0.1)  # a process stops when it is next scheduled

    async def speak() -> None:
        world.process.signal(signal.SIGCONT)

    case = Case(HaproxyDriver(), world.shift(), state, is_done, silence=silence, speak=speak, undo="done")
    asyncio.run(keep_contract(case))


def test_a_share_is_what_clients_get(world: World) -> None:
    asyncio.run(HaproxyDriver().execute(world.shift(share=250), order()))
    seen = world.who_answers(400)
    assert set(seen) == {"pangyo", "anyang"}
    assert 80 <= seen["anyang"] <= 120
    asyncio.run(HaproxyDriver().execute(world.shift(share=750, from_share=250), order()))
    assert 280 <= world.who_answers(400)["anyang"] <= 320
    asyncio.run(HaproxyDriver().undo(world.shift(share=750, from_share=250), order()))
    assert 80 <= world.who_answers(400)["anyang"] <= 120


def test_a_site_that_is_left_and_where_the_service_never_stood_holds_nothing_up(world: World) -> None:
    left = world.shift(away=("osan", "pangyo"))
    asyncio.run(HaproxyDriver().execute(left, order()))
    assert world.who_answers(6) == {"anyang": 6}
    assert asyncio.run(HaproxyDriver().observe(left, order())).outcome == "done"
    with pytest.raises(Permanent, match="none of the site osan"):
        asyncio.run(HaproxyDriver().execute(world.shift(to="osan"), order()))


def test_nobody_is_taken_out_before_somebody_takes_over(world: World) -> None:
    world.sites.pop("anyang").close()
    driver = HaproxyDriver()
    asyncio.run(driver.execute(world.site_action("ready", "ansan"), order()))
    time.sleep(0.3)
    with pytest.raises(Retryable, match="no server of chat is up"):
        asyncio.run(driver.execute(world.shift(), order(timeout_s=1.5)))
    assert world.who_answers(6)["pangyo"] > 0
    assert asyncio.run(driver.observe(world.shift(), order())).outcome == "absent"


def test_the_last_server_is_never_drained(world: World) -> None:
    drain = world.site_action("drain", "pangyo")
    checked = asyncio.run(HaproxyDriver().check(drain, order()))
    assert checked.problems == ("nobody would be left in chat to take the work",)
    with pytest.raises(Permanent, match="nobody would be left"):
        asyncio.run(HaproxyDriver().execute(drain, order()))
    assert world.who_answers(6) == {"pangyo": 6}


def test_a_hard_shift_ends_the_sessions_that_are_open(world: World) -> None:
    with socket.create_connection((world.balancer.host, world.balancer.port), 2) as client:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: chat\r\n\r\n")
        time.sleep(0.2)
        evidence = asyncio.run(HaproxyDriver().execute(world.shift(hard=True), order()))
        assert not client.recv(4_096).startswith(b"HTTP/1.1 200")
    assert evidence["sessions"] == 0
    assert ("pangyo-1", "1", "100") in world.rows()
    assert world.who_answers(6) == {"anyang": 6}


def test_a_reload_that_puts_the_dead_site_back_is_seen(world: World) -> None:
    driver = HaproxyDriver()
    done = asyncio.run(driver.execute(world.shift(), order()))
    seen, deadline, again = None, time.monotonic() + 60, 0.0
    while (seen is None or seen.outcome != "absent") and time.monotonic() < deadline:
        if time.monotonic() >= again:  # a master that is just starting may not heed the signal
            servers.reload(world.process)
            again = time.monotonic() + 5
        time.sleep(0.05)
        seen = asyncio.run(driver.observe(world.shift(), order()))
    assert seen is not None
    assert seen.outcome == "absent"
    assert seen.evidence["worker"] != done["worker"]
    assert "ready" in str(seen.evidence["server_pangyo-1"])


@covers("haproxy", Fences)
def test_the_path_to_a_lost_site_is_closed_as_a_fence_and_opened_again(world: World) -> None:
    fence = Action(
        "fence", "chat-store", "haproxy", "pangyo", world.settings(), {"old": "pangyo", "proof": "network"}
    )
    driver = HaproxyDriver()
    evidence = asyncio.run(driver.execute(fence, order()))
    assert evidence["proof"] == "network"
    assert ("pangyo-1", "1", "100") in world.rows()
    assert asyncio.run(driver.observe(fence, order())).evidence["proof"] == "network"
    asyncio.run(driver.undo(fence, order()))
    assert world.who_answers(4) == {"pangyo": 4}


def test_two_lost_sites_are_left_at_once(world: World) -> None:
    driver = HaproxyDriver()
    asyncio.run(driver.execute(world.site_action("ready", "ansan"), order()))
    both = world.shift(away="pangyo,ansan")
    asyncio.run(driver.execute(both, order()))
    assert world.who_answers(6) == {"anyang": 6}
    with pytest.raises(Permanent, match="wrote down"):
        asyncio.run(driver.undo(both, order()))


def test_a_wrong_name_is_a_problem_and_no_command(world: World) -> None:
    driver = HaproxyDriver()
    unknown = replace(world.shift(), settings=world.settings(servers=("pangyo=pangyo-1", "anyang=nobody")))
    assert asyncio.run(driver.check(unknown, order())).problems == ("chat has no server named nobody",)
    unsafe = replace(world.shift(), settings=world.settings(servers=("pangyo=x;shutdown", "anyang=y")))
    assert "may not have" in asyncio.run(driver.check(unsafe, order())).problems[0]
    nowhere = replace(world.shift(), settings=world.settings(backend="nope"))
    assert "no backend nope" in asyncio.run(driver.check(nowhere, order())).problems[0]


def test_verify_looks_and_changes_nothing(world: World) -> None:
    look = Action("verify", "chat", "haproxy", "anyang", world.settings(), {"expect": "anyang"})
    before = world.rows()
    with pytest.raises(Retryable, match="anyang-1 is maint"):
        asyncio.run(HaproxyDriver().execute(look, order()))
    assert world.rows() == before
    asyncio.run(HaproxyDriver().execute(world.shift(), order()))
    assert "worker" in asyncio.run(HaproxyDriver().execute(look, order()))
