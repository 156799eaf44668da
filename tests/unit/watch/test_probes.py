"""Probes ask real servers on loopback: an answer counts, a connection does not."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import dns.message
import pytest
from aiohttp import web

from evac.model.run_policy import WatchProfile
from evac.watch import probes
from evac.watch.values import Seen
from evac.watch.witness import Probe, Witness

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
HOST = "127.0.41.1"
Story = Callable[[aiohttp.ClientSession], Awaitable[None]]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


async def _answer(ask: probes.Ask) -> Seen:
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


def test_an_answer_of_the_application_counts_and_that_of_a_proxy_does_not() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.path[1:4]), text="the messenger")

    async def play() -> None:
        async with _web(answer) as url, probes.probe_session() as session:
            said = {
                status: (await _answer(probes.http(session, f"{url}/{status}"))).opinion
                for status in (200, 302, 404, 500, 502, 503, 504)
            }
            assert [status for status, opinion in said.items() if opinion == "up"] == [200, 302, 404]
            assert {said[status] for status in (500, 502, 503, 504)} == {"down"}
            assert (await _answer(probes.http(session, f"{url}/200", text="messenger"))).opinion == "up"
            assert (await _answer(probes.http(session, f"{url}/200", text="sorry"))).opinion == "down"
            assert (await _answer(probes.agent(session, f"{url}/401"))).kind == "agent"

    asyncio.run(play())


def test_a_connection_alone_is_never_an_answer() -> None:
    async def play() -> None:
        async with _mute() as port, probes.probe_session() as session:
            url = f"http://{HOST}:{port}"
            for ask in (
                probes.http(session, url),
                probes.etcd_member(session, url),
                probes.redis_ping(HOST, port),
                probes.name_server(HOST, port, "example.test"),
            ):
                seen = await _answer(ask)
                assert seen.opinion == "down"
                assert "no answer in 500 ms" in seen.detail
                assert 450 <= seen.took_ms <= 900

    asyncio.run(play())


def test_a_closed_port_is_down_and_a_name_that_does_not_resolve_is_unknown() -> None:
    async def play() -> None:
        async with probes.probe_session() as session:
            port = _free_port()
            assert (await _answer(probes.http(session, f"http://{HOST}:{port}/"))).opinion == "down"
            assert (await _answer(probes.redis_ping(HOST, port))).opinion == "down"
            seen = await _answer(probes.http(session, "http://no-such-host.invalid/"))
            assert seen.opinion == "unknown"

    asyncio.run(play())


def test_a_member_that_waits_for_an_election_is_alive() -> None:
    async def waiting(request: web.Request) -> web.Response:
        assert request.query["serializable"] == "true"
        return web.json_response({"health": "false", "reason": "RAFT NO LEADER"}, status=503)

    async def other(request: web.Request) -> web.Response:
        return web.Response(text="<html>")

    async def play() -> None:
        async with _web(waiting) as url, probes.probe_session() as session:
            assert (await _answer(probes.etcd_member(session, url))).opinion == "up"
        async with _web(other) as url, probes.probe_session() as session:
            assert (await _answer(probes.etcd_member(session, url))).opinion == "down"

    asyncio.run(play())


def test_a_database_answers_through_its_driver() -> None:
    async def yes() -> bool:
        return True

    async def no() -> bool:
        return False

    async def play() -> None:
        assert await _answer(probes.database(yes, "messages")) == Seen("data", "up", 0)
        assert (await _answer(probes.database(no, "messages"))).opinion == "down"

    asyncio.run(play())


def test_a_name_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(asyncio.DatagramProtocol):
        code = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
            answer = dns.message.make_response(dns.message.from_wire(data))
            answer.set_rcode(self.code)
            self.transport.sendto(answer.to_wire(), peer)  # type: ignore[attr-defined]

    async def play() -> None:
        loop = asyncio.get_running_loop()
        transport, server = await loop.create_datagram_endpoint(Server, local_addr=(HOST, 0))
        port = transport.get_extra_info("sockname")[1]
        said = {}
        for code in (0, 3, 5, 2):
            server.code = code
            said[code] = (await _answer(probes.name_server(HOST, port, "chat.test"))).opinion
        transport.close()
        await asyncio.sleep(0)
        assert said == {0: "up", 3: "up", 5: "down", 2: "down"}

    asyncio.run(play())


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_real_redis_answers_and_a_stopped_one_does_not(tmp_path: Path) -> None:
    port = _free_port()
    args = ["redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen([*args, "--requirepass", "secret"], stdout=subprocess.DEVNULL)

    async def up() -> bool:
        return (await _answer(probes.redis_ping(HOST, port))).opinion == "up"

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
