"""What systemd is told, over a real socket: ready once it is so, alive all the time, and what ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evac.cli.serve_command import LOOK_S, STATUS_MOST, Supervisor

ESTATE = Path(__file__).parents[2] / "fixtures" / "estates" / "small"


class Systemd:
    """The end of the socket that systemd holds."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(0.1)

    def heard(self) -> list[str]:
        """Everything that was said since, a state a line."""
        found: list[str] = []
        while True:
            try:
                found += self.socket.recv(4_096).decode().split("\n")
            except TimeoutError:
                return found

    def until(self, wanted: str, process: subprocess.Popen[bytes]) -> list[str]:
        deadline, found = time.monotonic() + 90, list[str]()
        while wanted not in found:
            assert time.monotonic() < deadline, found
            assert process.poll() is None, "it ended"
            found += self.heard()
        return found


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.socket.close()


def test_the_variables_are_taken_so_that_no_other_process_speaks(systemd: Systemd) -> None:
    environment = {
        "NOTIFY_SOCKET": systemd.address,
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "7",
        "A": "b",
    }
    Supervisor(environment, 7)
    assert environment == {"A": "b"}


def test_what_is_said(systemd: Systemd) -> None:
    one = Supervisor({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "4000000"})
    assert one.period_s == 2.0
    one.ready("follows")
    one.alive("follows")
    one.alive("leads\nREADY=1")
    one.stopping()
    assert systemd.heard() == [
        "STATUS=follows",
        "READY=1",
        "WATCHDOG=1",
        "STATUS=leads READY=1",
        "WATCHDOG=1",
        "STOPPING=1",
        "STATUS=ends",
    ]


def test_a_watchdog_of_another_process_is_not_ours(systemd: Systemd) -> None:
    one = Supervisor({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "6"}, 7)
    one.alive()
    one.alive("x" * 1_000)
    assert systemd.heard() == ["STATUS=" + "x" * STATUS_MOST]


@pytest.mark.parametrize("address", ["", "/no/such/socket", "@no-such-socket", "x" * 500, "@"])
def test_nobody_who_listens_is_no_reason_to_fail(address: str) -> None:
    one = Supervisor({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "x"})
    one.ready("leads")
    one.alive("leads")
    one.stopping()
    assert one.period_s == LOOK_S


def test_a_socket_that_nobody_reads_holds_nobody_up(systemd: Systemd) -> None:
    one = Supervisor({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "1000000"})
    for _ in range(5_000):
        one.alive()
    assert systemd.heard()


def test_an_abstract_socket_is_spoken_to() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"evac-test-{os.getpid()}"
        listening.bind("\0" + name)
        listening.settimeout(5)
        Supervisor({"NOTIFY_SOCKET": "@" + name}).ready()
        assert listening.recv(100) == b"READY=1"


def test_a_loop_that_hangs_says_nothing(systemd: Systemd) -> None:
    async def story() -> None:
        one = Supervisor({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "40000"})
        watching = asyncio.create_task(one.watch())
        said = 0
        while said < 2:
            await asyncio.sleep(0.02)
            said += systemd.heard().count("WATCHDOG=1")
        time.sleep(0.2)
        assert "WATCHDOG=1" not in systemd.heard()
        watching.cancel()

    asyncio.run(story())


def test_a_controller_is_ready_leads_and_says_that_it_ends(systemd: Systemd, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "evac",
        "serve",
        str(ESTATE),
        "--site",
        "north",
        "--store",
        f"sqlite:{tmp_path / 'evac.sqlite'}",
        "--no-watch",
    ]
    told = {**os.environ, "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"}
    process = subprocess.Popen(command, env=told, stderr=subprocess.DEVNULL)
    try:
        heard = systemd.until("STATUS=leads", process)
        assert heard.index("READY=1") < heard.index("STATUS=leads")
        assert "WATCHDOG=1" in heard
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "STOPPING=1" in systemd.heard()
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.enable_socket
def test_an_agent_is_ready_once_it_listens(systemd: Systemd, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "agent.toml"
    lines = (
        'site = "north"',
        'host = "127.0.0.1"',
        f"port = {port}",
        'state = "state"',
        'secret = "env:KEY"',
    )
    file.write_text("\n".join(lines))
    told = {**os.environ, "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000", "KEY": "k" * 32}
    process = subprocess.Popen(
        [sys.executable, "-m", "evac", "agent", str(file)], env=told, stderr=subprocess.DEVNULL
    )
    try:
        heard = systemd.until("WATCHDOG=1", process)
        assert "READY=1" in heard
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "STOPPING=1" in systemd.heard()
    finally:
        process.kill()
        process.wait(30)
