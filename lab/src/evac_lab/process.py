"""Processes: a real server in its own process group, waited for and ended with all its children; and this
machine's processes as /proc shows them.

A pid alone proves nothing, because pids are reused: a process is identified by its pid and start time. Knows
no server by name, and of the lab only the environment variable that marks its processes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import signal as signals
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Final

from evac.model.errors import EvacError
from evac.model.records import dataclass

MARK: Final = "EVAC_LAB_PROCESS"
"""Environment variable of everything the lab starts: `<state folder>|<site>`; inherited by children."""

_PROC: Final = Path("/proc")
_GONE_STATES: Final = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class Row:
    """One process. started: in clock ticks since the machine booted."""

    pid: int
    parent: int
    started: int
    state: str
    name: str = ""

    @property
    def alive(self) -> bool:
        return self.state not in _GONE_STATES


def row(pid: int) -> Row | None:
    """The process as it is now, or None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    # The program's name is in brackets and may contain anything, even brackets and blanks.
    end = text.rindex(")")
    fields = text[end + 2 :].split()
    return Row(pid, int(fields[1]), int(fields[19]), fields[0], text[text.index("(") + 1 : end])


def started(pid: int) -> int:
    """When the process started; 0 if it is gone."""
    found = row(pid)
    return found.started if found is not None and found.alive else 0


def same(pid: int, since: int) -> bool:
    """Whether exactly the process that started at `since` is alive."""
    return since > 0 and started(pid) == since


def table() -> dict[int, Row]:
    """Every process."""
    pids = (int(path.name) for path in _PROC.iterdir() if path.name.isdigit())
    return {pid: found for pid in pids if (found := row(pid)) is not None}


def descendants(roots: Iterable[int], rows: Mapping[int, Row]) -> set[int]:
    """The live roots and all their descendants. PostgreSQL puts each backend into its own session, so a
    process group is not enough.
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
    """Processes whose mark begins with `prefix`, as far as their environment is readable."""
    wanted = f"{MARK}={prefix}".encode()
    found = set()
    for pid in rows:
        with contextlib.suppress(OSError):
            words = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
            if any(word.startswith(wanted) for word in words):
                found.add(pid)
    return found


def working_in(folder: Path, names: frozenset[str], rows: Mapping[int, Row]) -> set[int]:
    """Processes with certain names whose working folder is in `folder`: Redis and PostgreSQL's children
    overwrite their environment with their title, so the mark is gone.
    """
    found = set()
    for pid, one in rows.items():
        if one.name in names:
            with contextlib.suppress(OSError):
                if (_PROC / str(pid) / "cwd").readlink().is_relative_to(folder):
                    found.add(pid)
    return found


def send(pids: Iterable[int], number: int) -> None:
    """Sends a signal to all; processes already gone are ignored."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def reap(pids: Iterable[int]) -> None:
    """Reaps our own children among them, so that none stays a zombie."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def wait_gone(pids: Iterable[int], timeout_s: float = 10.0) -> set[int]:
    """Waits until all are gone; returns those still alive."""
    wanted = set(pids)
    left = set(wanted)
    deadline = time.monotonic() + timeout_s
    while left:
        left = {pid for pid in left if started(pid)}
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    # Only now: a process that died between two looks would stay a zombie, which PostgreSQL's tools take for a
    # running server.
    reap(wanted)
    return left


def pause(pids: Iterable[int]) -> None:
    send(pids, signal.SIGSTOP)


def resume(pids: Iterable[int]) -> None:
    send(pids, signal.SIGCONT)


PROGRAM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")


class MissingProgram(EvacError):
    """A program that the lab needs is not on this machine."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(
            "program-missing", f"{program} is not installed", f"install it: sudo apt-get install {package}"
        )
        self.program, self.package = program, package


class ServerFailed(EvacError):
    """A server did not start, or ended by itself. The message has the last lines of its log."""


def find_program(program: str, package: str, folders: Sequence[str] = ()) -> str:
    """The full path of `program`; Debian keeps some outside an ordinary user's PATH. Raises
    `MissingProgram`.
    """
    path = os.pathsep.join((*folders, os.environ.get("PATH", ""), *PROGRAM_FOLDERS))
    found = shutil.which(program, path=path)
    if found is None:
        raise MissingProgram(program, package)
    return found


def may_change_user() -> bool:
    return os.geteuid() == 0


def give_to(user: str, *paths: Path) -> None:
    """Makes `user` the owner of whole folders if we are root; otherwise they are ours already."""
    if not may_change_user():
        return
    account = pwd.getpwnam(user)
    for top in paths:
        for path in (top, *top.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


@dataclass(slots=True)
class Process:
    """A server. argv: never through a shell. user: whom to run as if we are root ("": ourselves).

    prefix: put before argv, such as `ip netns exec NAME`. Output is appended to `log`.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    user: str = ""
    prefix: tuple[str, ...] = ()
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it in its own group, so that signals reach its children too."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [*self.prefix, *self._as_user(), *self.argv]
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.cwd,
                env={**os.environ, **self.env},
                start_new_session=True,
            )

    def _as_user(self) -> tuple[str, ...]:
        if not self.user or not may_change_user():
            return ()
        setpriv = find_program("setpriv", "util-linux")
        return (setpriv, f"--reuid={self.user}", f"--regid={self.user}", "--init-groups")

    @property
    def pid(self) -> int:
        return 0 if self.popen is None else self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to the whole group; does nothing if it is gone."""
        if self.popen is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL and waits until the pid is gone (a port stays bound until then)."""
        self.signal(signals.SIGKILL)
        if self.popen is not None:
            self.popen.wait(timeout=10)

    def stop(self, timeout_s: float = 5.0, number: int = signals.SIGTERM) -> None:
        """Asks it to end, then kills the rest."""
        if self.popen is None:
            return
        self.signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=timeout_s)
        self.kill()

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = 20.0, pause_s: float = 0.05) -> None:
        """Waits until `ready` returns true. Raises `ServerFailed` if it ends first or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.alive:
                raise ServerFailed("server-failed", f"{self.name} ended unexpectedly: {self.last_lines()}")
            if time.monotonic() > deadline:
                raise ServerFailed(
                    "server-failed", f"{self.name} was not ready in {timeout_s:g} s: {self.last_lines()}"
                )
            time.sleep(pause_s)

    def last_lines(self, count: int = 5) -> str:
        """The last lines of its log, joined, at most 2,000 characters."""
        if not self.log.exists():
            return "(no log)"
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 8_192))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return " / ".join(lines[-count:])[-2_000:]


def run_once(
    argv: Sequence[str], *, user: str = "", timeout_s: float = 60.0, env: Mapping[str, str] | None = None
) -> str:
    """Runs a short program to its end and returns its output. Raises `ServerFailed` if it fails."""
    as_user = Process("", (), Path("/dev/null"), user)._as_user()
    done = subprocess.run(
        [*as_user, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        timeout=timeout_s,
        check=False,
    )
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        raise ServerFailed(
            "server-failed", f"{Path(argv[0]).name} ended with {done.returncode}: {text[-1_500:]}"
        )
    return text


class OneProcess:
    """A server with a single process."""

    __slots__ = ()
    process: Process

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        """Sends SIGKILL and waits until the pid is gone, because its ports stay bound until then."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: the kernel still accepts connections, but nothing answers."""
        self.process.signal(signals.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signals.SIGCONT)


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
    """`pid` and all its descendants, parents first."""
    parents = _parents()
    if pid not in parents:
        return ()
    members = [pid]
    for member in members:
        members.extend(child for child, parent in parents.items() if parent == member)
    return tuple(members)


def signal_family(pid: int, number: int) -> None:
    """Sends a signal to all of them, the parent first so that it creates no new ones."""
    for member in family(pid) if pid > 0 else ():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(member, number)


def kill_family(pid: int, timeout_s: float = 10.0) -> None:
    """Sends SIGKILL to all and waits until the children are gone; the parent is left for its starter."""
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
