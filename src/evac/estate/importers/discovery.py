"""Finds files in a folder that an estate can be made from, and their kinds.

Importers recognise their sources by the first lines of a file. Kinds are named as in the register.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from evac.estate.importers.imported import Sign
from evac.estate.importers.running import IMPORTERS, KINDS
from evac.estate.importers.source_files import western
from evac.model.foreign_text import one_line
from evac.model.records import dataclass

FILES_MAX: Final = 500
DEPTH_MAX: Final = 3
_HEAD_BYTES: Final = 65_536
_TABLES: Final = (".csv", ".tsv")
_ENDINGS: Final = (".yaml", ".yml", ".json", ".csv", ".tsv")
_OF_FOLDERS: Final = frozenset({"kubernetes", "backstage"})
_OF_FLAT_FOLDERS: Final = frozenset({"netbox"})
"""Kinds whose importer takes the files of a folder, but not of its subfolders."""


@dataclass(frozen=True, slots=True)
class Found:
    """A source in a folder."""

    name: str
    """Its name in a recipe."""
    kind: str
    path: str
    """Relative to the folder."""
    sign: Sign
    """What it contains."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found."""

    sources: tuple[Found, ...]
    hints: tuple[str, ...]
    """What could become a source with one more command."""


_BY_HAND: Final = frozenset(
    {
        *("inventory", "inventory.ini", "inventory.yml", "inventory.yaml"),
        *("hosts.ini", "hosts.yml", "hosts.yaml"),
    }
)
"""Usual names of Ansible inventories that people write."""


def look_around(folder: Path, contexts: Sequence[str] = ()) -> Surroundings:
    """Sources in a folder and its subfolders, sorted by path.

    contexts: those of kubectl, for hints.
    """
    found: dict[str, tuple[str, Sign]] = {}
    hints = []
    unread: list[OSError] = []
    for path in _files(folder, unread):
        where = path.relative_to(folder).as_posix()
        known = _kind_of(path)
        if known is not None and not _is_inside(path, folder):
            hints.append(f"{where} is a link to a file outside this folder: copy it, if you want it imported")
        elif known is not None and not where.isprintable():  # no recipe can name it
            hints.append(f"{where}: its name has control characters, or is not UTF-8: rename it")
        elif known is not None:
            found[where] = known
        elif path.name in _BY_HAND or path.name == "ansible.cfg":
            given = "" if path.name == "ansible.cfg" else f" -i {path.name}"
            hints.append(f"{where}: ansible-inventory{given} --list > inventory.json, in its folder")
        elif path.name.endswith(_TABLES):
            words = "evac does not recognise its columns: call those of hosts and sites host and site"
            hints.append(f"{where}: {words}")
        elif path.name.endswith(".tfstate"):
            hints.append(f"{where}: terraform show -json > terraform.json, in its folder")
    for kind in {kind: None for kind, _ in found.values()}:
        only_parts = getattr(import_module(IMPORTERS[kind]), "only_parts", None)
        of_kind = [where for where, (one, _) in found.items() if one == kind]
        for where, hint in only_parts(folder, of_kind).items() if only_parts is not None else ():
            if found.pop(where, None) is not None and hint:
                hints.append(f"{where}: {hint}")
    if folder.exists():
        hints += [f"{one.filename} was not searched: {one.strerror}" for one in unread]
    hints += [f"kubectl context {one}: evac init --context {shlex.quote(one)}" for one in contexts]
    sources = _grouped(found)
    return Surroundings(tuple(sources), tuple(one_line(hint) for hint in hints))


def _files(folder: Path, unread: list[OSError]) -> list[Path]:
    found: list[Path] = []
    for here, folders, names in os.walk(folder, onerror=unread.append):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "node_modules")
        if depth >= DEPTH_MAX:
            folders.clear()
        found += [Path(here) / name for name in sorted(names) if name[0] != "."]
        if len(found) > FILES_MAX:
            break
    return found[:FILES_MAX]


def _is_inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _kind_of(path: Path) -> tuple[str, Sign] | None:
    """Kind and sign of a file; None if it is not a source."""
    if not path.name.endswith(_ENDINGS) or not path.is_file():
        return None
    try:
        with path.open("rb") as handle:
            data = handle.read(_HEAD_BYTES)
    except OSError:
        return None
    end = data.rfind(b"\n")
    if data.startswith(codecs.BOM_UTF16_BE):
        end &= ~1  # the line feed is the second byte of its character
    known = western(data[:end]) if path.name.endswith(_TABLES) else None
    head = data.decode("utf-8-sig", "replace") if known is None else known[0]
    for kind in KINDS:
        looks_like = getattr(import_module(IMPORTERS[kind]), "looks_like", None)
        sign = looks_like(path.name, head) if looks_like is not None else None
        if sign is not None:
            return kind, sign
    return None


def _grouped(found: dict[str, tuple[str, Sign]]) -> list[Found]:
    """Named sources. Files of one kind in a subfolder are one source if the importer takes folders."""
    made: dict[str, tuple[str, Sign]] = {}
    for where, (kind, sign) in found.items():
        top = where.partition("/")[0]
        is_flat = kind in _OF_FLAT_FOLDERS and where.count("/") == 1
        if (kind in _OF_FOLDERS or is_flat) and top != where:
            known = made.get(top)
            if known is None or known[0] == kind:
                made[top] = (kind, "placed" if known is not None and known[1] == "placed" else sign)
                continue
        made[where] = (kind, sign)
    taken: set[str] = set()
    sources = []
    for where, (kind, sign) in made.items():
        words = Path(where).name.partition(".")[0]
        if "/" in where and words in getattr(import_module(IMPORTERS[kind]), "SAME_EVERYWHERE", ()):
            words = Path(where).parent.name
        stem = re.sub(r"[^a-z0-9-]+", "-", words.lower()).strip("-") or kind
        name = stem if stem not in taken else f"{stem}-{kind}"
        while name in taken:
            name += "-2"
        taken.add(name)
        sources.append(Found(name, kind, where, sign))
    return sources
