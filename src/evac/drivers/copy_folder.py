"""Backups in a plain folder, for engines whose own tool writes a copy but keeps no repository.

REPOSITORY/evac-repository        its id, one line: a folder without it may be a missing mount
REPOSITORY/STORE/ID/copy.json     when it was taken, by what, and size and SHA-256 of every file
REPOSITORY/STORE/ID/content/      what the tool wrote

A backup is written under a hidden name, and gets its own once its record is on disk. One process at a time
writes the backups of a store. evac deletes only leftovers of interrupted backups.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac.drivers.backups import (
    BackupDriver,
    Filled,
    Filling,
    Stopwatch,
    Tool,
    document,
    in_time,
    newest,
    number,
    unreadable,
    word,
)
from evac.drivers.bandwidth import DOWNLOAD, UPLOAD, Pace, limit
from evac.drivers.capabilities import (
    PARTS_PER_MILLION,
    READ,
    STRUCTURE,
    Begins,
    CopyReport,
    Listing,
    Proof,
    Taken,
)
from evac.drivers.parameters import plain_name, text
from evac.drivers.places import HASH_BYTES, everything_below, length_and_digest, sync
from evac.drivers.port import Action
from evac.model.errors import ActionError, Permanent, Retryable
from evac.model.records import dataclass

MARK: Final = "evac-repository"
RECORD: Final = "copy.json"
CONTENT: Final = "content"
PARTIAL: Final = ".partial-"
LOCK: Final = ".lock"
RECORD_BYTES: Final = 64 << 20
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)+[^\s,]*")


@dataclass(frozen=True, slots=True)
class FileSum:
    """Size and SHA-256 of one file of a backup."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Dumped:
    """What a tool wrote."""

    source: str = ""
    """The source of the backup, as the engine names it."""
    sums: Mapping[str, FileSum] = field(default_factory=lambda: MappingProxyType({}))
    """Checksums of files that the engine computed while reading; the others are read again."""
    consistent_at: int | None = None
    """As in `CopyReport`."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One backup in the folder. An unreadable record makes it a failed one."""

    path: Path
    report: CopyReport
    sums: Mapping[str, FileSum]

    @property
    def content(self) -> Path:
        return self.path / CONTENT

    def misplaced(self) -> list[str]:
        """Problems found in names and sizes. Raises OSError."""
        found = {name: path.stat().st_size for name, path in files_of(self.content)}
        wrong = [f"{name} is missing" for name in self.sums.keys() - found.keys()]
        wrong += [f"{name} is not part of the backup" for name in found.keys() - self.sums.keys()]
        wrong += [
            f"{name} has {found[name]:,} bytes instead of {one.bytes:,}"
            for name, one in self.sums.items()
            if found.get(name, one.bytes) != one.bytes
        ]
        return [f"{self.report.id}: {words}" for words in sorted(wrong)]

    def damaged(self, names: Iterable[str], pace: Pace) -> list[str]:
        """Files whose content has changed. Raises OSError."""
        wrong = [
            name
            for name in names
            if FileSum(*length_and_digest(self.content / name, pace.passed)) != self.sums[name]
        ]
        return [f"{self.report.id}: the content of {name} differs from what was backed up" for name in wrong]


@dataclass(frozen=True, slots=True)
class CopyFolder:
    """The backups of one store in a repository."""

    repository: Path
    store: str

    @property
    def path(self) -> Path:
        return self.repository / self.store

    def id(self, pinned: str) -> str:
        """The id of the repository. Raises `Permanent` if it has none, or not the pinned one."""
        try:
            id_ = (self.repository / MARK).read_text(encoding="utf-8")[:200].strip()
        except (OSError, UnicodeDecodeError):
            id_ = ""
        if not id_:
            words = f"{self.repository} is not a repository: it has no file {MARK} with an ID"
            hint = (
                "mount it, or create a repository with an ID of your choice: echo ID "
                f"> {self.repository}/{MARK}"
            )
            raise Permanent("backup-no-repository", words, hint)
        if pinned and id_ != pinned:
            words = f"this is the repository {id_[:36]}, but {pinned[:36]} was expected"
            raise Permanent("backup-other-repository", words, "check `repository` and `repository_id`")
        return id_

    def copies(self) -> list[Kept]:
        """Oldest first. Raises OSError."""
        if not self.path.is_dir():
            return []
        found = [one for one in self.path.iterdir() if one.is_dir() and not one.name.startswith(".")]
        return sorted(map(_kept, found), key=lambda one: (one.report.taken_at, one.report.id))

    @contextlib.contextmanager
    def alone(self) -> Iterator[int]:
        """Lock the backups of the store, and remove leftovers of an interrupted backup. Yields the open lock,
        for programs to inherit. Raises `Retryable` while another process, or a program of it, has it.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                words = f"another backup is being written to {self.path}"
                raise Retryable("backup-locked", words, "wait for it to finish", 60_000) from error
            for left in self.path.glob(f"{PARTIAL}*"):
                shutil.rmtree(left)
            yield handle
        finally:
            os.close(handle)

    def is_locked(self) -> bool:
        """Whether a backup is being written. Raises OSError."""
        if not (self.path / LOCK).exists():
            return False
        with (self.path / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @contextlib.contextmanager
    def partial(self, id_: str) -> Iterator[Path]:
        """A folder for a backup in progress; removed at the end unless `keep` renamed it."""
        folder = self.path / f"{PARTIAL}{id_}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, folder: Path, record: Mapping[str, object], id_: str) -> Kept:
        """Write the record of a finished backup to disk, and give it its name."""
        body = orjson.dumps(record)
        with (folder / RECORD).open("wb") as file:
            file.write(orjson.dumps({"sha256": hashlib.sha256(body).hexdigest()}) + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        for _, path in files_of(folder / CONTENT):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync(folder)
        folder.rename(self.path / id_)
        sync(self.path)
        return _kept(self.path / id_)


class CopyFolderDriver(BackupDriver):
    """Lists, proves and copies backups in the folder; a subclass defines how its tool writes and starts
    one.
    """

    program: str
    """Program that writes backups, unless the settings name another."""
    asks_version = "--version"
    """Argument that makes it print its version."""

    async def _list(self, action: Action, timeout_s: float) -> Listing:
        watch, folder = Stopwatch(timeout_s), copy_folder(action)
        version = await self._version(action, watch)

        def look() -> Listing:
            repository = folder.id(text(action.settings, "repository_id", ""))
            copies = tuple(one.report for one in folder.copies())
            at = folder.path if folder.path.exists() else folder.repository
            return Listing(repository, copies, self.name, version, folder.is_locked(), os.access(at, os.W_OK))

        found: Listing = await _on_disk(look, watch, folder)
        return found

    async def take(self, action: Action, timeout_s: float) -> Taken:
        watch, folder = Stopwatch(timeout_s), copy_folder(action)
        version = await self._version(action, watch)
        await _on_disk(lambda: folder.id(text(action.settings, "repository_id", "")), watch, folder)
        with _written(folder), folder.alone() as lock:
            began = datetime.now(UTC)
            id_ = began.strftime("%Y%m%dT%H%M%S.%fZ")
            _refuse_past(folder, int(began.timestamp()))
            with folder.partial(id_) as begun:
                content = begun / CONTENT
                content.mkdir(mode=0o700)
                dumped = await self._dump(action, content, watch, lock)
                with Pace(limit(action.settings, DOWNLOAD)) as pace:
                    sums = await in_time(
                        lambda: _sums(content, dumped.sums, pace), watch, "reading the backup"
                    )
                if not any(one.bytes for one in sums.values()):
                    words = f"{self.program} succeeded but wrote nothing"
                    raise Permanent("backup-incomplete", words, "check the log of the store")
                record = {
                    "taken_at": int(began.timestamp()),
                    "consistent_at": dumped.consistent_at,
                    "source": dumped.source,
                    "original": "",
                    "tool": self.name,
                    "version": version,
                    "files": {name: [one.bytes, one.sha256] for name, one in sorted(sums.items())},
                }
                kept = await in_time(lambda: folder.keep(begun, record, id_), watch, "writing the backup")
        size = kept.report.bytes or 0
        return Taken(kept.report, size, size, watch.took_ms)

    async def prove(self, action: Action, timeout_s: float, level: int, part: int, of: int) -> Proof:
        """Level 1: names and sizes. Level 2: the bytes of every file in the part, and the engine's own check
        of the backups in it.
        """
        if level not in (STRUCTURE, READ) or not 1 <= part <= of:
            raise Permanent("proof-unknown", f"{self.name} cannot prove level {level}, part {part} of {of}")
        watch, folder = Stopwatch(timeout_s), copy_folder(action)
        try:
            version = await self._version(action, watch)
            pinned = text(action.settings, "repository_id", "")
            id_: str = await _on_disk(lambda: folder.id(pinned), watch, folder)
            copies: list[Kept] = await _on_disk(folder.copies, watch, folder)
            wrong = [f"{one.report.id}: its record cannot be read" for one in copies if one.report.failed]
            copies = [one for one in copies if not one.report.failed]
            for one in copies:
                wrong += await _on_disk(one.misplaced, watch, folder)
            mine, read, total = _part(copies, part, of)
            if level == READ and not wrong:
                with Pace(limit(action.settings, DOWNLOAD)) as pace:
                    for one, names in mine:
                        wrong += await _on_disk(partial(one.damaged, names, pace), watch, folder)
                if not wrong:
                    with _written(folder):
                        wrong += await self._look_inside(action, copies, watch) if part == of else []
                        wrong += await self._look_at_log(action, copies, part, of, watch)
        except ActionError as error:
            return self._unproven(action, watch, level, error)
        said = partial(self._proof, action, watch, level, version=version, repository=id_)
        if wrong:
            return said("damaged", code="backup-corrupt", detail="; ".join(wrong[:5]))
        if level == STRUCTURE:
            return said("passed")
        if not read:
            words = f"part {part} of {of} contains no data"
            return said("could-not-run", code="nothing-read", detail=words)
        return said("passed", read=read, share=read * PARTS_PER_MILLION // total)

    async def copy_on(self, action: Action, timeout_s: float, to: Action, begins: Begins) -> Taken:
        watch, here, there = Stopwatch(timeout_s), copy_folder(action), copy_folder(to)
        await _on_disk(lambda: there.id(text(to.settings, "repository_id", "")), watch, there)
        report = newest(await self._list(action, watch.left_s), "", None)
        kept = _kept(here.path / report.id)
        found = there.path / report.id
        await begins(report, [_kept(found).report] if found.exists() else [])
        with _written(there), there.alone():
            if found.exists():
                # Copies share the id of their original. To record one that differs as incomplete by its id
                # would hold for all others as well.
                if _kept(found).report.tree != report.tree:
                    words = f"{found} and {kept.path} have different contents"
                    raise Permanent("copy-differs", words, "prove both backups")
                return Taken(_kept(found).report, report.bytes or 0, 0, watch.took_ms)
            limits = (limit(action.settings, DOWNLOAD), limit(to.settings, UPLOAD))
            with there.partial(report.id) as begun, Pace(*limits) as pace:
                await in_time(lambda: _copied(kept, begun / CONTENT, pace), watch, "copying")
                record = _record(kept.path) | {"original": report.original or report.id}
                made = await in_time(
                    lambda: there.keep(begun, record, report.id), watch, "writing the backup"
                )
        return Taken(made.report, report.bytes or 0, made.report.bytes or 0, watch.took_ms)

    async def _fill(self, into: Filling) -> Filled:
        """Restore the content, comparing checksums, then let the engine accept it."""
        kept = _kept(copy_folder(into.action).path / into.copy.id)
        await self._bring(into, kept)
        return await self._recover(into)

    async def _bring(self, into: Filling, kept: Kept) -> None:
        """Copy the content into the folder. Raises `Permanent` if it has changed since the backup."""
        folder = into.folder
        with Pace(limit(into.action.settings, DOWNLOAD)) as pace:
            await in_time(lambda: _copied(kept, folder, pace, exists=True), into.watch, "restoring")

    async def _compare(self, into: Filling, kept: Kept) -> None:
        """Raise `Permanent` if the content has changed since the backup; for engines that read it in
        place.
        """
        with Pace(limit(into.action.settings, DOWNLOAD)) as pace:
            wrong = await in_time(
                lambda: kept.misplaced() or kept.damaged(kept.sums, pace), into.watch, "reading"
            )
        if wrong:
            raise Permanent("backup-corrupt", wrong[0], "prove the backup, or restore an older one")

    async def _version(self, action: Action, watch: Stopwatch) -> str:
        """The first number in the program's version output."""
        tool = Tool(text(action.settings, "program", self.program), {})
        ended = await tool.run(self.asks_version, timeout_s=watch.left_s)
        said = _NUMBER.search(ended.output or ended.errors)
        if said is None:
            raise unreadable(self.name, "no version")
        return said[0][:40]

    async def _look_inside(self, action: Action, copies: Sequence[Kept], watch: Stopwatch) -> list[str]:
        """Problems that the engine's own checker finds in backups with correct checksums."""
        return []

    async def _look_at_log(
        self, action: Action, copies: Sequence[Kept], part: int, of: int, watch: Stopwatch
    ) -> list[str]:
        """Problems in one part of the log beside the backups."""
        return []

    @abstractmethod
    async def _dump(self, action: Action, content: Path, watch: Stopwatch, lock: int) -> Dumped:
        """Write a backup into an empty folder. Raises `ActionError`."""

    @abstractmethod
    async def _recover(self, into: Filling) -> Filled:
        """Let the engine accept the restored data, query its content, and stop it."""


def copy_folder(action: Action) -> CopyFolder:
    """The folder of an endpoint's store. Raises `Permanent`."""
    repository = Path(text(action.settings, "repository"))
    if not repository.is_absolute() or ".." in repository.parts:
        raise Permanent(
            "setting-wrong", "repository must be the absolute path of a folder", "write /path/to/folder"
        )
    return CopyFolder(repository, plain_name(action.target, "the store"))


def files_of(folder: Path) -> list[tuple[str, Path]]:
    """Every file below a folder, by its relative path. Raises OSError."""
    found = [
        (path.relative_to(folder).as_posix(), path)
        for path, about in everything_below(folder)
        if not stat.S_ISDIR(about.st_mode)
    ]
    return sorted(found)


def _sums(content: Path, known: Mapping[str, FileSum], pace: Pace) -> dict[str, FileSum]:
    return {
        name: known.get(name) or FileSum(*length_and_digest(path, pace.passed))
        for name, path in files_of(content)
    }


def _part(copies: Sequence[Kept], part: int, of: int) -> tuple[list[tuple[Kept, list[str]]], int, int]:
    """The files of one part of several, by backup; their bytes, and those of all."""
    mine: list[tuple[Kept, list[str]]] = []
    read = total = place = 0
    for one in copies:
        names: list[str] = []
        for name, found in one.sums.items():
            total += found.bytes
            if place % of == part - 1:
                names.append(name)
                read += found.bytes
            place += 1
        mine.append((one, names))
    return mine, read, total


def _copied(kept: Kept, to: Path, pace: Pace, exists: bool = False) -> None:
    """Copy the content, comparing each file with its checksum on the way. Raises `Permanent`."""
    if wrong := kept.misplaced():
        raise Permanent("backup-corrupt", wrong[0], "prove the backup, or restore an older one")
    if not exists:
        to.mkdir(mode=0o700)
    for path, about in everything_below(kept.content):
        if stat.S_ISDIR(about.st_mode):
            (to / path.relative_to(kept.content)).mkdir(mode=0o700)
    for name, wanted in kept.sums.items():
        digest = hashlib.sha256()
        with (kept.content / name).open("rb") as source, (to / name).open("xb") as target:
            while part := source.read(HASH_BYTES):
                digest.update(part)
                target.write(part)
                pace.passed(len(part))
        if digest.hexdigest() != wanted.sha256:
            words = f"{kept.report.id}: the content of {name} differs from what was backed up"
            raise Permanent("backup-corrupt", words, "prove the backup, or restore an older one")


def _record(path: Path) -> dict[str, Any]:
    """The record of a backup. Raises `Permanent` if it is damaged or has another form, OSError."""
    with (path / RECORD).open("rb") as file:
        head, _, body = file.read(RECORD_BYTES).partition(b"\n")
    said = document(head.decode("utf-8", "replace"), RECORD)
    if not isinstance(said, dict) or said.get("sha256") != hashlib.sha256(body).hexdigest():
        raise unreadable(RECORD, "its content differs from what was written")
    found = document(body.decode("utf-8", "replace"), RECORD)
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise unreadable(RECORD, "no files")
    return found


def _kept(path: Path) -> Kept:
    try:
        found = _record(path)
        sums = {
            word(name, RECORD): FileSum(number(one[0], RECORD), word(one[1], RECORD))
            for name, one in found["files"].items()
        }
        consistent_at = found.get("consistent_at")
        lines = "".join(f"{name}\0{one.bytes}\0{one.sha256}\n" for name, one in sorted(sums.items()))
        tree = f"sha256:{hashlib.sha256(lines.encode('utf-8', 'surrogateescape')).hexdigest()}"
        report = CopyReport(
            path.name,
            number(found.get("taken_at"), RECORD),
            sum(one.bytes for one in sums.values()),
            len(sums),
            source=word(found.get("source", ""), RECORD),
            original=word(found.get("original", ""), RECORD),
            tree=tree,
            consistent_at=None if consistent_at is None else number(consistent_at, RECORD),
        )
    except (ActionError, OSError, LookupError, TypeError):
        return Kept(path, CopyReport(path.name, 0, failed=True), {})
    return Kept(path, report, sums)


def _refuse_past(folder: CopyFolder, now: int) -> None:
    """Refuse a backup dated before the newest one, because it would never be restored by default."""
    last = max((one.report.taken_at for one in folder.copies()), default=0)
    if last > now:
        words = f"the clock is {last - now:,} s behind the newest backup in {folder.path}"
        raise Permanent(
            "backup-clock", words, "correct the clock, or remove the backup that is dated in the future"
        )


async def _on_disk(work: Any, watch: Stopwatch, folder: CopyFolder) -> Any:
    """The result of reading the folder. Raises `Retryable` for a disk that does not respond."""
    with _written(folder):
        return await in_time(work, watch, f"reading {folder.repository}")


@contextlib.contextmanager
def _written(folder: CopyFolder) -> Iterator[None]:
    """Convert disk errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            words = f"{folder.repository} has no space left"
            raise Permanent("backup-full", words, "free some space, or remove old backups") from error
        if isinstance(error, PermissionError):
            words = f"evac may not use {error.filename or folder.path}"
            hint = f"give evac's account write permission for {folder.path}"
            raise Permanent("backup-forbidden", words, hint) from error
        words = f"{error.filename or folder.path}: {error.strerror}"
        raise Retryable("backup-silent", words, "check that the disk works") from error


_FULL: Final = frozenset({28, 122})
"""ENOSPC, EDQUOT."""
