"""Real Redis servers on given loopback addresses: with an append-only file, so that a kill loses little."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import field
from pathlib import Path

from evac.model.records import dataclass
from evac_lab.process import OneProcess, Process, find_program

PACKAGE = "redis-server"


@dataclass(slots=True)
class RedisServer(OneProcess):
    """One server. of: (host, port) of the primary it follows at startup, or None."""

    name: str
    host: str
    port: int
    folder: Path
    password: str = ""
    of: tuple[str, int] | None = None
    prefix: tuple[str, ...] = ()
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        argv = (find_program("redis-server", PACKAGE), str(self.folder / "redis.conf"))
        self.process = Process(
            f"redis {self.name}", argv, self.folder / "redis.log", "", self.prefix, cwd=self.folder
        )

    def start(self, timeout_s: float = 10.0) -> None:
        """Starts it and waits until it answers."""
        self.process.start()
        self.process.wait_until(self.answers, timeout_s)

    def answers(self) -> bool:
        """Whether it answers a ping now; asking for a password counts."""
        if self.prefix:
            # In another network namespace we cannot connect from here, but the log shows it too.
            return (
                self.process.log.exists() and b"Ready to accept connections" in self.process.log.read_bytes()
            )
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1.0) as link:
            link.settimeout(1.0)
            link.sendall(b"PING\r\n")
            return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False


def redis(
    folder: Path,
    host: str,
    port: int,
    name: str,
    *,
    of: RedisServer | None = None,
    password: str = "",
    prefix: tuple[str, ...] = (),
) -> RedisServer:
    """A server under `folder`, not started; it follows `of` if given."""
    folder.mkdir(parents=True, exist_ok=True)
    source = (of.host, of.port) if of is not None else None
    server = RedisServer(name, host, port, folder, password, source, prefix)
    lines = [
        f"bind {host}",
        f"port {port}",
        f"dir {folder}",
        "daemonize no",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "repl-timeout 5",
        "repl-ping-replica-period 1",
        "repl-diskless-sync-delay 0",
        f"replica-announce-ip {host}",
    ]
    if password:
        lines += [f"requirepass {password}", f"masterauth {password}"]
    if source is not None:
        lines.append(f"replicaof {source[0]} {source[1]}")
    (folder / "redis.conf").write_text("\n".join(lines) + "\n")
    (folder / "redis.conf").chmod(0o600)
    return server
