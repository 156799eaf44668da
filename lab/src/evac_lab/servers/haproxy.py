"""A load balancer (HAProxy) with its runtime API on TCP: configuration, start and reload. Knows no site."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from evac.model.records import dataclass
from evac_lab.process import Process, find_program

PACKAGE: Final = "haproxy"
WEIGHT_MOST: Final = 256


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend server. drained: its state after a start or reload."""

    name: str
    host: str
    port: int
    backup: bool = False
    weight: int = 100
    drained: bool = False


@dataclass(frozen=True, slots=True)
class Balancer:
    """One HAProxy: clients reach it at host:port, its runtime API listens at host:admin_port.

    check: path that a healthy server answers with 200; "": only checks that it accepts a connection.
    """

    name: str
    host: str
    port: int
    admin_port: int
    folder: Path
    backend: str
    servers: tuple[Backend, ...]
    mode: Literal["http", "tcp"] = "http"
    check: str = ""
    check_ms: int = 1_000
    prefix: tuple[str, ...] = ()


def prepare(balancer: Balancer) -> None:
    """Writes its configuration; `reload` applies changes."""
    balancer.folder.mkdir(parents=True, exist_ok=True)
    (balancer.folder / "haproxy.cfg").write_text(_config(balancer), encoding="utf-8")


def process(balancer: Balancer) -> Process:
    """The balancer as a process, not started: a master in the foreground, with one worker."""
    haproxy = find_program("haproxy", PACKAGE)
    argv = (haproxy, "-W", "-db", "-f", str(balancer.folder / "haproxy.cfg"))
    return Process(balancer.name, argv, balancer.folder / "haproxy.log", prefix=balancer.prefix)


def start(balancer: Balancer, timeout_s: float = 10.0) -> Process:
    """Starts it and waits for its runtime API. In a namespace (prefix) the caller waits with its own
    probe.
    """
    started = process(balancer)
    started.start()
    if not balancer.prefix:
        started.wait_until(lambda: answers(balancer), timeout_s)
    return started


def reload(started: Process) -> None:
    """Reloads its configuration, as configuration management does.

    Settings made through the runtime API are lost.
    """
    if started.popen is not None:
        started.popen.send_signal(signal.SIGUSR2)


def answers(balancer: Balancer, timeout_s: float = 0.5) -> bool:
    """Whether the runtime API answers a command, not only accepts a connection."""
    try:
        return "Version" in ask(balancer, "show info", timeout_s)
    except OSError:
        return False


def ask(balancer: Balancer, command: str, timeout_s: float = 1.0) -> str:
    """The runtime API's answer to one command, at most 1 MiB."""
    address = (balancer.host, balancer.admin_port)
    with socket.create_connection(address, timeout_s) as connection:
        connection.sendall(command.encode("ascii") + b"\n")
        parts: list[bytes] = []
        while (part := connection.recv(65_536)) and sum(map(len, parts)) < 1 << 20:
            parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


def _config(balancer: Balancer) -> str:
    return f"""\
global
    stats socket ipv4@{balancer.host}:{balancer.admin_port} level admin
    maxconn 2000
    nbthread 1
    hard-stop-after 2s
defaults
    mode {balancer.mode}
    timeout connect 400ms
    timeout client 30s
    timeout server 30s
    timeout check 800ms
    retries 2
    option redispatch
frontend {balancer.backend}-in
    bind {balancer.host}:{balancer.port}
    default_backend {balancer.backend}
backend {balancer.backend}
    balance roundrobin
{_servers(balancer.servers, balancer)}
"""


def _servers(servers: Sequence[Backend], balancer: Balancer) -> str:
    lines = [f"    option httpchk GET {balancer.check}"] if balancer.check else []
    for server in servers:
        words = [
            "    server",
            server.name,
            f"{server.host}:{server.port}",
            f"check inter {balancer.check_ms}ms fall 2 rise 1 weight {server.weight}",
        ]
        words += ["backup"] if server.backup else []
        words += ["disabled"] if server.drained else []
        lines.append(" ".join(words))
    return "\n".join(lines)
