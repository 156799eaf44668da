"""Turns a host list, the table that every company has, into sites, racks, classes, servers and replicas.

Columns are recognised by name (`host_words`). A host on several rows is one host with several
services. A fact that a cell does not state validly, or on which rows contradict each other, stays unknown.

Names are compared in lower case without blanks, dashes, dots and underscores. A unit may be in the column
name (`memory_gb`, `RAM (GiB)`) or in each cell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import Quantity, QuantityError
from evac.estate.importers.host_words import (
    NAMES,
    STATE_WORDS,
    STATES,
    is_general_role,
    unit_named,
    without_unit,
)
from evac.estate.importers.hosts import Host, add_hosts, host_examples, id_of_text, taken_as
from evac.estate.importers.imported import Imported, Options, Sign, Unknown, Value
from evac.estate.importers.source_files import LISTED_MAX, Cells, Row, header_of, read_cells, read_table
from evac.model.records import dataclass

_FILLING: Final = re.compile(r"[\s_.()\[\]/-]+")
_MEASURED: Final = frozenset({"memory", "disk", "watts", "memory demand"})
_IN_CORES: Final = frozenset({"cpu", "cpu demand"})
_UNIT_IN_NAME: Final = MappingProxyType({"watts": "W", "wattage": "W"})


@dataclass(frozen=True, slots=True)
class Column:
    """A recognised column: position, meaning, and the unit in its name."""

    position: int
    meaning: str
    unit: str | None


def bare(name: str) -> str:
    """A name in the form used for comparison."""
    return _FILLING.sub("", name).lower()


def understand(name: str) -> tuple[str, str | None] | None:
    """Meaning and unit of a column name; None if it has none here."""
    meaning = _meaning(bare(name))
    if meaning is not None:
        return meaning, _UNIT_IN_NAME.get(bare(name))
    rest, word = without_unit(name)
    unit, meaning = unit_named(word), _meaning(bare(rest))
    if meaning is None or unit is None:
        return None
    return (meaning, unit) if meaning in _MEASURED or (meaning in _IN_CORES and unit == "cores") else None


def _meaning(name: str) -> str | None:
    return next((meaning for meaning, names in NAMES.items() if name in names), None)


def match_columns(header: tuple[str, ...]) -> tuple[dict[str, Column], list[int]]:
    """Columns by meaning, and the positions of unrecognised ones.

    If two columns mean the same, the one with the surer name counts and the other is left out.
    """
    found: dict[str, Column] = {}
    left: list[int] = []
    for position, name in enumerate(header):
        known = understand(name)
        if known is None:
            left.append(position)
            continue
        meaning, unit = known
        other = found.get(meaning)
        if other is None:
            found[meaning] = Column(position, meaning, unit)
        elif _rank(name, meaning) < _rank(header[other.position], meaning):
            left.append(other.position)
            found[meaning] = Column(position, meaning, unit)
        else:
            left.append(position)
    location = next((position for position in left if bare(header[position]) == "location"), None)
    if location is not None and "hall" not in found:
        # Next to a column of sites, a location is a part of one, as in an export of NetBox.
        left.remove(location)
        found["hall"] = Column(location, "hall", None)
    return found, left


def _rank(name: str, meaning: str) -> int:
    names = NAMES[meaning]
    return names.index(bare(name)) if bare(name) in names else 0


SOURCE_BYTES_MAX: Final = 512 * 2**20

_NAME: Final = re.compile(r"[^\W_][\w.:@-]*")
_PARTED: Final = re.compile(r"[;,|]|\s+")
_AMOUNT: Final = re.compile(r"([0-9][0-9,.']*)\s*([A-Za-z]*)", re.ASCII)
_NUMBER: Final = re.compile(
    r"(?P<plain>\d+)"
    r"|(?P<indian>\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?)"
    r"|(?P<apostrophes>\d{1,3}(?:'\d{3})+(?:[.,]\d+)?)"
    r"|(?P<either>\d{1,3}(?P<sign>[.,])\d{3})"
    r"|(?P<decimal>\d+(?P<point>[.,])\d+)"
    r"|(?P<grouped>\d{1,3}(?P<group>[.,])\d{3}(?:(?P=group)\d{3})*(?!(?P=group))(?:[.,]\d+)?)",
    re.ASCII,
)
"""A number. indian: 1,00,000, which groups by two digits above the thousands. either: three digits after one
separator, which may be thousands or a fraction.
"""

_UNKNOWN_STATES: Final = frozenset({"unknown", "?", "tbd"})
_EMPTY: Final = frozenset({"", "-", "--", "n/a", "na", "none", "null", "unknown", "?", "tbd"})
_QUANTITIES: Final[dict[str, Quantity]] = {
    "cpu": q.CORES_HELD,
    "memory": q.MEMORY_HELD,
    "disk": q.DISK_HELD,
    "accelerators": q.COUNT,
    "watts": q.POWER_NEEDED,
    "cpu demand": q.CORES_NEEDED,
    "memory demand": q.MEMORY_NEEDED,
}
_FACTS: Final = tuple(meaning for meaning in NAMES if meaning not in ("host", "services"))
_PLAIN: Final[Mapping[str, re.Pattern[str]]] = {
    "serial": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._:/#-]{0,62}[A-Za-z0-9])?", re.ASCII),
    "position": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._/-]{0,14}[A-Za-z0-9])?", re.ASCII),
    "bmc": re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:]{2,39}\])(?::\d{1,5})?", re.ASCII),
    "feed": re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:@/+&;,|-]{0,200}", re.ASCII),
    "owner": re.compile(r"[^\n]{1,200}"),
}
"""Meanings whose cells are used unchanged -> their valid form."""


@dataclass(slots=True)
class _Host(Host):
    """One host so far, and its first row."""

    row: Row = field(kw_only=True)


@dataclass(slots=True)
class _Reading:
    """A reading in progress. `spelled`: names by their lower case, so that FRA1 and fra1 are one site."""

    table: Cells
    columns: dict[str, Column]
    problems: Problems
    hosts: dict[str, _Host] = field(default_factory=dict)
    spelled: dict[tuple[str, str], str] = field(default_factory=dict)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    changed: set[tuple[str, str]] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    blanks: dict[str, list[tuple[Row, str]]] = field(default_factory=dict)
    """Column by meaning -> its names with blanks, or other characters that are replaced: their first row, and
    what they are called here.
    """
    states: dict[str, list[Row]] = field(default_factory=dict)
    """Unknown state, in comparison form -> its rows."""
    decimal_signs: dict[str, str] = field(default_factory=dict)
    """Column by meaning -> its decimal separator, if its cells settle that."""
    left: int = 0
    """Rows that name no host."""
    unread: set[tuple[str, str]] = field(default_factory=set)
    """Host and meaning of every fact that a cell states, but that is not known."""
    general: set[str] = field(default_factory=set)
    """Roles that name no service."""

    def note(self, code: str, message: str, row: Row, meaning: str, hint: str = "") -> None:
        """Notes a problem of a cell; per code and column the first twenty, then only the number."""
        self.counts[f"{code} {meaning}"] += 1
        if self.counts[f"{code} {meaning}"] <= LISTED_MAX:
            place = row.place(self.columns[meaning].position, self.table.delimiter)
            self.problems.add(code, message, place, hint)


HOST_COLUMNS: Final = frozenset(NAMES["host"]) - {"name"}
"""Column names of host lists that no other list has, in any language."""


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    if not name.endswith((".csv", ".tsv")):
        return None
    cells = header_of(head, name)
    meanings = {known[0] for cell in cells if (known := understand(cell)) is not None}
    if {"host", "site"} <= meanings:
        return "placed"
    return "unplaced" if any(bare(cell) in HOST_COLUMNS for cell in cells) else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a host list; problems are added."""
    imported = Imported()
    text = read_table(source, source, SOURCE_BYTES_MAX, problems)
    table = None if text is None else read_cells(text, source.name, problems)
    if table is None:
        return imported
    columns = _columns(table, problems)
    for meaning, words in (("host", "no column contains host names"), ("site", "no column contains sites")):
        if meaning not in columns and (meaning == "host" or options.site is None):
            hint = f"name the column one of: {', '.join(NAMES[meaning][:5])}"
            hint += ", or set the site of all hosts with --site" if meaning == "site" else ""
            problems.add("import-column-missing", words, table.header.place(), hint)
    if "host" not in columns or ("site" not in columns and options.site is None):
        return imported
    reading = _Reading(table, columns, problems)
    reading.decimal_signs = _decimal_signs(table, columns)
    for row in table.rows:
        _read_row(row, reading)
    if options.site is not None:
        for name, host in reading.hosts.items():
            if (name, "site") not in reading.unread:
                host.facts.setdefault("site", options.site)
    left = table.left_out + reading.left
    nowhere = sum(1 for host in reading.hosts.values() if "site" not in host.facts)
    if left + nowhere > len(table.rows) - reading.left - nowhere:
        left += nowhere
        message = f"{left:,} of {len(table.rows) + table.left_out:,} rows of {source.name} cannot be used"
        problems.add("import-shape", message, table.header.place(), "correct the rows named here")
        return imported
    _drop_doubtful_feeds(reading)
    _report_nowhere(reading)
    _note_rest(reading)
    _add_services(reading, imported)
    add_hosts(reading.hosts, imported)
    imported.unknown += [
        Unknown(f"hosts whose {meaning} the list has no column for", len(reading.hosts))
        for meaning in ("services", "class", "state")
        if meaning not in columns and reading.hosts
    ]
    imported.examples = host_examples(imported)
    return imported


def _columns(table: Cells, problems: Problems) -> dict[str, Column]:
    header = table.header.cells
    columns, left = match_columns(header)
    strange = []
    for position in sorted(left):
        known = understand(header[position])
        if known is None:
            strange.append(position)
            continue
        message = f"the column {shown(header[position])} also means {known[0]}; another column was used"
        place = table.header.place(position, table.delimiter)
        problems.add("import-ignored", message, place, "remove one of them, or rename it")
    if strange:
        what = f"column{'' if len(strange) == 1 else 's'} {', '.join(shown(header[at]) for at in strange)}"
        place = table.header.place(strange[0], table.delimiter)
        it = "it" if len(strange) == 1 else "one of them"
        hint = f"if {it} holds one of these facts, rename it: {', '.join(NAMES)}"
        problems.add("import-ignored", f"evac does not recognise the {what}", place, hint)
    return columns


def _read_row(row: Row, reading: _Reading) -> None:
    name = _cell(row, "host", reading)
    if name is None or len(name) > ID_MAX or not _NAME.fullmatch(name):
        reading.left += 1
    if name is None:
        reading.note(
            "import-cell",
            "a row without a host name is left out",
            row,
            "host",
            "add the name, or remove the row",
        )
        return
    if len(name) > ID_MAX or not _NAME.fullmatch(name):
        reading.note(
            "import-name",
            f"{shown(name)} is not a valid host name; the row is left out",
            row,
            "host",
            "letters, digits and . _ - : @",
        )
        return
    facts = {}
    for meaning in _FACTS:
        value = _fact(row, meaning, reading)
        if value is not None:
            facts[meaning] = value
        elif meaning != "state" and _cell(row, meaning, reading) is not None:
            reading.unread.add((name, meaning))
            if name in reading.hosts:  # what another row states may be wrong as well
                reading.hosts[name].facts.pop(meaning, None)
    host = reading.hosts.setdefault(name, _Host(facts, row=row))
    if host.row is not row:
        _same_host(name, host, facts, row, reading)
    host.services.update(_services(row, reading))


def _drop_doubtful_feeds(reading: _Reading) -> None:
    """The feeds of a rack are those of its hosts: if one of them is not known, none of the rack's are. A rack
    with one feed too few would survive the loss of the other.
    """

    def rack_of(host: _Host) -> tuple[str | None, ...]:
        return tuple(host.facts.get(meaning) for meaning in ("site", "hall", "rack"))

    doubtful = {rack_of(reading.hosts[name]) for name, meaning in reading.unread if meaning == "feed"}
    for host in reading.hosts.values() if doubtful else ():
        if rack_of(host) in doubtful:
            host.facts.pop("feed", None)


def _same_host(name: str, host: _Host, facts: dict[str, str], row: Row, reading: _Reading) -> None:
    """Takes what a further row adds to a host. What it contradicts is not known; a server whose state is not
    known is no capacity.
    """
    for meaning, value in facts.items():
        if (name, meaning) in reading.unread:
            continue
        known = host.facts.setdefault(meaning, value)
        if known != value:
            message = f"{meaning} of {shown(name)} is {value} here, but {known} on line {host.row.line}"
            hint = "correct one of the two; until then neither is used"
            reading.note("import-host-twice", message, row, meaning, hint)
            reading.unread.add((name, meaning))
            del host.facts[meaning]
            if meaning == "state":
                host.facts[meaning] = "condemned"


def _cell(row: Row, meaning: str, reading: _Reading) -> str | None:
    column = reading.columns.get(meaning)
    if column is None:
        return None
    text = row.cells[column.position]
    return None if text.lower() in _EMPTY else text


def _fact(row: Row, meaning: str, reading: _Reading) -> str | None:
    """One fact of a host in the form of table `servers`; None if not stated."""
    if meaning == "state":
        return _state(row, reading)
    text = _cell(row, meaning, reading)
    if text is None:
        return None
    if meaning in _QUANTITIES:
        return _amount(text, row, meaning, reading)
    if meaning in _PLAIN:
        if _PLAIN[meaning].fullmatch(text):
            return text
        message = f"{shown(text)} is not a valid {meaning}"
        reading.note("import-cell", message, row, meaning, "it stays unknown")
        return None
    return _id(text, row, meaning, reading)


def _state(row: Row, reading: _Reading) -> str | None:
    """The state of a server: not capacity if the stated one is unknown; serving if none is stated."""
    column = reading.columns.get("state")
    text = "" if column is None else row.cells[column.position]
    if text.lower() in _EMPTY - _UNKNOWN_STATES:
        return None
    state = STATES.get(bare(text))
    if state is None:
        reading.states.setdefault(bare(text), []).append(row)
    return state or "condemned"


def _note_states(reading: _Reading) -> None:
    """One note for each unknown state, at its first row."""
    hint = (
        "its capacity does not count until its state is known; "
        f"write {', '.join(STATE_WORDS)}, or another word that docs/how-to/import.md lists"
    )
    for rows in reading.states.values():
        text = rows[0].cells[reading.columns["state"].position]
        words = f"unknown state {shown(text)}" + (f" in {len(rows):,} rows" if len(rows) > 1 else "")
        reading.note("import-word-unknown", words, rows[0], "state", hint)


def _decimal_signs(table: Cells, columns: dict[str, Column]) -> dict[str, str]:
    """The decimal separator of each amount column if its cells settle it and agree, else that of all other
    columns. Empty if they disagree, or if cells are separated by semicolons, because then commas are in
    numbers and a point before three digits is ambiguous.
    """
    signs: dict[str, str] = {}
    for meaning in _QUANTITIES:
        if meaning not in columns:
            continue
        seen = set()
        for row in table.rows:
            amount = _AMOUNT.fullmatch(row.cells[columns[meaning].position])
            number = None if amount is None else _NUMBER.fullmatch(amount[1])
            if number is not None and number["point"]:
                seen.add(number["point"])
            elif number is not None and number["group"]:
                seen.add("," if number["group"] == "." else ".")
        if len(seen) == 1:
            signs[meaning] = seen.pop()
        elif seen:
            signs[meaning] = ""
    agreed = set(signs.values())
    other = agreed.pop() if len(agreed) == 1 else "" if agreed or table.delimiter == ";" else None
    if other is not None:
        signs |= {meaning: other for meaning in _QUANTITIES if meaning in columns and meaning not in signs}
    return signs


def plain_number(text: str, decimal_sign: str | None) -> str | None:
    """A number with a decimal point and nothing else; None if it is not a number or is ambiguous.

    decimal_sign: of the other cells; None: unsettled. Then one point before three digits is a fraction, and
    one comma is ambiguous. Empty: both occur.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match["either"]:
        if decimal_sign == "" or (decimal_sign is None and match["sign"] == ","):
            return None
        return (
            text.replace(",", ".")
            if match["sign"] == (decimal_sign or ".")
            else text.replace(match["sign"], "")
        )
    if match["indian"]:
        return text.replace(",", "")
    if match["group"]:
        text = text.replace(match["group"], "")
    return text.replace("'", "").replace(",", ".")


def _id(text: str, row: Row, meaning: str, reading: _Reading) -> str | None:
    """A name as an id: blanks become dashes, and a name's first spelling counts."""
    name = id_of_text(text) if meaning == "class" else "-".join(text.split())
    if len(name) > ID_MAX or not ID.fullmatch(name) or ("/" in name and meaning not in ("rack", "hall")):
        rest = "is left out" if meaning == "services" else "stays unknown"
        reading.note(
            "import-name",
            f"{shown(text)} is not a valid {meaning} name; it {rest}",
            row,
            meaning,
            "letters, digits and . _ - : @",
        )
        return None
    first = reading.spelled.setdefault((meaning, name.lower()), name)
    same = reading.texts.setdefault((meaning, first), text)
    if not first == text == same and (meaning, text) not in reading.changed:
        reading.changed.add((meaning, text))
        message = taken_as(meaning, text, first, same)
        if first == name and same == text:
            reading.blanks.setdefault(meaning, []).append((row, message))
        else:
            reading.note("import-name-changed", message, row, meaning, "use one spelling")
    return first


def _amount(text: str, row: Row, meaning: str, reading: _Reading) -> str | None:
    """A quantity in base units. Thousands separators are allowed; ambiguous numbers are refused."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        reading.note(
            "import-cell",
            f"{shown(text)} is not an amount of {meaning}; it stays unknown",
            row,
            meaning,
            "use a value like 350 W or 350" if meaning == "watts" else "use a value like 64 GiB or 32",
        )
        return None
    number = plain_number(match[1], reading.decimal_signs.get(meaning))
    if number is None:
        two = _NUMBER.fullmatch(match[1]) is not None
        message = f"{shown(text)} is ambiguous" if two else f"{shown(text)} is not an amount of {meaning}"
        plain, fraction = re.sub("[.,]", "", match[1]), match[1].replace(",", ".")
        hint = f"write {plain} or {fraction}" if two else "use a value like 1024 or 7.68"
        reading.note("import-cell", f"{message}; it stays unknown", row, meaning, hint)
        return None
    unit = _unit(match[2], meaning, reading)
    if unit is None and meaning in _MEASURED:
        example = "power_w" if meaning == "watts" else f"{meaning.replace(' ', '_')}_gib"
        hint = f"put the unit in the header, such as {example}"
        reading.note(
            "import-unit-missing", f"{shown(text)} has no unit; it stays unknown", row, meaning, hint
        )
        return None
    try:
        return str(q.parse(_QUANTITIES[meaning], f"{number} {unit}" if unit else number))
    except QuantityError as error:
        reading.note("import-cell", f"{error.message}; it stays unknown", row, meaning, error.hint)
        return None


def _unit(stated: str, meaning: str, reading: _Reading) -> str | None:
    """The unit of a cell, else of its column. Cores need none; unknown units are passed on."""
    if meaning in _IN_CORES:
        return "cores" if bare(stated) in ("", *NAMES["cpu"]) else stated
    if meaning == "accelerators":
        return stated or None
    return (unit_named(stated) or stated) if stated else reading.columns[meaning].unit


def amount(meaning: str, text: str, unit: str | None) -> str | None:
    """An amount of a server in base units; None if the text is none, or if it needs a unit and has none."""
    match = _AMOUNT.fullmatch(text.strip())
    number = None if match is None else plain_number(match[1], None)
    stated = (unit_named(match[2]) or match[2]) if match is not None and match[2] else unit
    if number is None or (stated is None and meaning in _MEASURED):
        return None
    try:
        whole = (
            f"{number} {stated or 'cores'}" if meaning in _IN_CORES else f"{number} {stated or ''}".strip()
        )
        return str(q.parse(_QUANTITIES[meaning], whole))
    except QuantityError:
        return None


def _services(row: Row, reading: _Reading) -> list[str]:
    text = _cell(row, "services", reading)
    names = [] if text is None else [part for part in _PARTED.split(text) if part]
    found = []
    for name in names:
        if is_general_role(name):
            if name.lower() not in reading.general:
                message = f"{shown(name)} does not say what runs on a server: it is imported as no service"
                hint = "if it is a service, describe it in the overlay"
                reading.note("import-ignored", message, row, "services", hint)
            reading.general.add(name.lower())
        elif (made := _id(name, row, "services", reading)) is not None:
            found.append(made)
    return sorted(set(found))


def _note_rest(reading: _Reading) -> None:
    _note_states(reading)
    for meaning, found in reading.blanks.items():
        row, message = found[0]
        message += f"; names like this in this column: {len(found):,}" if len(found) > 1 else ""
        hint = "names in an estate have only letters, digits and . _ - : @"
        reading.note("import-name-changed", message, row, meaning, hint)
    for key, count in sorted(reading.counts.items()):
        code, _, meaning = key.partition(" ")
        if count > LISTED_MAX:
            place = reading.table.header.place(reading.columns[meaning].position, reading.table.delimiter)
            reading.problems.add(
                code, f"and {count - LISTED_MAX:,} more cells like this in this column", place
            )


def _report_nowhere(reading: _Reading) -> None:
    """Hosts without a site cannot be part of any verdict: they are left out and reported individually."""
    for name, host in reading.hosts.items():
        if "site" not in host.facts:
            message = f"{shown(name)} has no site; it and its replicas are left out"
            reading.note("import-host-nowhere", message, host.row, "site", "add its site")


def _add_services(reading: _Reading, imported: Imported) -> None:
    """Facts about services: owners, and demand per replica. The highest demand of a service counts, unless
    a stated one is not known; an owner only if all rows agree.
    """
    owners: dict[str, set[str]] = {}
    needed: dict[tuple[str, str], int] = {}
    doubtful: set[tuple[str, str]] = set()
    for name, host in reading.hosts.items():
        for service in host.services:
            if "owner" in host.facts:
                owners.setdefault(service, set()).add(host.facts["owner"])
            elif (name, "owner") in reading.unread:
                owners.setdefault(service, set()).add("")
            for resource in ("cpu", "memory"):
                if (name, f"{resource} demand") in reading.unread:
                    doubtful.add((service, resource))
                amount = host.facts.get(f"{resource} demand")
                if amount is not None:
                    needed[service, resource] = max(int(amount), needed.get((service, resource), 0))
    for service in sorted({name for host in reading.hosts.values() for name in host.services}):
        values: dict[str, Value] = {}
        if len(owners.get(service, ())) == 1 and "" not in owners[service]:
            values["owner"] = next(iter(owners[service]))
        demand: dict[str, Value] = {
            resource: q.show(_QUANTITIES[f"{resource} demand"], needed[service, resource])
            for resource in ("cpu", "memory")
            if (service, resource) in needed and (service, resource) not in doubtful
        }
        if demand:
            values["demand"] = demand
        imported.add("services", service, values)
