"""Probes ask real servers on loopback: an answer counts, a connection does not."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from evac.drivers.capabilities import AnswersProbe, ProbeReport
from evac.drivers.port import Action, Value
from evac.drivers.registry import DRIVERS, Drivers
from evac.model.run_policy import WatchProfile
from evac.watch import witness
from evac.watch.verdict import Seen
from evac.watch.witness import Probe, Witness

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
HOST = "127.0.41.1"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


async def _answer(ask: witness.Ask) -> Seen:
    """Under the deadline and the reading of errors that the witness has."""
    profile = WatchProfile("test", 1_000, 500, 1, 0, 0, 0)
    witness = Witness("ansan", {}, profile, _Clock(), lambda vote: None)
    return await witness.ask(Probe("user", "probe", ask))


class _Clock:
    def now_ms(self) -> int:
        return 0

    def monotonic_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1_000)


@contextlib.asynccontextmanager
async def _web(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    port = _free_port()
    await web.TCPSite(runner, HOST, port).start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _mute() -> AsyncIterator[int]:
    """A server that accepts and says nothing, as a stopped process does."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await reader.read()
        writer.close()

    port = _free_port()
    server = await asyncio.start_server(hold, HOST, port)
    try:
        yield port
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def _asking() -> AsyncIterator[Callable[..., Awaitable[Seen]]]:
    """How the witness asks the real driver of a name, with these settings."""
    drivers = Drivers()

    async def ask(driver: str, **settings: Value) -> Seen:
        action = Action("verify", "chat", driver, "pangyo", settings)

        async def report() -> ProbeReport:
            return await drivers.able(driver, AnswersProbe).probe(action, 1.0)

        kind = DRIVERS[driver].probe
        assert kind is not None
        return await _answer(witness.asked(kind, report))

    try:
        yield ask
    finally:
        await drivers.close()


def test_an_answer_of_the_application_counts_and_that_of_a_proxy_does_not() -> None:
    async def answer(request: web.Request) -> web.Response:
        status = 401 if request.path == "/v1/health" else int(request.path[1:4])
        return web.Response(status=status, text="the messenger")

    async def play() -> None:
        async with _web(answer) as url, _asking() as ask:
            said = {
                status: (await ask("http", url=f"{url}/{status}")).opinion
                for status in (200, 302, 404, 500, 502, 503, 504)
            }
            assert [status for status, opinion in said.items() if opinion == "up"] == [200, 302, 404]
            assert {said[status] for status in (500, 502, 503, 504)} == {"down"}
            assert (await ask("http", url="http://unused", observe_url=f"{url}/200")).opinion == "up"
            seen = await ask("process", agent=f"{url}/")
            assert (seen.kind, seen.opinion) == ("agent", "up")

    asyncio.run(play())


def test_a_connection_alone_is_never_an_answer() -> None:
    async def play() -> None:
        async with _mute() as port, _asking() as ask:
            url = f"http://{HOST}:{port}"
            for driver, settings in (
                ("http", {"url": url}),
                ("etcd", {"url": url}),
                ("process", {"agent": url}),
                ("redis", {"host": HOST, "port": port}),
            ):
                seen = await ask(driver, **settings)
                assert seen.opinion == "down"
                assert "no answer within 500 ms" in seen.detail
                assert seen.took_ms >= 450

    asyncio.run(play())


def test_a_closed_port_is_down_and_a_name_that_does_not_resolve_is_unknown() -> None:
    async def play() -> None:
        async with _asking() as ask:
            port = _free_port()
            assert (await ask("http", url=f"http://{HOST}:{port}/")).opinion == "down"
            assert (await ask("redis", host=HOST, port=port)).opinion == "down"
            assert (await ask("http", url="http://no-such-host.invalid/")).opinion == "unknown"

    asyncio.run(play())


def test_a_member_that_waits_for_an_election_is_alive() -> None:
    async def waiting(request: web.Request) -> web.Response:
        assert request.query["serializable"] == "true"
        return web.json_response({"health": "false", "reason": "RAFT NO LEADER"}, status=503)

    async def other(request: web.Request) -> web.Response:
        return web.Response(text="<html>")

    async def play() -> None:
        async with _asking() as ask:
            async with _web(waiting) as url:
                assert (await ask("etcd", url=url)).opinion == "up"
            async with _web(other) as url:
                assert (await ask("etcd", url=url)).opinion == "down"

    asyncio.run(play())


def test_what_a_driver_reports_is_what_is_seen() -> None:
    async def up() -> ProbeReport:
        return ProbeReport(True)

    async def down() -> ProbeReport:
        return ProbeReport(False, "messages: no answer")

    async def play() -> None:
        assert await _answer(witness.asked("data", up)) == Seen("data", "up", 0)
        seen = await _answer(witness.asked("data", down))
        assert (seen.opinion, seen.detail) == ("down", "messages: no answer")

    asyncio.run(play())


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_real_redis_answers_and_a_stopped_one_does_not(tmp_path: Path) -> None:
    port = _free_port()
    args = ["redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen([*args, "--requirepass", "secret"], stdout=subprocess.DEVNULL)

    async def up() -> bool:
        async with _asking() as ask:
            return (await ask("redis", host=HOST, port=port)).opinion == "up"

    async def play() -> None:
        for _ in range(50):
            if await up():
                break
            await asyncio.sleep(0.1)
        assert await up(), "a demand for a password is an answer"
        server.send_signal(19)
        assert not await up(), "a stopped server still accepts connections"
        server.send_signal(18)
        assert await up()

    try:
        asyncio.run(play())
    finally:
        server.kill()
        server.wait(5)
