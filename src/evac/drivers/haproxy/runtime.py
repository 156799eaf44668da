"""Speaks HAProxy's runtime API: sends commands, reads the state of servers. Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from evac.drivers import parameters
from evac.drivers.port import Value
from evac.model.errors import OutcomeUnknown, Permanent, Retryable

MAX_ANSWER_BYTES: Final = 1 << 20
MAX_WEIGHT: Final = 256
"""The greatest weight HAProxy knows."""

_MAINTENANCE: Final = 0x01 | 0x02 | 0x20 | 0x40
"""Bits of srv_admin_state: forced, inherited, by DNS resolution, by host name. 0x04 only says that the
configuration asked for it once.
"""
_DRAIN: Final = 0x08 | 0x10
_RUNNING: Final = 2
_PROVEN: Final = frozenset({"UP", "no check"})
"""`UP 1/2` is a server that may go down at its next check, or had none yet."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the runtime API listens: a socket path, or an address."""

    socket: str
    host: str
    port: int

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server as HAProxy has it. up: it takes new work as far as its health checks know. proven:
    a check has passed since it was let in (out of maintenance HAProxy takes a server for healthy until a
    check fails). initial: its weight in the configuration.
    """

    name: str
    admin: str
    up: bool
    weight: int
    initial: int
    proven: bool

    def __str__(self) -> str:
        return f"{self.admin} weight {self.weight} {'up' if self.up else 'down'}"


@dataclass(frozen=True, slots=True)
class Seen:
    """All servers of a backend. pid: of the worker; another one after a reload. backups: servers that take
    work only when no other is left. sessions: open now, a server.
    """

    servers: Mapping[str, ServerState]
    pid: int
    backups: frozenset[str]
    sessions: Mapping[str, int]


def read_endpoint(settings: Mapping[str, Value]) -> Endpoint:
    """From `socket`, or `host` and `port`. Raises `Permanent`."""
    socket = parameters.text(settings, "socket", "")
    if socket:
        return Endpoint(socket, "", 0)
    return Endpoint("", parameters.text(settings, "host"), parameters.whole(settings, "port", most=65_535))


async def send(endpoint: Endpoint, commands: Sequence[str], timeout_s: float) -> str:
    """The answer to all commands, sent in one connection. Raises `Retryable` (not reached) and
    `OutcomeUnknown` (sent, no whole answer).
    """
    sent = False
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connect(endpoint)
            try:
                sent = True
                writer.write(";".join(commands).encode("ascii") + b"\n")
                await writer.drain()
                answer = await _read_all(reader)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        words = f"the runtime API at {endpoint} gave no answer"
        if sent:
            raise OutcomeUnknown("haproxy-no-answer", words, "look at the state of its servers") from error
        raise Retryable("haproxy-unreachable", words) from error
    return answer.decode("utf-8", "replace")


async def change(endpoint: Endpoint, commands: Sequence[str], timeout_s: float) -> None:
    """Sends commands that answer nothing when they are obeyed. Raises `Permanent` with a refusal's words."""
    answer = await send(endpoint, commands, timeout_s)
    refused = [line.strip() for line in answer.splitlines() if line.strip()]
    if refused:
        raise Permanent(
            "haproxy-refused", f"{endpoint} refuses: {refused[0][:200]}", "check backend, servers and level"
        )


async def see(endpoint: Endpoint, backend: str, timeout_s: float) -> Seen:
    """The state of every server of a backend. Raises `ActionError`."""
    commands = (f"show servers state {backend}", "show info", f"show stat {backend} 4 -1")
    try:
        answer = await send(endpoint, commands, timeout_s)
    except OutcomeUnknown as error:
        raise Retryable(error.code, error.message, error.hint) from error
    stats = _stats(answer)
    servers = _servers(answer, backend, stats)
    if not servers:
        raise Permanent("haproxy-no-backend", f"{endpoint} has no backend {backend} with servers")
    return Seen(
        servers,
        _pid(answer),
        frozenset(name for name, row in stats.items() if row.get("bck") == "1"),
        {name: int(row.get("scur") or 0) for name, row in stats.items()},
    )


async def _connect(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.socket:
        return await asyncio.open_unix_connection(endpoint.socket)
    return await asyncio.open_connection(endpoint.host, endpoint.port)


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    while part := await reader.read(65_536):
        answer += part
        if len(answer) > MAX_ANSWER_BYTES:
            raise Permanent("haproxy-answer-large", f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(answer)


def _servers(answer: str, backend: str, stats: Mapping[str, Mapping[str, str]]) -> dict[str, ServerState]:
    """From `show servers state`: its second line names the columns, so that new ones do no harm."""
    header: list[str] = []
    found: dict[str, ServerState] = {}
    for line in answer.splitlines():
        if line.startswith("# be_id"):
            header = line[2:].split()
        elif header and line[:1].isdigit() and len(fields := line.split()) >= len(header):
            row = dict(zip(header, fields, strict=False))
            if row["be_name"] == backend:
                status = stats.get(row["srv_name"], {}).get("status", "")
                found[row["srv_name"]] = _server(row, proven=status in _PROVEN)
        elif header and line.strip():
            break
    return found


def _server(row: Mapping[str, str], proven: bool) -> ServerState:
    try:
        bits, weight = int(row["srv_admin_state"]), int(row["srv_uweight"])
        initial = int(row["srv_iweight"])
        running = int(row["srv_op_state"]) == _RUNNING
    except (KeyError, ValueError) as error:
        raise Permanent("haproxy-answer", "the state of a server cannot be read") from error
    admin = "maint" if bits & _MAINTENANCE else "drain" if bits & _DRAIN else "ready"
    return ServerState(row["srv_name"], admin, running, weight, initial, proven)


def _pid(answer: str) -> int:
    for line in answer.splitlines():
        if line.startswith("Pid: ") and line[5:].strip().isdigit():
            return int(line[5:])
    return 0


def _stats(answer: str) -> dict[str, dict[str, str]]:
    header: list[str] = []
    found: dict[str, dict[str, str]] = {}
    for line in answer.splitlines():
        if line.startswith("# pxname"):
            header = line[2:].split(",")
        elif header and line.count(",") >= len(header) - 1:
            row = dict(zip(header, line.split(","), strict=False))
            found[row["svname"]] = row
    return found
