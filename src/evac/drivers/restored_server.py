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
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
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
BEGIN_S: Final = 10.0
"""Time limit until its pid is written."""
STOP_S: Final = 20.0
LOG_TAIL: Final = 400
_PRIVATE: Final = "evac-"
_NAME_LETTERS: Final = 16
_BEGIN: Final = 'echo $$ >"$0" && exec "$@"'


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


@dataclass(frozen=True, slots=True)
class RestoredServer:
    """A server that works in its data folder."""

    data: Path
    account: pwd.struct_passwd | None = None
    env: Mapping[str, str] | None = None

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
        again. Raises `Permanent` if it exits, `Retryable` if it is slow.
        """
        log = log or self.data / LOG
        if self.pid() is None:
            await self._begin(argv, log)
        begun_s = time.monotonic()
        while watch.left_s > 0:
            if await answers():
                return
            gone = (self.data / PID).exists() or begun_s + BEGIN_S < time.monotonic()
            if self.pid() is None and gone:
                tail = ""
                if log.is_file():
                    tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
                why = f"{Path(argv[0]).name} does not start from the restored data: {' '.join(tail.split())}"
                raise Permanent("restore-incomplete", why, "prove the backup, or restore an older one")
            await asyncio.sleep(PAUSE_S)
        name = Path(argv[0]).name
        raise Retryable(
            "restore-slow", f"{name} did not answer within {watch.timeout_s:.0f} s", "allow more time"
        )

    async def _begin(self, argv: tuple[str, ...], log: Path) -> None:
        (self.data / PID).unlink(missing_ok=True)
        whom: dict[str, Any] = {}
        if self.account is not None:
            whom = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": ()}
        with log.open("ab") as words:
            give(self.account, log)
            begun = await asyncio.create_subprocess_exec(
                *("setsid", "--fork", "sh", "-c", _BEGIN, str(self.data / PID), *argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                cwd=self.data,
                env=environment(self.env or {}),
                **whom,
            )
        await begun.wait()

    async def stop(self) -> None:
        """Stop it, if it runs: cleanly, or by force after a while."""
        for number, seconds in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
            watch = Stopwatch(seconds)
            pid = self.pid()
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while self.pid() is not None and watch.left_s > 0:
                await asyncio.sleep(PAUSE_S / 2)
        (self.data / PID).unlink(missing_ok=True)

    @asynccontextmanager
    async def private(self) -> AsyncIterator[Path]:
        """A folder that only its account may enter, for a socket and a log; the server is stopped at its
        end.
        """
        folder = private_folder(self.data, self.account)
        try:
            give(self.account, folder)
            yield folder
        finally:
            await self.stop()
            rmtree(folder, ignore_errors=True)


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
