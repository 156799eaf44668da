"""The output of importers: plain entries and table rows, and their deterministic text.

Values are text, whole numbers, flags, lists and mappings, as in an estate file; UNKNOWN is a value that is
named but not known. Nothing here depends on the kind of source. Every entry is one line, sorted by id, so
that version control shows what changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from evac.estate.format.problems import Problems
from evac.estate.format.spec import FORMAT_VERSION, SECTIONS
from evac.estate.importers.containers import is_internal
from evac.model.coverage import MissingFact
from evac.model.diagnostic import Diagnostic, Place
from evac.model.errors import EstateError
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class Unknown:
    """Facts that neither the source nor the overlay states: what, how many, and of which entries."""

    what: str
    count: int
    names: tuple[str, ...] = ()
    undescribed: bool = False
    """Whether another source that describes the names would make them known."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """One import. `files`: names written into the folder, sorted; `services`, `stores`, `servers`: how many
    the estate has now, overlay included; `unknown`: what is still not known; `diagnostics`: what
    the source and the overlay say that cannot be used as it stands; `diff`: changes against the
    import before, sorted, empty on the first."""

    files: tuple[str, ...]
    services: int
    stores: int
    servers: int
    unknown: tuple[Unknown, ...]
    diagnostics: tuple[Diagnostic, ...]
    diff: tuple[str, ...]
    worth: tuple[MissingFact, ...] = ()
    """What is most worth adding, best first."""
    worth_left_out: int = 0
    """How many more kinds of facts are missing."""
    partial: bool = False
    """Whether something in the source was left out, or could not be used as stated."""


class SourceError(EstateError):
    """A source that cannot be imported; carries every diagnostic. Nothing was written."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        super().__init__(diagnostics)
        errors = sum(1 for d in diagnostics if d.severity == "error")
        noun = "problem" if errors == 1 else "problems"
        self.code = "import-impossible"
        self.message = f"{errors} {noun} in the source; nothing was imported"
        self.hint = "fix these lines, then run the import again"
        self.args = (self.message,)


Sign: TypeAlias = Literal["placed", "unplaced", "names"]
"""What an importable file contains: places of things; things without places; or only names and facts."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller states about a source beyond its content."""

    site: str | None = None
    """The site that everything in the source is at."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to import; all if empty."""


@dataclass(frozen=True, slots=True)
class Live:
    """A source queried over the network."""

    address: str = ""
    """URL of a server, http:// or https://; empty for a cluster."""
    token: str | None = None
    """Reference to that server's token: `env:NAME` or `file:/path`."""
    context: str = ""
    """Context of a cluster in the kubeconfig."""
    kubeconfig: Path | None = None
    """File with the context; None: kubectl's default."""
    plugins: tuple[str, ...] = ()
    """Programs that may run to get credentials, by name."""


Fetch: TypeAlias = "Callable[[str, Live, Options, Path, Problems], Path]"
"""Queries a live source of a kind and writes the importer's input to a folder."""

Value: TypeAlias = "str | int | bool | list[Value] | dict[str, Value] | None"
UNKNOWN: Final = None
"""Written as `unknown`: the source names the thing but not its value."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a section: its values, and a comment for readers of the file."""

    values: Mapping[str, Value] = field(default_factory=dict)
    comment: str = ""
    described: bool = True
    """Whether the source describes it; if not, something in the source needs it."""


Sections: TypeAlias = dict[str, dict[str, Entry]]
Rows: TypeAlias = list[tuple[str, ...]]

TABLE_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "racks": ("rack", "hall", "feeds"),
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
        "serial",
        "position",
        "bmc_address",
    ),
}


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A host whose site the source does not say. `row`: its cells of the servers table, without a place;
    `services`: those that run on it; `named`: what the source calls it, with its place there;
    `has_rack`: whether it states where in a site the host is, or its pool: these need the site.
    """

    row: tuple[str, ...]
    services: tuple[str, ...]
    named: tuple[tuple[str, Place], ...] = ()
    has_rack: bool = False

    def joined(self, other: Unplaced) -> Unplaced:
        """Both as one host: the recipe gives them one name. What this one states counts."""
        row = tuple(here or there for here, there in zip(self.row, other.row, strict=True))
        services = tuple(sorted({*self.services, *other.services}))
        return Unplaced(row, services, (*self.named, *other.named), self.has_rack or other.has_rack)


@dataclass(slots=True)
class Imported:
    """All facts of one source. `tables`: rows by table, cells in the order of TABLE_COLUMNS;
    `unknown`: what the source leaves open beyond what an estate can show; `examples`: lines for a
    new overlay, without the comment sign."""

    sections: Sections = field(default_factory=dict)
    tables: dict[str, Rows] = field(default_factory=dict)
    unknown: list[Unknown] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    facts: dict[str, dict[str, Value]] = field(default_factory=dict)
    """Path of a fact -> its source and day."""
    published: dict[str, str] = field(default_factory=dict)
    """Public name of a host -> the service that it leads to."""
    unplaced: dict[str, Unplaced] = field(default_factory=dict)
    """Hosts that are left out, unless another source says where they are."""
    elsewhere: set[tuple[str, str]] = field(default_factory=set)
    """Service and host in service that is left out, because its site is not known: a replica that runs
    somewhere.
    """

    def add(
        self, section: str, name: str, values: Mapping[str, Value] | None = None, comment: str = ""
    ) -> None:
        self.sections.setdefault(section, {})[name] = Entry(values or {}, comment)

    def add_undescribed(self, found: Mapping[str, str], are_hosts: bool) -> None:
        """Adds needed services that are not described: id -> name or host. Another company is assumed to run
        them, unless only an internal network knows the name: where that runs is unknown.
        """
        own: list[str] = []
        others: list[str] = []
        for name, host in sorted(found.items()):
            inside = is_internal(host) and (are_hosts or "." in host)
            values: dict[str, Value] = {} if inside else {"external": True}
            made = self.sections.setdefault("services", {})
            made[name] = Entry(values, f"nothing in the source describes {host}", described=False)
            (own if inside else others).append(name)
        for what, names in (("external services", others), ("services with an internal name", own)):
            if names:
                words = f"{what}: needed, but not described by the source"
                self.unknown.append(Unknown(words, len(names), tuple(names), undescribed=True))


@dataclass(frozen=True, slots=True)
class SourcePart:
    """The facts of one source of a recipe."""

    name: str
    """Its name in the recipe."""
    imported: Imported
    place: Place
    """Its place in the recipe."""
    observed: str | None = None
    """The day it describes, such as 2026-11-25."""
    good_for: str | None = None


HEADER_MARK: Final = "# generated by: evac import "
TABLES_MARK: Final = "# tables that belong to it: "
COMMENT_MAX: Final = 160

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*", re.ASCII)
_QUANTITY: Final = re.compile(r"[0-9]+(?:\.[0-9]+)? (?:[A-Za-z/]+|%)|[0-9]+/[0-9]+", re.ASCII)
_OTHER_MEANING: Final = frozenset(
    ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "unknown", "nan", "inf")
)  # what any YAML reader might take for something other than text


def document_text(kind: str, imported: Imported) -> str:
    """The file `imported-KIND.yaml`."""
    tables = sorted(f"{name}.csv" for name, rows in imported.tables.items() if rows)
    lines = [
        f"{HEADER_MARK}{kind}",
        "# Do not edit: the next import overwrites it. Your own facts belong in overlay.yaml.",
        f"{TABLES_MARK}{', '.join(tables) or 'none'}",
        f"evac: {FORMAT_VERSION}",
    ]
    for section in SECTIONS:
        entries = imported.sections.get(section.key)
        if entries:
            lines.append(f"{section.key}:")
            for name in sorted(entries):
                lines.extend(_entry_lines(name, entries[name]))
    if imported.facts:
        lines.append("facts:")
        lines += [
            f"  {scalar_text(path)}: {value_text(imported.facts[path])}" for path in sorted(imported.facts)
        ]
    return "\n".join(lines) + "\n"


def _entry_lines(name: str, entry: Entry) -> list[str]:
    lines = [f"  # {comment_text(entry.comment)}"] if entry.comment else []
    return [*lines, f"  {scalar_text(name)}: {value_text(dict(entry.values))}"]


def comment_text(words: str) -> str:
    """Text of a source, made fit for a comment: one line, printable, bounded."""
    text = " ".join("".join(c if c.isprintable() else " " for c in words[: 4 * COMMENT_MAX]).split())
    return text if len(text) <= COMMENT_MAX else text[: COMMENT_MAX - 3].rstrip() + "..."


def value_text(value: Value) -> str:
    """A value in YAML's flow style."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(value_text(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar_text(k)}: {value_text(v)}" for k, v in value.items()) + "}"
    return scalar_text(value)


def scalar_text(text: str) -> str:
    """Text that YAML reads back unchanged, quoted if any reader might misread it."""
    if _QUANTITY.fullmatch(text) or (_PLAIN.fullmatch(text) and text.lower() not in _OTHER_MEANING):
        return text
    return json.dumps(text, ensure_ascii=False)


def table_text(name: str, rows: Rows) -> str:
    """A table as CSV: sorted rows, without empty columns. Short rows end in empty cells."""
    columns = TABLE_COLUMNS[name]
    rows = [(*row, *("" for _ in columns[len(row) :])) for row in rows]
    kept = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
    lines = [",".join(columns[i] for i in kept)]
    lines.extend(",".join(row[i] for i in kept) for row in sorted(rows))
    return "\n".join(lines) + "\n"
