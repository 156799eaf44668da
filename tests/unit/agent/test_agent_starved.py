"""An agent that is flooded, leaks descriptors, gets no thread or loses its disk: it fences in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.agent import fencing, memory, service, units
from evac.agent.config import AgentConfig, FenceConfig, TlsConfig
from evac.agent.instance import OwnInstance, Running
from evac.drivers.process.client import AgentClient, AgentPeer
from evac.drivers.process.driver import PERMIT_PATH, AgentPermits
from evac.model.errors import Retryable
from evac.net.listening import RESERVED, Listener, Reserve, connections_most
from tests.unit.engine import agents
from tests.unit.engine.authorities import Authority

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

STORE = "chat-store"
HALF = b"POST /v1/unit HTTP/1.1\r\nHost: agent\r\nContent-Le"
PERMIT_MS = 6_000


def fenced_config(folder: Path, **more: Any) -> AgentConfig:
    rule = FenceConfig(STORE, margin_ms=3_000, timeout_ms=2_500, again_ms=100, units=("sleeper",))
    return agents.config(folder, agents.sleeper(store=STORE), fences=(replace(rule, **more),))


async def start_sleeper(made: AgentConfig) -> int:
    """Starts the unit by an order; its pid."""
    client, order = AgentClient(), {"run": "r", "step": "s", "attempt": 1, "token": 5, "epoch": 3}
    order |= {"reason": "test", "timeout_ms": 5_000, "key": "r/s", "ticket": "", "dry_run": False}
    values = {"what": "execute", "verb": "start", "unit": "sleeper", "replicas": 1, "order": order}
    try:
        await client.send(agents.at(made), "/v1/unit", values, 10)
    finally:
        await client.close()
    return agents.pid_of(made, "sleeper")


def permits_of(made: AgentConfig) -> AgentPermits:
    return AgentPermits(agents.at(made))


@contextlib.contextmanager
def flood(
    made: AgentConfig, count: int, said: bytes, source: str = "127.0.0.2"
) -> Iterator[list[socket.socket]]:
    """So many connections that say something and then nothing, until the end."""
    with contextlib.ExitStack() as held:
        lines = []
        for _ in range(count):
            line = held.enter_context(socket.socket())
            line.bind((source, 0))
            line.settimeout(5)
            with contextlib.suppress(OSError):
                line.connect((made.host, made.port))
                line.sendall(said)
            lines.append(line)
        yield lines


@contextlib.contextmanager
def own_process(made: AgentConfig, descriptors: int) -> Iterator[int]:
    """The agent in a process that may open so many descriptors; its pid."""
    file = made.state.parent / "agent.toml"
    rule, unit = made.fences[0], made.units[0]
    file.write_text(
        agents.header(made)
        + f'[[units]]\nname = "{unit.name}"\nargv = {list(unit.argv)!r}\nstore = "{STORE}"\n'
        + f'[[fences]]\nstore = "{STORE}"\nmargin_ms = {rule.margin_ms}\ntimeout_ms = {rule.timeout_ms}\n'
        + f'again_ms = {rule.again_ms}\nunits = ["{unit.name}"]\n',
        encoding="utf-8",
    )
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))\n"
        "import asyncio, pathlib, sys; from evac.agent.service import run_agent\n"
        "from evac.agent.config import read_config\n"
        "asyncio.run(run_agent(read_config(pathlib.Path(sys.argv[1]))))"
    )
    with (made.state.parent / "agent.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                agents.health(made)
                break
            time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_silent_connections_neither_stop_a_fence_nor_keep_a_controller_out(tmp_path: Path) -> None:
    made = fenced_config(tmp_path)

    async def story() -> None:
        pid, keeper = await start_sleeper(made), permits_of(made)
        await keeper.renew(STORE, 3, PERMIT_MS, 5, 5)
        with flood(made, 300, HALF) as lines:
            renewed = time.monotonic()
            fresh = permits_of(made)
            said = await fresh.renew(STORE, 3, PERMIT_MS, 5, 5)
            assert said["fences"][0]["state"] == "permitted", (
                "a controller that comes during the flood is heard"
            )
            await fresh.close()
            await agents.until(lambda: not agents.alive(pid), PERMIT_MS / 1_000)
            assert time.monotonic() - renewed < PERMIT_MS / 1_000, "before its permit was over"
            assert len(lines) == 300
            state = (await asyncio.to_thread(agents.health, made))["fences"][0]["state"]
            assert state in ("fenced", "fencing")
        await keeper.close()

    with own_process(made, 200):
        asyncio.run(story())


def test_half_open_connections_are_few_and_end_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "connections_most", lambda: 12)
    monkeypatch.setattr(service, "BODY_S", 0.5)
    made = agents.config(tmp_path)

    async def story() -> None:
        async with agents.running(made) as agent:
            listener = agent._listener
            assert listener is not None
            listener._head_s = 0.5
            body = HALF.replace(b"Content-Le", b"Content-Length: 100\r\n\r\nabc")
            for said in (b"", HALF, body):
                silent = flood(made, 30, said)
                await asyncio.to_thread(silent.__enter__)
                assert listener.report()["open"] <= 12
                await agents.until(lambda: listener.report()["open"] == 0)
                silent.__exit__(None, None, None)

    asyncio.run(story())


def test_clients_without_a_certificate_do_not_keep_a_controller_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "connections_most", lambda: 12)
    ours = Authority(tmp_path)
    good = ours.sign("agent", "127.0.0.1")
    door = TlsConfig(f"file:{good.cert}", f"file:{good.key}", f"file:{ours.file}")
    (tmp_path / "pangyo").mkdir()
    made = agents.config(tmp_path / "pangyo", tls=door)
    peer = AgentPeer(ours.sign("controller", "controller.example"))

    async def story() -> None:
        async with agents.running(made) as agent:
            silent = flood(made, 40, b"")
            await asyncio.to_thread(silent.__enter__)
            client = AgentClient(peer)
            values = {"what": "mark", "store": STORE}
            assert (await client.send(agents.at(made, agent.url), PERMIT_PATH, values, 10))["mark"]
            await client.close()
            bare = ssl.create_default_context(cafile=str(ours.file))
            answer = b""
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(made.host, made.port, ssl=bare)
                writer.write(b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                answer = await reader.read(10)
                writer.close()
            assert answer == b"", "no answer without a certificate"
            silent.__exit__(None, None, None)

    asyncio.run(story())


def test_someone_with_the_certificate_of_another_agent_does_not_keep_a_controller_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have a certificate that this agent trusts, but not its key, and hold every connection open."""
    monkeypatch.setattr(service, "connections_most", lambda: 12)
    ours = Authority(tmp_path)
    good, other = ours.sign("agent", "127.0.0.1"), ours.sign("other", "agent.example")
    door = TlsConfig(f"file:{good.cert}", f"file:{good.key}", f"file:{ours.file}")
    (tmp_path / "pangyo").mkdir()
    made = agents.config(tmp_path / "pangyo", tls=door)
    theirs = ssl.create_default_context(cafile=str(ours.file))
    theirs.load_cert_chain(other.cert, other.key)

    async def story() -> None:
        async with agents.running(made) as agent:
            listener = agent._listener
            assert listener is not None
            held = []
            for _ in range(12):
                reader, writer = await asyncio.open_connection(
                    made.host, made.port, ssl=theirs, local_addr=("127.0.0.2", 0)
                )
                writer.write(b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert b"200" in await reader.readline()
                held.append(writer)
            assert listener.report()["open"] == 12
            client = AgentClient(AgentPeer(ours.sign("controller", "controller.example")))
            values = {"what": "mark", "store": STORE}
            assert (await client.send(agents.at(made, agent.url), PERMIT_PATH, values, 10))["mark"]
            await client.close()
            for writer in held:
                writer.close()

    asyncio.run(story())


def test_a_fence_works_where_the_process_has_no_descriptor_left(tmp_path: Path) -> None:
    done = tmp_path / "done"
    made = fenced_config(tmp_path, argv=("/usr/bin/touch", str(done)))

    async def story() -> None:
        async with agents.running(made):
            pid, keeper = await start_sleeper(made), permits_of(made)
            await keeper.renew(STORE, 3, PERMIT_MS, 5, 5)
            renewed, leaked = time.monotonic(), []
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (400, before[1]))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        leaked.append(os.open("/dev/null", os.O_RDONLY))
                while not (done.exists() and _gone(pid)) and time.monotonic() - renewed < PERMIT_MS / 1_000:
                    await asyncio.sleep(0.02)
            finally:
                for one in leaked:
                    os.close(one)
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert done.exists()
            assert not agents.alive(pid)
            await keeper.close()

    asyncio.run(story())


def _gone(pid: int) -> bool:
    """Without a descriptor: a zombie of ours answers a signal, so it is waited for."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return True


def test_what_cannot_be_looked_at_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("evac.agent.instance.start_ticks", unreadable)
    ours = Running(os.getpid(), 1, memory.boot_id())
    assert (ours.alive, ours.same) == (True, False)
    assert not Running(os.getpid(), 1, "another boot").alive
    instance = OwnInstance.__new__(OwnInstance)
    instance._running, instance._killed = ours, ()
    assert not instance.is_gone()


def test_a_fence_needs_no_new_thread_and_waits_for_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, stopped = fenced_config(tmp_path), threading.Event()

    def hangs(*_: object) -> None:
        stopped.wait(30)

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def story() -> None:
        async with agents.running(made):
            pid, keeper = await start_sleeper(made), permits_of(made)
            await keeper.renew(STORE, 3, PERMIT_MS, 5, 5)
            renewed = time.monotonic()
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", no_thread)
                patch.setattr(fencing, "write_values", hangs)
                patch.setattr(units, "write_values", hangs)
                await agents.until(lambda: not agents.alive(pid), PERMIT_MS / 1_000)
                assert time.monotonic() - renewed < PERMIT_MS / 1_000
            stopped.set()
            await keeper.close()

    asyncio.run(story())


def test_a_fence_that_failed_is_tried_again_though_nobody_reads_the_log(tmp_path: Path) -> None:
    """The first try fails and is logged to something that never takes it."""
    done, stopped = tmp_path / "done", threading.Event()
    once = f"test -e {tmp_path}/once || {{ touch {tmp_path}/once; exit 1; }}; touch {done}"
    made = fenced_config(tmp_path, argv=("/bin/sh", "-c", once))

    class Stuck(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stopped.wait(30)

    async def story() -> None:
        async with agents.running(made):
            keeper = permits_of(made)
            await keeper.renew(STORE, 3, PERMIT_MS, 5, 5)
            renewed = time.monotonic()
            await agents.until(done.exists, PERMIT_MS / 1_000)
            assert time.monotonic() - renewed < PERMIT_MS / 1_000
            stopped.set()
            await keeper.close()

    log, stuck = logging.getLogger("evac.agent"), Stuck()
    log.addHandler(stuck)
    try:
        asyncio.run(story())
    finally:
        stopped.set()
        log.removeHandler(stuck)


def test_an_order_from_before_a_fence_starts_nothing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk hangs while the wish is written down; meanwhile the permit ends."""
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        own = units.Units(made)
        await own.start()
        written = units.write_values

        def slow(path: Path, values: dict[str, Any]) -> None:
            written(path, values)
            own.fence(("sleeper",))

        monkeypatch.setattr(units, "write_values", slow)
        with pytest.raises(Retryable, match="fenced"):
            await own.set("sleeper", 1, 5)
        assert own.wanted("sleeper") == 0
        monkeypatch.setattr(units, "write_values", written)
        own.keep_wanted()
        assert (await own.set("sleeper", 1, 5)).running == 1, "a new order is obeyed"
        await own.set("sleeper", 0, 5)
        await own.close()

    asyncio.run(story())


def test_the_reserve_comes_back_and_the_bound_leaves_room_for_it() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = Reserve(4)
    with held.lend(), held.lend():
        assert held.is_lent()
        assert held._held == []
    assert not held.is_lent()
    assert len(held._held) == 4
    held.close()
    assert connections_most() <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def test_the_address_with_most_half_open_connections_pays() -> None:
    class Line(asyncio.Transport):
        def abort(self) -> None:
            ended.append(self)

    ended: list[asyncio.Transport] = []

    async def story() -> None:
        listener = Listener(asyncio.Protocol, None, Reserve(0), 4)
        from evac.net.listening import _Connection

        lines = []
        for address in ("10.0.0.1", "10.9.9.9", "10.9.9.9", "10.9.9.9"):
            one = _Connection(address, socket.socket())
            one.line = Line()
            listener._enter(one)
            lines.append(one)
        listener.proven(lines[1].line)
        assert listener._make_room()
        assert ended == [lines[2].line], "neither the only one of its address nor one that is proven"
        for one in lines:
            one.plain.close()

    asyncio.run(story())
