"""Driver for pg_basebackup of PostgreSQL 13 and later.

A base backup includes the log that it needs, and its manifest has the checksum of every file as the server
read it. Later log is in the archive, which no manifest covers: it is read record by record, and a gap or a
damaged record before its end is damage. A tablespace would be written to its own full path, over existing
data: such a store is refused.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, Final

from evac.drivers import restored_postgres
from evac.drivers.backups import Filled, Filling, Stopwatch, Tool, document, in_time
from evac.drivers.bandwidth import UPLOAD, limit
from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.copy_folder import CopyFolderDriver, Dumped, FileSum, Kept
from evac.drivers.parameters import text
from evac.drivers.pg_basebackup.segment import stray_byte
from evac.drivers.port import Action
from evac.drivers.postgres_log import history_name, segment_name, timeline_of
from evac.drivers.postgres_timelines import (
    SEGMENT,
    SIZES,
    Route,
    blocks,
    newest_timeline,
    route_to_end,
    unbroken,
)
from evac.drivers.restored_server import account_of, give, refuse_closed
from evac.model.errors import Permanent, Retryable
from evac.model.records import dataclass

MANIFEST: Final = "backup_manifest"
MANIFEST_BYTES: Final = 256 << 20
SEGMENTS_MOST: Final = 64
"""Newest log segments searched for the last transaction."""
SYSTEM_AT: Final = 24
"""Offset of the system identifier in a segment (`XLogLongPageHeaderData`)."""
BLOCK: Final = 64
"""Segments that follow one another and are read in the same part of a rotation."""
HISTORY_BYTES: Final = 1 << 20
READING: Final = "reading the archived WAL"
_NO_FILE: Final = re.compile(r'could not (?:find|open) file "(?:[^"]*/)?([0-9A-F]{24})"')
_ENDS_AT: Final = re.compile(
    r"(?: at |record at )([0-9A-F]+)/([0-9A-F]+): invalid record length at ([0-9A-F]+)/([0-9A-F]+)"
)
_TABLESPACES: Final = "SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')"
_REASONS: Final = (
    (
        "password authentication failed",
        Permanent("backup-password", "wrong password", "check `source_password`"),
    ),
    (
        "no password supplied",
        Permanent("backup-password", "a password is required", "set `source_password`"),
    ),
    (
        "no pg_hba.conf entry",
        Permanent("backup-forbidden", "pg_hba.conf does not let evac in", "allow replication"),
    ),
    ("permission denied", Permanent("backup-forbidden", "the role lacks permission", "grant it REPLICATION")),
    ("must be superuser", Permanent("backup-forbidden", "the role lacks permission", "grant it REPLICATION")),
    ("no space left", Permanent("backup-full", "the repository has no space left", "free some space in it")),
    ("connection to server", Retryable("backup-silent", "PostgreSQL does not answer", "start it")),
)


class PgBasebackupDriver(restored_postgres.RestoredPostgres, CopyFolderDriver, TakesBackups, RestoresData):
    """Each endpoint is one folder."""

    name = "pg_basebackup"
    program = "pg_basebackup"

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        return await restored_postgres.source_facts(action.settings, Stopwatch(timeout_s))

    async def _dump(self, action: Action, content: Path, watch: Stopwatch, lock: int) -> Dumped:
        if (await restored_postgres.ask_source(action.settings, _TABLESPACES, watch)).strip() != "0":
            words = "the store has tablespaces, which pg_basebackup would write to their original paths"
            raise Permanent("backup-unsupported", words, "back it up with pgBackRest")
        conninfo, env, hidden = restored_postgres.source_of(action.settings)
        argv = (
            *("-D", str(content), "--format=plain", "--wal-method=stream", "--checkpoint=fast"),
            *("--manifest-checksums=SHA256", "--no-password", f"--dbname={conninfo}"),
            *((f"--max-rate={most}",) if (most := limit(action.settings, UPLOAD)) else ()),
        )
        program = text(action.settings, "program", f"{text(action.settings, 'bin')}/{self.program}")
        tool = Tool(program, {**env, "LC_ALL": "C"}, hidden, _REASONS)
        await tool.run(*argv, timeout_s=watch.left_s, keeps=(lock,))
        control = await _at(action, "pg_controldata").run("-D", str(content), timeout_s=watch.left_s)
        system = re.search(r"system identifier: +(\d+)", control.output)
        sums = await in_time(lambda: _sums(content), watch, "reading the manifest")
        ended = math.ceil(datetime.now(UTC).timestamp())
        return Dumped(f"system {system[1]}" if system else "", sums, ended)

    async def _look_inside(self, action: Action, copies: Sequence[Kept], watch: Stopwatch) -> list[str]:
        wrong = []
        verify = _at(action, "pg_verifybackup")
        for one in copies:
            ended = await verify.run("-q", str(one.content), timeout_s=watch.left_s, allowed=(0, 1))
            if ended.code:
                wrong.append(f"{one.report.id}: {' '.join(ended.errors.split())[:200]}")
        if copies:
            wrong += (await _route_from(action, copies[-1].content, watch)).problems
        return wrong

    async def _look_at_log(
        self, action: Action, copies: Sequence[Kept], part: int, of: int, watch: Stopwatch
    ) -> list[str]:
        return await _part_problems(action, copies, part, of, watch) if copies else []

    async def _recover(self, into: Filling) -> Filled:
        """Recover with the log in the backup and the archived log; up to a restore point, or to its end."""
        action, folder, watch = into.action, into.folder, into.watch
        account = account_of(action.settings, restored_postgres.OWNER)
        (folder / "standby.signal").unlink(missing_ok=True)
        if archive := _archive(action):
            await _refuse_unreadable(archive, account, watch)
            if into.until is None:
                await _refuse_damaged(into)
            lines = [f'restore_command = \'cp "{archive}/%f" "%p"\'', "recovery_target_timeline = 'latest'"]
            if into.until is not None:
                moment = datetime.fromtimestamp(into.until, UTC).strftime("%Y-%m-%d %H:%M:%S+00")
                lines += [f"recovery_target_time = '{moment}'", "recovery_target_action = 'promote'"]
            with (folder / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(lines) + "\n")
            (folder / "recovery.signal").touch()
        refuse_closed(account, folder.parent)
        give(account, folder)
        found = await restored_postgres.Engine(folder, action.settings).recover(watch)
        return Filled(found.bytes, found.reached_at, found.facts)

    async def _refuse_uncovered(self, action: Action, until: int, watch: Stopwatch) -> None:
        """PostgreSQL stops at a restore point only if it finds a transaction that ended after it."""
        archive = _archive(action)
        if archive is None:
            words = "without archived WAL, a base backup cannot be restored to a point in time"
            raise Permanent("moment-uncovered", words, "set the folder of the archived WAL: archive")
        for name in sorted(_segments(archive), reverse=True)[:SEGMENTS_MOST]:
            content = (archive / name).read_bytes()
            if (end := await restored_postgres.last_commit(name, content, action.settings, watch)) is None:
                continue
            return restored_postgres.refuse_beyond(end, until)
        raise restored_postgres.NO_TRANSACTION


def _at(action: Action, program: str) -> Tool:
    """Path of a PostgreSQL program."""
    return Tool(f"{text(action.settings, 'bin')}/{program}", {"LC_ALL": "C", "TZ": "UTC"})


def _archive(action: Action) -> Path | None:
    """The archive folder. Raises `Permanent` if it does not exist, or a command could not name it."""
    name = text(action.settings, "archive", "")
    if not name:
        return None
    if not Path(name).is_absolute() or set(name) & set("'\"\\%$`\n"):
        raise Permanent(
            "setting-wrong", "archive must be an absolute path without quotes", "write /path/to/folder"
        )
    if not Path(name).is_dir():
        words = f"the archived WAL is missing: {name} is not a folder"
        raise Permanent("backup-no-repository", words, "mount it, or correct `archive`")
    return Path(name)


async def _refuse_unreadable(archive: Path, account: Any, watch: Stopwatch) -> None:
    """Raise `Permanent` if the owner of the data may not read all of the archive: PostgreSQL takes a failed
    command for the end of the log, and would silently return older data.
    """
    argv = (str(archive), "-maxdepth", "1", "-type", "f", "!", "-readable", "-print", "-quit")
    ended = await Tool("find", {}, account=account).run(*argv, timeout_s=watch.left_s, allowed=(0, 1))
    if ended.code or ended.output.strip():
        who = account.pw_name if account is not None else "evac"
        words = f"the account {who} may not read {ended.output.strip() or archive}"
        raise Permanent("backup-forbidden", words, f"give it read permission for the archived WAL: {archive}")


async def _refuse_damaged(into: Filling) -> None:
    """Raise `Permanent` for an archive with a gap or damage: PostgreSQL takes that for the end of the log,
    and would silently return older data. PostgreSQL itself refuses a restore point after it.
    """
    problems = await archive_problems(into.action, into.folder, into.copy.source, into.watch)
    restored_postgres.refuse_damaged_log(problems)


def _segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if SEGMENT.fullmatch(path.name))


def _sums(content: Path) -> dict[str, FileSum]:
    """Checksums in the manifest, by file path. Raises `Permanent` if it is unreadable."""
    with (content / MANIFEST).open("rb") as file:
        found = document(file.read(MANIFEST_BYTES).decode("utf-8", "replace"), MANIFEST)
    try:
        return {
            one["Path"]: FileSum(int(one["Size"]), str(one["Checksum"]))
            for one in found["Files"]
            if "Path" in one and one.get("Checksum-Algorithm") == "SHA256"
        }
    except (LookupError, TypeError, ValueError) as error:
        words = "the manifest of the backup cannot be read"
        raise Permanent("backup-output", words, "check the version of pg_basebackup") from error


async def archive_problems(action: Action, content: Path, source: str, watch: Stopwatch) -> list[str]:
    """Problems of the archived log that PostgreSQL reads from a backup to the end of the newest timeline.
    content: the folder of the backup; source: the system that it states as its origin.
    """
    found = await _route_from(action, content, watch)
    problems = list(found.problems)
    for names in [] if problems else unbroken(found.segments, found.size):
        log = Log(names, names[-1], found.size, source)
        if problems := await _log_problems(action, Path(text(action.settings, "archive")), log, watch):
            break
    return problems


async def _route_from(action: Action, content: Path, watch: Stopwatch) -> Route:
    """The archived log that PostgreSQL reads from a backup to the end of the newest timeline."""
    archive, brought = _archive(action), _segments(content / "pg_wal")
    if archive is None or not brought:
        return Route(())
    size = _size(content, brought)
    found: Route = await in_time(lambda: _route(archive, brought, size), watch, READING)
    return found


async def _part_problems(
    action: Action, copies: Sequence[Kept], part: int, of: int, watch: Stopwatch
) -> list[str]:
    """Damage in one part of the archive from the oldest backup on. A gap there is not damage: a retention may
    keep backups longer than the log between them, and PostgreSQL needs no timeline that was left.
    """
    archive = _archive(action)
    brought = [(one, found) for one in copies if (found := _segments(one.content / "pg_wal"))]
    if archive is None or not brought:
        return []
    last, size = brought[-1][0], _size(brought[-1][0].content, brought[-1][1])
    first = min(found[0] for _, found in brought)
    names: list[str] = await in_time(lambda: _segments(archive), watch, READING)
    wrong: list[str] = []
    for run in unbroken([name for name in names if name >= first], size):
        for block, segments, ends in blocks(run, size, BLOCK):
            if block % of == part - 1:
                log = Log(segments, ends, size, last.report.source)
                wrong += await _log_problems(action, archive, log, watch)
    return wrong


def _size(content: Path, brought: Sequence[str]) -> int:
    """The size of a segment, by those in a backup. Raises `Permanent` for one that PostgreSQL cannot have."""
    size = (content / "pg_wal" / brought[-1]).stat().st_size
    if size not in SIZES:
        words = f"{content.parent.name}: a segment of its log has {size:,} bytes"
        raise Permanent("backup-corrupt", words, "prove the backup, or restore an older one")
    return size


def _route(archive: Path, brought: Sequence[str], size: int) -> Route:
    names = {path.name for path in archive.iterdir()}
    start = timeline_of(brought[-1])
    newest, _ = newest_timeline(start, names)
    history = ""
    if newest != start:
        with (archive / history_name(newest)).open("rb") as file:
            history = file.read(HISTORY_BYTES).decode("utf-8", "replace")
    return route_to_end(brought, names, history, size)


@dataclass(frozen=True, slots=True)
class Log:
    """Archived segments that follow one another. ends: the one in which their last record may end."""

    names: Sequence[str]
    ends: str
    size: int
    source: str


async def _log_problems(action: Action, archive: Path, log: Log, watch: Stopwatch) -> list[str]:
    """Problems of segments that follow one another. Records are read by pg_waldump, which knows their
    checksums; all other bytes are compared with what PostgreSQL writes there.
    """
    if problems := await _in_thread(lambda stop: _foreign(archive, log, stop), watch):
        return problems
    first = log.names[0]
    tool = _at(action, "pg_waldump")
    argv = ("--quiet", "--path", str(archive), first, log.ends)
    ended = await tool.run(*argv, timeout_s=watch.left_s, allowed=(0, 1))
    if ended.code and (problem := _ended_early(ended.errors, archive, first, log.ends)):
        return [problem]
    return await _in_thread(lambda stop: _stray(archive, log, stop), watch)


async def _in_thread(read: Callable[[Event], list[str]], watch: Stopwatch) -> list[str]:
    """What a function finds that reads the archive until it is stopped: a thread cannot be cancelled."""
    stop = Event()
    try:
        found: list[str] = await in_time(lambda: read(stop), watch, READING)
    finally:
        stop.set()
    return found


def _foreign(archive: Path, log: Log, stop: Event) -> list[str]:
    """The first segment of another size or another system, which pg_waldump does not compare."""
    for name in log.names:
        if stop.is_set():
            break
        with (archive / name).open("rb") as file:
            system = int.from_bytes(file.read(SYSTEM_AT + 8)[SYSTEM_AT:], sys.byteorder)
            found = os.fstat(file.fileno()).st_size
        if found != log.size:
            return [f"the archived WAL is damaged: {name} has {found:,} bytes instead of {log.size:,}"]
        if log.source and log.source != f"system {system}":
            return [f"the segment {name} belongs to the system {system}, but the backup to {log.source}"]
    return []


def _stray(archive: Path, log: Log, stop: Event) -> list[str]:
    for name in log.names:
        if stop.is_set():
            break
        strange = stray_byte((archive / name).read_bytes(), timeline_of(name))
        if strange is not None:
            return [f"the archived WAL is damaged: {name} is wrong at byte {strange}, outside its records"]
    return []


def _ended_early(said: str, archive: Path, first: str, last: str) -> str:
    """Why pg_waldump stopped; empty if that is the end of the log."""
    if missing := _NO_FILE.search(said):
        gone = missing[1]
        return f"the segment {gone} of the archived WAL is missing" if gone <= last else ""
    if ends := _ENDS_AT.search(said):
        size = (archive / last).stat().st_size
        position = (int(ends[3], 16) << 32) + int(ends[4], 16)
        name = segment_name(timeline_of(first), position // size, size)
        with (archive / last).open("rb") as file:
            file.seek(position % size)
            if name == last and not any(file.read()):
                return ""  # the remainder of the last segment was never written
    return f"the archived WAL is damaged: {' '.join(said.split())[-200:]}"
