"""Services in any catalogue: names, needs, and external services."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import Quantity, QuantityError
from evac.estate.importers.containers import hint_undescribed
from evac.estate.importers.imported import Imported, Value, scalar_text
from evac.estate.importers.source_files import is_id
from evac.model.diagnostic import Place
from evac.model.records import dataclass

QUANTITIES: Final[Mapping[str, Quantity]] = {
    "people": q.COUNT,
    "rto": q.DURATION,
    "rpo": q.DURATION,
    "cpu": q.CORES_NEEDED,
    "memory": q.MEMORY_NEEDED,
}
_TIER: Final = re.compile(r"(?:tier[ _-]?|t)?(\d{1,3})", re.IGNORECASE | re.ASCII)
_COUNT: Final = re.compile(r"\d{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Need:
    """A name that a service needs, with its place."""

    name: str
    place: Place
    kind: str = ""
    """`service` or `store`; empty if not stated."""


@dataclass(slots=True)
class Catalogue:
    """Services and stores of a source, before names are resolved."""

    services: dict[str, dict[str, Value]] = field(default_factory=dict)
    stores: dict[str, dict[str, Value]] = field(default_factory=dict)
    needs: dict[str, list[Need]] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    """Section and name -> where it is described."""

    def take(self, section: str, name: str, place: Place, problems: Problems) -> dict[str, Value] | None:
        """A new entry to fill in; None, with a note, if its name is invalid or taken."""
        scratch = Problems()
        if not is_id(name, place, scratch):
            problems.add(
                "import-skipped",
                f"{shown(name)} is skipped: its name is not valid in an estate",
                place,
                "letters, digits and . _ - : @ /",
            )
            return None
        if (section, name) in self.places:
            message = f"{shown(name)} is described twice, first at {self.places[section, name]}"
            problems.add("import-twice", message, place, "the first is used; keep one of the two")
            return None
        self.places[section, name] = place
        values: dict[str, Value] = {}
        (self.services if section == "services" else self.stores)[name] = values
        return values

    def add_to(self, imported: Imported, problems: Problems) -> None:
        """Adds everything. Needed services that are not described become external and are needed softly."""
        outside: set[str] = set()
        for one in [one for needs in self.needs.values() for one in needs if one.kind == "store"]:
            if one.name not in self.stores:
                self.take("stores", one.name, one.place, problems)
        for name, values in self.services.items():
            needs: list[Value] = [
                need
                for one in self._distinct(name)
                if (need := self._need(name, one, outside, problems)) is not None
            ]
            if needs:
                values["needs"] = needs
            imported.add("services", name, values, self.comments.get(name, ""))
        for name, values in self.stores.items():
            imported.add("stores", name, values, self.comments.get(name, ""))
        imported.add_undescribed({name: name for name in outside}, are_hosts=False)

    def _distinct(self, name: str) -> list[Need]:
        found: dict[tuple[str, str], Need] = {}
        for need in self.needs.get(name, ()):
            found.setdefault((need.kind, need.name), need)
        return list(found.values())

    def _need(self, name: str, need: Need, outside: set[str], problems: Problems) -> Value:
        if need.kind != "service" and need.name in self.stores:
            return {"store": need.name}
        if need.name == name:
            return None
        if need.name in self.services:
            return {"service": need.name}
        if not is_id(need.name, need.place, Problems() if need.kind == "store" else problems):
            return None
        outside.add(need.name)
        hint = problems.suggest(need.name, [*self.services, *self.stores]) or hint_undescribed(
            need.name, is_host=False
        )
        message = f"{shown(name)} needs {shown(need.name)}, which the source does not describe"
        problems.add("import-dangling", message, need.place, hint, about=need.name)
        return {"service": need.name, "hard": False}


def tier_of(text: str) -> int | None:
    """The tier in a word such as `1` or `tier-1`; None otherwise."""
    match = _TIER.fullmatch(text.strip())
    return int(match[1]) if match is not None and int(match[1]) <= 100 else None


_WHOLE: Final = re.compile(r"[1-9]\d{0,2}(?:([.,' \u00a0\u202f])\d{3})(?:\1\d{3})*", re.ASCII)
"""A whole number with signs between its thousands."""
_EITHER: Final = re.compile(r"([1-9]\d{0,2})[.,](\d{3})(?![\d.,]).*", re.ASCII)
"""An amount that may be thousands, or have a decimal sign."""
_COMMA: Final = re.compile(r"(\d+),(\d+)(?![\d.,])", re.ASCII)
"""An amount with a decimal comma."""
_BARE: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
LISTED_MAX: Final = 5
"""Facts of one kind that are named if they cannot be used; the others are counted."""
Refused = dict[str, list[Place]]
"""Kind of a fact -> places where it cannot be used."""


def fill_in(
    values: dict[str, Value],
    key: str,
    text: str,
    place: Place,
    problems: Problems,
    refused: Refused,
    *,
    in_table: bool,
) -> None:
    """Takes one fact of a service as people write it; an unreadable one stays unknown, with a note, or among
    many in `refused`, for `note_refused`.

    There are only whole people, so `6.000` are six thousand, and CPU without a unit is in cores. in_table:
    from a spreadsheet, where an amount of `1.024 GiB` has two readings, a thousand times apart, and `0,5` a
    decimal comma.
    """
    made: Value = None
    message, hint = f"{shown(text)} is not a valid {key}", "it stays unknown"
    if key == "people" and _WHOLE.fullmatch(text):
        text = re.sub(r"\D", "", text)
    if in_table and key in QUANTITIES and (either := _EITHER.fullmatch(text)):
        fraction = f"{either[1]}.{either[2]}".rstrip("0").rstrip(".")
        message = f"{shown(text)} may be {either[1]},{either[2]} or {fraction}"
        plain = f"{fraction}0" if fraction.endswith(either[2]) else fraction
        hint = f"it stays unknown; write {either[1]}{either[2]} or {plain}"
    elif key == "tier":
        made = tier_of(text)
        hint = "write a number from 0 to 100; 0 matters most"
    elif key == "replicas":
        made = int(text) if _COUNT.fullmatch(text) and int(text) else None
        hint = "write a number such as 3"
    elif key in QUANTITIES:
        text = _COMMA.sub(r"\1.\2", text) if in_table else text
        try:
            stated = f"{text} cores" if key == "cpu" and _BARE.fullmatch(text) else text
            made = q.show(QUANTITIES[key], q.parse(QUANTITIES[key], stated))
        except QuantityError as error:
            hint = error.hint or hint
    else:
        made = text[:200]
    if made is None:
        places = refused.setdefault(key, [])
        places.append(place)
        if len(places) <= LISTED_MAX:
            problems.add("import-word-unknown", message, place, hint)
    elif key in ("cpu", "memory"):
        known = values.setdefault("demand", {})
        if isinstance(known, dict):
            known[key] = made
    else:
        values[key] = made


def note_refused(refused: Refused, problems: Problems) -> None:
    """Counts the facts that `fill_in` could not take and did not name."""
    for key, places in refused.items():
        if more := places[LISTED_MAX:]:
            words = f"and {len(more):,} more that are not a valid {key}"
            problems.add("import-word-unknown", words, more[0], "they stay unknown")


def service_examples(imported: Imported) -> list[str]:
    """Lines for a first overlay, each valid once uncommented."""
    lines = ["sites:                       # where things run", "  east: {}", "  west: {}", "services:"]
    lines += [
        f"  {name}: {{replicas: {{east: 1, west: 1}}, rto: 1 h}}"
        for name, entry in sorted(imported.sections.get("services", {}).items())
        if entry.described
    ]
    stores = sorted(imported.sections.get("stores", {}))
    if stores:
        lines += ["stores:", *(f"  {name}: {{members: [{{at: east, mode: primary}}]}}" for name in stores)]
    return lines


_OF_SERVICES: Final = (("tier", "1"), ("people", "10 K"), ("rto", "1 h"), ("share", "50 %"))


def combined_examples(imported: Imported) -> list[str]:
    """Lines for the first overlay of several sources, valid once uncommented: what none of them states."""
    sites, lines = sorted(imported.sections.get("sites", {})), []
    if not sites:
        sites = ["east", "west"]
        lines += ["sites:                       # where things run", "  east: {}", "  west: {}"]
    first, *others = (scalar_text(site) for site in sites[:2])
    if others:
        lines += ["links:                       # the network between sites"]
        lines += [f"  - {{ends: [{first}, {others[0]}], bandwidth: 100 Gbit/s}}"]
    classes = sorted(imported.sections.get("classes", {}))
    lines += ["classes:"] if classes else []
    lines += [f"  {scalar_text(name)}: {{watts: 350 W, boot: 6 min, boot_odds: 98 %}}" for name in classes]
    in_table = {row[0] for row in imported.tables.get("replicas", [])}
    found: dict[str, list[str]] = {}
    for name, entry in sorted(imported.sections.get("services", {}).items()):
        is_placed = (
            name in in_table or "sites" in entry.values or isinstance(entry.values.get("replicas"), dict)
        )
        where = f"replicas: {{{', '.join(f'{site}: 1' for site in (first, *others))}}}"
        if "replicas" in entry.values:  # a number without a site, which stays
            where = f"sites: [{', '.join((first, *others))}]"
        facts = [] if is_placed else [where]
        facts += [f"{key}: {value}" for key, value in _OF_SERVICES if key not in entry.values]
        if facts and not entry.values.get("external"):
            found.setdefault("services", []).append(f"  {scalar_text(name)}: {{{', '.join(facts)}}}")
    for name, entry in sorted(imported.sections.get("stores", {}).items()):
        fact = f"members: [{{at: {first}, mode: primary}}]"
        fact = "rpo: 5 min" if entry.values.get("members") else fact
        if not (entry.values.get("members") and "rpo" in entry.values):
            found.setdefault("stores", []).append(f"  {scalar_text(name)}: {{{fact}}}")
    for section, entries in found.items():
        lines += [f"{section}:", *entries]
    return lines
