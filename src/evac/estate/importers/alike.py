"""Notes names of two sources that may mean one thing, with the line of the recipe that makes them one.

Nothing is merged here: two services of similar names may be two. Only a person knows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Final

from evac.estate.format.problems import Problems
from evac.estate.importers.imported import SourcePart, Value, value_text

_UMLAUTS: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
_VOWELS: Final = frozenset("aeiou")
_BETWEEN: Final = re.compile(r"(?<!\d)[._-]+|[._-]+(?!\d)")
"""Signs that two spellings of a name may differ in. Those between digits count: `db1-1` is not `db-11`."""
_CODE_MAX: Final = 4
"""Letters of a name that can be a code for a longer one."""

Pairs = Collection[frozenset[str]]
"""Names that another message calls possibly the same."""


def _names(of: dict[str, Value]) -> str:
    """What to add to a recipe, so that names of a source are others."""
    return f"if it is, add to the recipe: names: {value_text(of)}"


def hint_at_sites(parts: list[SourcePart], said: Pairs, problems: Problems) -> None:
    """Notes sites whose names look like one place, such as `fra1` and `Frankfurt`; no source has both. Names
    look like one place if they are equal but for case and accents, or one is a code for the other. Numbers at
    their ends do not count, unless that is the only difference.
    """
    sites = [part.imported.sections.get("sites", {}).keys() for part in parts]
    first: dict[str, tuple[int, str, SourcePart]] = {}
    named: dict[str, list[str]] = {}
    alike: dict[tuple[str, bool], set[str]] = {}
    for part, own in zip(parts, sites, strict=True):
        new = {site: _forms(site) for site in sorted(own - first.keys())}
        for site, (stem, forms) in new.items():
            same = {
                known
                for form in forms
                for known in (form, *alike.get((form[0], len(form) <= _CODE_MAX), ()))
                if known == form or _is_code(*sorted((form, known), key=len))
            }
            others = {one for known in same for one in named.get(known, ()) if first[one][1] != stem}
            found: dict[str, list[str]] = {}
            for other in sorted(others, key=lambda one: first[one][0]):
                is_two = any({site, other} <= one for one in sites)
                if not is_two and frozenset((site, other)) not in said:
                    found.setdefault(first[other][2].name, []).append(other)
            for source, zones in found.items():
                listed = " and ".join(value_text(zone) for zone in zones)
                message = f"{value_text(site)} in {part.name} may be {listed} in {source}"
                names: dict[str, Value] = {part.name: {site: zones[0]}}
                if len(zones) > 1:
                    names = {source: dict.fromkeys(zones, site)}
                problems.add("import-same-place", message, part.place, _names(names))
        for site, (stem, forms) in new.items():
            first[site] = (len(first), stem, part)
            for form in forms:
                named.setdefault(form, []).append(site)
                alike.setdefault((form[0], len(form) > _CODE_MAX), set()).add(form)


def hint_at_names(parts: list[SourcePart], said: Pairs, problems: Problems) -> None:
    """Notes services, stores and halls of two sources whose names differ only in case, dashes, dots and
    underscores.
    """
    first: dict[tuple[str, str], tuple[str, SourcePart]] = {}
    for part in parts:
        for section in ("services", "stores", "halls"):
            own = part.imported.sections.get(section, {})
            for name in sorted(own):
                known, other = first.setdefault((section, _BETWEEN.sub("", name).lower()), (name, part))
                if known == name or known in own or frozenset((name, known)) in said:
                    continue
                message = f"{value_text(name)} in {part.name} may be {value_text(known)} in {other.name}"
                problems.add("import-same-name", message, part.place, _names({part.name: {name: known}}))


def hint_at_data(parts: list[SourcePart], problems: Problems) -> None:
    """Notes a store of one source that has the name of a service of another one with a single store: a
    catalogue calls a database what runs as a service in a cluster, with its data in a store of its own.
    """
    described = {
        name: (part, entry)
        for part in reversed(parts)
        for name, entry in part.imported.sections.get("services", {}).items()
        if entry.described
    }
    for part in parts:
        own = part.imported.sections
        for store in sorted(own.get("stores", {}).keys() & described.keys() - own.get("services", {}).keys()):
            other, entry = described[store]
            needs = entry.values.get("needs")
            items = needs if isinstance(needs, list) else []
            data = [one["store"] for one in items if isinstance(one, dict) and "store" in one]
            if other is not part and len(data) == 1 and data != [store]:
                message = (
                    f"the store {value_text(store)} in {part.name} may be {value_text(data[0])}, "
                    f"the data of the service of that name in {other.name}"
                )
                names = _names({part.name: {store: data[0]}})
                problems.add("import-same-name", message, part.place, names)


def _forms(site: str) -> tuple[str, set[str]]:
    """A name without the number at its end, and its letters without case and accents, with and without
    umlauts as two letters; none if it has other digits.
    """
    stem = site.rstrip("0123456789")
    if any(c.isdigit() for c in stem):
        return stem, set()
    plain = (
        "".join(c for c in unicodedata.normalize("NFKD", form) if c.isalpha())
        for form in (stem.lower(), stem.lower().translate(_UMLAUTS))
    )
    return stem, {form for form in plain if form}


def _is_code(code: str, whole: str) -> bool:
    """Whether a short name is made of letters of a longer one with the same first letter, in their order. No
    vowel is left out before a vowel: `lon` is no code for Lisbon.
    """
    at = 0
    for letter in code[1:]:
        start, at = at + 1, whole.find(letter, at + 1)
        if at < 0 or (letter in _VOWELS and not _VOWELS.isdisjoint(whole[start:at])):
            return False
    return len(code) > 1
