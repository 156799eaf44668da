"""The file of a bundle: a ZIP archive with a manifest that lists every part with its size and digest.

Any ZIP program opens it, including Python on a bare laptop. Names are sorted and the date is fixed, so the
same parts give the same bytes. It is read as hostile input: only stored or deflated entries, only names
inside the folder, only what the manifest lists, and no part larger than listed.

The manifest's shape is checked completely before any value is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import orjson

from evac.model.digest import canonical_json
from evac.model.errors import InvalidInput
from evac.model.generation import GENERATION_MOST
from evac.model.records import dataclass

KIND: Final = "evac-bundle"
VERSION: Final = 2
READ: Final = (1, VERSION)
"""Version 1 does not name its maker, and its seal covers only itself."""
MANIFEST: Final = "manifest.json"
MAX_FILE_BYTES: Final = (1 << 31) - 1
"""For the file and each part: larger ZIP archives use another format, which is not read."""
MAX_PARTS: Final = 20_000
MAX_DIRECTORY_BYTES: Final = 16 << 20
MAX_MANIFEST_BYTES: Final = 16 << 20
MAX_READ_BYTES: Final = 1 << 30
"""For a part read into memory."""
MAX_RATIO: Final = 100
"""Largest ratio of all unpacked parts to the file."""
STORED: Final = (".bin", ".whl")
"""File endings of compressed data."""
_BLOCK: Final = 1 << 20
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_END: Final = struct.Struct("<4s4H2LH")
_STEP: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,120}")
MAX_NAME_BYTES: Final = 400


@dataclass(frozen=True, slots=True)
class Source:
    """A part to write: its name, and its bytes or the file that holds them."""

    name: str
    data: bytes | Path


@dataclass(frozen=True, slots=True)
class Part:
    """A part as the manifest lists it. sha256: of its bytes, in hex."""

    name: str
    size: int
    sha256: str


class BundleDamaged(InvalidInput):
    """A file that is not a bundle, or not the one that was written. part: which part, if known."""

    def __init__(self, message: str, part: str = "") -> None:
        super().__init__("bundle-damaged", message, "get another copy, and check it: evac bundle verify FILE")
        self.part = part


def check_name(name: str) -> str:
    """Checks the name of a part: it must stay inside the folder it is unpacked in. Raises BundleDamaged."""
    steps = name.split("/")
    fine = len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES and name.isprintable()
    if not fine or not all(_STEP.fullmatch(step) and step not in (".", "..") for step in steps):
        raise BundleDamaged(f"unknown bundle part: {name[:80]!r}")
    return name


class Beside:
    """A complete bundle in a temporary file next to its destination. digest: SHA-256 of its manifest."""

    def __init__(self, path: Path, target: Path, digest: str) -> None:
        self.path, self._target, self.digest = path, target, digest

    def put(self) -> None:
        """Moves it to its destination, replacing anything there. Raises InvalidInput without changing
        anything.
        """
        try:
            self.path.replace(self._target)
        except OSError as error:
            raise _not_written(self._target, error) from error
        with contextlib.suppress(OSError):  # It is in place; not every file system syncs folders on demand.
            sync_folder(self._target.parent)


def listing(sources: Sequence[Source]) -> list[dict[str, str | int]]:
    """Name, size and SHA-256 of each part, as the manifest lists them. Raises InvalidInput."""
    parts = [_measured(source) for source in sorted(sources, key=lambda one: one.name)]
    return [{"name": part.name, "size": part.size, "sha256": part.sha256} for part in parts]


def content_digest(values: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of everything in a bundle except the locked part and the signature; the lock is bound to it."""
    locked = ((values.get("sealed") or {}).get("part"), values.get("encrypted"))
    rest = {key: value for key, value in values.items() if key not in _NOT_CONTENT}
    others = [row for row in listed if row["name"] not in locked]
    return hashlib.sha256(canonical_json({**rest, "parts": others})).hexdigest()


_NOT_CONTENT: Final = frozenset({"kind", "version", "parts", "signature"})
Sign = Callable[[bytes], Mapping[str, str]]
"""The signature in a manifest: `key` and `value`."""


def signed_bytes(values: Mapping[str, Any]) -> bytes:
    """The bytes that a manifest's signature covers."""
    return _PURPOSE + canonical_json({key: value for key, value in values.items() if key != "signature"})


_PURPOSE: Final = b"evac bundle manifest 1\n"


def write_bundle(path: Path, values: Mapping[str, Any], sources: Sequence[Source]) -> str:
    """Writes the file atomically; returns the SHA-256 of its manifest. values: the manifest except the list
    of parts. Raises InvalidInput if it would be too large.
    """
    with bundle_beside(path, values, sources) as made:
        made.put()
    return made.digest


@contextlib.contextmanager
def bundle_beside(
    path: Path, values: Mapping[str, Any], sources: Sequence[Source], sign: Sign | None = None
) -> Iterator[Beside]:
    """The same in two steps, for work that must finish before the file is in place. Deleted at the end unless
    it was put there.
    """
    ordered = sorted(sources, key=lambda one: one.name)
    if len(ordered) >= MAX_PARTS or len({one.name for one in ordered}) != len(ordered):
        raise InvalidInput("bundle-size", f"a bundle must have fewer than {MAX_PARTS:,} parts, each once")
    parts = [_measured(source) for source in ordered]
    listed = [{"name": part.name, "size": part.size, "sha256": part.sha256} for part in parts]
    whole: dict[str, Any] = {**values, "kind": KIND, "version": VERSION, "parts": listed}
    if sign is not None:
        whole["signature"] = dict(sign(signed_bytes(whole)))
    manifest = canonical_json(whole)
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise InvalidInput("bundle-size", "the manifest of a bundle must not exceed 16 MB")
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        try:
            _write(beside, manifest, ordered, parts)
        except OSError as error:
            raise _not_written(path, error) from error
        _check_written(beside)
        yield Beside(beside, path, hashlib.sha256(manifest).hexdigest())
    finally:
        beside.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Syncs a folder's entries to disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _not_written(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(
        "bundle-target", f"{path} cannot be written: {error.strerror}", "choose another file: -o FILE"
    )


def _write(beside: Path, manifest: bytes, ordered: Sequence[Source], parts: Sequence[Part]) -> None:
    """Deflates; if a part would exceed the ratio that a reader accepts, writes again with that part
    stored.
    """
    infos = _packed(beside, manifest, ordered, parts, frozenset())
    if sum(info.file_size for info in infos) > MAX_RATIO * beside.stat().st_size:
        dense = {info.filename for info in infos if info.file_size > MAX_RATIO * info.compress_size}
        _packed(beside, manifest, ordered, parts, frozenset(dense))
    with beside.open("rb") as file:
        os.fsync(file.fileno())


def _packed(
    beside: Path, manifest: bytes, ordered: Sequence[Source], parts: Sequence[Part], stored: frozenset[str]
) -> list[zipfile.ZipInfo]:
    """Writes the archive. stored: names of parts not deflated. Raises InvalidInput."""
    with open(beside, "wb", opener=_private) as file, zipfile.ZipFile(file, "w") as archive:
        for source, part in zip([Source(MANIFEST, manifest), *ordered], [None, *parts], strict=True):
            try:
                with archive.open(_entry(source.name, stored), "w") as target:
                    written = _copied(source.data, target)
            except RuntimeError as error:  # Deflated it is larger than the largest part.
                raise _too_large(source.name) from error
            if part is not None and written != (part.size, part.sha256):
                raise InvalidInput(
                    "bundle-changed",
                    f"{source.name} changed while it was being read",
                    "make the bundle again",
                )
            if beside.stat().st_size > MAX_FILE_BYTES:
                raise _too_large("")
    if beside.stat().st_size > MAX_FILE_BYTES:
        raise _too_large("")
    return archive.infolist()


def _check_written(beside: Path) -> None:
    """Reads the written file back as a reader would. Raises InvalidInput."""
    try:
        with open_bundle(beside) as found:
            for problem in found.problems():
                raise problem
    except BundleDamaged as error:
        raise InvalidInput(
            "bundle-unreadable",
            f"cannot read back what was written: {error.message}",
            "make the bundle again; if it happens again, use another disk",
        ) from error


def _too_large(part: str) -> InvalidInput:
    what = f"{part} would be a part of more than" if part else "the bundle would exceed"
    return InvalidInput(
        "bundle-size",
        f"{what} {MAX_FILE_BYTES:,} bytes (2 GiB), the limit for a bundle",
        "include less: fewer wheels in --wheelhouse, a smaller --budget, or no --store",
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _entry(name: str, stored: frozenset[str]) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(check_name(name), _DATE)
    whole = name.endswith(STORED) or name in stored
    info.compress_type = zipfile.ZIP_STORED if whole else zipfile.ZIP_DEFLATED
    info.create_system, info.external_attr = 3, 0o100644 << 16
    return info


def _measured(source: Source) -> Part:
    if (len(source.data) if isinstance(source.data, bytes) else _size(source.data)) > MAX_FILE_BYTES:
        raise _too_large(source.name)
    size, digest = _copied(source.data, None)
    return Part(check_name(source.name), size, digest)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InvalidInput("bundle-source", f"{path} cannot be read: {error.strerror}") from error


def _copied(data: bytes | Path, target: IO[bytes] | None) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with contextlib.ExitStack() as held:
        if isinstance(data, bytes):
            blocks: Iterator[bytes] = iter((data,))
        else:
            try:
                file = held.enter_context(data.open("rb"))
            except OSError as error:
                raise InvalidInput("bundle-source", f"{data} cannot be read: {error.strerror}") from error
            blocks = iter(lambda: file.read(_BLOCK), b"")
        for block in blocks:
            size += len(block)
            digest.update(block)
            if target is not None:
                target.write(block)
    return size, digest.hexdigest()


class Bundle:
    """One file, open for reading. values: the whole manifest; digest: its SHA-256 in hex."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, manifest: bytes) -> None:
        self.path, self._archive = path, archive
        self.digest = hashlib.sha256(manifest).hexdigest()
        self.values = _read_manifest(manifest)
        self.parts = {part.name: part for part in _parts(self.values)}

    @property
    def content(self) -> str:
        """What its seal is bound to; empty for version 1, whose seal is bound to nothing."""
        return content_digest(self.values, self.values["parts"]) if self.values["version"] > 1 else ""

    def read(self, name: str) -> bytes:
        """The verified bytes of a part. Raises BundleDamaged with its name."""
        part = self._part(name)
        if part.size > MAX_READ_BYTES:
            raise BundleDamaged(f"{name} is larger than any bundle part evac reads", name)
        return b"".join(self._blocks(part))

    def copy(self, name: str, target: Path) -> None:
        """Copies a part to a new file. Raises BundleDamaged; discard what was written by then."""
        with target.open("xb") as file:
            for block in self._blocks(self._part(name)):
                file.write(block)

    def problems(self) -> list[BundleDamaged]:
        """Every part that differs from what was written."""
        found = []
        for name in self.parts:
            try:
                for _ in self._blocks(self.parts[name]):
                    pass
            except BundleDamaged as error:
                found.append(error)
        return found

    def _part(self, name: str) -> Part:
        if name not in self.parts:
            raise BundleDamaged(f"{name} is not in the bundle", name)
        return self.parts[name]

    def _blocks(self, part: Part) -> Iterator[bytes]:
        """The part in blocks. The error comes after the last one, so do not trust any block before that."""
        size, digest = 0, hashlib.sha256()
        try:
            with self._archive.open(part.name) as file:
                while block := file.read(_BLOCK):
                    size += len(block)
                    digest.update(block)
                    if size > part.size:
                        break
                    yield block
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
            raise BundleDamaged(f"{part.name} cannot be read from {self.path.name}", part.name) from error
        if (size, digest.hexdigest()) != (part.size, part.sha256):
            raise BundleDamaged(f"{part.name} does not match what was written to the bundle", part.name)


@contextlib.contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Raises BundleDamaged for what is not a bundle, InvalidInput for a file that cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidInput("bundle-missing", f"{path} cannot be read: {error.strerror}") from error
    with file:
        _refuse_unsafe(path, file)
        try:
            with zipfile.ZipFile(file) as archive:
                yield Bundle(path, archive, _manifest(path, archive))
        except (zipfile.BadZipFile, struct.error, NotImplementedError, UnicodeDecodeError) as error:
            raise BundleDamaged(f"the table of contents of {path.name} is damaged") from error


def _refuse_unsafe(path: Path, file: IO[bytes]) -> None:
    """Checks the file size and the size of its table of contents (from its last bytes) before trusting it."""
    size = file.seek(0, os.SEEK_END)
    if not _END.size <= size <= MAX_FILE_BYTES:
        raise BundleDamaged(f"{path.name} is not a bundle: {size:,} bytes")
    file.seek(size - _END.size)
    mark, disk, first, here, entries, length, offset, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or comment:
        raise BundleDamaged(f"{path.name} is not a bundle, or is truncated")
    plain = not disk and not first and here == entries and offset + length + _END.size == size
    if not plain or entries > MAX_PARTS or length > MAX_DIRECTORY_BYTES:
        raise BundleDamaged(f"the table of contents of {path.name} is damaged")


def _manifest(path: Path, archive: zipfile.ZipFile) -> bytes:
    """The manifest, after comparing the table of contents with it: nothing more, nothing less."""
    infos = archive.infolist()
    names = [check_name(info.filename) for info in infos]
    if len(set(names)) != len(names) or MANIFEST not in names:
        raise BundleDamaged(f"{path.name} has no manifest, or lists a part twice", MANIFEST)
    for info in infos:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 0x1:
            raise BundleDamaged(f"{info.filename} uses an unsupported compression method", info.filename)
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise BundleDamaged(f"the parts of {path.name} are larger than the file")
    if sum(info.file_size for info in infos) > MAX_RATIO * path.stat().st_size:
        raise BundleDamaged(f"the parts of {path.name} unpack to more than {MAX_RATIO} times its size")
    if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
        raise BundleDamaged("the manifest is too large", MANIFEST)
    try:
        manifest = archive.read(MANIFEST)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise BundleDamaged("the manifest is damaged", MANIFEST) from error
    sizes = {info.filename: info.file_size for info in infos if info.filename != MANIFEST}
    listed = {part.name: part.size for part in _parts(_read_manifest(manifest))}
    for name in sorted(sizes.keys() ^ listed.keys()):
        where = "is missing" if name in listed else "is not listed"
        raise BundleDamaged(f"{name} {where}", name)
    for name, size in listed.items():
        if sizes[name] != size:
            raise BundleDamaged(f"{name} has {sizes[name]:,} bytes, not {size:,}", name)
    return manifest


def _read_manifest(data: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BundleDamaged("the manifest is damaged", MANIFEST) from error
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise BundleDamaged("the manifest does not belong to a bundle", MANIFEST)
    if type(values.get("version")) is not int or values["version"] not in READ:
        raise InvalidInput(
            "bundle-version",
            f"this bundle has format {str(values.get('version'))[:20]}, not one of 1 to {VERSION}",
            "open it with the evac from its own wheelhouse",
        )
    return values


def _parts(values: Mapping[str, Any]) -> list[Part]:
    listed = values.get("parts")
    if not isinstance(listed, list):
        raise BundleDamaged("the manifest lists no parts", MANIFEST)
    try:
        found = [Part(check_name(row["name"]), int(row["size"]), str(row["sha256"])) for row in listed]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleDamaged("the list of parts is damaged", MANIFEST) from error
    names = {part.name for part in found}
    if len(names) != len(found):
        raise BundleDamaged("the manifest lists a part twice", MANIFEST)
    for name in sorted(names):
        steps = name.split("/")
        if any("/".join(steps[:count]) in names for count in range(1, len(steps))):
            raise BundleDamaged(f"{name} is inside a folder that is itself a part", MANIFEST)
    return found


MOST: Final = 2**53
ROWS_MOST: Final = 200_000

SHAPE: Final[Mapping[str, Any]] = {
    "made_at_ms": int,
    "evac": str,
    "estate_file": str,
    "policy": str,
    "estate": {"name": str, "digest": str},
    "generation": {"number": int, "opener": str},
    "plans": [
        {"lost": [str], "kind": str, "digest": str, "from": str, "at_ms": int, "part": str, "runbook": str}
    ],
    "journals": [{"stream": str, "part": str, "segments": int, "records": int, "hash": str, "token": int}],
    "epochs": [{"store": str, "epoch": int, "holder": str}],
    "open_runs": [str],
    "wheels": [str],
    "left_out": [{"what": str, "why": str}],
    "references": [{"reference": str, "for": [str], "sealed": bool}],
}
SIGNATURE: Final[Mapping[str, Any]] = {"key": str, "value": str}
SEALED: Final[Mapping[str, Any]] = {
    "name": str,
    "needed": int,
    "people": int,
    "part": str,
    "files": [str],
}


def manifest_of(bundle: Bundle) -> Mapping[str, Any]:
    """The manifest with every value checked: whole numbers from 0, printable text, and parts that are in the
    file. Raises BundleDamaged with the place of the first mismatch.
    """
    values = bundle.values
    for key, shape in SHAPE.items():
        _check(values.get(key), shape, key)
    if values.get("sealed") is not None:
        _check(values["sealed"], SEALED, "sealed")
    if values.get("signature") is not None:
        _check(values["signature"], SIGNATURE, "signature")
    if values["generation"]["number"] >= GENERATION_MOST:
        raise _wrong("generation")
    named = [row["part"] for key in ("plans", "journals") for row in values[key]]
    named += [values["policy"]] if values["policy"] else []
    named += [f"estate/{values['estate_file']}"] if values["estate_file"] else []
    named += [values["sealed"]["part"]] if values.get("sealed") else []
    if values.get("encrypted") is not None:
        _check(values["encrypted"], str, "encrypted")
        named.append(values["encrypted"])
    for name in named:
        if name not in bundle.parts:
            raise BundleDamaged(f"{name} is listed in the manifest but missing from the bundle", name)
    return values


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            raise _wrong(where)
        for key, inner in shape.items():
            _check(value.get(key), inner, f"{where}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or len(value) > ROWS_MOST:
            raise _wrong(where)
        for row in value:
            _check(row, shape[0], where)
    elif type(value) is not shape or not (
        value.isprintable() if isinstance(value, str) else 0 <= value < MOST
    ):
        raise _wrong(where)


def _wrong(where: str) -> BundleDamaged:
    return BundleDamaged(f"the manifest has a value of the wrong type under {where}", MANIFEST)
