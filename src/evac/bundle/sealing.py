"""What a bundle carries under lock: values of secrets and files, to which k people together hold the key.

The key is drawn anew for each bundle and split by Shamir's scheme (pycryptodome, over GF(2^128)); fewer than
k shares say nothing of it. It is stretched by HKDF and locks the material with ChaCha20-Poly1305, whose tag
also covers the name of the lock, k and n. A share is one line of text with a checksum of its own, so that a
slip of the pen is told apart from a share of another bundle.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from evac.estate.codecs.bundle import sync_folder
from evac.model import extras
from evac.model.canonical import canonical_json
from evac.model.errors import InvalidInput

if TYPE_CHECKING:
    from Crypto.Protocol.SecretSharing import Shamir
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY_BYTES: Final = 16
MOST: Final = 64
"""Of people who hold a share."""
MAX_SHARE_BYTES: Final = 4_096
MAX_MATERIAL_BYTES: Final = 64 << 20
_WORD: Final = "evac-share-1"
_NAME: Final = re.compile(r"[0-9a-f]{16}")
_INFO: Final = b"evac bundle: break-glass material, 1"

Draw = Callable[[int], bytes]
"""So many random bytes; `os.urandom` but in tests."""


@dataclass(frozen=True, slots=True)
class Lock:
    """Whose shares open what. name: drawn with the key."""

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
    """The part of one person. point: which of n it is."""

    lock: Lock
    point: int
    part: bytes

    def line(self) -> str:
        """What is written down; it shows no more than any share does."""
        lock = self.lock
        words = f"{_WORD} {lock.name} {lock.needed}/{lock.people} {self.point} {self.part.hex()}"
        return f"{words} {_check(words)}"


def lock_up(
    material: Material, needed: int, people: int, draw: Draw = os.urandom
) -> tuple[Lock, bytes, tuple[Share, ...]]:
    """Locks the material: its lock, what the bundle carries, and the shares. Raises InvalidInput."""
    if not 1 < needed <= people <= MOST:
        raise InvalidInput(
            "share-count",
            f"{needed} of {people} cannot be asked for",
            f"write k/n with 2 <= k <= n <= {MOST}",
        )
    data = material.encoded()
    if len(data) > MAX_MATERIAL_BYTES:
        raise InvalidInput("sealed-size", f"at most {MAX_MATERIAL_BYTES >> 20} MB are locked up")
    shamir = _shamir()
    key, lock = draw(KEY_BYTES), Lock(draw(8).hex(), needed, people)
    nonce = draw(12)
    sealed = nonce + _cipher(key, lock).encrypt(nonce, data, canonical_json(lock.values()))
    parts = shamir.split(needed, people, key)
    return lock, sealed, tuple(Share(lock, point, bytes(part)) for point, part in parts)


def unlock(lock: Lock, sealed: bytes, shares: Sequence[Share]) -> Material:
    """Opens the material with the shares of enough people. Raises InvalidInput."""
    from cryptography.exceptions import InvalidTag

    if not 1 < lock.needed <= lock.people <= MOST or not _NAME.fullmatch(lock.name):
        raise InvalidInput("share-wrong", "the bundle has no lock that people can open", "take another copy")
    found = {share.point: share for share in shares}
    strangers = [share for share in shares if share.lock != lock]
    if strangers:
        raise InvalidInput(
            "share-foreign",
            f"share {strangers[0].point} is of another bundle",
            f"this one asks for shares of {lock.name}",
        )
    if len(found) < lock.needed:
        raise InvalidInput(
            "share-missing", f"{len(found)} of {lock.needed} shares are here", "ask more people for theirs"
        )
    chosen = [found[point] for point in sorted(found)][: lock.needed]
    key = _shamir().combine([(share.point, share.part) for share in chosen])
    try:
        data = _cipher(key, lock).decrypt(sealed[:12], sealed[12:], canonical_json(lock.values()))
    except (InvalidTag, ValueError) as error:
        raise InvalidInput(
            "share-wrong",
            "the shares do not open the material, or it was changed",
            "check the digest of the bundle, and each share",
        ) from error
    return _material(data)


def read_share(text: str, where: str = "a share") -> Share:
    """A share from its line. Raises InvalidInput, never with a word of it."""
    words = text.split()
    hint = "copy the whole line, from evac-share-1 to its last eight letters"
    if len(words) != 6 or words[0] != _WORD or not text.isascii():
        raise InvalidInput("share-wrong", f"{where} is not the line of a share", hint)
    if _check(" ".join(words[:5])) != words[5]:
        raise InvalidInput("share-wrong", f"{where} has a slip in it: its checksum does not fit", hint)
    try:
        needed, _, people = words[2].partition("/")
        share = Share(Lock(words[1], int(needed), int(people)), int(words[3]), bytes.fromhex(words[4]))
    except ValueError as error:
        raise InvalidInput("share-wrong", f"{where} is not the line of a share", hint) from error
    if len(share.part) != KEY_BYTES or not 1 <= share.point <= share.lock.people <= MOST:
        raise InvalidInput("share-wrong", f"{where} is not the line of a share", hint)
    return share


def read_share_file(path: Path) -> Share:
    """Raises InvalidInput."""
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
    """Whether that many people can be given their shares there. Raises InvalidInput."""
    if len(folders) not in (1, people):
        raise InvalidInput(
            "share-folders",
            f"{len(folders)} folders are named for {people} shares",
            "name one folder a person, or one for all",
        )
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
            raise InvalidInput(
                "share-folders", f"{folder} is no folder that this user can write to", "make it first"
            )


def write_shares(shares: Sequence[Share], folders: Sequence[Path], title: str) -> tuple[Path, ...]:
    """One file a person, readable by its owner alone, and on its disk; never over another file. All of them
    or none. Raises InvalidInput.
    """
    check_folders(len(shares), folders)
    written: list[Path] = []
    try:
        for number, share in enumerate(shares):
            lock = share.lock
            name = f"evac-share-{lock.name}-{share.point}-of-{lock.people}.txt"
            path = folders[number % len(folders)] / name
            words = (
                f"{title}\nShare {share.point} of {lock.people}; {lock.needed} of them together open what "
                "the bundle has under lock.\nKeep it apart from the others and from the bundle. Tell it to "
                f"nobody but the evac that asks for it.\n\n{share.line()}\n"
            )
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            written.append(path)
            with os.fdopen(handle, "w", encoding="ascii", errors="replace") as file:
                file.write(words)
                file.flush()
                os.fsync(handle)
        for folder in dict.fromkeys(folders):
            with contextlib.suppress(OSError):  # Not every stick writes folders on demand.
                sync_folder(folder)
    except OSError as error:
        take_back(written)
        raise InvalidInput(
            "share-folders",
            f"{path} cannot be written: {error.strerror}; nobody was given a share",
            "name other folders: --shares-to DIR",
        ) from error
    except BaseException:
        take_back(written)
        raise
    return tuple(written)


def take_back(paths: Sequence[Path]) -> None:
    """Removes shares of a bundle that came to nothing."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _check(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def _material(data: bytes) -> Material:
    told = orjson.loads(data)
    files = {str(name): base64.b64decode(held) for name, held in told["files"].items()}
    return Material({str(name): str(value) for name, value in told["values"].items()}, files)


def _cipher(key: bytes, lock: Lock) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return ChaCha20Poly1305(HKDF(SHA256(), 32, bytes.fromhex(lock.name), _INFO).derive(key))


def _shamir() -> type[Shamir]:
    try:
        from Crypto.Protocol.SecretSharing import Shamir
    except ModuleNotFoundError as error:
        raise extras.needs("bundle", "a lock that people share") from error
    return Shamir
