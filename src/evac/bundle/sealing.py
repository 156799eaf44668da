"""The locked part of a bundle: values of secrets and files, whose key any k people hold together.

A new random key for each bundle is split by Shamir's scheme (pycryptodome, over GF(2^128)); fewer than k
shares reveal nothing. HKDF derives the encryption key, and ChaCha20-Poly1305 locks the secrets; its tag also
covers the name of the lock, k and n, and the digest of everything else in the bundle, so that shares open
nothing in a changed bundle. A share is one line of text with its own checksum, which distinguishes a typing
error from a share of another bundle.

The folder of an opened bundle appears complete or not at all, with nothing left next to it. It is built in
`.NAME.PID.new`, locked (flock) while its process lives. An unlocked one was left by a killed process or a
power cut: it may contain secrets in the clear, and the next opening of the same folder removes it. Only one
process at a time opens a folder.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from evac.estate.codecs.bundle import sync_folder
from evac.model import extras
from evac.model.digest import canonical_json
from evac.model.errors import InvalidInput
from evac.model.records import dataclass

STORE: Final = "evac.sqlite"
OPENED: Final = "opened.json"
GLASS: Final = "break-glass"
TOOLS: Final = "tools"
UNPACKED: Final = ("estate", "plans", "runbooks", TOOLS, "START.txt")
INSIDE: Final = "inside.bundle"
"""A bundle that was locked inside another one, kept while it is read."""
_OURS: Final = frozenset(
    {*UNPACKED, OPENED, GLASS, INSIDE, STORE, *(f"{STORE}-{end}" for end in ("journal", "wal", "shm"))}
)
"""Everything that an opening ever writes at the top level of the folder."""


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same disk, from which all or part becomes `folder` (`put`); the rest is
    removed. Raises InvalidInput if another process is opening the same folder.
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
    """Move it to a path that does not exist yet, surviving a power cut. Raises OSError if the disk does not
    accept it, InvalidInput if something appeared there meanwhile.
    """
    _make_durable(made)
    try:
        made.rename(target)
    except OSError as error:
        raise InvalidInput(
            "bundle-folder",
            f"{target} cannot be put in place: {error.strerror}",
            "choose a new folder: --into NEWDIR",
        ) from error
    _sync(target.parent)


def remove_leftovers(folder: Path, own: Path | None = None) -> None:
    """Remove what interrupted openings of this folder left: folders with exactly that name pattern, owned by
    this user, with only what an opening writes. Follows no link. Raises InvalidInput if an opening is
    running, or something cannot be removed.
    """
    folder = _absolute(folder)
    form = re.compile(rf"\.{re.escape(folder.name)}\.[1-9][0-9]{{0,9}}\.new")
    try:
        found = sorted(path for path in folder.parent.iterdir() if form.fullmatch(path.name))
    except OSError:
        return  # It does not exist yet, or is not ours to read.
    for path in found:
        try:
            told = path.lstat()
            if path != own and stat.S_ISDIR(told.st_mode) and told.st_uid == os.geteuid():
                _remove(path, folder)
        except FileNotFoundError:
            continue  # Its process has just finished with it.
        except OSError as error:
            raise InvalidInput(
                "bundle-leftover",
                f"{path} was left behind by an interrupted opening, and cannot be removed: {error.strerror}",
                "remove it: it may contain decrypted secrets",
            ) from error


def _remove(path: Path, folder: Path) -> None:
    handle = _open(path)
    try:
        with os.scandir(handle) as held:
            foreign = sorted({one.name for one in held} - _OURS)
        if foreign:
            raise InvalidInput(
                "bundle-leftover",
                f"{path} looks like it was left behind by an interrupted opening, but contains "
                f"{foreign[0][:80]!r}, which evac never writes when it opens a bundle",
                "check it, then move it away or remove it",
            )
        locked = _lock(handle)
        if locked is None:
            raise InvalidInput(
                "bundle-leftover",
                f"cannot tell whether another process still needs {path}: this disk "
                "does not support file locks",
                "if no process is opening a bundle, remove it: it may contain secrets",
            )
        if not locked:
            raise _busy(folder)
        if _is_still(path, handle):
            shutil.rmtree(path)
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    """Open a folder. Raises OSError, also for a link."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(handle: int) -> bool | None:
    """Whether we hold the lock until the handle is closed; None if this file system has no locks for folders
    (such as NFS).
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_still(path: Path, handle: int) -> bool:
    """Whether the name still refers to what was opened."""
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
    with contextlib.suppress(OSError):  # Not every file system can sync folders.
        sync_folder(folder)


def _absolute(folder: Path) -> Path:
    """Absolute path with a name, also for `.`; links in it are kept."""
    return folder.absolute()


def _busy(folder: Path) -> InvalidInput:
    return InvalidInput(
        "bundle-busy",
        f"another process is opening {folder} right now",
        "wait for it, or choose a new folder: --into NEWDIR",
    )


if TYPE_CHECKING:
    from Crypto.Protocol.SecretSharing import Shamir
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY_BYTES: Final = 16
MOST: Final = 64
"""Maximum number of people who hold a share."""
TRIES_MOST: Final = 100
"""Maximum number of combinations of shares that are tried, each with the whole data."""
MAX_SHARE_BYTES: Final = 4_096
MAX_MATERIAL_BYTES: Final = 64 << 20
_WORD: Final = "evac-share-1"
_NAME: Final = re.compile(r"[0-9a-f]{16}")
_INFO: Final = b"evac bundle: break-glass material, 1"

Draw = Callable[[int], bytes]
"""Returns this many random bytes; `os.urandom` except in tests."""


@dataclass(frozen=True, slots=True)
class Lock:
    """Whose shares open what. name: random, drawn with the key."""

    name: str
    needed: int
    people: int

    def values(self) -> dict[str, str | int]:
        return {"name": self.name, "needed": self.needed, "people": self.people}


@dataclass(frozen=True, slots=True)
class Material:
    """values: reference -> the secret it names; files: name -> bytes."""

    values: Mapping[str, str]
    files: Mapping[str, bytes]

    def encoded(self) -> bytes:
        files = {name: base64.b64encode(data).decode() for name, data in self.files.items()}
        return canonical_json({"values": dict(self.values), "files": files})


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one person. point: which of n it is."""

    lock: Lock
    point: int
    part: bytes

    def line(self) -> str:
        """The line to write down; it reveals no more than any share does."""
        lock = self.lock
        words = f"{_WORD} {lock.name} {lock.needed}/{lock.people} {self.point} {self.part.hex()}"
        return f"{words} {_check(words)}"


def lock_up(
    material: Material,
    inside: bytes,
    needed: int,
    people: int,
    draw: Draw = os.urandom,
    content: Callable[[Lock], str] = lambda lock: "",
) -> tuple[Lock, bytes, bytes, tuple[Share, ...]]:
    """Lock the secrets, and a whole bundle if `inside` is not empty; return the lock, the data of both, and
    the shares. content: the digest of everything else in the bundle, once the lock is known. Raises
    InvalidInput.
    """
    if not 1 < needed <= people <= MOST:
        raise InvalidInput(
            "share-count",
            f"cannot require {needed} of {people} shares",
            f"write k/n with 2 <= k <= n <= {MOST}",
        )
    data = material.encoded()
    if len(data) > MAX_MATERIAL_BYTES:
        raise InvalidInput("sealed-size", f"at most {MAX_MATERIAL_BYTES >> 20} MB can be encrypted")
    shamir = _shamir()
    key, lock = draw(KEY_BYTES), Lock(draw(8).hex(), needed, people)
    nonce, bound, cipher = draw(12), content(lock), _cipher(key, lock)
    sealed = nonce + cipher.encrypt(nonce, data, _bound(lock, bound))
    if inside:
        nonce = draw(12)
        inside = nonce + cipher.encrypt(nonce, inside, _INSIDE + _bound(lock, bound))
    parts = shamir.split(needed, people, key)
    return lock, sealed, inside, tuple(Share(lock, point, bytes(part)) for point, part in parts)


_INSIDE: Final = b"a whole bundle\n"


def _bound(lock: Lock, content: str) -> bytes:
    return canonical_json({**lock.values(), **({"content": content} if content else {})})


def unlock(lock: Lock, sealed: bytes, shares: Sequence[Share], content: str = "") -> Material:
    """Open the secrets with the shares of enough people. content: the digest of everything else in the
    bundle. Raises InvalidInput.
    """
    told = orjson.loads(_opened(lock, sealed, shares, _bound(lock, content)))
    files = {str(name): base64.b64decode(held) for name, held in told["files"].items()}
    return Material({str(name): str(value) for name, value in told["values"].items()}, files)


def unlock_inside(lock: Lock, locked: bytes, shares: Sequence[Share], content: str) -> bytes:
    """The bundle that is locked inside another one. Raises InvalidInput."""
    return _opened(lock, locked, shares, _INSIDE + _bound(lock, content))


def _opened(lock: Lock, sealed: bytes, shares: Sequence[Share], bound: bytes) -> bytes:
    """Decrypt with any shares that fit together: a wrong one, or one of another bundle, spoils nothing if
    enough others are right.
    """
    from cryptography.exceptions import InvalidTag

    if not 1 < lock.needed <= lock.people <= MOST or not _NAME.fullmatch(lock.name):
        raise InvalidInput("share-wrong", "the bundle has no lock that shares can open", "take another copy")
    own = list(dict.fromkeys(share for share in shares if share.lock == lock))
    strangers = [share for share in shares if share.lock != lock]
    points = {share.point for share in own}
    if len(points) < lock.needed and strangers:
        raise InvalidInput(
            "share-foreign",
            f"share {strangers[0].point} belongs to another bundle",
            f"this one needs shares of {lock.name}",
        )
    if len(points) < lock.needed:
        raise InvalidInput(
            "share-missing",
            f"{len(points)} of the {lock.needed} required shares were given",
            "ask more people for their shares",
        )
    own.sort(key=lambda share: share.point)
    for chosen in itertools.islice(itertools.combinations(own, lock.needed), TRIES_MOST):
        if len({share.point for share in chosen}) < lock.needed:
            continue
        key = _shamir().combine([(share.point, share.part) for share in chosen])
        with contextlib.suppress(InvalidTag, ValueError):
            return _cipher(key, lock).decrypt(sealed[:12], sealed[12:], bound)
    raise InvalidInput(
        "share-wrong",
        "the shares do not open the bundle, or something in it was changed",
        "compare its digest with the one in the share files; take another copy",
    )


def read_share(text: str, where: str = "a share") -> Share:
    """Parse a share. Raises InvalidInput, which never quotes it."""
    words = text.split()
    hint = "copy the whole line, from evac-share-1 to its last eight letters"
    if len(words) != 6 or words[0] != _WORD or not text.isascii():
        raise InvalidInput("share-wrong", f"{where} is not a share line", hint)
    if _check(" ".join(words[:5])) != words[5]:
        raise InvalidInput("share-wrong", f"{where} has a typo: its checksum does not match", hint)
    try:
        needed, _, people = words[2].partition("/")
        share = Share(Lock(words[1], int(needed), int(people)), int(words[3]), bytes.fromhex(words[4]))
    except ValueError as error:
        raise InvalidInput("share-wrong", f"{where} is not a share line", hint) from error
    if len(share.part) != KEY_BYTES or not 1 <= share.point <= share.lock.people <= MOST:
        raise InvalidInput("share-wrong", f"{where} is not a share line", hint)
    return share


def read_share_file(path: Path) -> Share:
    """Parse a share file. Raises InvalidInput."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SHARE_BYTES + 1)
    except OSError as error:
        raise InvalidInput("share-missing", f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_SHARE_BYTES:
        raise InvalidInput("share-wrong", f"{path} is too large for a share")
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.startswith(_WORD)]
    return read_share(lines[0] if lines else "", str(path))


def check_folders(people: int, folders: Sequence[Path]) -> None:
    """Check that this many people can be given their shares there. Raises InvalidInput."""
    if len(folders) not in (1, people):
        raise InvalidInput(
            "share-folders",
            f"{len(folders)} folders were given for {people} shares",
            "give one folder per person, or one for all",
        )
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
            raise InvalidInput(
                "share-folders", f"{folder} is not a folder that this user can write to", "create it first"
            )


def write_shares(shares: Sequence[Share], folders: Sequence[Path], title: str) -> tuple[Path, ...]:
    """Write one file for each person, synced to disk and readable by its owner only; all files or none, and
    never over an existing one. Raises InvalidInput.
    """
    check_folders(len(shares), folders)
    written: list[Path] = []
    try:
        for number, share in enumerate(shares):
            lock = share.lock
            name = f"evac-share-{lock.name}-{share.point}-of-{lock.people}.txt"
            path = folders[number % len(folders)] / name
            words = (
                f"{title}\nShare {share.point} of {lock.people}; {lock.needed} of them together open the "
                "encrypted parts of the bundle.\nKeep it apart from the "
                "others and from the bundle. Give it only "
                f"to evac, when evac asks for it.\n\n{share.line()}\n"
            )
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            written.append(path)
            with os.fdopen(handle, "w", encoding="ascii", errors="replace") as file:
                file.write(words)
                file.flush()
                os.fsync(handle)
        for folder in dict.fromkeys(folders):
            with contextlib.suppress(OSError):  # Not every USB stick can sync folders.
                sync_folder(folder)
    except OSError as error:
        take_back(written)
        raise InvalidInput(
            "share-folders",
            f"{path} cannot be written: {error.strerror}; no shares were issued",
            "choose other folders: --shares-to DIR",
        ) from error
    except BaseException:
        take_back(written)
        raise
    return tuple(written)


def take_back(paths: Sequence[Path]) -> None:
    """Remove the shares of a bundle that was not completed."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _check(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def _cipher(key: bytes, lock: Lock) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return ChaCha20Poly1305(HKDF(SHA256(), 32, bytes.fromhex(lock.name), _INFO).derive(key))


def _shamir() -> type[Shamir]:
    try:
        from Crypto.Protocol.SecretSharing import Shamir
    except ModuleNotFoundError as error:
        raise extras.needs("bundle", "a lock with shares") from error
    return Shamir
