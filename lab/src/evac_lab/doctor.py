"""What the lab lacks on this machine (programs, packages, ports, space) and how to install it."""

from __future__ import annotations

import asyncio
import errno
import platform
import shlex
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from evac.app.certificates import end_of, own_certificates, words_of
from evac.app.detached import in_background
from evac.drivers.process import CERT
from evac.model.errors import EvacError
from evac.model.records import dataclass
from evac.store.locks import open_locks
from evac_lab import faults, namespaces
from evac_lab.process import MissingProgram, find_program
from evac_lab.servers import dns, etcd, haproxy, postgres, redis
from evac_lab.state import PORTS, LabError, LabFolder, Topology, living, topology

SPACE_MIB: Final = 1_500
_PROGRAMS: Final = (
    ("etcd", etcd.PACKAGE),
    ("redis-server", redis.PACKAGE),
    ("haproxy", haproxy.PACKAGE),
    ("knotd", dns.PACKAGE),
)
_HOST_OF_PORT: Final = {"peer": "etcd", "runtime": "haproxy", "room": "controller"}


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing program, and the Debian package that provides it."""

    program: str
    package: str


def missing_programs() -> tuple[Missing, ...]:
    """Required programs that are not installed."""
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

    return tuple(name for name in ("asyncmy", "asyncpg", "redis") if find_spec(name) is None)


def addresses(topology: Topology) -> Iterable[tuple[str, str, int]]:
    """(site, host, port) of every listener."""
    for site in topology.sites:
        for name, port in PORTS.items():
            yield site.name, site.host(_HOST_OF_PORT.get(name, name)), port


def taken_ports(topology: Topology) -> tuple[str, ...]:
    """`host:port` of addresses already in use. A lab in network namespaces cannot collide."""
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
    """Free space at the folder's present or future location."""
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free >> 20


def install_command(missing: Iterable[Missing]) -> str:
    """The single command that installs what is missing; "" if nothing is."""
    packages = sorted({one.package for one in missing})
    return f"sudo apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""


def require(topology: Topology, folder: Path) -> None:
    """Raises `LabError` for the first obstacle."""
    if missing := missing_programs():
        names = ", ".join(one.program for one in missing)
        raise LabError("lab-programs", f"not installed: {names}", install_command(missing))
    if modules := missing_modules():
        raise LabError("lab-programs", f"Python lacks: {', '.join(modules)}", "pip install 'evac[lab]'")
    if taken := taken_ports(topology):
        shown = ", ".join(taken[:4]) + (" ..." if len(taken) > 4 else "")
        raise LabError(
            "lab-ports",
            f"something is already listening at {shown}",
            "stop it, or use another lab: evac lab up --offset 1",
        )
    if (free := free_mib(folder)) < SPACE_MIB:
        raise LabError(
            "lab-space",
            f"{free} MiB are free at {folder}; the lab needs {SPACE_MIB}",
            "free some space, or set EVAC_LAB",
        )


Verdict = Literal["good", "missing", "note"]
_MODULES: Final = "pip install 'evac[lab]'"


@dataclass(frozen=True, slots=True)
class Checkup:
    """One check. missing: the lab does not start without it. cure: what to type."""

    subject: str
    verdict: Verdict
    words: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks. command: the single command that installs every missing program; "" if none is missing."""

    checkups: tuple[Checkup, ...]
    command: str

    @property
    def well(self) -> bool:
        return all(one.verdict != "missing" for one in self.checkups)


def examine(folder: LabFolder, offset: int = 0, store: str = "") -> Diagnosis:
    """Checks programs, Python packages, ports, space, leftovers of a lab, and what only some worlds need.
    store: a URL whose store is also checked for missing locks; by default that of the running lab.
    """
    missing = missing_programs()
    rows = [
        _programs(missing),
        _modules(),
        _old_lab(folder),
        _ports(folder, offset),
        _space(folder),
        _linux(),
        _namespaces(),
        _clocks(),
        *_certificates(),
        *_locks(store or _store_of(folder)),
        *_controllers(),
    ]
    return Diagnosis(tuple(rows), install_command(missing))


def _programs(missing: Sequence[Missing]) -> Checkup:
    if not missing:
        return Checkup("servers", "good", "etcd, PostgreSQL, Redis, HAProxy and Knot are installed")
    names = ", ".join(one.program for one in missing)
    return Checkup("servers", "missing", f"not installed: {names}", install_command(missing))


def _modules() -> Checkup:
    lacking = missing_modules()
    if lacking:
        return Checkup("python", "missing", f"packages not installed: {', '.join(lacking)}", _MODULES)
    return Checkup("python", "good", f"Python {platform.python_version()} with the packages of the lab")


def _old_lab(folder: LabFolder) -> Checkup:
    try:
        state = folder.read()
    except LabError as error:
        if living(None, folder):
            return Checkup("old lab", "missing", error.message, error.hint)
        return Checkup("old lab", "note", f"{error.message}; none of it is running", "evac lab up removes it")
    alive = len(living(state, folder))
    if alive and state is not None and state.phase == "up":
        return Checkup(
            "old lab", "note", f"a lab is running in {folder.path}: {alive} processes", "evac lab down"
        )
    if alive:
        words = f"an incomplete lab is running in {folder.path}: {alive} processes"
        return Checkup("old lab", "missing", words, "evac lab down")
    if state is not None:
        words = f"a lab was left in {folder.path}; none of it is running"
        return Checkup("old lab", "note", words, "evac lab up removes it")
    return Checkup("old lab", "good", "no lab is left over")


def _ports(folder: LabFolder, offset: int) -> Checkup:
    taken = taken_ports(topology("loopback", offset))
    if not taken:
        return Checkup("ports", "good", "all addresses of the lab are free")
    if living(None, folder):
        return Checkup("ports", "note", f"{len(taken)} are in use by the lab itself")
    words = f"something is already listening at {', '.join(taken[:3])}" + (
        " and more" if len(taken) > 3 else ""
    )
    return Checkup("ports", "missing", words, f"stop it, or: evac lab up --offset {offset + 1}")


def _space(folder: LabFolder) -> Checkup:
    free = free_mib(folder.path)
    words = f"{free:,} MiB are free at {folder.path}"
    if free < SPACE_MIB:
        return Checkup("space", "missing", f"{words}, {SPACE_MIB:,} are needed", "free some")
    return Checkup("space", "good", words)


def _linux() -> Checkup:
    system = platform.system()
    if system == "Linux":
        return Checkup("system", "good", "Linux: every address in 127/8 is available")
    return Checkup("system", "missing", f"{system}: the lab needs Linux", "use a Linux machine")


def _namespaces() -> Checkup:
    reason = namespaces.why_not()
    if reason:
        return Checkup("namespaces", "note", f"{reason}; the lab runs on loopback addresses instead")
    return Checkup("namespaces", "good", "network namespaces and WAN delays are available")


def _clocks() -> Checkup:
    if faults.library() is None:
        cure = f"sudo apt-get install {faults.PACKAGE}"
        return Checkup("clocks", "note", "libfaketime is not installed: no clock-jump", cure)
    return Checkup("clocks", "good", "libfaketime is installed")


def _certificates() -> list[Checkup]:
    """Certificates that this machine presents to agents, if any; no lab needs them."""
    now_ms = time.time_ns() // 1_000_000
    rows = []
    for name, path in own_certificates().items():
        words = words_of(f"the certificate for {name} ({path})", end_of(path), now_ms)
        good = f"the certificate for {name} is valid for a long time"
        cure = f"renew the file that {CERT} names; it is reloaded automatically"
        rows.append(Checkup("trust", "note" if words else "good", words or good, cure if words else ""))
    return rows


def _store_of(folder: LabFolder) -> str:
    """The store of the running lab; "" if none is."""
    try:
        up = folder.read() is not None and living(None, folder)
        return folder.store.read_text(encoding="utf-8").strip() if up else ""
    except (LabError, OSError):
        return ""


def _locks(store: str) -> list[Checkup]:
    """One line for each thing in etcd that is not locked. The lab starts anyway."""
    if not store.startswith("etcd:"):
        return []
    try:
        found = asyncio.run(open_locks(store))
    except EvacError as error:
        return [Checkup("store", "note", error.message, error.hint)]
    if not found:
        return [Checkup("store", "good", "locked: TLS, certificates, a user for evac's keys only, a seal")]
    return [Checkup("store", "note", one.words, one.cure) for one in found]


def _controllers() -> list[Checkup]:
    """Running controllers that a command started for a run."""
    return [
        Checkup(
            "controller",
            "note",
            f"process {one.pid} runs in the background for runs of {one.estate}",
            f"evac status --store {shlex.quote(one.store)} shows what it is waiting for",
        )
        for one in in_background()
    ]


def as_text(diagnosis: Diagnosis) -> str:
    """One line per check, then the command."""
    signs = {"good": "good   ", "missing": "MISSING", "note": "note   "}
    lines = []
    for one in diagnosis.checkups:
        lines.append(f"  {signs[one.verdict]}  {one.subject:<10}  {one.words}")
        if one.cure and one.verdict != "good":
            lines.append(f"{'':<23}{one.cure}")
    if diagnosis.command:
        lines += ["", f"this command installs what is missing: {diagnosis.command}"]
    up = any(one.subject == "old lab" and one.cure == "evac lab down" for one in diagnosis.checkups)
    well = "next: evac lab status" if up else "next: evac lab up"
    lines += ["", well if diagnosis.well else "next: fix what is missing, then run evac lab doctor again"]
    return "\n".join(lines) + "\n"
