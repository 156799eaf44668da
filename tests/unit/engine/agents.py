"""Agents for tests: in the test's own loop, or as a process of their own that can be stopped and killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from evac.agent.config import AgentConfig, FenceConfig, UnitConfig
from evac.agent.service import Agent, start_agent
from evac.drivers.process import client
from evac.drivers.process.client import AgentAt
from evac.net.secrets import Secret
from evac_lab.process import Process
from tests.contract.ports import free_port, free_ports

KEY = "key-of-the-agents-0123456789"
REFERENCE = "env:EVAC_TEST_AGENT_KEY"


def at(made: AgentConfig, url: str = "") -> AgentAt:
    """The agent as an estate names it."""
    return AgentAt(made.site, url or f"http://{made.host}:{made.port}", REFERENCE)


SERVICE = """\
import http.server, os, pathlib, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if pathlib.Path(sys.argv[2]).exists() else 200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def sleeper(**changes: Any) -> UnitConfig:
    """A unit that does nothing for a minute, in a shell that has a child."""
    values = {"name": "sleeper", "argv": ("/bin/sh", "-c", "sleep 61 & wait"), "stop_ms": 500}
    return UnitConfig(**{**values, **changes})


def service(folder: Path, **changes: Any) -> UnitConfig:
    """A unit that answers its check, unless the file `sick` is there."""
    program = folder / "service.py"
    program.write_text(SERVICE, encoding="utf-8")
    values: dict[str, Any] = {
        "name": "chat",
        "argv": (sys.executable, str(program), "{port}", str(folder / "sick")),
        "port": free_ports(4),
        "check_url": "http://127.0.0.1:{port}/",
        "stop_ms": 500,
        "most": 4,
    }
    return UnitConfig(**{**values, **changes})


def config(
    folder: Path, *units: UnitConfig, fences: tuple[FenceConfig, ...] = (), **more: Any
) -> AgentConfig:
    os.environ["EVAC_TEST_AGENT_KEY"] = KEY
    named = {"site": "pangyo", "host": "127.0.0.1", "port": free_port(), "state": folder / "agent"}
    return AgentConfig(**{**named, "secret": REFERENCE, "units": units, "fences": fences, **more})


@asynccontextmanager
async def running(made: AgentConfig, **more: Any) -> AsyncIterator[Agent]:
    agent = await start_agent(made, **more)
    try:
        yield agent
    finally:
        await agent.close()


def health(made: AgentConfig) -> dict[str, Any]:
    """What its health page says to who has its key, asked from outside."""
    nonce, at_ms, to = token_hex(16), time.time_ns() // 1_000_000, at(made).addressee
    headers = {
        client.NONCE: nonce,
        client.TIMESTAMP: str(at_ms),
        client.SITE: to.site,
        client.ADDRESS: to.address,
        client.SIGNATURE: client.order_signature(Secret(KEY), "GET", "/v1/health", b"", at_ms, nonce, to),
    }
    asked = urllib.request.Request(f"http://{made.host}:{made.port}/v1/health", headers=headers)
    with urllib.request.urlopen(asked, timeout=2) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def own_process(made: AgentConfig, text: str) -> Process:
    """The same agent from its file, in a process of its own, listening."""
    path = made.state.parent / "agent.toml"
    path.write_text(text, encoding="utf-8")
    program = (
        "import asyncio, pathlib, sys; from evac.agent.service import run_agent;"
        "from evac.agent.config import read_config;"
        "asyncio.run(run_agent(read_config(pathlib.Path(sys.argv[1]))))"
    )
    started = Process("agent", (sys.executable, "-c", program, str(path)), path.with_suffix(".log"))
    started.start()
    started.wait_until(lambda: _answers(made))
    return started


def _answers(made: AgentConfig) -> bool:
    try:
        return health(made)["answer"] == "evac agent"
    except OSError:
        return False


def header(made: AgentConfig) -> str:
    """The first lines of an agent's file."""
    return (
        f'site = "pangyo"\nhost = "{made.host}"\nport = {made.port}\nstate = "{made.state.name}"\n'
        f'secret = "{REFERENCE}"\n'
    )


async def until(what: Any, timeout_s: float = 8.0) -> None:
    """Waits until `what()` is true. Raises `AssertionError` when it never is."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it never came to pass"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def pid_of(made: AgentConfig, unit: str, index: int = 0) -> int:
    """The pid that the agent wrote down for an instance; 0 for none."""
    path = made.state / "units" / f"{unit}.{index}.json"
    return int(json.loads(path.read_text()).get("pid", 0)) if path.exists() else 0
