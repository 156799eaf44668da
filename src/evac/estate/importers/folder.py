"""The folder an import writes into: what is there already, what may be replaced, what never is.

Files of an import carry a mark in their first lines; a file without it belongs to somebody and
stays. The overlay is written once, when there is none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evac.estate.format.overlay import OVERLAY_FILES
from evac.estate.format.problems import Problems
from evac.estate.format.sources import TABLE_BYTES_MAX, YAML_BYTES_MAX, decode, read_bytes
from evac.estate.importers.emitting import HEADER_MARK, TABLES_MARK
from evac.estate.importers.imported import TABLE_COLUMNS
from evac.model.errors import InvalidInput

_HEADER_LINES: Final = 4


@dataclass(frozen=True, slots=True)
class Before:
    """The import before this one: its document, and its tables by name. Empty on the first."""

    document: str = ""
    tables: dict[str, str] = field(default_factory=dict)


def document_name(kind: str) -> str:
    return f"imported-{kind}.yaml"


def read_before(target: Path, kind: str) -> Before:
    """What the last import of this kind wrote into the folder. Raises InvalidInput where the file of
    that name is somebody's own."""
    document = _text(target / document_name(kind), YAML_BYTES_MAX)
    if document is None:
        return Before()
    if not document.startswith(f"{HEADER_MARK}{kind}\n"):
        raise InvalidInput(
            "import-would-overwrite",
            f"{document_name(kind)} was not written by an import",
            "rename it, or import into another folder",
        )
    tables = {}
    for name in _tables_of(document):
        text = _text(target / f"{name}.csv", TABLE_BYTES_MAX)
        if text is not None:
            tables[name] = text
    return Before(document, tables)


def _tables_of(document: str) -> list[str]:
    for line in document.split("\n", _HEADER_LINES)[:_HEADER_LINES]:
        if line.startswith(TABLES_MARK):
            names = [part.strip().removesuffix(".csv") for part in line.removeprefix(TABLES_MARK).split(",")]
            return [name for name in names if name in TABLE_COLUMNS]
    return []


def _text(path: Path, limit: int) -> str | None:
    """The text of a file; None where there is none. Raises InvalidInput where it cannot be read."""
    if not os.path.lexists(path):
        return None
    problems = Problems()
    data = read_bytes(path, path, limit, False, problems)
    text = None if data is None else decode(data, path.name, problems)
    if text is None:
        raise InvalidInput(
            "import-unreadable", problems.all()[0].message, f"look at {path.name} in the target"
        )
    return text


def check_free(target: Path, before: Before, texts: dict[str, str]) -> None:
    """Raises InvalidInput where a file that is about to be written belongs to somebody else."""
    if os.path.lexists(target) and not target.is_dir():
        raise InvalidInput(
            "import-target-not-folder", f"{target.name} is not a folder", "name a folder with -o"
        )
    own = {f"{name}.csv" for name in before.tables}
    for name in sorted(texts):
        stem, _, ending = name.rpartition(".")
        if ending != "csv" or name in own:
            continue
        taken = [n for n in (name, f"{stem}.parquet") if os.path.lexists(target / n)]
        if taken:
            raise InvalidInput(
                "import-would-overwrite",
                f"{taken[0]} is there already and was not written by this import",
                "move it away, or import into another folder",
            )


def overlay_in(target: Path) -> Path | None:
    """The overlay of the folder, if there is one."""
    return next((target / name for name in OVERLAY_FILES if os.path.lexists(target / name)), None)


def overlay_text(target: Path, given: Path | None, example: str) -> str | None:
    """What to write as overlay.yaml; None where the folder has one, which is never touched.

    Raises InvalidInput where `given` says something else than the one in the folder.
    """
    there = overlay_in(target)
    wanted = example if given is None else _given_overlay(given)
    if there is None:
        return wanted
    if given is not None and given.resolve() != there.resolve() and _text(there, YAML_BYTES_MAX) != wanted:
        raise InvalidInput(
            "overlay-exists",
            f"{there.name} is in the folder already and differs from {given.name}",
            "an overlay is never overwritten: merge the two by hand, then import without --overlay",
        )
    return None


def _given_overlay(given: Path) -> str:
    text = _text(given, YAML_BYTES_MAX)
    if text is None:
        raise InvalidInput(
            "overlay-not-found", f"there is no overlay {given.name}", "check the path after --overlay"
        )
    return text


def write_all(target: Path, texts: dict[str, str], gone: list[str]) -> None:
    """Write all files or none, the document last, and remove tables that are no more.

    All are written under other names before the first takes its own. Raises OSError; then the folder is
    as it was before, and not there if it was not.
    """
    was_there = target.exists()
    target.mkdir(parents=True, exist_ok=True)
    names = sorted(texts, key=lambda n: (n.startswith("imported-"), n))
    drafts = {name: target / f".{name}.new" for name in names}
    try:
        for name, draft in drafts.items():
            draft.write_text(texts[name], encoding="utf-8", newline="\n")
        for name, draft in drafts.items():
            draft.replace(target / name)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
        if not was_there and not any(target.iterdir()):
            target.rmdir()
    for name in gone:
        (target / name).unlink(missing_ok=True)
