"""The stores of the example: copies, votes, lag, backups, and groups that come back together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
from numpy.random import Generator

from evac.estate.examples.company import Blueprint
from evac.estate.examples.dependencies import store_id
from evac.estate.examples.grounds import HALLS_PER_SITE, LOST_SITE, SITE_IDS, WITNESS
from evac.estate.examples.layout import eligible_sites
from evac.model.estate import Backup, RecoveryGroup, Store, StoreMember
from evac.model.fleet import IntColumn

RPO_MS: Final = (0, 60_000, 300_000, 86_400_000)
"""Data loss allowed, by tier."""

QUORUM_ENGINES: Final = frozenset({"etcd", "kafka"})
_LAG_PER_TIER_MS: Final = (3_000, 20_000, 90_000, 600_000)
_GROUPS: Final = (
    ("chat-history", ("messenger-chat-data", "messenger-friends-data", "messenger-group-chat-data"), 5_000),
    (
        "money",
        (
            "bank-deposit-data",
            "bank-ledger-data",
            "bank-transfer-data",
            "pay-authorisation-data",
            "pay-ledger-data",
            "pay-payment-data",
            "pay-wallet-data",
        ),
        0,
    ),
)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What is drawn for one store, the same for both companies."""

    halls: tuple[int, int, int]
    promote_ms: int
    fence_ms: int
    lag_ms: int
    size_gib: int
    luck: float

    def hall(self, site: str, number: int) -> str:
        return f"{site}/hall-{self.halls[number % 3] + 1}"

    def other_hall(self, site: str) -> str:
        return f"{site}/hall-{(self.halls[0] + 1) % HALLS_PER_SITE + 1}"


def draw_stores(
    blueprints: tuple[Blueprint, ...], counts: IntColumn, mended: bool, as_of: date, draw: Generator
) -> tuple[Store, ...]:
    """One store per blueprint with an engine, sorted by id; `counts` says where its service stands (S, 4)."""
    found = []
    for row, blueprint in enumerate(blueprints):
        drawn = _draw_one(blueprint, draw)
        if blueprint.engine is None:
            continue
        sites = _sites(blueprint, counts[row])
        make = _mended_store if mended else _flawed_store
        found.append(make(blueprint, sites, drawn, as_of))
    return tuple(sorted(found, key=lambda store: store.id))


def _draw_one(blueprint: Blueprint, draw: Generator) -> _Drawn:
    halls = draw.integers(0, HALLS_PER_SITE, size=3).tolist()
    seconds = draw.integers(0, 30, size=2).tolist()
    stretch = float(draw.uniform(0.4, 1.0))
    size = int(min(60_000.0, 400.0 * float(draw.lognormal(0.0, 1.4))))
    return _Drawn(
        (halls[0], halls[1], halls[2]),
        20_000 + 1_000 * seconds[0],
        10_000 + 1_000 * (seconds[1] // 3),
        int(_LAG_PER_TIER_MS[blueprint.tier] * stretch),
        max(10, size),
        float(draw.uniform()),
    )


def _sites(blueprint: Blueprint, counts: IntColumn) -> list[str]:
    """Sites for the copies: where most of the service stands first, then the other eligible ones."""
    allowed = eligible_sites(blueprint) or SITE_IDS
    order = np.lexsort((np.arange(len(SITE_IDS)), -counts)).tolist()
    return [SITE_IDS[i] for i in order if SITE_IDS[i] in allowed]


def _mended_store(blueprint: Blueprint, sites: list[str], drawn: _Drawn, as_of: date) -> Store:
    """Three votes in three domains; tier 0 and quorums have a synchronous copy at another site."""
    first, second, third = sites[:3]
    quorum = blueprint.engine in QUORUM_ENGINES
    members = [StoreMember(drawn.hall(first, 0), "primary", 0)]
    if quorum:
        members += [StoreMember(drawn.hall(s, 1 + n), "sync", 0) for n, s in enumerate((second, third))]
    elif blueprint.tier == 0:
        members.append(StoreMember(drawn.hall(second, 1), "sync", 0))
        members.append(StoreMember(drawn.hall(third, 2), "async", drawn.lag_ms))
    else:
        members.append(StoreMember(drawn.hall(second, 1), "async", drawn.lag_ms))
        members.append(StoreMember(WITNESS, "none"))
    backups = (
        Backup(third, drawn.size_gib, 6 * 3_600_000, 20_000, as_of - timedelta(days=12)),
        Backup(second, drawn.size_gib, 24 * 3_600_000, 10_000, as_of - timedelta(days=20)),
    )
    return _store(blueprint, tuple(members), backups, drawn, quorum, True)


def _flawed_store(blueprint: Blueprint, sites: list[str], drawn: _Drawn, as_of: date) -> Store:
    """Copies inside one building, lag above what may be lost, majorities in one site, untested backups."""
    quorum = blueprint.engine in QUORUM_ENGINES
    inside = blueprint.component in ("tool", "login") or drawn.luck < 0.4
    first = LOST_SITE if blueprint.component in ("tool", "login", "infra") else sites[0]
    other = next(s for s in sites if s != first)
    members = [StoreMember(drawn.hall(first, 0), "primary", 0)]
    if blueprint.id == "message-bus":
        members += [StoreMember(drawn.other_hall(first), "sync", 0)]
        members += [StoreMember(f"{other}/hall-{n}", "sync", 0) for n in (1, 2)]
    elif quorum:
        members.append(StoreMember(drawn.other_hall(first), "sync", 0))
        last = f"{first}/hall-4" if inside else drawn.hall(other, 1)
        members.append(StoreMember(last, "sync", 0))
    elif inside:
        members.append(StoreMember(drawn.other_hall(first), "sync", 0))
    else:
        lag = drawn.lag_ms if drawn.luck > 0.7 else max(drawn.lag_ms * 30, 600_000)
        members.append(StoreMember(drawn.hall(other, 1), "async", lag))
    backups: tuple[Backup, ...] = ()
    if drawn.luck > 0.2 and blueprint.component != "tool":
        tested = as_of - timedelta(days=700) if drawn.luck > 0.6 else None
        backups = (Backup(first if inside else other, drawn.size_gib, 24 * 3_600_000, 4_000, tested),)
    return _store(blueprint, tuple(members), backups, drawn, quorum, drawn.luck > 0.5)


def _store(
    blueprint: Blueprint,
    members: tuple[StoreMember, ...],
    backups: tuple[Backup, ...],
    drawn: _Drawn,
    quorum: bool,
    automatic: bool,
) -> Store:
    name = store_id(blueprint.id)
    return Store(
        id=name,
        family=name,
        engine=blueprint.engine or "",
        members=members,
        backups=backups,
        quorum=quorum,
        automatic=automatic,
        rpo_ms=RPO_MS[blueprint.tier],
        fence_ms=drawn.fence_ms,
        promote_ms=drawn.promote_ms,
    )


def recovery_groups(stores: tuple[Store, ...]) -> tuple[RecoveryGroup, ...]:
    """Groups of the stores that exist at this scale; a group of fewer than two says nothing."""
    known = {store.id for store in stores}
    found = []
    for name, services, tolerance_ms in _GROUPS:
        present = tuple(sorted(store_id(s) for s in services if store_id(s) in known))
        if len(present) > 1:
            found.append(RecoveryGroup(name, present, tolerance_ms))
    return tuple(found)
