"""PostgreSQL's own programs on this machine, run for the member whose data folder is here. Never a shell.

Owns how they are run: as the folder's user, bounded in time, with the password in the environment of the one
program that needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.drivers.postgres.history import Control, parse_control
from evac.drivers.postgres.link import Member, member_of
from evac.model.errors import OutcomeUnknown, Permanent
from evac.net.secrets import scrub

OUTPUT_BYTES = 65_536
STOP_S = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member lives: its data folder, the folder of its programs, the system user that owns it."""

    data: Path
    bin: Path
    user: str

    @property
    def account(self) -> pwd.struct_passwd | None:
        """Whom to become; None where we are that user, or may not change."""
        return pwd.getpwnam(self.user) if self.user and os.geteuid() == 0 else None

    def give(self, *paths: Path) -> None:
        """Makes files and whole folders the user's."""
        account = self.account
        if account is None:
            return
        for top in paths:
            for path in (top, *top.rglob("*")):
                os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def place_of(action: Action) -> Place | None:
    """From the settings `data`, `bin`, `system_user`; None where the member is not ours to touch by hand."""
    data = text(action.settings, "data", "")
    if not data:
        return None
    user = text(action.settings, "system_user", "postgres")
    return Place(Path(data), Path(text(action.settings, "bin")), user)


async def program(
    place: Place,
    *argv: str,
    timeout_s: float,
    password: Member | None = None,
    output: Path | None = None,
    allowed: tuple[int, ...] = (0,),
) -> str:
    """Runs one of the programs and returns what it said, at most `OUTPUT_BYTES`. output: a file for it
    instead. Raises `Permanent` for a code that is not allowed, `OutcomeUnknown` when it takes too long.
    """
    secret = password.secret() if password else None
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", **({"PGPASSWORD": secret.reveal()} if secret else {})}
    with contextlib.ExitStack() as stack:
        target: Any = stack.enter_context(output.open("wb")) if output else asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            str(place.bin / argv[0]),
            *argv[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=target,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            cwd="/",
            start_new_session=True,
            **_identity(place),
        )
        try:
            async with asyncio.timeout(max(0.1, timeout_s)):
                said = await process.stdout.read(OUTPUT_BYTES) if process.stdout else b""
                while process.stdout and await process.stdout.read(OUTPUT_BYTES):
                    pass  # What is beyond the bound is read, so that the program can end, and dropped.
                code = await process.wait()
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, TimeoutError):
                raise OutcomeUnknown(
                    "program-slow", f"{argv[0]} took longer than {timeout_s:.0f} s"
                ) from error
            raise
    words = scrub(said.decode("utf-8", "replace"), [secret] if secret else [])
    if code not in allowed:
        raise Permanent("program-failed", f"{argv[0]} ended with {code}: {words.strip()[-600:]}")
    return words


def _identity(place: Place) -> Mapping[str, Any]:
    account = place.account
    if account is None:
        return {}
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


async def control(place: Place, timeout_s: float = 10) -> Control:
    """What the stopped or running member's control file says."""
    return parse_control(await program(place, "pg_controldata", "-D", str(place.data), timeout_s=timeout_s))


async def stop(place: Place) -> None:
    """Ends the server of the data folder, if one runs. A fast stop; at once if that takes too long."""
    data = str(place.data)
    for mode in ("fast", "immediate"):
        argv = ("pg_ctl", "-D", data, "-m", mode, "-w", "-t", str(STOP_S), "stop")
        await program(place, *argv, timeout_s=STOP_S + 5, allowed=(0, 1))
        # 3: no server runs.
        if "no server running" in await program(
            place, "pg_ctl", "-D", data, "status", timeout_s=10, allowed=(0, 3)
        ):
            return
    raise Permanent("not-stopped", "the member's server does not stop", "stop it by hand")


async def start(place: Place, timeout_s: float, options: str = "") -> None:
    """Starts the server and waits until it takes connections. options: more `-c` settings."""
    log = place.data / "evac_start.log"
    argv = ("pg_ctl", "-D", str(place.data), "-w", "-t", str(max(1, int(timeout_s))), "-l", str(log), "-s")
    # The server inherits our output and never closes it: a pipe would be waited for as long as it runs.
    sink = Path(os.devnull)
    await program(
        place, *argv, *(("-o", options) if options else ()), "start", timeout_s=timeout_s + 5, output=sink
    )


@asynccontextmanager
async def shut_in(place: Place, action: Action, timeout_s: float) -> AsyncIterator[Member]:
    """The member runs, reached by nobody but us: through a socket in a closed folder, read only. It recovers
    what its crash left, and is stopped in order at the end.
    """
    folder = Path(mkdtemp(prefix="evac-"))
    try:
        (folder / "hba").write_text("local all all trust\n")
        place.give(folder)
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={folder} -c hba_file={folder}/hba -c ssl=off "
            "-c default_transaction_read_only=on -c synchronous_standby_names='' -c autovacuum=off "
            "-c archive_mode=off"
        )
        await start(place, timeout_s, options)
        own = member_of(action)
        yield Member(str(folder), own.port, own.user, "", own.dbname, own.name)
    finally:
        await stop(place)
        shutil.rmtree(folder, ignore_errors=True)
