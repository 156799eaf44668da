"""Copies of an estate's files that no one edits, on which a controller runs.

ROOT                 locked while the controller lives, so that leftovers of a killed one are recognised and
                     cleaners of temporary files leave it alone
ROOT/<n>/            one edition: the files of the estate, and its policy as `policy.yaml`
ROOT/current         a link to the edition in use, switched atomically
ROOT/standing.json   a `Standing`: how the files on disk compare with the edition in use
ROOT/spare           space reserved for that, in case the disk is full

The controller, its planners and its side processes all read an edition, so that each can be restarted while
someone edits the files, and all switch to the next one together. Readers resolve the link first: an edition
never changes. The folder belongs to this user only, in `RUNTIME_DIRECTORY` where systemd sets one, else among
temporary files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson

from evac.estate.codecs.policy import policy_beside
from evac.estate.format.document import POLICY_FILE, TABLE_BYTES_MAX, YAML_BYTES_MAX, find_files
from evac.estate.format.problems import Problems
from evac.model.errors import EstateError, EvacError
from evac.model.records import dataclass

PREFIX: Final = "evac-estate-"
CURRENT: Final = "current"
STANDING: Final = "standing.json"
SPARE: Final = "spare"
SPARE_BYTES: Final = 16_384
KEPT: Final = 2
"""Editions to keep: the one in use and the previous one, which a side process may still be reading."""
STANDING_MOST: Final = 65_536
_PIECE: Final = 1 << 20
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FRESH_S: Final = 60.0
"""Age up to which an unlocked folder may still be being created."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, modification time, size and number of each file, which distinguish two states of the files."""


class NotCopied(EvacError):
    """The files cannot be copied: one is not a regular file, leads out of the folder, or is far too large; or
    the disk has no space for a copy.
    """

    def __init__(self, message: str, hint: str = "to see what is wrong: evac check ESTATE") -> None:
        super().__init__("estate-not-copied", message, hint)


@dataclass(frozen=True, slots=True)
class Edition:
    """One state of the files. estate: folder or file to load; policy: None if there is none; digest: of all
    bytes, with their names.
    """

    folder: Path
    estate: Path
    policy: Path | None
    digest: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How the files on disk compare with the estate in use.

    taken_ms: when that was read; problems: number of problems that keep the files from being used; first: the
    first one, with its place if it has one; restart: changes that need a restart; since_ms: since when either
    holds, 0: neither; policy_ms: when the policy in use was read; policy: whether only the policy is waiting;
    placed: whether the first problem has a line. Times by the controller's clock.
    """

    taken_ms: int
    problems: int = 0
    first: str = ""
    restart: str = ""
    since_ms: int = 0
    policy_ms: int = 0
    policy: bool = False
    placed: bool = False

    @property
    def well(self) -> bool:
        return not self.problems and not self.restart


def edition_of(path: str | Path) -> str:
    """The target of a path now: users move a link, and no edition changes."""
    return os.path.realpath(path)


def stamp_of(estate: Path, policy: Path | None) -> Stamp:
    """Stamp of the files now; zeros for files that cannot be inspected."""
    named = policy or policy_beside(estate)
    return tuple(_stat(path) for path in (*_files(estate, Problems()), *((named,) if named else ())))


def read_standing(path: Path) -> Standing | None:
    """Read what a controller wrote; None if it is missing or unreadable."""
    try:
        with path.open("rb") as stream:
            told = orjson.loads(stream.read(STANDING_MOST))
        return Standing(
            int(told["taken_ms"]),
            int(told["problems"]),
            str(told["first"]),
            str(told["restart"]),
            int(told["since_ms"]),
            int(told["policy_ms"]),
            bool(told["policy"]),
            bool(told["placed"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Copies:
    """Copies of one estate and its policy; must be closed. policy: the named one, else the one next to the
    estate.

    Raises EstateError, NotCopied, OSError.
    """

    def __init__(self, estate: Path, policy: Path | None = None, base: Path | None = None) -> None:
        self._estate, self._policy = estate, policy
        base = base or Path(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or tempfile.gettempdir())
        sweep(base)
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._lock = os.open(self.root, _FOLDER)
        self._number, self._editions = 0, list[Edition]()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.use(self.copy())
            self._spare()
        except BaseException:
            self.close()
            raise

    def _spare(self) -> None:
        """Reserve disk space that is released to report a full disk; skipped if there is none to spare."""
        spare = self.root / SPARE
        try:
            if not spare.exists():
                spare.write_bytes(bytes(SPARE_BYTES))
        except OSError:
            spare.unlink(missing_ok=True)

    @property
    def used(self) -> Edition:
        return self._editions[-1]

    @property
    def whole(self) -> bool:
        """Whether the edition in use still exists."""
        return self.used.estate.exists() and self.estate.exists()

    @property
    def estate(self) -> Path:
        """Where other processes read the estate: behind a link to the edition in use."""
        return self._behind_link(self.used.estate)

    @property
    def policy(self) -> Path | None:
        return None if self.used.policy is None else self._behind_link(self.used.policy)

    @property
    def standing(self) -> Path:
        return self.root / STANDING

    def _behind_link(self, path: Path) -> Path:
        return self.root / CURRENT / path.relative_to(self.used.folder)

    def stamp(self) -> Stamp:
        return stamp_of(self._estate, self._policy)

    def copy(self) -> Edition:
        """Copy the current files as an edition that is not yet in use. Raises EstateError, NotCopied,
        OSError.
        """
        self._number += 1
        folder = self.root / str(self._number)
        try:
            folder.mkdir(0o700)
            return self._copied(folder)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            if error.errno not in _NO_ROOM:
                raise
            raise NotCopied(
                f"cannot copy it to {self.root.parent}: {error.strerror}", "free some space there"
            ) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _copied(self, folder: Path) -> Edition:
        problems, state = Problems(), hashlib.sha256()
        for path in _files(self._estate, problems):
            state.update(f"{path.name}\0".encode() + _copy(path, folder / path.name, self._estate))
        if problems.has_errors:
            raise EstateError(problems.all())
        policy = self._policy or policy_beside(self._estate)
        if policy is not None:
            state.update(f"{POLICY_FILE}\0".encode() + _copy(policy, folder / POLICY_FILE))
        estate = folder if self._estate.is_dir() else folder / self._estate.name
        return Edition(folder, estate, None if policy is None else folder / POLICY_FILE, state.hexdigest())

    def with_policy_of(self, edition: Edition, used: Edition) -> Edition:
        """The same estate with the policy that is in use. Raises OSError."""
        (edition.folder / POLICY_FILE).unlink(missing_ok=True)
        if used.policy is None:
            return Edition(edition.folder, edition.estate, None, edition.digest)
        shutil.copyfile(used.policy, edition.folder / POLICY_FILE)
        return Edition(edition.folder, edition.estate, edition.folder / POLICY_FILE, edition.digest)

    def use(self, edition: Edition) -> None:
        """Switch all readers to this edition. Raises OSError."""
        link = self.root / f".{CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(edition.folder.name)
        link.replace(self.root / CURRENT)
        self._editions.append(edition)
        while len(self._editions) > KEPT:
            self.drop(self._editions.pop(0))

    def drop(self, edition: Edition) -> None:
        """Delete an edition that is not in use."""
        shutil.rmtree(edition.folder, ignore_errors=True)

    def say(self, standing: Standing) -> None:
        """Publish the state for display. Raises OSError."""
        new, told = self.root / f".{STANDING}", orjson.dumps(asdict(standing))
        try:
            new.write_bytes(told)
        except OSError:
            (self.root / SPARE).unlink(missing_ok=True)
            new.write_bytes(told)
        else:
            self._spare()
        new.replace(self.standing)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def arguments_of(copies: Copies, told: Sequence[str], room: bool = False) -> list[str]:
    """Arguments of a side process whose first argument names the estate, changed to read the copy. room: the
    side process that also reads the policy and shows the state of the files. A policy next to the copy is
    found there, and is not missed once it no longer exists.
    """
    found = [str(copies.estate), *told[1:]]
    if not room:
        return found
    if "--policy" in found:
        place = found.index("--policy")
        del found[place : place + 2]
    beside = copies.policy is None or copies.used.estate.is_dir()
    named = [] if beside else ["--policy", str(copies.policy)]
    return [*found, *named, "--standing", str(copies.standing)]


def words_of(standing: Standing) -> str:
    """A phrase without a full stop; empty if all is well."""
    from evac.views.words import moment, plural

    what, since_ms = ("policy", standing.policy_ms) if standing.policy else ("estate", standing.taken_ms)
    goes_on = f"evac continues with the one from {(moment(since_ms) or '')[11:16]} UTC"
    if standing.problems == 1 and not standing.placed:
        return f"the {what} on disk was not loaded: {standing.first}; {goes_on}"
    if standing.problems:
        count = plural(standing.problems, "problem")
        return f"the {what} on disk has {count}, {goes_on}; the first is {standing.first}"
    if standing.restart:
        return (
            f"the {what} on disk cannot be loaded while evac is running, because {standing.restart}; "
            f"{goes_on}: restart "
            "evac serve to load it"
        )
    return ""


def sweep(base: Path) -> None:
    """Delete what killed controllers of this user left behind."""
    with contextlib.suppress(OSError):
        for folder in _left(base):
            shutil.rmtree(folder, ignore_errors=True)


def _left(base: Path) -> Iterator[Path]:
    for entry in sorted(base.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            found = entry.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            if abs(time.time() - found.st_mtime) < FRESH_S:
                continue
            lock = os.open(entry, _FOLDER)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield entry
            finally:
                os.close(lock)


def _files(estate: Path, problems: Problems) -> list[Path]:
    files = find_files(estate, problems)
    return [*files.documents, *(files.tables[name] for name in sorted(files.tables))]


def _stat(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_mtime_ns, found.st_size, found.st_ino


def _copy(path: Path, target: Path, root: Path | None = None) -> bytes:
    """Copy a file; return its digest. root: the folder it must be in, unless it is that itself. Raises
    NotCopied, OSError.
    """
    if root is not None and path != root and not path.resolve().is_relative_to(root.resolve()):
        raise NotCopied(f"{path.name} points outside the folder of the estate")
    most = TABLE_BYTES_MAX if path.suffix in (".csv", ".parquet") else YAML_BYTES_MAX
    state = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            raise NotCopied(f"{path.name} is not a regular file")
        size = 0
        with target.open("xb") as copy:
            while piece := source.read(_PIECE):
                size += len(piece)
                if size > most:
                    raise NotCopied(f"{path.name} has more than {most:,} bytes")
                state.update(piece)
                copy.write(piece)
    return state.digest()
