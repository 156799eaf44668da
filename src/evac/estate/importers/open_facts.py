"""What an estate still does not know, as a list a person can work down. Reads the Estate only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

from evac.estate.importers.result import Unknown
from evac.model.estate import Estate, Service, Store
from evac.model.units import RESOURCE_WORDS

_SERVICE_FACTS: Final[tuple[tuple[str, Callable[[Service], bool]], ...]] = (
    ("services without a number of replicas", lambda s: s.replicas is None),
    ("services without a demand of cpu or memory", lambda s: s.demand[0] is None or s.demand[1] is None),
    ("services without a tier", lambda s: s.tier is None),
    ("services without a number of people who notice", lambda s: s.people is None),
    ("services without an rto", lambda s: s.rto_ms is None),
    ("services without a start time", lambda s: s.start_ms is None),
    ("services whose way to move traffic is not known", lambda s: s.traffic.kind is None),
    ("services that may or may not be shed", lambda s: s.sheddable is None),
)
_STORE_FACTS: Final[tuple[tuple[str, Callable[[Store], bool]], ...]] = (
    ("stores that stand nowhere", lambda s: not s.members),
    ("stores whose primary is not known", lambda s: bool(s.members) and s.primary is None),
    (
        "stores with a copy whose lag is not known",
        lambda s: any(m.mode == "async" and m.lag_ms is None for m in s.members),
    ),
    ("stores without a backup", lambda s: not s.backups),
)

_RESOURCE_WORDS: Final = {"accelerators": "number of accelerators"}


def open_facts(estate: Estate) -> tuple[Unknown, ...]:
    """Groups of facts nobody states, the groups that hide most first; groups of nothing left out."""
    found = [*_of_sites(estate), *_of_services(estate), *_of_stores(estate), *_of_servers(estate)]
    return tuple(group for group in found if group.count)


def _group(what: str, names: Iterable[str]) -> Unknown:
    listed = tuple(sorted(names))
    return Unknown(what, len(listed), listed)


def _of_sites(estate: Estate) -> list[Unknown]:
    pools = [p.id for p in estate.pools if p.capacity[0] is None or p.capacity[1] is None]
    nowhere = [] if estate.sites else [Unknown("sites: none is described", 1)]
    return [*nowhere, _group("pools without a capacity", pools)]


def _of_services(estate: Estate) -> list[Unknown]:
    placed = {estate.services[row].id for row in np.unique(estate.replicas.service).tolist()}
    nowhere = [s.id for s in estate.services if s.id not in placed and not s.sites]
    groups = [_group("services that run nowhere we know of", nowhere)]
    for what, is_open in _SERVICE_FACTS:
        groups.append(_group(what, (s.id for s in estate.services if is_open(s))))
    return groups


def _of_stores(estate: Estate) -> list[Unknown]:
    return [_group(what, (s.id for s in estate.stores if is_open(s))) for what, is_open in _STORE_FACTS]


def _of_servers(estate: Estate) -> list[Unknown]:
    fleet = estate.fleet
    masks: list[tuple[str, Any]] = [
        ("servers whose site is not known", fleet.site < 0),
        ("servers whose rack is not known", fleet.rack < 0),
    ]
    masks += [
        (f"servers whose {_RESOURCE_WORDS.get(word, word)} is not known", ~fleet.capacity_known[:, row])
        for row, word in enumerate(RESOURCE_WORDS)
    ]
    masks.append(("servers whose power is not known", ~fleet.watts_known))
    return [
        _group(what, (fleet.server_name(row) for row in np.flatnonzero(mask).tolist()))
        for what, mask in masks
    ]
