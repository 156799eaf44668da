"""Driver for pg_basebackup of PostgreSQL 13 and later.

A base backup includes the log that it needs, and its manifest has the checksum of every file as the server
read it. Later log is in the archive, which no manifest covers: it is read record by record, and a gap or a
damaged record before its end is damage. A tablespace would be written to its own full path, over existing
data: such a store is refused.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from evac.drivers import restored_postgres
from evac.drivers.backups import Filled, Filling, Stopwatch, Tool, document, in_time
from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.copy_folder import CopyFolderDriver, Dumped, FileSum, Kept
from evac.drivers.parameters import text
from evac.drivers.pg_basebackup.segment import stray_byte
from evac.drivers.port import Action
from evac.drivers.restored_postgres import TIMELINE_LETTERS
from evac.drivers.restored_server import account_of, give, refuse_closed
from evac.model.errors import Permanent, Retryable

MANIFEST: Final = "backup_manifest"
MANIFEST_BYTES: Final = 256 << 20
SEGMENTS_MOST: Final = 64
"""Newest log segments searched for the last transaction."""
SYSTEM_AT: Final = 24
"""Offset of the system identifier in a segment (`XLogLongPageHeaderData`)."""
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
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
            last = copies[-1]
            wrong += await archive_problems(action, last.content, last.report.source, watch)
            wrong += await _older_problems(action, copies, watch)
        return wrong

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
    if problems:
        words = f"the newest state cannot be restored: {problems[0]}"
        raise Permanent("archive-damaged", words, "restore to an earlier point in time: --moment STORE=TIME")


def _segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _SEGMENT.fullmatch(path.name))


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
    """Problems of the archive from the last segment of a backup to the archive's last, also on timelines that
    began later. content: the folder of the backup; source: the system that it states as its origin.
    """
    archive, brought = _archive(action), _segments(content / "pg_wal")
    if archive is None or not brought:
        return []
    first = brought[-1]
    later = [name for name in _segments(archive) if name >= first]
    mine = [name for name in later if _timeline(name) == _timeline(first)]
    if mine and mine[0] != first:
        return [f"the segment {first} of the archived WAL is missing"]
    for timeline in sorted({*map(_timeline, later)}):
        runs = _unbroken([name for name in later if _timeline(name) == timeline], archive)
        if len(runs) > 1:
            return [f"the segment {_after(runs[0][-1], archive)} of the archived WAL is missing"]
        if problems := await _log_problems(action, archive, runs[0], source, watch):
            return problems
    return []


async def _older_problems(action: Action, copies: Sequence[Kept], watch: Stopwatch) -> list[str]:
    """Damage in the archive between the oldest backup and the newest one. A gap there is not damage: a
    retention may keep backups longer than the log between them.
    """
    archive = _archive(action)
    brought = [found[-1] for one in copies if (found := _segments(one.content / "pg_wal"))]
    if archive is None or not brought:
        return []
    between = [name for name in _segments(archive) if min(brought) <= name < brought[-1]]
    wrong: list[str] = []
    for timeline in sorted({*map(_timeline, between)}):
        for names in _unbroken([name for name in between if _timeline(name) == timeline], archive):
            wrong += await _log_problems(action, archive, names, copies[-1].report.source, watch)
    return wrong


def _timeline(name: str) -> int:
    return int(name[:TIMELINE_LETTERS], 16)


def _unbroken(names: Sequence[str], archive: Path) -> list[list[str]]:
    """Segments of one timeline, cut where one is missing."""
    runs: list[list[str]] = []
    for name in names:
        if runs and _after(runs[-1][-1], archive) == name:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs


def _after(name: str, archive: Path) -> str:
    """The name of the segment that continues another one."""
    size = max((archive / name).stat().st_size, 1)
    each = (1 << 32) // size
    number = int(name[8:16], 16) * each + int(name[16:], 16)
    return f"{name[:TIMELINE_LETTERS]}{_number((number + 1) * size, size)}"


async def _log_problems(
    action: Action, archive: Path, names: Sequence[str], source: str, watch: Stopwatch
) -> list[str]:
    """Problems of segments that follow one another. Records are read by pg_waldump, which knows their
    checksums; all other bytes are compared with what PostgreSQL writes there.
    """
    for name in names:
        system = _system(archive / name)
        if source and source != f"system {system}":
            return [f"the segment {name} belongs to the system {system}, but the backup to {source}"]
    first, last = names[0], names[-1]
    tool = _at(action, "pg_waldump")
    ended = await tool.run(
        "--quiet", "--path", str(archive), first, last, timeout_s=watch.left_s, allowed=(0, 1)
    )
    if ended.code and (problem := _ended_early(ended.errors, archive, first, last)):
        return [problem]

    def around() -> list[str]:
        for name in names:
            strange = stray_byte((archive / name).read_bytes(), _timeline(name))
            if strange is not None:
                return [
                    f"the archived WAL is damaged: {name} is wrong at byte {strange}, outside its records"
                ]
        return []

    found: list[str] = await in_time(around, watch, "reading the archived WAL")
    return found


def _ended_early(said: str, archive: Path, first: str, last: str) -> str:
    """Why pg_waldump stopped; empty if that is the end of the log."""
    if missing := _NO_FILE.search(said):
        gone = missing[1]
        return f"the segment {gone} of the archived WAL is missing" if gone <= last else ""
    if ends := _ENDS_AT.search(said):
        size = (archive / last).stat().st_size
        position = (int(ends[3], 16) << 32) + int(ends[4], 16)
        name = f"{first[:TIMELINE_LETTERS]}{_number(position, size)}"
        with (archive / last).open("rb") as file:
            file.seek(position % size)
            if name == last and not any(file.read()):
                return ""  # the remainder of the last segment was never written
    return f"the archived WAL is damaged: {' '.join(said.split())[-200:]}"


def _system(segment: Path) -> int:
    """The system identifier in a segment's header, which pg_waldump does not check."""
    with segment.open("rb") as file:
        return int.from_bytes(file.read(SYSTEM_AT + 8)[SYSTEM_AT:], sys.byteorder)


def _number(position: int, size: int) -> str:
    """The second and third part of the name of the segment that contains a position."""
    number, each = position // size, (1 << 32) // size
    return f"{number // each:08X}{number % each:08X}"
