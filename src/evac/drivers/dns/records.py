"""Wanted records of a zone: the estate's addresses by site, turned into record sets. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from evac.drivers import parameters
from evac.drivers.port import Action, Value
from evac.model.errors import Permanent
from evac.model.records import dataclass

HALF: Final = 500
Kind = Literal["A", "AAAA"]


@dataclass(frozen=True, slots=True, order=True)
class RecordKey:
    """One record set: an absolute name, and its type."""

    name: str
    kind: Kind


Addresses = frozenset[str]
Answers = dict[RecordKey, Addresses]
"""Current or wanted answers of a server; an empty set: no such record."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one zone: record set -> site -> addresses of that site."""

    zone: str
    records: Mapping[RecordKey, Mapping[str, Addresses]]


def read_names(settings: Mapping[str, Value], only: Iterable[str] = ()) -> Names:
    """Read `zone` and `records` (`chat=pangyo:192.0.2.1,anyang:192.0.2.2`); `+` joins addresses of one site.

    only: names to use, all if empty. Raises `Permanent`.
    """
    zone = _absolute(parameters.text(settings, "zone"), "")
    wanted = {_absolute(name, zone) for name in only}
    records: dict[RecordKey, dict[str, Addresses]] = {}
    for entry in parameters.many(settings, "records"):
        name, separator, sites = entry.partition("=")
        if not separator:
            raise Permanent("setting-wrong", f"records: {entry!r} is not name=site:address")
        absolute = _absolute(name.strip(), zone)
        if not wanted or absolute in wanted:
            for key, addresses in _by_kind(absolute, parameters.by_site((sites,), "records", ":")).items():
                records.setdefault(key, {}).update(addresses)
    missing = wanted - {key.name for key in records}
    if missing or not records:
        raise Permanent(
            "setting-missing", f"records has no addresses for {', '.join(sorted(missing)) or zone}"
        )
    return Names(zone, records)


def wanted(names: Names, action: Action, seen: Answers) -> Answers:
    """The wanted addresses of each record set after the action, given the current ones.

    A share below one half moves nothing, and from one half on both sites are returned: DNS has no weights,
    and never moves more than requested. Raises `Permanent` if no address would be left.
    """
    site = parameters.text(action.parameters, "site", action.at)
    if action.verb in ("drain", "ready") and not any(site in sites for sites in names.records.values()):
        raise Permanent("setting-missing", f"records has no address for the site {site}")
    result = {
        key: _wanted_of(sites, action, seen.get(key, frozenset())) for key, sites in names.records.items()
    }
    answered = {key.name for key, addresses in result.items() if addresses}
    empty = sorted({key.name for key in result} - answered)
    if empty:
        raise Permanent("answers-nothing", f"there would be no answer for {', '.join(empty[:5])}")
    return result


def foreign(names: Names, seen: Answers) -> tuple[str, ...]:
    """Current addresses that are not in the estate: someone else changed the zone."""
    return tuple(
        f"{key.name} {address}"
        for key, sites in sorted(names.records.items())
        for address in sorted(seen.get(key, frozenset()) - frozenset().union(*sites.values()))
    )


def sent_to(names: Names, seen: Answers) -> tuple[str, ...] | None:
    """Sites whose addresses are the current answers, sorted. None if that is not clear: there are no answers,
    an address is of no site or of several, or some names are at other sites than others.
    """
    if foreign(names, seen):
        return None
    by_name: dict[str, set[str]] = {}
    found: dict[RecordKey, set[str]] = {}
    for key, sites in names.records.items():
        now = seen.get(key, frozenset())
        if any(sum(address in addresses for addresses in sites.values()) > 1 for address in now):
            return None
        found[key] = {site for site, addresses in sites.items() if addresses & now}
        by_name.setdefault(key.name, set()).update(found[key])
    sent, *others = by_name.values()
    alike = all(other == sent for other in others)
    whole = all(here == sent & names.records[key].keys() for key, here in found.items())
    return tuple(sorted(sent)) if sent and alike and whole else None


def _wanted_of(sites: Mapping[str, Addresses], action: Action, now: Addresses) -> Addresses:
    if action.verb == "shift":
        to, away, share = parameters.shares(action)
        return _shared(_of(sites, *to), _of(sites, *away), share)
    if action.verb == "verify":
        return _of(sites, *parameters.sites(action.parameters, "expect"))
    site = parameters.text(action.parameters, "site", action.at)
    return now - _of(sites, site) if action.verb == "drain" else now | _of(sites, site)


def _shared(to: Addresses, away: Addresses, share: int) -> Addresses:
    if share == parameters.PERMILLE:
        return to
    return to | away if share >= HALF else away


def _of(sites: Mapping[str, Addresses], *names: str) -> Addresses:
    """The addresses of these sites; a name without addresses at a site has none there."""
    return frozenset().union(*(sites.get(name, frozenset()) for name in names))


def _by_kind(name: str, sites: Mapping[str, tuple[str, ...]]) -> dict[RecordKey, dict[str, Addresses]]:
    found: dict[RecordKey, dict[str, Addresses]] = {}
    for site, addresses in sites.items():
        for address in addresses:
            try:
                parsed = ipaddress.ip_address(address.strip())
            except ValueError as error:
                raise Permanent("setting-wrong", f"records: {address!r} is not an address") from error
            kind: Kind = "A" if parsed.version == 4 else "AAAA"
            of_kind = found.setdefault(RecordKey(name, kind), {})
            of_kind[site] = of_kind.get(site, frozenset()) | {str(parsed)}
    return found


def _absolute(name: str, zone: str) -> str:
    """An absolute name with its trailing dot, in lower case; a name without one is inside the zone."""
    name = name.lower()
    if name.endswith(".") or not zone:
        return name.rstrip(".") + "."
    if name == "@":
        return zone
    inside = f".{zone.rstrip('.')}"
    return name + "." if f".{name}".endswith(inside) else f"{name}.{zone}"
