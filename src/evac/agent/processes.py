"""Processes as an agent knows them over its own restarts: by pid, start time and boot together."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evac.agent.memory import boot_id

MARK: Final = "EVAC_INSTANCE"
"""Every instance carries this variable, so that one whose start was not written down is found again."""
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Running:
    """One process. ticks: its start, in clock ticks since the machine started."""

    pid: int
    ticks: int
    boot: str

    @property
    def alive(self) -> bool:
        return self.boot == boot_id() and start_ticks(self.pid) == self.ticks

    def send(self, number: int) -> None:
        """A signal to its whole group; nothing happens if this very process is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def identify(pid: int) -> Running | None:
    """The process that has this pid now; None for none, and for one that ended and was not reaped."""
    ticks = start_ticks(pid)
    return None if ticks is None else Running(pid, ticks, boot_id())


def start_ticks(pid: int) -> int | None:
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def family(running: Running) -> tuple[Running, ...]:
    """The process and all that descend from it, parents first: children may lead groups of their own."""
    if not running.alive:
        return ()
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found = [running]
    for member in found:
        kin = (identify(pid) for pid in children.get(member.pid, ()))
        found.extend(one for one in kin if one is not None)
    return tuple(found)


def kill(members: Iterable[Running]) -> None:
    """SIGKILL to each that is still the same process."""
    for member in members:
        if member.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member.pid, signal.SIGKILL)


def find_marked(mark: str) -> Running | None:
    """The oldest process that carries the mark in its environment, and is no descendant of another such."""
    wanted = f"{MARK}={mark}".encode()
    marked = {pid for pid in _pids() if wanted in _environment(pid)}
    heads = [one for pid in marked if _parent(pid) not in marked and (one := identify(pid)) is not None]
    return min(heads, key=lambda one: one.ticks, default=None)


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return 0 if fields is None else int(fields[1])


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """The fields after the name; the name in brackets may hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
