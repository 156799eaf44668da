"""How servers boot: kinds of similar boots, how many dark servers to count on, and what stays off."""

from __future__ import annotations

from typing import Final

import numpy as np

from evac.derive.domains import Loss, Topology, loss, may_run_at
from evac.derive.energising import Energy
from evac.derive.limits import LimitTable
from evac.model.estate import Estate, Service
from evac.model.fleet import BMC_NO, DARK, BoolColumn, IndexColumn, IntColumn
from evac.model.instance import BootKind, LeftOff
from evac.model.reason import OffReason
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.model.step_id import limit_id
from evac.model.units import ticks_up

MANUAL_BOOT: Final = "limits/manual/boot"
"""Path of how long people take to boot a server."""


def that_occur(kind: IndexColumn, kinds: tuple[BootKind, ...]) -> tuple[IndexColumn, tuple[BootKind, ...]]:
    """Kinds of boots that some row has, renumbered, and the kind of each row; -1 stays."""
    occurring = np.unique(kind[kind >= 0])
    number = np.full(len(kinds) + 1, -1, np.int32)
    number[occurring] = np.arange(len(occurring), dtype=np.int32)
    return number[kind], tuple(kinds[k] for k in occurring.tolist())


def with_power(top: Topology, energy: Energy) -> BoolColumn:
    """(V,) servers whose rack is not refused power."""
    refused = np.zeros(len(top.estate.racks) + 1, np.bool_)
    refused[list(energy.refused)] = True
    return np.asarray(~refused[top.estate.fleet.rack], np.bool_)


def left_off(top: Topology, rises: BoolColumn, known: BoolColumn, energy: Energy) -> tuple[LeftOff, ...]:
    """Servers of the dark domain that no boot can start: by rack if it is refused, else by site."""
    fleet, estate = top.estate.fleet, top.estate
    found = []
    for rack, why in sorted(energy.refused.items()):
        rows = np.flatnonzero(rises & (fleet.rack == rack)).tolist()
        if rows:
            found.append(LeftOff(estate.racks[rack].id, why, tuple(fleet.server_name(v) for v in rows)))
    unsaid = rises & ~known & with_power(top, energy)
    for site in np.unique(fleet.site[unsaid]).tolist():
        rows = np.flatnonzero(unsaid & (fleet.site == site)).tolist()
        names = tuple(fleet.server_name(v) for v in rows)
        found.append(LeftOff(estate.sites[site].id, OffReason("no-boot-time"), names))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class KeptOff:
    """Servers that no plan for a loss uses until a fact is stated: dark, and only people can boot them, or
    their boot time is unknown.
    """

    top: Topology
    servers: IntColumn
    """Rows of the fleet."""

    def path_for(self, service: Service) -> str:
        """Path of that fact for the first of them with capacity for a replica of a service; empty if there is
        none.
        """
        estate, fleet, rows = self.top.estate, self.top.estate.fleet, self.servers
        names = may_run_at(estate, service)
        sites = [one.role == "full" and (names is None or one.id in names) for one in estate.sites]
        fit = np.array(sites, np.bool_)[fleet.site[rows]]
        if service.eligible_classes is not None:
            allowed = [n for n, one in enumerate(estate.classes) if one.id in service.eligible_classes]
            fit &= np.isin(fleet.server_class[rows], allowed)
        for resource, amount in enumerate(service.demand):
            fit &= fleet.capacity_known[rows, resource] | (amount is None)
            fit &= fleet.capacity[rows, resource] >= (amount or 0)
        if not fit.any():
            return ""
        row = int(rows[fit][0])
        number = int(fleet.server_class[row])
        if number < 0:
            return f"servers/{fleet.server_name(row)}/class"
        return (
            MANUAL_BOOT
            if estate.classes[number].boot_ms is not None
            else f"classes/{estate.classes[number].id}/boot"
        )


def kept_off(top: Topology, scenario: Scenario) -> KeptOff:
    """The servers that a loss leaves and that stay off for a missing fact."""
    fleet, none = top.estate.fleet, KeptOff(top, np.zeros(0, np.int64))
    if scenario.kind in ("restore", "failback") or not len(fleet):
        return none
    off = np.array([*(one.boot_ms is None for one in top.estate.classes), True], np.bool_)[fleet.server_class]
    if "boot" not in top.estate.limits.manual_ms:
        off |= fleet.bmc == BMC_NO
    off &= (fleet.state == DARK) & (fleet.pool < 0)
    if not off.any():
        return none
    return KeptOff(top, np.flatnonzero(off & ~loss(top, (*scenario.domains, *top.estate.lost)).servers))


def feed_groups(top: Topology) -> IndexColumn:
    """Racks with the same set of feeds share a group, numbered by first appearance; -1 without feeds."""

    def work() -> IndexColumn:
        index: dict[tuple[str, ...], int] = {}
        racks = top.estate.racks
        return np.array([index.setdefault(r.feeds, len(index)) if r.feeds else -1 for r in racks], np.int32)

    return top.once("feed groups", work)


def boot_kinds(
    top: Topology,
    lost: Loss,
    rows: BoolColumn,
    feed_group: IndexColumn,
    limits: LimitTable,
    energy: Energy,
    tick_ms: int,
    unknown: set[str],
) -> tuple[IndexColumn, tuple[BootKind, ...], BoolColumn]:
    """Similar boots: class x feed group x boot server x management network x ready time. A class without a
    boot time cannot boot.
    """
    fleet, estate = top.estate.fleet, top.estate
    group_feeds = {int(g): r.feeds for g, r in zip(feed_groups(top), estate.racks, strict=True)}
    by_itself = energy.by_itself.astype(np.int64)
    by_hand = ((fleet.bmc == BMC_NO) & ~energy.by_itself).astype(np.int64)
    network = np.where(energy.by_itself | (by_hand > 0), 0, energy.network[fleet.rack])
    ready, least = energy.power_at[fleet.rack] + network, energy.power_least[fleet.rack] + network
    ready[~lost.servers], least[~lost.servers] = 0, 0
    halls = _managed_halls(top, limits)[fleet.rack]
    columns = (fleet.server_class, feed_group, fleet.boot_server, halls, ready, least, by_itself, by_hand)
    known = np.zeros(len(fleet), np.bool_)
    kind = np.full(len(fleet), -1, np.int32)
    kinds: list[BootKind] = []
    chosen = np.flatnonzero(rows)
    if not len(chosen):
        return kind, (), known
    key = np.stack([column[chosen].astype(np.int64) for column in columns], axis=1)
    unique, inverse = np.unique(key, axis=0, return_inverse=True)
    numbers = np.full(len(unique), -1, np.int32)
    for row, (class_row, group, boot_row, hall_row, at, earliest, itself, hand) in enumerate(unique.tolist()):
        if class_row < 0 or estate.classes[class_row].boot_ms is None:
            unknown.add(f"classes/{estate.classes[class_row].id}/boot" if class_row >= 0 else "servers/class")
            continue
        server_class = estate.classes[class_row]
        boot = estate.boot_servers[boot_row].id if boot_row >= 0 else None
        feeds = group_feeds.get(group, ())
        numbers[row] = len(kinds)
        name = f"{server_class.id}|{'+'.join(feeds)}|{boot or ''}" + (f"|{at}" if at else "")
        hall = estate.halls[hall_row].id if hall_row >= 0 and not hand else None
        uses = () if itself else limits.boot(server_class, feeds, boot, hall)
        duration = ticks_up(server_class.boot_ms or 0, tick_ms)
        if hand:
            name += "|by hand"
            uses += limits.hands
            duration = max(duration, _ticks_by_hand(estate, tick_ms, unknown))
        kinds.append(BootKind(name, duration, uses, at, earliest, bool(itself), bool(hand)))
    kind[chosen] = numbers[inverse.reshape(-1)]
    known[chosen] = kind[chosen] >= 0
    return kind, tuple(kinds), known


def _ticks_by_hand(estate: Estate, tick_ms: int, unknown: set[str]) -> int:
    """Minimum time a person takes to boot a server; zero if unknown."""
    stated = estate.limits.manual_ms.get("boot")
    if stated is None:
        unknown.add(MANUAL_BOOT)
    return ticks_up(stated or 0, tick_ms)


def _managed_halls(top: Topology, limits: LimitTable) -> IndexColumn:
    """(R + 1,) hall of a rack whose management network has a known limit, else -1."""
    known = np.array([limit_id("bmc", h.id) in limits.index for h in top.estate.halls] + [False], np.bool_)
    halls = np.where(known[top.rack_hall], top.rack_hall, -1)
    return np.asarray(np.r_[halls, -1], np.int32)


def within_odds(
    top: Topology,
    usable: BoolColumn,
    dark: BoolColumn,
    feed_group: IndexColumn,
    apart: BoolColumn,
    unknown: set[str],
) -> BoolColumn:
    """Of the dark servers of one class and feed group, only floor(odds x count) count, first by name; apart
    (V,): servers that are counted individually.
    """
    fleet, classes = top.estate.fleet, top.estate.classes
    rows = np.flatnonzero(usable & dark)
    if not len(rows):
        return usable
    for class_row in np.unique(fleet.server_class[rows]).tolist():
        if classes[class_row].boot_odds_permille is None:
            unknown.add(f"classes/{classes[class_row].id}/boot_odds")
    odds = np.array(
        [1000 if c.boot_odds_permille is None else c.boot_odds_permille for c in classes], np.int64
    )
    order = np.lexsort((rows, feed_group[rows], fleet.server_class[rows], apart[rows]))
    ordered = rows[order]
    kind = apart[ordered] * np.int64(len(classes) + 1) + fleet.server_class[ordered]
    key = kind * (2**31) + feed_group[ordered]
    first = np.r_[True, key[1:] != key[:-1]]
    starts = np.flatnonzero(first)
    group = np.cumsum(first) - 1
    size = np.diff(np.r_[starts, len(ordered)])
    rank = np.arange(len(ordered)) - starts[group]
    allowed = odds[fleet.server_class[ordered]] * size[group] // 1000
    kept = usable.copy()
    kept[ordered[rank >= allowed]] = False
    return kept
