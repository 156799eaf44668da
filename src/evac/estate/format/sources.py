"""The files of an estate: found, opened and read within bounds, before anybody parses them.

Refuses what is not a plain file, what lies outside the folder, what is too large, has a line too
long, is not UTF-8 or holds NUL bytes. Memory stays constant until a file has passed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evac.estate.format.problems import Problems
from evac.model.diagnostic import Place

YAML_BYTES_MAX: Final = 32 * 2**20
TABLE_BYTES_MAX: Final = 2 * 2**30
LINE_BYTES_MAX: Final = 2**16
FILES_MAX: Final = 1_000
_LET_IN: Final = "let this user read it, or put the file itself there"
POLICY_FILE: Final = "policy.yaml"
ACCESS_FILE: Final = "access.yaml"
NOTICES_FILE: Final = "notices.yaml"
"""They lie in the folder of an estate and are no part of it."""

TABLES: Final = ("racks", "replicas", "servers")
_YAML_ENDINGS: Final = (".yaml", ".yml")
_TABLE_ENDINGS: Final = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class EstateFiles:
    """What an estate consists of: `documents` sorted by name, `tables` by table name."""

    documents: tuple[Path, ...]
    tables: dict[str, Path]


def find_files(path: Path, problems: Problems) -> EstateFiles:
    """The files of a folder, or the one file that is the estate."""
    if not os.path.lexists(path):
        problems.add(
            "estate-not-found",
            f"there is no {path.name or path}",
            Place(str(path)),
            "name a folder or a YAML file",
        )
        return EstateFiles((), {})
    if not path.is_dir():
        return EstateFiles((path,), {})
    try:
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        message = f"the folder cannot be read: {error.strerror}"
        problems.add("file-unreadable", message, Place(str(path)), _LET_IN)
        return EstateFiles((), {})
    apart = (POLICY_FILE, ACCESS_FILE, NOTICES_FILE)
    documents = [path / name for name in names if name.endswith(_YAML_ENDINGS) and name not in apart]
    if not documents:
        problems.add(
            "estate-empty",
            "no YAML file in this folder",
            Place(str(path)),
            "evac example pangyo -o DIR writes one",
        )
    if len(documents) > FILES_MAX:
        problems.add(
            "too-many-files",
            f"{len(documents):,} YAML files; at most {FILES_MAX:,} are read",
            Place(str(path)),
        )
    return EstateFiles(tuple(documents[:FILES_MAX]), _tables(path, names, problems))


def _tables(folder: Path, names: list[str], problems: Problems) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for table in TABLES:
        files = [table + ending for ending in _TABLE_ENDINGS if table + ending in names]
        if len(files) > 1:
            problems.add(
                "table-twice",
                f"{' and '.join(files)} say the same twice",
                Place(files[0]),
                "keep one of them",
            )
        if files:
            found[table] = folder / files[0]
    return found


def read_bytes(path: Path, root: Path, limit: int, lines_checked: bool, problems: Problems) -> bytes | None:
    """The bytes of a plain file inside `root`; None, and a diagnostic, where that is not so."""
    place = Place(path.name or str(path))
    if (
        path != root
        and path.is_symlink()
        and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    ):
        problems.add(
            "file-outside",
            f"{path.name} leads out of the estate's folder",
            place,
            "copy the file into the folder",
        )
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        message = f"{path.name} cannot be read: {error.strerror}"
        hint = "check its name" if isinstance(error, FileNotFoundError) else _LET_IN
        problems.add("file-unreadable", message, place, hint)
        return None
    try:
        return _read_open(handle, place, limit, lines_checked, problems)
    except OSError as error:
        message = f"{path.name} cannot be read: {error.strerror}"
        problems.add("file-unreadable", message, place, _LET_IN)
        return None
    finally:
        os.close(handle)


def _read_open(
    handle: int, place: Place, limit: int, lines_checked: bool, problems: Problems
) -> bytes | None:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        problems.add("file-special", f"{place.file} is not a plain file", place, "only plain files are read")
        return None
    parts: list[bytes] = []
    size = line = 0
    while chunk := os.read(handle, LINE_BYTES_MAX):
        if lines_checked and _too_long(chunk):
            message = f"a line is longer than {LINE_BYTES_MAX:,} bytes"
            problems.add("line-too-long", message, Place(place.file, line + 1, 1), "break the line")
            return None
        size += len(chunk)
        line += chunk.count(b"\n")
        if size > limit:
            problems.add(
                "file-too-large", f"more than {limit:,} bytes", place, "split it, or use a table for servers"
            )
            return None
        parts.append(chunk)
    return b"".join(parts)


def _too_long(chunk: bytes) -> bool:
    """A full block without a line end lies inside one line that is at least as long."""
    return len(chunk) == LINE_BYTES_MAX and b"\n" not in chunk and b"\r" not in chunk


def decode(data: bytes, name: str, problems: Problems) -> str | None:
    """The text of UTF-8 bytes without NUL; None, and a diagnostic with its place, otherwise."""
    nul = data.find(b"\0")
    if nul >= 0:
        problems.add(
            "nul-byte",
            "a NUL byte: this is no text file",
            _place_of_byte(data, nul, name),
            "save it as UTF-8 text",
        )
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_of_byte(data, error.start, name)
        problems.add("not-utf-8", "this is not UTF-8 text", place, "save the file as UTF-8")
        return None


def _place_of_byte(data: bytes, offset: int, name: str) -> Place:
    start = data.rfind(b"\n", 0, offset) + 1
    column = len(data[start:offset].decode("utf-8", "replace")) + 1
    return Place(name, data.count(b"\n", 0, offset) + 1, column)
