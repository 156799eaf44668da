"""Finds servers that two sources call by different names, with a domain and without it: they are one server,
and its capacity counts once.

That is safe only if nothing speaks against it: one name has no domain, no third name has the same first
label, no source has both names, and their sites, serial numbers and BMC addresses do not differ. Otherwise
they stay two servers, and a message says why and how to make them one. Two names in one source are said only
if none of these facts differs: then the source itself shows that they are two.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import permutations
from typing import Final

from evac.estate.format.problems import Problems, shown
from evac.estate.importers.imported import TABLE_COLUMNS, SourcePart, Value, value_text
from evac.estate.importers.renaming import servers_renamed
from evac.model.records import dataclass

_TOLD_BY: Final = {
    TABLE_COLUMNS["servers"].index(column): words
    for column, words in (("site", "sites"), ("serial", "serial numbers"), ("bmc_address", "BMC addresses"))
}
"""Columns that differ only if two servers are two."""
_SERIAL: Final = TABLE_COLUMNS["servers"].index("serial")
_NAMED_MAX: Final = 4


def first_label(host: str) -> str:
    """The first label of a host's name in lower case; none of an IP address."""
    label = host.lower().partition(".")[0]
    return "" if label.isdigit() else label


@dataclass(frozen=True, slots=True)
class _Same:
    """Names of what may be one server: the first source that has it, and another one with its other name."""

    first: SourcePart
    name: str
    other: SourcePart
    other_name: str
    why_not: str = ""
    """Why they stay two; empty if they are one."""


def with_same_servers(parts: list[SourcePart], problems: Problems) -> list[SourcePart]:
    """The parts, in which such a server has the name that the first source gives it."""
    rows = [_rows(part) for part in parts]
    named: dict[str, dict[str, list[int]]] = {}
    for number, own in enumerate(rows):
        for name in own:
            if label := first_label(name.partition("@")[0]):
                named.setdefault(label, {}).setdefault(name, []).append(number)
    found = [
        same
        for label, names in sorted(named.items())
        if len(names) > 1 and (same := _same(label, names, parts, rows)) is not None
    ]
    new = {one.other_name: one.name for one in found if not one.why_not}
    _report(found, problems)
    return [replace(part, imported=servers_renamed(part.imported, new)) for part in parts] if new else parts


def _rows(part: SourcePart) -> dict[str, tuple[str, ...]]:
    """The servers of a source and their cells, also of those whose site it does not say."""
    whole = part.imported
    return {name: one.row for name, one in whole.unplaced.items()} | {
        row[0]: row for row in whole.tables.get("servers", [])
    }


def _same(
    label: str, names: dict[str, list[int]], parts: list[SourcePart], rows: list[dict[str, tuple[str, ...]]]
) -> _Same | None:
    """What may be one server among names with one first label; None if nothing says so."""
    for short, full in permutations(names, 2):
        apart = [(here, there) for here in names[short] for there in names[full] if here != there]
        if short.lower() != label or not apart or any(full in rows[number] for number in names[short]):
            continue
        here, there = min(apart, key=sorted)
        ordered = ((here, short), (there, full)) if here < there else ((there, full), (here, short))
        (first, name), (second, other) = ordered
        return _Same(parts[first], name, parts[second], other, _why_not(names, rows))
    return _same_in_one(label, names, parts, rows)


def _same_in_one(
    label: str, names: dict[str, list[int]], parts: list[SourcePart], rows: list[dict[str, tuple[str, ...]]]
) -> _Same | None:
    """Two names of what may be one server in one source; None if that source shows that they are two."""
    for short, full in permutations(names, 2):
        together = sorted({*names[short]} & {*names[full]})
        both = {short: together, full: together}
        if short.lower() != label or not together or _differs(both, rows):
            continue
        if "@" in full and not _stated(both, rows, _SERIAL):
            continue  # the importer has said that two devices have one name
        part = parts[together[0]]
        return _Same(part, short, part, full, _why_not(names, rows) or f"{part.name} lists both")
    return None


def _why_not(names: dict[str, list[int]], rows: list[dict[str, tuple[str, ...]]]) -> str:
    """Why names with one first label are more than one server; empty if nothing says so."""
    if len(names) > 2:
        return f"{len(names)} names begin like that"
    return _differs(names, rows)


def _differs(names: dict[str, list[int]], rows: list[dict[str, tuple[str, ...]]]) -> str:
    """What of these names differs only if they are several servers; empty if nothing does."""
    found = (words for column, words in _TOLD_BY.items() if len(_stated(names, rows, column)) > 1)
    return next((f"their {words} differ" for words in found), "")


def _stated(names: dict[str, list[int]], rows: list[dict[str, tuple[str, ...]]], column: int) -> set[str]:
    """What the sources state about these names in a column."""
    return {
        cells[column].lower()
        for name, numbers in names.items()
        for cells in (rows[number][name] for number in numbers)
        if len(cells) > column and cells[column] not in ("", "unknown")
    }


def _report(found: Collection[_Same], problems: Problems) -> None:
    """One message for two sources and one reason, with the first names."""
    groups: dict[tuple[str, str, str], list[_Same]] = {}
    for one in found:
        groups.setdefault((one.why_not, one.first.name, one.other.name), []).append(one)
    for (why_not, first, other), same in groups.items():
        pairs = ", ".join(f"{one.other_name} is {one.name}" for one in same[:_NAMED_MAX])
        more = f" and {len(same) - _NAMED_MAX} more" if len(same) > _NAMED_MAX else ""
        one_of = same[0]
        if not why_not:
            count = "1 server has" if len(same) == 1 else f"{len(same):,} servers have"
            message = f"{count} another name in {other} than in {first}, but counts once: {pairs}{more}"
            hint = "if two of them are two servers, give one of them another name in the recipe, under names:"
            problems.add("import-name-changed", message, one_of.other.place, hint)
            continue
        pairs = ", ".join(f"{shown(one.other_name)} and {shown(one.name)}" for one in same[:_NAMED_MAX])
        of = other if other == first else f"{other} and {first}"
        message = (
            f"{pairs}{more}, of {of}, may be one server each, but {why_not}: "
            "they are imported as two, and their capacity counts twice"
        )
        names: dict[str, Value] = {other: {one.other_name: one.name for one in same[:_NAMED_MAX]}}
        where = "give it one name here, or add to a recipe" if other == first else "add to the recipe"
        hint = f"if they are one, {where}: names: {value_text(names)}"
        problems.add("import-conflict", message, one_of.other.place, hint)
