"""The processes of this machine as /proc shows them: who lives, who is whose child, who carries our mark.

A pid alone proves nothing, because pids are used again: a process is its pid and the moment it started.
Knows nothing of the lab but the name of the environment variable that marks its processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "EVAC_LAB_PROCESS"
"""Environment variable of everything the lab starts: `<state folder>|<site>`; children inherit it."""

_PROC: Final = Path("/proc")
_GONE_STATES: Final = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class Row:
    """One process. started: in clock ticks since the machine started."""

    pid: int
    parent: int
    started: int
    state: str
    name: str = ""

    @property
    def alive(self) -> bool:
        return self.state not in _GONE_STATES


def row(pid: int) -> Row | None:
    """The process as it is now, or None when it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    # The program's name stands in brackets and may hold anything, brackets and blanks too.
    end = text.rindex(")")
    fields = text[end + 2 :].split()
    return Row(pid, int(fields[1]), int(fields[19]), fields[0], text[text.index("(") + 1 : end])


def started(pid: int) -> int:
    """When the process started; 0 when it is gone."""
    found = row(pid)
    return found.started if found is not None and found.alive else 0


def same(pid: int, since: int) -> bool:
    """Whether the very process that started at `since` still lives."""
    return since > 0 and started(pid) == since


def table() -> dict[int, Row]:
    """Every process."""
    pids = (int(path.name) for path in _PROC.iterdir() if path.name.isdigit())
    return {pid: found for pid in pids if (found := row(pid)) is not None}


def descendants(roots: Iterable[int], rows: Mapping[int, Row]) -> set[int]:
    """The roots that live, and all their children's children. PostgreSQL puts each backend into a session
    of its own, so a process group is not enough.
    """
    children: dict[int, list[int]] = {}
    for found in rows.values():
        children.setdefault(found.parent, []).append(found.pid)
    pending = [pid for pid in roots if pid in rows]
    seen: set[int] = set()
    while pending:
        pid = pending.pop()
        if pid not in seen:
            seen.add(pid)
            pending.extend(children.get(pid, ()))
    return {pid for pid in seen if rows[pid].alive}


def marked(prefix: str, rows: Mapping[int, Row]) -> set[int]:
    """Processes whose mark begins with `prefix`, as far as we may read their environment."""
    wanted = f"{MARK}={prefix}".encode()
    found = set()
    for pid in rows:
        with contextlib.suppress(OSError):
            words = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
            if any(word.startswith(wanted) for word in words):
                found.add(pid)
    return found


def working_in(folder: Path, names: frozenset[str], rows: Mapping[int, Row]) -> set[int]:
    """Processes of certain names whose working folder lies in `folder`: Redis and the children of PostgreSQL
    write their title over their environment, and the mark is gone.
    """
    found = set()
    for pid, one in rows.items():
        if one.name in names:
            with contextlib.suppress(OSError):
                if (_PROC / str(pid) / "cwd").readlink().is_relative_to(folder):
                    found.add(pid)
    return found


def send(pids: Iterable[int], number: int) -> None:
    """One signal to all; who is gone already is no matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def reap(pids: Iterable[int]) -> None:
    """Takes note of the end of our own children among them, so that none stays a zombie."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def wait_gone(pids: Iterable[int], timeout_s: float = 10.0) -> set[int]:
    """Waits until none of them lives; returns those that still do."""
    wanted = set(pids)
    left = set(wanted)
    deadline = time.monotonic() + timeout_s
    while left:
        left = {pid for pid in left if started(pid)}
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    # Only now: one that died between two looks would stay a zombie, and PostgreSQL's tools take a zombie's
    # pid for a server that runs.
    reap(wanted)
    return left


def pause(pids: Iterable[int]) -> None:
    send(pids, signal.SIGSTOP)


def resume(pids: Iterable[int]) -> None:
    send(pids, signal.SIGCONT)
