"""The register of importers: one line each. An importer is a folder with a module that has `read`.

`read(source, problems)` gives the facts of a source as `Imported`; problems are added, with their places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

from evac.estate.format.problems import Problems
from evac.estate.importers.imported import Imported

IMPORTERS: Final[Mapping[str, str]] = {
    "compose": "evac.estate.importers.compose.reader",
    "csv": "evac.estate.importers.csv.reader",
    "kubernetes": "evac.estate.importers.kubernetes.reader",
    "wikimedia": "evac.estate.importers.wikimedia.reader",
}
"""Kind of source, as the command line names it -> the module that reads it."""

KINDS: Final = tuple(sorted(IMPORTERS))


def read_source(kind: str, source: Path, problems: Problems) -> Imported:
    """The facts of a source of a known kind; problems are added."""
    read: Callable[[Path, Problems], Imported] = import_module(IMPORTERS[kind]).read
    return read(source, problems)
