"""The folder of an opened bundle: it is there whole, or not at all, and nothing opened is left beside it.

It comes together in `.NAME.PID.new`, which is locked (flock) for as long as its process lives. One that
nobody holds was left by a process that was killed, or by a power cut: it may hold secrets in the clear, and
is removed by the next opening of the same folder. One at a time opens a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from evac.estate.codecs.bundle import sync_folder
from evac.model.errors import InvalidInput

STORE: Final = "evac.sqlite"
OPENED: Final = "opened.json"
GLASS: Final = "break-glass"
UNPACKED: Final = ("estate", "plans", "runbooks", "START.txt")
_OURS: Final = frozenset(
    {*UNPACKED, OPENED, GLASS, STORE, *(f"{STORE}-{end}" for end in ("journal", "wal", "shm"))}
)
"""All that an opening ever writes into it, at its top."""


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder on the same disk, from which a part or all becomes `folder` (`put`); what is left of it at
    the end is gone. Raises InvalidInput where another process opens the same folder.
    """
    folder = _absolute(folder)
    place = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        place.mkdir(mode=0o700)
    except FileExistsError as error:
        raise _busy(folder) from error
    handle = _open(place)
    try:
        if _lock(handle) is False or not _is_still(place, handle):
            raise _busy(folder)
        remove_leftovers(folder, own=place)
        yield place
    finally:
        if _is_still(place, handle):
            shutil.rmtree(place, ignore_errors=True)
        os.close(handle)


def put(made: Path, target: Path) -> None:
    """Moves it to where nothing is yet, and it stays there whatever happens to the power. Raises OSError for
    a disk that does not take it, InvalidInput where something is there meanwhile.
    """
    _make_durable(made)
    try:
        made.rename(target)
    except OSError as error:
        raise InvalidInput(
            "bundle-folder",
            f"{target} cannot be put in place: {error.strerror}",
            "name a new folder: --into NEWDIR",
        ) from error
    _sync(target.parent)


def remove_leftovers(folder: Path, own: Path | None = None) -> None:
    """Removes what openings of this folder left that were cut off: folders of that very form, of this user,
    with nothing in them but what an opening writes. No link is followed. Raises InvalidInput where one is
    under way, or cannot be removed.
    """
    folder = _absolute(folder)
    form = re.compile(rf"\.{re.escape(folder.name)}\.[1-9][0-9]{{0,9}}\.new")
    try:
        found = sorted(path for path in folder.parent.iterdir() if form.fullmatch(path.name))
    except OSError:
        return  # It is not there yet, or is not ours to look into.
    for path in found:
        try:
            told = path.lstat()
            if path != own and stat.S_ISDIR(told.st_mode) and told.st_uid == os.geteuid():
                _remove(path, folder)
        except FileNotFoundError:
            continue  # Its process is done with it.
        except OSError as error:
            raise InvalidInput(
                "bundle-leftover",
                f"{path} was left by an opening that was cut off, and cannot be removed: {error.strerror}",
                "remove it: it may hold secrets that shares opened",
            ) from error


def _remove(path: Path, folder: Path) -> None:
    handle = _open(path)
    try:
        with os.scandir(handle) as held:
            foreign = sorted({one.name for one in held} - _OURS)
        if foreign:
            raise InvalidInput(
                "bundle-leftover",
                f"{path} looks like what an opening left that was cut off, but holds "
                f"{foreign[0][:80]!r}, which no opening writes",
                "look at it, and move it away or remove it",
            )
        locked = _lock(handle)
        if locked is None:
            raise InvalidInput(
                "bundle-leftover",
                f"whether another process still needs {path} cannot be known: no file is locked on this disk",
                "when none opens a bundle, remove it: it may hold secrets",
            )
        if not locked:
            raise _busy(folder)
        if _is_still(path, handle):
            shutil.rmtree(path)
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    """Raises OSError, for a link too."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(handle: int) -> bool | None:
    """Whether it is ours until the handle is closed; None where this disk knows no locks (as NFS has none for
    folders)."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_still(path: Path, handle: int) -> bool:
    """Whether the name still leads to what was opened."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _make_durable(made: Path) -> None:
    for folder, _, names in os.walk(made):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync(Path(folder))


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Not every file system writes folders on demand.
        sync_folder(folder)


def _absolute(folder: Path) -> Path:
    """With a name, also for `.`; links in it are kept."""
    return folder.absolute()


def _busy(folder: Path) -> InvalidInput:
    return InvalidInput(
        "bundle-busy",
        f"another process is opening {folder} at this moment",
        "wait for it, or name a new folder: --into NEWDIR",
    )
