"""One import from end to end: read the source, write the folder, say what changed and what is open."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from evac.estate.format.problems import Problems
from evac.estate.importers.difference import difference, facts_of
from evac.estate.importers.emitting import document_text, table_text
from evac.estate.importers.folder import (
    check_free,
    document_name,
    overlay_in,
    overlay_text,
    read_before,
    write_all,
)
from evac.estate.importers.imported import Imported
from evac.estate.importers.open_facts import open_facts
from evac.estate.importers.result import KINDS, ImportResult, SourceError, Unknown
from evac.estate.loading import check
from evac.model.errors import InvalidInput

_READERS: Final = {
    "csv": "evac.estate.importers.host_list",
    "kubernetes": "evac.estate.importers.kubernetes",
    "wikimedia": "evac.estate.importers.wikimedia",
}


def import_estate(kind: str, source: Path, target: Path, *, overlay: Path | None = None) -> ImportResult:
    """Make an estate in the folder `target` out of `source`; again, to take up what changed there.

    `overlay`: a file to begin the overlay of the folder with; without it a commented one is made.
    Raises SourceError with every problem of the source, and InvalidInput where the folder or the
    overlay stand in the way; nothing is written then.
    """
    if kind not in KINDS:
        raise InvalidInput(
            "import-kind-unknown", f"no source of kind '{kind[:40]}' is known", f"kinds: {', '.join(KINDS)}"
        )
    problems = Problems()
    imported = read_source(kind, source, problems)
    if problems.has_errors:
        raise SourceError(problems.all())
    before = read_before(target, kind)
    tables = {name: table_text(name, rows) for name, rows in imported.tables.items() if rows}
    document = document_text(kind, imported)
    texts = {document_name(kind): document} | {f"{name}.csv": text for name, text in tables.items()}
    check_free(target, before, texts)
    own_words = overlay_text(target, overlay, _example_overlay(kind, source, imported))
    gone = [f"{name}.csv" for name in before.tables if name not in tables]
    write_all(target, texts | ({"overlay.yaml": own_words} if own_words is not None else {}), gone)
    diff = (
        difference(facts_of(before.document, before.tables), facts_of(document, tables))
        if before.document
        else ()
    )
    written = tuple(sorted([*texts, *(["overlay.yaml"] if own_words is not None else [])]))
    return _result(target, imported, problems, written, diff)


def read_source(kind: str, source: Path, problems: Problems) -> Imported:
    """The facts of a source; problems are added. Known kinds only."""
    reader: Callable[[Path, Problems], Imported] = import_module(_READERS[kind]).read
    return reader(source, problems)


def _result(
    target: Path, imported: Imported, problems: Problems, written: tuple[str, ...], diff: tuple[str, ...]
) -> ImportResult:
    checked = check(target)
    found = sorted({*problems.all(), *checked.diagnostics}, key=lambda d: d.sort_key)
    estate = checked.estate
    if estate is None:
        services, servers = (
            len(imported.sections.get("services", {})),
            len(imported.tables.get("servers", [])),
        )
        still_open: tuple[Unknown, ...] = ()
    else:
        services, servers, still_open = len(estate.services), len(estate.fleet), open_facts(estate)
    return ImportResult(written, services, servers, (*imported.unknown, *still_open), tuple(found), diff)


def _example_overlay(kind: str, source: Path, imported: Imported) -> str:
    name = source.resolve().name.split(".")[0] or kind
    lines = [
        "# What only you know. This file is yours: an import creates it once and never changes it again.",
        "# It is merged over the imported facts, and what it says wins. Take the sign # away where you know",
        "# the answer; what stays unknown is treated as unknown, never guessed.",
        "evac: 1",
        f"name: {_plain_name(name)}",
        "",
        *(f"# {line}".rstrip() for line in imported.examples),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _plain_name(name: str) -> str:
    from evac.estate.importers.emitting import scalar_text

    return scalar_text(name[:100])


__all__ = ["import_estate", "overlay_in", "read_source"]
