"""The server of a freshly restored folder: started independently of evac, waited for, and stopped.

For engines without a program for that. A server outlives the process that started it. Its pid is in a file of
its data folder, and counts only while that process works in the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pwd
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import field
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

from evac.drivers.backups import Stopwatch, Tool
from evac.drivers.parameters import text
from evac.drivers.places import everything_below
from evac.drivers.port import Value
from evac.drivers.programs import environment
from evac.model.errors import ActionError, Permanent, Retryable
from evac.model.records import dataclass

PID: Final = "evac.pid"
LOG: Final = "evac-start.log"
PAUSE_S: Final = 0.05
ENDS_S: Final = 1.0
"""How long a server takes to end once it no longer answers."""
STOP_S: Final = 20.0
LOG_TAIL: Final = 400
_PRIVATE: Final = "evac-"
_NAME_LETTERS: Final = 16
_BEGIN: Final = 'echo $$ >"$0" && exec "$@"'
_STOPPED: Final = frozenset({0, -signal.SIGHUP, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM})
"""Exit statuses of a server that did not end for a reason of its own."""
_OWN: Final = frozenset({"backup-killed", "restore-incomplete", "restore-slow", "setting-wrong"})
"""Errors that already say how it ended, or that it did not."""
_children: Final[list[subprocess.Popen[bytes]]] = []
"""Servers that this process started, so that the ended ones are reaped."""


def account_of(settings: Mapping[str, Value], owner: str) -> pwd.struct_passwd | None:
    """The account that owns restored data; None if evac may not change accounts. owner: default if the
    settings name none. Raises `Permanent` for an unknown user.
    """
    if os.geteuid() != 0:
        return None
    user = text(settings, "system_user", owner)
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise Permanent("setting-wrong", f"this machine has no user {user}", "set system_user") from error


def give(account: pwd.struct_passwd | None, top: Path) -> None:
    """Make the account the owner of a file, or of a folder and everything below it. Raises OSError."""
    if account is not None:
        os.chown(top, account.pw_uid, account.pw_gid, follow_symlinks=False)
        for path, _ in everything_below(top) if stat.S_ISDIR(top.lstat().st_mode) else ():
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def refuse_closed(account: pwd.struct_passwd | None, folder: Path) -> None:
    """Raise `Permanent` if an account may not enter a folder, or one above it."""
    if account is None:
        return
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    for one in (*reversed(folder.parents), folder):
        found = one.stat()
        mine = stat.S_IXGRP if found.st_gid in groups else stat.S_IXOTH
        if not found.st_mode & (stat.S_IXUSR if found.st_uid == account.pw_uid else mine):
            words = f"the account {account.pw_name} has no access to {one}, so its server cannot run below it"
            hint = f"chmod o+x {one}; or choose another place, for restore tests with EVAC_RESTORE_TESTS"
            raise Permanent("place-wrong", words, hint)


def private_folder(data: Path, account: pwd.struct_passwd | None) -> Path:
    """Create a folder that only evac may enter, with a short name, because the path of a socket is limited to
    107 bytes. One that a killed process left behind for the same data is removed. Raises OSError.
    """
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:_NAME_LETTERS]
    folder = Path(tempfile.gettempdir(), f"{_PRIVATE}{name}")
    owners = {os.geteuid(), *([] if account is None else [account.pw_uid])}
    with contextlib.suppress(FileNotFoundError):
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid in owners:
            rmtree(folder)
    try:
        folder.mkdir(0o700)
    except FileExistsError:  # of someone else
        return Path(tempfile.mkdtemp(prefix=_PRIVATE))
    return folder


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] not in "ZX"


@dataclass(slots=True)
class RestoredServer:
    """A server that works in its data folder."""

    data: Path
    account: pwd.struct_passwd | None = None
    env: Mapping[str, str] | None = None
    _begun: subprocess.Popen[bytes] | None = field(default=None, init=False)
    """The process that this object started."""

    def own(self) -> None:
        """Make its account the owner of its folder. Raises `Permanent` if that account may not enter it."""
        refuse_closed(self.account, self.data.parent)
        give(self.account, self.data)

    def folder_for_account(self, folder: Path) -> None:
        """Create a folder, unless it exists, that only its account may enter. Raises OSError."""
        folder.mkdir(mode=0o700, exist_ok=True)
        give(self.account, folder)

    def pid(self) -> int | None:
        """Its process id, if it runs."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.data / PID).read_text(encoding="ascii"))
            here = Path(f"/proc/{pid}/cwd").readlink()
            if here == self.data.resolve() and is_alive(pid):
                return pid
        return None

    async def start(
        self, *argv: str, answers: Callable[[], Awaitable[bool]], watch: Stopwatch, log: Path | None = None
    ) -> None:
        """Start it unless it runs, and wait until it responds: one that was too busy to answer is not started
        again. Raises `Permanent` if it exits, `Retryable` if it is killed or slow.
        """
        log = log or self.data / LOG
        if self.pid() is None:
            self._begin(argv, log)
        while watch.left_s > 0:
            if await answers():
                return
            if self._has_ended():
                raise self._end(f"{Path(argv[0]).name} does not start from the restored data", log)
            await asyncio.sleep(PAUSE_S)
        name = Path(argv[0]).name
        raise Retryable(
            "restore-slow", f"{name} did not answer within {watch.timeout_s:.0f} s", "allow more time"
        )

    async def serve(self, *argv: str, answers: Callable[[], Awaitable[bool]], watch: Stopwatch) -> None:
        """Start it on data that its engine has accepted before: if it exits, the data is not the reason.
        Raises as `start`.
        """
        try:
            await self.start(*argv, answers=answers, watch=watch)
        except Permanent as error:
            words = f"{error.message}; its engine has accepted this data before"
            hint = "correct `configuration`, `served_host` and `served_port` of the endpoint, then retry"
            raise Permanent("server-not-started", words, hint) from error

    def _begin(self, argv: tuple[str, ...], log: Path) -> None:
        """Start it as a child, whose end we can see, in a session of its own. Raises OSError."""
        (self.data / PID).unlink(missing_ok=True)
        whom: dict[str, Any] = {}
        if self.account is not None:
            whom = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": ()}
        with log.open("ab") as words:
            give(self.account, log)
            self._begun = subprocess.Popen(
                ("sh", "-c", _BEGIN, str(self.data / PID), *argv),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                cwd=self.data,
                env=environment(self.env or {}),
                start_new_session=True,
                **whom,
            )
        _children[:] = [one for one in _children if one.poll() is None]
        _children.append(self._begun)

    def _has_ended(self) -> bool:
        return self.pid() is None if self._begun is None else self._begun.poll() is not None

    def _end(self, what: str, log: Path) -> ActionError:
        """The error for a server that ended. One that was killed or told to stop says nothing about the data;
        nor does one that another process started.
        """
        code = None if self._begun is None else self._begun.poll()
        if code is None or code in _STOPPED:
            words = f"{what}: it was killed or stopped by something else"
            return Retryable("backup-killed", words, "to find the reason, run: dmesg")
        tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if log.is_file() else ""
        why = f"{what}: {' '.join(tail.split())}"
        return Permanent("restore-incomplete", why, "prove the backup, or restore an older one")

    async def stop(self) -> None:
        """Stop it, if it runs: cleanly, or by force after a while."""
        for number, seconds in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
            watch = Stopwatch(seconds)
            pid = self._running()
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while self._running() is not None and watch.left_s > 0:
                await asyncio.sleep(PAUSE_S / 2)
        (self.data / PID).unlink(missing_ok=True)

    def _running(self) -> int | None:
        """Its process id, also before it is written."""
        pid = self.pid()
        if pid is None and self._begun is not None and self._begun.poll() is None:
            return self._begun.pid
        return pid

    @asynccontextmanager
    async def private(self) -> AsyncIterator[Path]:
        """A folder that only its account may enter, for a socket and a log, named `log`; the server is
        stopped at its end. If it ends before, that is the error, and not that a query of it failed.
        """
        folder = private_folder(self.data, self.account)
        try:
            give(self.account, folder)
            yield folder
        except ActionError as error:
            if self._begun is None or error.code in _OWN or not await self._ends():
                raise
            what = "the server of the restored data ended while its content was read"
            raise self._end(what, folder / "log") from error
        finally:
            await self.stop()
            rmtree(folder, ignore_errors=True)

    async def _ends(self) -> bool:
        """Whether it has ended, or does now."""
        watch = Stopwatch(ENDS_S)
        while not self._has_ended() and watch.left_s > 0:
            await asyncio.sleep(PAUSE_S)
        return self._has_ended()


async def answered(tool: Tool, *argv: str, expects: str = "") -> bool:
    """Whether a client's query succeeds, with these texts in the response."""
    try:
        ended = await tool.run(*argv, timeout_s=3.0)
    except ActionError:
        return False
    return expects in ended.output


def unused_port() -> int:
    """An unused port on the loopback interface."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
