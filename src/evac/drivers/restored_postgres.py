"""A freshly restored PostgreSQL data folder: recovered in private, queried for its content, then served.

Until recovery has ended it listens on a socket in a folder that only its owner may enter, and archives
nothing: no client sees a partly recovered database, and no test writes to the archive of its source.
"""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import gzip
import math
import re
import shlex
import shutil
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from evac.drivers import parameters
from evac.drivers.backups import Stopwatch, Tool
from evac.drivers.places import sync
from evac.drivers.port import Action, Value
from evac.drivers.postgres_log import TIMELINE_LETTERS
from evac.drivers.restored_server import account_of, give, is_alive, private_folder
from evac.model.errors import ActionError, Permanent, Retryable
from evac.model.records import dataclass
from evac.model.units import moment_words
from evac.net import secrets
from evac.net.secrets import Secret

SOCKET_PORT: Final = 5432
STOP_S: Final = 20
OWNER: Final = "postgres"
PAUSE_S: Final = 0.05
ANSWER_S: Final = 20
"""Limit for the answer of a server that accepts connections: a busy one is not stopped."""
HBA: Final = "local all all trust\n"
INCLUDED: Final = "conf.d"
"""The folder that Debian's configuration includes."""
FILES: Final = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")
_NOW: Final = (
    "SELECT pg_is_in_recovery(),"
    " coalesce(extract(epoch FROM pg_last_xact_replay_timestamp())::bigint::text, ''),"
    " (SELECT timeline_id FROM pg_control_checkpoint())"
)
UNPACKERS: Final[Mapping[str, Any]] = MappingProxyType({".gz": gzip.open, ".bz2": bz2.open})
PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({".zst": ("zstd", "-o"), ".lz4": ("lz4",)})
UNPACKED_BYTES: Final = 1 << 30
"""Maximum size of a log segment."""
SEGMENT_LETTERS: Final = 24
LOG_TAIL: Final = 600
LOG_READ: Final = 1 << 20
ENDS_S: Final = 5.0
"""How long a server takes to end after one of its processes has."""
_KILLED: Final = re.compile(
    r"was terminated by signal (?:9|15)\b|received (?:smart|fast|immediate) shutdown request"
)
_LAST_SEGMENT: Final = re.compile(r"REDO WAL file:\s+([0-9A-F]{24})")
_ENDED: Final = re.compile(r"desc: (?:COMMIT|ABORT)\w* (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")
_SOURCE: Final = (
    (
        "password authentication failed",
        Permanent("backup-password", "wrong password", "check `source_password`"),
    ),
    ("no password supplied", Permanent("backup-password", "a password is missing", "set `source_password`")),
    (
        "permission denied",
        Permanent("backup-forbidden", "the role has no permission to read it", "grant it SELECT"),
    ),
    ("connection to server", Retryable("backup-silent", "PostgreSQL does not answer", "start it")),
)
_SIZE: Final = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database"

NO_TRANSACTION: Final = Permanent(
    "moment-unknown",
    "the newest segments of the archived WAL contain no transaction",
    "omit the point in time to restore everything",
)


def refuse_beyond(end: float, until: int) -> None:
    """Raise `Permanent` for a restore point that is not before the last transaction of the archived log. end:
    when that ended; both in seconds since 1970.
    """
    if until >= end:
        last = moment_words(math.ceil(end) - 1)
        words = f"the archived WAL does not reach {moment_words(until)}: the latest point in time is {last}"
        raise Permanent("moment-uncovered", words, "choose an earlier point in time, or the newest backup")


def refuse_damaged_log(problems: Sequence[str]) -> None:
    """Raise `Permanent` for an archived log with a gap or damage: recovery takes that for its end."""
    if problems:
        words = f"the newest state cannot be restored: {problems[0]}"
        hint = "use another backup, or restore to an earlier point in time: --until TIME, --moment STORE=TIME"
        raise Permanent("archive-damaged", words, hint)


@asynccontextmanager
async def unpacked(name: str, content: bytes, watch: Stopwatch) -> AsyncIterator[Path]:
    """An archived segment as PostgreSQL wrote it. name: of its file, whose suffix names the compression.
    Raises `Permanent` for one that cannot be unpacked.
    """
    with tempfile.TemporaryDirectory(prefix="evac-log-") as place:
        packed, segment = Path(place, name), Path(place, name[:SEGMENT_LETTERS])
        packed.write_bytes(content)
        try:
            if packed.suffix in UNPACKERS:
                with UNPACKERS[packed.suffix](packed, "rb") as file:
                    segment.write_bytes(file.read(UNPACKED_BYTES))
            elif packed.suffix in PROGRAMS:
                argv = ("-q", "-d", str(packed), *PROGRAMS[packed.suffix][1:], str(segment))
                await Tool(PROGRAMS[packed.suffix][0], {}).run(*argv, timeout_s=watch.left_s)
            else:
                packed.rename(segment)
        except (OSError, EOFError, zlib.error) as error:
            words = f"WAL segment {segment.name} cannot be unpacked"
            raise Permanent(
                "backup-corrupt", words, "prove the backup, or choose an earlier point in time"
            ) from error
        yield segment


async def last_commit(
    name: str, content: bytes, settings: Mapping[str, Value], watch: Stopwatch
) -> float | None:
    """When the last transaction of an archived segment ended, in seconds since 1970; None if it contains
    none. Raises `Permanent` for one that cannot be unpacked or read.
    """
    async with unpacked(name, content, watch) as segment:
        tool = Tool(f"{parameters.text(settings, 'bin')}/pg_waldump", {"LC_ALL": "C", "TZ": "UTC"})
        argv = ("--rmgr=Transaction", str(segment))
        ended = await tool.run(*argv, timeout_s=watch.left_s, allowed=(0, 1))
    found = [datetime.fromisoformat(f"{one}+00:00").timestamp() for one in _ENDED.findall(ended.output)]
    return max(found, default=None)


async def _facts_by(
    settings: Mapping[str, Value], ask: Callable[[str], Awaitable[str]]
) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for entry in parameters.many(settings, "facts"):
        name, separator, statement = entry.partition("=")
        if not separator or not name.isidentifier():
            raise Permanent("setting-wrong", "facts must be a list of name=SELECT ...")
        value = (await ask(statement))[:200]
        found[name] = int(value) if value.isascii() and value.isdigit() and len(value) < 16 else value
    return found


def _database_of(settings: Mapping[str, Value]) -> str:
    """Refuse names that psql would interpret as another server's address."""
    name = parameters.text(settings, "facts_database", "postgres")
    if re.search(r"[\s=:/]", name):
        raise Permanent("setting-wrong", "facts_database must be the name of a database, such as orders")
    return name


def source_of(settings: Mapping[str, Value]) -> tuple[str, dict[str, str], tuple[Secret, ...]]:
    """How to connect to the primary: its conninfo, the environment with the password, and the secret. Raises
    `Permanent` for a password written in the estate.
    """
    conninfo = parameters.text(settings, "source")
    if re.search(r"\bpassword\s*=|://[^/@]*:[^/@]*@", conninfo):
        raise Permanent("secret-in-clear", "source contains a password", "write source_password")
    reference = parameters.text(settings, "source_password", "")
    if not reference:
        return conninfo, {}, ()
    password = secrets.resolve(reference)
    return conninfo, {"PGPASSWORD": password.reveal()}, (password,)


async def ask_source(settings: Mapping[str, Value], statement: str, watch: Stopwatch) -> str:
    """Query one value from the primary. Raises `ActionError`."""
    conninfo, env, hidden = source_of(settings)
    program = f"{parameters.text(settings, 'bin')}/psql"
    account = account_of(settings, OWNER)
    tool = Tool(program, {**env, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "5"}, hidden, _SOURCE, account=account)
    argv = ("-XAtq", "-w", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-c", statement)
    return (await tool.run(*argv, timeout_s=watch.left_s)).output.strip()


async def source_facts(settings: Mapping[str, Value], watch: Stopwatch) -> dict[str, str | int]:
    """Current facts of the primary, as in `facts`; none if `source` is not given."""
    if not parameters.text(settings, "source", ""):
        return {}
    database = _database_of(settings)
    there = {**settings, "source": f"{parameters.text(settings, 'source')} dbname={database}"}
    return await _facts_by(settings, lambda one: ask_source(there, one, watch))


@dataclass(frozen=True, slots=True)
class Recovered:
    """Content of a database once its recovery has ended."""

    bytes: int
    reached_at: int | None
    facts: Mapping[str, str | int]


def _written_since(log: Path, begin: int) -> str:
    """What a log says from this byte on, of that the last MiB at most; empty if there is no log."""
    if not log.is_file():
        return ""
    with log.open("rb") as handle:
        handle.seek(max(begin, log.stat().st_size - LOG_READ))
        return handle.read(LOG_READ).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Started:
    """What was there when a server was started: the size of its log, and what another one had written."""

    log_bytes: int = 0
    pid_file: str = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """PostgreSQL in one data folder."""

    data: Path
    settings: Mapping[str, Value]

    def _tool(self, program: str) -> Tool:
        folder = parameters.text(self.settings, "bin")
        return Tool(f"{folder}/{program}", {"LC_ALL": "C"}, account=account_of(self.settings, OWNER))

    async def recover(self, watch: Stopwatch) -> Recovered:
        """Start it in private, wait until recovery has ended, query its content, and stop it cleanly."""
        await self._configure(watch)
        restored = (await self._last_segment(watch))[:TIMELINE_LETTERS]
        async with self._private() as place:
            options = self._own_files() | {
                "listen_addresses": "",
                "unix_socket_directories": str(place),
                "port": str(SOCKET_PORT),
                "hba_file": str(place / "hba"),
                "archive_mode": "off",
                "ssl": "off",
                "shared_preload_libraries": "",
                "logging_collector": "off",
                "synchronous_standby_names": "",
                # Its log says whether it was killed.
                "log_destination": "stderr",
                "log_min_messages": "warning",
                "lc_messages": "C",
            }
            try:
                await self._start(options, place / "log", watch)
                reached = await self._recovered(place, place / "log", watch)
                # One value for each entry of the setting `facts`, for a witness to compare.
                database = _database_of(self.settings)
                facts = await _facts_by(self.settings, lambda one: self._ask(place, one, watch, database))
                size = int((await self._ask(place, _SIZE, watch, "postgres")) or 0)
                await self._control("stop", "-m", "fast", watch=watch)
            except BaseException:
                await self.stop()
                raise
        await self._leave_to_archiver(restored, watch)
        return Recovered(size, reached, facts)

    async def _last_segment(self, watch: Stopwatch) -> str:
        """The segment of the last checkpoint."""
        control = await self._tool("pg_controldata").run("-D", str(self.data), timeout_s=watch.left_s)
        found = _LAST_SEGMENT.search(control.output)
        if found is None:
            words = f"pg_controldata of {self.data} names no WAL file"
            raise Permanent("restore-incomplete", words, "prove the backup, or restore an older one")
        return found[1]

    async def _leave_to_archiver(self, restored: str, watch: Stopwatch) -> None:
        """Mark the history file and the complete segments of the new timeline for archiving once the data is
        served: recovery writes them while archiving is off. Without the history, the next
        restore would stay on the old timeline (`restored`) and lose everything written since.
        """
        last, account = await self._last_segment(watch), account_of(self.settings, OWNER)
        timeline = last[:TIMELINE_LETTERS]
        if timeline == restored:
            return
        log, status = self.data / "pg_wal", self.data / "pg_wal" / "archive_status"
        for path in sorted(log.glob(f"{timeline}*")):
            is_complete = len(path.name) == SEGMENT_LETTERS and path.name < last
            if is_complete or path.name == f"{timeline}.history":
                (status / f"{path.name}.ready").touch(0o600)
                give(account, status / f"{path.name}.ready")
        sync(status)

    async def serve(self, watch: Stopwatch) -> None:
        """Start it for clients unless it runs, and wait until it accepts connections."""
        status = await self._tool("pg_ctl").run(
            "status", "-D", str(self.data), timeout_s=watch.left_s, allowed=(0, 3, 4)
        )
        if status.code == 0:  # it took too long to answer before; a second server would not start
            while not await self.takes_writes(watch):
                if watch.left_s <= 0:
                    words = f"PostgreSQL did not answer within {watch.timeout_s:.0f} s"
                    raise Retryable("restore-slow", words, "allow more time")
                await asyncio.sleep(PAUSE_S)
            return
        options = self._own_files() | {
            key: str(self.settings[name])
            for key, name in (("listen_addresses", "host"), ("port", "port"))
            if self.settings.get(name)
        }
        await self._start(options, self.data / "evac-start.log", watch)

    async def stop(self) -> None:
        """Stop it, if it runs. Never raises if it does not."""
        if not (self.data / "postmaster.pid").exists():
            return
        watch = Stopwatch(STOP_S + 10)
        with contextlib.suppress(ActionError):
            await self._control("stop", "-m", "immediate", watch=watch, allowed=(0, 1))

    async def takes_writes(self, watch: Stopwatch) -> bool:
        """Whether it runs, accepts connections, and is not in recovery."""
        try:
            control = await self._tool("pg_controldata").run("-D", str(self.data), timeout_s=watch.left_s)
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except (OSError, Permanent):
            return False
        if "in production" not in control.output or len(lines) < 6:
            return False
        host = lines[5].strip() or lines[4].strip()
        host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        seconds = max(1, min(int(watch.left_s), ANSWER_S))
        argv = ("-q", "-h", host, "-p", lines[3].strip(), "-t", str(seconds))
        ended = await self._tool("pg_isready").run(*argv, timeout_s=watch.left_s, allowed=(0, 1, 2, 3))
        return ended.code == 0

    def _own_files(self) -> dict[str, str]:
        """Paths that a source's configuration may contain: if followed, they would start the source's own
        data, and overwrite the pid of its server.
        """
        found = {"data_directory": str(self.data), "external_pid_file": ""}
        for key, name in (("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")):
            if (self.data / name).is_file():
                found[key] = str(self.data / name)
        return found

    async def _configure(self, watch: Stopwatch) -> None:
        """Add the configuration that some systems keep outside the data folder. Raises `Permanent` for a
        configuration that PostgreSQL refuses, which says nothing about the data.
        """
        source = parameters.text(self.settings, "configuration", "")
        for name in FILES:
            target = self.data / name
            if not target.exists() and source and Path(source, name).is_file():
                shutil.copyfile(Path(source, name), target)
                give(account_of(self.settings, OWNER), target)
        included = self.data / INCLUDED
        if source and Path(source, INCLUDED).is_dir() and not included.exists():
            shutil.copytree(Path(source, INCLUDED), included)
            give(account_of(self.settings, OWNER), included)
        if not (self.data / FILES[0]).is_file():
            words = f"{self.data} contains no postgresql.conf"
            raise Permanent("setting-missing", words, "set its folder: configuration")
        ended = await self._tool("postgres").run(
            "-D", str(self.data), "-C", "max_connections", timeout_s=watch.left_s, allowed=(0, 1)
        )
        if ended.code:
            words = f"PostgreSQL rejects its configuration: {' '.join(ended.errors.split())[-400:]}"
            raise Permanent("setting-wrong", words, "correct `configuration`, or the files it includes")

    @asynccontextmanager
    async def _private(self) -> AsyncIterator[Path]:
        account = account_of(self.settings, OWNER)
        folder = private_folder(self.data, account)
        try:
            (folder / "hba").write_text(HBA, encoding="utf-8")
            give(account, folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _start(self, options: Mapping[str, str], log: Path, watch: Stopwatch) -> None:
        words = " ".join(f"-c {shlex.quote(f'{key}={value}')}" for key, value in options.items())
        seconds = max(1, int(watch.left_s))
        argv = ("start", "-w", "-t", str(seconds), "-l", str(log), *(("-o", words) if words else ()))
        before = _Started(log.stat().st_size if log.is_file() else 0, self._pid_file())
        try:
            await self._control(*argv, watch=watch)
        except Permanent as error:
            raise self._end_of(log, before, "PostgreSQL does not start from the restored data") from error

    def _end_of(self, log: Path, before: _Started, what: str) -> ActionError:
        """The error for a server that ended. One that was killed or told to stop says nothing about the
        data.
        """
        said = _written_since(log, before.log_bytes)
        if _KILLED.search(said) or self._pid_file() not in ("", before.pid_file):  # it did not remove it
            words = "PostgreSQL was killed or stopped by something else before its recovery had ended"
            return Retryable("backup-killed", words, "to find the reason, run: dmesg")
        why = f"{what}: {' '.join(said[-LOG_TAIL:].split())}"
        return Permanent("restore-incomplete", why, "prove the backup, or restore an older one")

    def _pid_file(self) -> str:
        """What a running server writes to its data folder, or one that was killed; else nothing."""
        with contextlib.suppress(OSError):
            return (self.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
        return ""

    async def _has_ended(self) -> bool:
        """Whether its server ends now."""
        watch = Stopwatch(ENDS_S)
        while watch.left_s > 0:
            pid = self._pid_file().partition("\n")[0]
            if not pid.isdigit() or not is_alive(int(pid)):
                return True
            await asyncio.sleep(PAUSE_S)
        return False

    async def _control(self, *argv: str, watch: Stopwatch, allowed: tuple[int, ...] = (0,)) -> None:
        tool = self._tool("pg_ctl")
        await tool.run("-D", str(self.data), *argv, timeout_s=watch.left_s + 1, allowed=allowed)

    async def _recovered(self, place: Path, log: Path, watch: Stopwatch) -> int | None:
        """Wait until recovery has ended; return the time of the newest transaction. An earlier query would
        see an older state of the data, and pass it.
        """
        while watch.left_s > 0:
            try:
                answer = (await self._ask(place, _NOW, watch, "postgres")).split("|")
            except ActionError as error:
                if not await self._has_ended():
                    raise
                why = "PostgreSQL stopped in the middle of its recovery"
                raise self._end_of(log, _Started(), why) from error
            if answer[0] == "f":
                return int(answer[1]) if len(answer) > 1 and answer[1].isdigit() else None
            await asyncio.sleep(PAUSE_S)
        raise Retryable(
            "restore-slow", f"recovery did not finish in {watch.timeout_s:.0f} s", "give it more time"
        )

    async def _ask(self, place: Path, statement: str, watch: Stopwatch, database: str) -> str:
        argv = ("-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(place), "-p", str(SOCKET_PORT))
        who = ("-U", parameters.text(self.settings, "system_user", "postgres"), "-d", database)
        ended = await self._tool("psql").run(*argv, *who, "-c", statement, timeout_s=watch.left_s)
        return ended.output.strip()


class RestoredPostgres:
    """How a backup driver serves, stops and queries the data that it restored."""

    async def _start(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        await Engine(folder, action.settings).serve(watch)

    async def _stop(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        await Engine(folder, action.settings).stop()

    async def _runs(self, action: Action, folder: Path, watch: Stopwatch) -> bool:
        return await Engine(folder, action.settings).takes_writes(watch)
