"""Ports for tests that start real servers, on loopback addresses.

They are below those that the kernel gives to connections (`ip_local_port_range`): a port that was only found
free would be taken by any client of this machine before its server is up, and the server would not start. A
block of them belongs to one process of the tests while it lives, so that none gives out what another has.
"""

from __future__ import annotations

import atexit
import socket
from collections.abc import Iterator
from typing import Final

BLOCK: Final = 64
_FIRST: Final = range(14_080, 32_000, BLOCK)


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which no one listens, and that is given out once."""
    for port in _ports:
        if _is_free(host, port):
            return port
    raise AssertionError("no port is free")


def free_ports(count: int, host: str = "127.0.0.1") -> int:
    """The first of so many in a row."""
    run: list[int] = []
    while len(run) < count:
        port = free_port(host)
        run = [*run, port] if run and run[-1] + 1 == port else [port]
    return run[0]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def _claimed() -> Iterator[int]:
    """Every port of one block after the other; a name in the kernel's abstract space says whose each is."""
    for first in _FIRST:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0evac-tests-ports-{first}")
        except OSError:
            claim.close()
            continue
        atexit.register(claim.close)
        yield from range(first, first + BLOCK)


_ports = _claimed()
