"""A server's whole family of processes. PostgreSQL's children lead groups of their own, so a signal to the
group of their parent does not reach them; a site that burns takes them all.
"""

from __future__ import annotations

import contextlib
import os
import signal as signals
import time
from pathlib import Path


def _parents() -> dict[int, int]:
    """Every process of this machine and its parent."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in brackets may hold anything; the fields after it do not.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = int(fields[1])
    return found


def family(pid: int) -> tuple[int, ...]:
    """`pid` and all that descend from it, parents first."""
    parents = _parents()
    if pid not in parents:
        return ()
    members = [pid]
    for member in members:
        members.extend(child for child, parent in parents.items() if parent == member)
    return tuple(members)


def signal_family(pid: int, number: int) -> None:
    """Sends a signal to all of them, the parent first so that it makes no new ones."""
    for member in family(pid) if pid > 0 else ():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(member, number)


def kill_family(pid: int, timeout_s: float = 10.0) -> None:
    """SIGKILL to all, and waits until the children are gone; the parent is its starter's to wait for."""
    members = family(pid) if pid > 0 else ()
    for member in members:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(member, signals.SIGKILL)
    deadline = time.monotonic() + timeout_s
    while any(_runs(member) for member in members[1:]) and time.monotonic() < deadline:
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
