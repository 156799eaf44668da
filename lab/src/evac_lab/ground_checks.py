"""What must be true of this machine before a lab comes up: programs, ports, space. Clear errors if not."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evac_lab.process import MissingProgram, find_program
from evac_lab.servers import dns, etcd, haproxy, postgres, redis
from evac_lab.state import LabError
from evac_lab.topology import PORTS, Topology

SPACE_MIB: Final = 1_500
_PROGRAMS: Final = (
    ("etcd", etcd.PACKAGE),
    ("redis-server", redis.PACKAGE),
    ("haproxy", haproxy.PACKAGE),
    ("knotd", dns.PACKAGE),
)
_HOST_OF_PORT: Final = {"peer": "etcd", "runtime": "haproxy"}


@dataclass(frozen=True, slots=True)
class Missing:
    """A program that is not here, and Debian's package that has it."""

    program: str
    package: str


def missing_programs() -> tuple[Missing, ...]:
    """Every program that the lab needs and that is not installed."""
    found = []
    for program, package in _PROGRAMS:
        try:
            find_program(program, package)
        except MissingProgram:
            found.append(Missing(program, package))
    try:
        postgres.program_folder()
    except MissingProgram:
        found.append(Missing("postgres", postgres.PACKAGE))
    return tuple(found)


def missing_modules() -> tuple[str, ...]:
    """Python packages of the extra `lab` that are not installed."""
    from importlib.util import find_spec

    return tuple(name for name in ("asyncpg", "redis") if find_spec(name) is None)


def addresses(topology: Topology) -> Iterable[tuple[str, str, int]]:
    """(site, host, port) of everything that will listen."""
    for site in topology.sites:
        for name, port in PORTS.items():
            yield site.name, site.host(_HOST_OF_PORT.get(name, name)), port


def taken_ports(topology: Topology) -> tuple[str, ...]:
    """`host:port` of what somebody else listens at. In namespaces of its own a lab can meet nobody."""
    if topology.world != "loopback":
        return ()
    return tuple(f"{host}:{port}" for _, host, port in addresses(topology) if _taken(host, port))


def _taken(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def free_mib(folder: Path) -> int:
    """Free space where the folder is, or will be."""
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free >> 20


def install_command(missing: Iterable[Missing]) -> str:
    """The one command that installs what is missing; "" when nothing is."""
    packages = sorted({one.package for one in missing})
    return f"sudo apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""


def require(topology: Topology, folder: Path) -> None:
    """Raises `LabError` for the first thing that stands in the way."""
    if missing := missing_programs():
        names = ", ".join(one.program for one in missing)
        raise LabError("lab-programs", f"not installed: {names}", install_command(missing))
    if modules := missing_modules():
        raise LabError("lab-programs", f"Python lacks: {', '.join(modules)}", "pip install 'evac[lab]'")
    if taken := taken_ports(topology):
        shown = ", ".join(taken[:4]) + (" ..." if len(taken) > 4 else "")
        raise LabError(
            "lab-ports", f"somebody listens at {shown}", "end it, or take another lab: evac lab up --offset 1"
        )
    if (free := free_mib(folder)) < SPACE_MIB:
        raise LabError(
            "lab-space",
            f"{free} MiB are free at {folder}, the lab needs {SPACE_MIB}",
            "free some, or set EVAC_LAB",
        )
