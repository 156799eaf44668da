"""An authoritative DNS server (Knot) that accepts signed updates: files, start and readiness."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import dns.exception
import dns.message
import dns.query
import dns.rcode

from evac.model.errors import EvacError
from evac.model.records import dataclass
from evac_lab.process import Process, find_program

PACKAGE: Final = "knot"
ALGORITHM: Final = "hmac-sha256"
MOST_SOCKET_PATH: Final = 100
"""Unix socket paths are limited to 107 bytes; Knot does not start with a longer one."""


@dataclass(frozen=True, slots=True)
class DnsServer:
    """One server with one zone. key_secret: base64, of the TSIG key that may update the zone."""

    name: str
    host: str
    port: int
    folder: Path
    zone: str
    key_name: str
    key_secret: str
    prefix: tuple[str, ...] = ()


def make_secret(random_bytes: bytes) -> str:
    """A TSIG secret from 32 random bytes, in the form of Knot and dnspython."""
    return base64.b64encode(random_bytes).decode("ascii")


def prepare(server: DnsServer, records: Sequence[tuple[str, str, str]], ttl_seconds: int = 2) -> None:
    """Writes configuration and zone file of a new server. records: (name in the zone, type, value)."""
    for name in ("database", "run", "zones"):
        (server.folder / name).mkdir(parents=True, exist_ok=True)
    zone_file = server.folder / "zones" / "zone.txt"
    zone_file.write_text(_zone(server, records, ttl_seconds), encoding="utf-8")
    config = server.folder / "knot.conf"
    config.touch(mode=0o600)
    config.write_text(_config(server, zone_file), encoding="utf-8")


def process(server: DnsServer) -> Process:
    """The server as a process, not started."""
    knotd = find_program("knotd", PACKAGE)
    argv = (knotd, "-c", str(server.folder / "knot.conf"))
    return Process(server.name, argv, server.folder / "knot.log", prefix=server.prefix)


def start(server: DnsServer, timeout_s: float = 10.0) -> Process:
    """Starts it and waits for an answer. In a namespace (prefix) the caller waits with its own probe."""
    started = process(server)
    started.start()
    if not server.prefix:
        started.wait_until(lambda: answers(server, 0.1), timeout_s)
    return started


def answers(server: DnsServer, timeout_s: float = 0.5) -> bool:
    """Whether it answers authoritatively for its zone."""
    query = dns.message.make_query(server.zone, "SOA")
    try:
        answer = dns.query.udp(query, server.host, timeout_s, server.port)
    except (OSError, dns.exception.DNSException):
        return False
    return answer.rcode() == dns.rcode.NOERROR and bool(answer.answer)


def _zone(server: DnsServer, records: Sequence[tuple[str, str, str]], ttl_seconds: int) -> str:
    origin = server.zone.rstrip(".") + "."
    lines = [
        f"$ORIGIN {origin}",
        f"$TTL {ttl_seconds}",
        f"@ SOA ns.{origin} hostmaster.{origin} 1 60 30 3600 {ttl_seconds}",
        f"@ NS ns.{origin}",
        f"ns A {server.host}",
        *(f"{name} {kind} {value}" for name, kind, value in records),
    ]
    return "\n".join(lines) + "\n"


def _config(server: DnsServer, zone_file: Path) -> str:
    """Pitfalls: each instance needs its own database and run folder; updates are kept in the journal, so the
    zone file is never written back and only compared at startup.
    """
    return f"""\
server:
    rundir: "{server.folder / "run"}"
    listen: {server.host}@{server.port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
control:
    listen: "{_control_socket(server)}"
database:
    storage: "{server.folder / "database"}"
    journal-db-max-size: 64M
    kasp-db-max-size: 16M
    timer-db-max-size: 16M
    catalog-db-max-size: 16M
key:
  - id: {server.key_name}
    algorithm: {ALGORITHM}
    secret: {server.key_secret}
acl:
  - id: owner
    key: {server.key_name}
    action: [update, transfer]
zone:
  - domain: {server.zone}
    storage: "{zone_file.parent}"
    file: "{zone_file}"
    acl: owner
    zonefile-sync: -1
    zonefile-load: difference
    journal-content: all
"""


def _control_socket(server: DnsServer) -> Path:
    """Path of Knot's control socket. Raises `EvacError` if the folder's path is too long for one."""
    path = server.folder / "run" / "k.sock"
    if len(str(path)) > MOST_SOCKET_PATH:
        raise EvacError(
            "path-too-long", f"{path} is too long for a socket", "choose a folder with a shorter path"
        )
    return path
