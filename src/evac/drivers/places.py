"""Empty folders that a restore fills, so that a partial restore cannot be mistaken for data.

A place is a folder. It is filled under a temporary name next to it, and gets its own name once complete. Next
to it are a lock, also held by the programs that fill it, and a record of what was restored, by whom.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import field, fields
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

import orjson

from evac.drivers.parameters import stale_token
from evac.drivers.port import Order
from evac.model.errors import Permanent, Retryable
from evac.model.records import dataclass

LOCKED: Final = "restore-under-way"
"""The code of a place that another process, or a program of it, is filling."""
RECORD_BYTES: Final = 65_536
HASH_BYTES: Final = 1 << 20
LARGE_BYTES: Final = HASH_BYTES // 8
"""Files of at least this size are read in parallel."""
EARLY_MOST: Final = 100_000
"""Files that are read early; the others are read at the end."""
READERS_MOST: Final = min(4, len(os.sched_getaffinity(0)))
BATCH: Final = 256
"""Files handled together, so that large ones among them are read in parallel."""
SETTLED_NS: Final = 2_000_000_000
"""Time without writes after which file times can be trusted."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was restored into a place, and under which order; `complete` only once everything was checked."""

    key: str = ""
    token: int = 0
    epoch: int = 0
    copy: str = ""
    bytes: int = 0
    took_ms: int = 0
    reached_at: int | None = None
    as_of: int | None = None
    """The restore point in seconds since 1970; the newest write may be older."""
    complete: bool = False
    facts: Mapping[str, str | int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class RestorePlace:
    """A folder to restore into, and the files next to it."""

    path: Path

    @property
    def partial(self) -> Path:
        """The folder while it is being filled."""
        return self.path.parent / f".{self.path.name}.evac-restoring"

    @property
    def record(self) -> Path:
        return self.path.parent / f".{self.path.name}.evac-restored"

    @property
    def lock(self) -> Path:
        return self.path.parent / f".{self.path.name}.evac-lock"

    @property
    def temporary(self) -> Path:
        """A folder for temporary files of the server that runs here; below its data it would be data."""
        return self.path.parent / f".{self.path.name}.evac-tmp"

    @property
    def is_filled(self) -> bool:
        """Whether it exists. Raises OSError if it cannot be inspected."""
        return self.path.is_dir() and any(self.path.iterdir())

    def refuse(self) -> None:
        """Raise `Permanent` if it cannot be filled."""
        code, problem = "place-wrong", ""
        hint = "choose a folder that is empty or does not exist yet; evac overwrites nothing"
        try:
            if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
                problem = f"{self.path} is not a folder"
            elif is_mounted(self.path):  # nothing can be renamed to it, and what fills it is elsewhere
                problem = f"{self.path} is a mount point"
                hint = f"restore into a new folder below it, such as {self.path / 'data'}"
            elif self.is_filled:
                code, problem = "place-not-empty", f"{self.path} is not empty"
            elif not self.path.parent.is_dir():
                problem, hint = (
                    f"{self.path.parent} does not exist",
                    f"create it: mkdir -p {self.path.parent}",
                )
        except OSError as error:
            problem = f"{self.path} cannot be read: {error.strerror}"
        if problem:
            raise Permanent(code, problem, hint)

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Lock it; yields the open lock, for programs to inherit, and removes its file once no one holds it.
        Raises `Retryable` while another restore, or a program that one left behind, holds it.
        """
        while (handle := self._locked(os.O_CREAT)) is None:
            pass
        try:
            yield handle
        finally:
            os.close(handle)
            with contextlib.suppress(OSError, Retryable):
                if (last := self._locked(0)) is not None:
                    try:
                        self.lock.unlink()
                    finally:
                        os.close(last)

    def _locked(self, creates: int) -> int | None:
        """Its lock, or None if someone removed the file. Raises `Retryable` if it is held, OSError."""
        handle = os.open(self.lock, os.O_RDWR | creates | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            words = f"another restore, or a program that it left running, is writing to {self.path}"
            raise Retryable(LOCKED, words, "wait for it to finish", 1_000) from error
        if _same(handle, self.lock):
            return handle
        os.close(handle)
        return None

    def is_held(self) -> bool:
        """Whether a restore is filling it."""
        try:
            with self.held():
                return False
        except (Retryable, OSError):
            return True

    def read(self) -> Record:
        """What was restored; an empty record if nothing was. Raises `Permanent` if that cannot be
        determined.
        """
        try:
            with self.record.open("rb") as file:
                found = orjson.loads(file.read(RECORD_BYTES))
            return Record(**{**found, "facts": MappingProxyType(dict(found["facts"]))})
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Permanent("place-record", f"{self.record} cannot be read", "check it by hand") from error

    def write(self, record: Record) -> None:
        """Write a record durably."""
        new = self.record.with_name(self.record.name + ".new")
        body = orjson.dumps(
            {one.name: getattr(record, one.name) for one in fields(record)} | {"facts": dict(record.facts)}
        )
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.record)
        sync(self.path.parent)

    def complete(self) -> None:
        """Rename the completed folder atomically to its own name. Raises `Permanent` if something else was
        put there in the meantime.
        """
        try:
            self.partial.rename(self.path)
        except OSError as error:
            words = f"{self.path} no longer takes what was restored: {error.strerror}"
            raise Permanent("place-unusable", words, "choose a folder that nothing else uses") from error
        sync(self.path.parent)

    def remove(self) -> None:
        """Delete everything that a restore left here, complete or not."""
        for folder in (self.path, self.partial, self.temporary):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        for file in (self.record, self.record.with_name(self.record.name + ".new"), self.lock):
            file.unlink(missing_ok=True)


def is_mounted(path: Path) -> bool:
    """Whether a file system, or a folder of one, is mounted at a folder. Raises OSError."""
    with Path("/proc/self/mountinfo").open("rb") as table:
        here = os.fsencode(path.parent.resolve() / path.name)
        return os.path.ismount(path) or any(mounted_at(line) == here for line in table)


def mounted_at(line: bytes) -> bytes:
    """The mount point in a line of `/proc/self/mountinfo`, as in proc_pid_mountinfo(5): white space and
    backslashes in it are three octal digits. Empty if it is no such line.
    """
    parts = line.split(b" ", 5)
    if len(parts) < 6:
        return b""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes((int(found[1], 8) & 255,)), parts[4])


def place_at(name: str) -> RestorePlace:
    """The place with that path. Raises `Permanent` unless it is the full path of a folder below another
    one.
    """
    path = Path(name)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 3:
        raise Permanent(
            "place-wrong", f"{name!r} is not the absolute path of a folder", "write /path/to/folder"
        )
    return RestorePlace(path)


def refuse_older(place: RestorePlace, record: Record, order: Order) -> None:
    """Raise `Permanent` for a leader that was replaced, and for an epoch that has ended."""
    if order.token < record.token:
        raise stale_token(str(place.path), record.token, order)
    if order.epoch < record.epoch:
        words = f"{place.path} was restored under epoch {record.epoch}; {order.epoch} is no longer valid"
        raise Permanent("stale-epoch", words, "stop: its store has moved since then")


def sync(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of a folder."""

    files: int
    """Regular files; links are not included."""
    bytes: int
    digest: str
    """Digest of the name, size and SHA-256 of every file, and of the target of every link."""


def everything_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below a folder, in the order of names, with its stat result; links are not followed.

    Raises OSError for the first unreadable entry. All walks over data use this, so that nothing is skipped
    silently.
    """
    for top, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        for name in sorted([*folders, *names]):
            path = Path(top, name)
            yield path, path.lstat()


def _raise(error: OSError) -> None:
    raise error


class EarlyDigests:
    """Reads large files of a folder on all cores while a program is still writing others into it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closed = threading.Event()
        self._readers = ThreadPoolExecutor(READERS_MOST)
        self._read: dict[Path, Future[tuple[_Identity, int, str]]] = {}

    def written(self, name: str, size: int) -> None:
        """Note that a file is complete. name: its path below the folder."""
        path = self._folder / name.lstrip("/")
        if size >= LARGE_BYTES and len(self._read) < EARLY_MOST and ".." not in path.parts:
            self._read[path] = self._readers.submit(_identified_digest, path, self._refuse_closed)

    def digest(self, path: Path, now: os.stat_result) -> tuple[int, str] | None:
        """Size and digest of a file, or None if it was not read early to its end, or is no longer the file
        that was read.
        """
        reading = self._read.pop(path, None)
        if reading is None:
            return None
        try:
            identity, length, digest = reading.result()
        except (OSError, CancelledError):
            return None
        return (length, digest) if identity == _identity(now) and length == now.st_size else None

    def _refuse_closed(self, _: int) -> None:
        if self._closed.is_set():
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    def close(self) -> None:
        """Stop reading, also within a file. Waits for the readers: not for use on an event loop."""
        self._closed.set()
        self._readers.shutdown(wait=True, cancel_futures=True)


_Identity = tuple[int, int]


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _identified_digest(path: Path, passed: Callable[[int], None]) -> tuple[_Identity, int, str]:
    """Identity, size and digest of a regular file. Raises OSError for anything else, and as `passed` does."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return _identity(found), *_length_and_digest(file, passed)


def manifest_of(place: Path, early: EarlyDigests | None = None) -> Manifest:
    """Reads every file of a folder, or one file as if it were alone in its folder; large files on all cores.
    early: files that were already read. Raises OSError.
    """
    files = size = 0
    whole = hashlib.sha256()
    itself = place.lstat()
    is_file = stat.S_ISREG(itself.st_mode)
    folder = place.parent if is_file else place
    with ThreadPoolExecutor(READERS_MOST) as readers:
        left = iter([(place, itself)]) if is_file else everything_below(folder)
        while batch := list(islice(left, BATCH)):
            large = {
                path: readers.submit(_early_or_now, path, about, early)
                for path, about in batch
                if stat.S_ISREG(about.st_mode) and about.st_size >= LARGE_BYTES
            }
            for path, about in batch:
                if stat.S_ISDIR(about.st_mode):
                    continue
                if stat.S_ISLNK(about.st_mode):
                    line = f"{path.relative_to(folder)}\0link\0{path.readlink()}\n"
                elif not stat.S_ISREG(about.st_mode):  # a pipe or a device: reading one may never end
                    line = f"{path.relative_to(folder)}\0special\n"
                else:
                    length, digest = large[path].result() if path in large else length_and_digest(path)
                    line = f"{path.relative_to(folder)}\0{length}\0{digest}\n"
                    files, size = files + 1, size + length
                whole.update(line.encode("utf-8", "surrogateescape"))
    return Manifest(files, size, f"sha256:{whole.hexdigest()}")


def facts_of(found: Manifest) -> dict[str, str | int]:
    """Facts for a witness to compare."""
    return {"files": found.files, "bytes": found.bytes, "manifest": found.digest}


class SourceWitness:
    """Reads folders that are backed up. Unchanged folders are not read again: a write changes the kernel's
    change time of a file, which no program can set.
    """

    def __init__(self) -> None:
        self._read: dict[str, tuple[str, Manifest]] = {}
        """Folder -> change stamp, and its content."""

    def facts(self, paths: Sequence[str]) -> dict[str, str | int]:
        """Facts for a witness, if the source is a single folder or file; none for several. Raises
        `Retryable`.
        """
        if len(paths) != 1:
            return {}
        try:
            if not stat.S_ISDIR(Path(paths[0]).stat().st_mode) and not stat.S_ISREG(
                Path(paths[0]).lstat().st_mode
            ):
                return {}  # for a link, tools back up the link itself
            stamp, newest = _stamp(Path(paths[0]))
            known = self._read.get(paths[0])
            if known is not None and known[0] == stamp:
                return facts_of(known[1])
            begun, found = time.time_ns(), manifest_of(Path(paths[0]))
            # Two writes within one tick of the kernel's clock have the same time.
            settled = newest + SETTLED_NS < begun and _stamp(Path(paths[0]))[0] == stamp
        except OSError as error:
            words = f"{error.filename or paths[0]} cannot be read: {error.strerror}"
            raise Retryable("source-unread", words, "give evac read permission; check the disk") from error
        self._read.pop(paths[0], None)
        if settled:
            self._read[paths[0]] = (stamp, found)
        return facts_of(found)


def _stamp(folder: Path) -> tuple[str, int]:
    """A stamp that changes with every change of a file or below a folder, and the time of the newest one.
    Raises OSError.
    """
    whole, newest = hashlib.sha256(), 0
    below = everything_below(folder) if folder.is_dir() else ()
    for path, found in chain(((folder, folder.lstat()),), below):
        if stat.S_ISREG(found.st_mode):
            handle = os.open(
                path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            )  # file servers are queried again
            found = os.fstat(handle)
            os.close(handle)
        newest = max(newest, found.st_ctime_ns)
        seen = (found.st_dev, found.st_ino, found.st_mode, found.st_size)
        line = f"{path}\0{seen}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n"
        whole.update(line.encode("utf-8", "surrogateescape"))
    return whole.hexdigest(), newest


def length_and_digest(path: Path, passed: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Size and SHA-256 of a file. passed: called with the size of each piece. Raises OSError."""
    with path.open("rb") as file:
        return _length_and_digest(file, passed)


def _length_and_digest(file: BinaryIO, passed: Callable[[int], None] | None = None) -> tuple[int, str]:
    digest, length = hashlib.sha256(), 0
    while part := file.read(HASH_BYTES):
        if passed is not None:
            passed(len(part))
        digest.update(part)
        length += len(part)
    return length, digest.hexdigest()


def _early_or_now(path: Path, about: os.stat_result, early: EarlyDigests | None) -> tuple[int, str]:
    """Size and SHA-256 of a large file. Raises OSError."""
    known = None if early is None else early.digest(path, about)
    return length_and_digest(path) if known is None else known


def _same(handle: int, path: Path) -> bool:
    """Whether an opened file still has its name."""
    try:
        found, now = os.fstat(handle), path.stat()
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (now.st_dev, now.st_ino)
