"""What an importer makes of a source: plain entries and table rows, not yet a file.

Values are text, whole numbers, flags, lists and mappings, as an estate file would state them;
UNKNOWN stands where a value is named but not known. Nothing here knows a source or a file.

What an import gives back, and the error of a source that cannot be imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from evac.model.diagnostic import Diagnostic
from evac.model.errors import EstateError


@dataclass(frozen=True, slots=True)
class Unknown:
    """A group of facts that neither the source nor the overlay states: what, of how many, of which."""

    what: str
    count: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportResult:
    """One import. `files`: names written into the folder, sorted; `services`, `servers`: how many
    the estate has now, overlay included; `unknown`: what is still not known; `diagnostics`: what
    the source and the overlay say that cannot be used as it stands; `diff`: changes against the
    import before, sorted, empty on the first."""

    files: tuple[str, ...]
    services: int
    servers: int
    unknown: tuple[Unknown, ...]
    diagnostics: tuple[Diagnostic, ...]
    diff: tuple[str, ...]


class SourceError(EstateError):
    """A source that cannot be imported; carries every diagnostic found. Nothing was written."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        super().__init__(diagnostics)
        errors = sum(1 for d in diagnostics if d.severity == "error")
        noun = "problem" if errors == 1 else "problems"
        self.code = "import-impossible"
        self.message = f"{errors} {noun} in the source; nothing was written"
        self.hint = "mend the lines named, then run the import again"
        self.args = (self.message,)


Value: TypeAlias = "str | int | bool | list[Value] | dict[str, Value] | None"
UNKNOWN: Final = None
"""Written as `unknown`: the source names the thing and does not say its value."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a section: its values, and a comment for who reads the file."""

    values: Mapping[str, Value] = field(default_factory=dict)
    comment: str = ""


Sections: TypeAlias = dict[str, dict[str, Entry]]
Rows: TypeAlias = list[tuple[str, ...]]

TABLE_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "racks": ("rack", "hall"),
    "replicas": ("service", "target", "count"),
    "servers": (
        "server",
        "site",
        "rack",
        "class",
        "state",
        "pool",
        "cpu_millicores",
        "memory_mib",
        "disk_gib",
        "accelerators",
        "watts",
    ),
}


@dataclass(slots=True)
class Imported:
    """All facts of one source. `tables`: rows by table, cells in the order of TABLE_COLUMNS;
    `unknown`: what the source leaves open beyond what an estate can show; `examples`: lines for a
    new overlay, without the comment sign."""

    sections: Sections = field(default_factory=dict)
    tables: dict[str, Rows] = field(default_factory=dict)
    unknown: list[Unknown] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def add(
        self, section: str, name: str, values: Mapping[str, Value] | None = None, comment: str = ""
    ) -> None:
        self.sections.setdefault(section, {})[name] = Entry(values or {}, comment)
