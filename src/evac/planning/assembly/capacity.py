"""Proof that no plan has capacity for a service, whatever else is shed.

A plan may shed what is sheddable and what no serving service needs, and may move what is movable. So these
replicas certainly stay on each server: those of services that may be neither shed nor moved, and those of
sheddable ones that the service itself needs and that cannot be spared. If too few replicas fit in the rest,
whatever the placement, no plan places the service.
"""

from __future__ import annotations

import numpy as np

from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import Instance
from evac.model.reason import Reason
from evac.model.step_id import MILES
from evac.model.units import RESOURCE_WORDS, UNBOUNDED
from evac.planning.evacuation.board import STARTS, Board


def why_no_capacity(instance: Instance, service: int) -> Reason | None:
    """Why the base of a service provably finds no capacity in any plan; None if it may. Names the supply
    whose power keeps off the most servers, if the capacity would be there with more power.
    """
    s, rows = instance.services, instance.rows
    missing = s.base_starts(service)
    if not missing:
        return None
    present = instance.present
    stays = _stays(instance, service)
    held = np.zeros_like(rows.used)
    kept = stays[present.service]
    np.add.at(held, present.row[kept], s.demand[present.service[kept]] * present.count[kept, None])
    fits = _fits(instance, service, np.maximum(rows.capacity - held, 0), ~rows.dark | (rows.boot_kind >= 0))
    if _within_spread(instance, service, fits) < missing:
        return Reason("no-capacity")
    fits, supply = _within_power(instance, fits)
    if _within_spread(instance, service, fits) < missing:
        return Reason("no-capacity", supply=supply)
    return None


def taken_by(instance: Instance, board: Board, service: int) -> tuple[str, ...]:
    """Services that take the capacity that the base of another one lacks, and that would be enough for it:
    the plan starts replicas of theirs beyond the smallest count that serves. By tier, then id.
    """
    s, lines = instance.services, board.started[: board.size[STARTS]]
    tops = lines[(lines["mile"] == MILES.index("top")) & (lines["service"] != service)]
    tops = tops[instance.eligible[service, instance.rows.pool[tops["row"]]]]
    missing, is_on = s.base_starts(service), board.row["on_at"] >= 0
    free = np.maximum(board.row["free"][:, : s.demand.shape[1]].astype(np.int64), 0)
    if not len(tops) or _within_spread(instance, service, _fits(instance, service, free, is_on)) >= missing:
        return ()
    np.add.at(free, tops["row"], s.demand[tops["service"]])
    if _within_spread(instance, service, _fits(instance, service, free, is_on)) < missing:
        return ()
    takers = np.unique(tops["service"]).tolist()
    return tuple(s.id[one] for one in sorted(takers, key=lambda one: (s.tier[one], s.id[one])))


def _fits(instance: Instance, service: int, free: IntColumn, usable: BoolColumn) -> IntColumn:
    """(V,) how many of the replicas that a service misses to serve fit on each row by itself. free: (V, R);
    usable: (V,) rows that may be used, if the service is eligible there.
    """
    s, rows, missing = instance.services, instance.rows, instance.services.base_starts(service)
    fits = np.where(rows.is_pool, UNBOUNDED, s.per_server[service]) - _here(instance, service) * ~rows.is_pool
    for resource, amount in enumerate(s.demand[service].tolist()):
        if amount:
            fits = np.minimum(fits, free[:, resource] // amount)
    usable = usable & instance.eligible[service, rows.pool]
    return np.where(usable, np.clip(fits, 0, missing), 0)


def _within_power(instance: Instance, fits: IntColumn) -> tuple[IntColumn, str]:
    """The same without servers that no power is left for, and the supply that keeps off the most of them.
    Each dark server counts at the supply with the least left, which can carry at most what is left divided
    by the least that one of them draws: those with the most capacity.
    """
    rows, supplies = instance.rows, instance.power
    if not supplies or not rows.power.shape[1]:
        return fits, ""
    left = np.array([*(max(0, one.watts - one.on_watts) for one in supplies), UNBOUNDED], np.int64)
    tightest = rows.power[np.arange(len(rows)), left[rows.power].argmin(axis=1)]
    dark = np.flatnonzero(rows.dark & (fits > 0) & (tightest >= 0) & (rows.watts > 0))
    supply, watts = tightest[dark], rows.watts[dark]
    least = np.full(len(supplies), UNBOUNDED, np.int64)
    np.minimum.at(least, supply, watts)
    order = np.lexsort((-fits[dark], watts > left[supply], supply))
    ordered = supply[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    off = (rank >= left[ordered] // least[ordered]) | (watts[order] > left[ordered])
    if not off.any():
        return fits, ""
    found, gone = fits.copy(), dark[order[off]]
    found[gone] = 0
    kept_off = np.bincount(ordered[off], fits[gone], len(supplies))
    return found, supplies[int(kept_off.argmax())].id


def short_of(instance: Instance, service: int, placed: BoolColumn) -> tuple[str, int]:
    """(resource, missing amount) for a service and everything placed of its tier and above where it may run,
    after stopping all that may be stopped; ("", 0) if all of them may fit. placed: (S,).
    """
    s, rows, present = instance.services, instance.rows, instance.present
    if instance.vague:
        return "", 0
    mine = instance.eligible[service]
    beside = placed & s.base_lost & (s.tier <= s.tier[service]) & ~(instance.eligible & ~mine).any(axis=1)
    beside[service] = True
    starts = np.array([s.base_starts(row) for row in range(len(s))], np.int64) * beside
    held = np.zeros_like(rows.used)
    kept = ~s.loose[present.service]
    np.add.at(held, present.row[kept], s.demand[present.service[kept]] * present.count[kept, None])
    usable = mine[rows.pool] & (~rows.dark | (rows.boot_kind >= 0))
    missing = starts @ s.demand - np.maximum(rows.capacity - held, 0)[usable].sum(axis=0)
    found = next((number for number, much in enumerate(missing.tolist()) if much > 0), None)
    return ("", 0) if found is None else (RESOURCE_WORDS[found], int(missing[found]))


def _stays(instance: Instance, service: int) -> BoolColumn:
    """(S,) services whose survivors all stay in every plan that places the given service."""
    s = instance.services
    needed, queue = {service}, [service]
    while queue:
        for other in s.hard[queue.pop()]:
            if other not in needed:
                needed.add(other)
                queue.append(other)
    tight = np.zeros(len(s), np.bool_)
    tight[sorted(needed)] = True
    return np.asarray(~s.loose | (tight & s.sheddable & (s.surviving <= s.m)), np.bool_)


def _here(instance: Instance, service: int) -> IntColumn:
    """(V,) surviving replicas of a service on each row."""
    mine, found = instance.present.service == service, np.zeros(len(instance.rows), np.int64)
    np.add.at(found, instance.present.row[mine], instance.present.count[mine])
    return found


def _within_spread(instance: Instance, service: int, fits: IntColumn) -> int:
    """An upper bound on what fits, within the service's caps by rack and site, and by feed and site. Racks
    and feeds are not combined: which rows suit both is a search of its own.
    """
    s, rows, here = instance.services, instance.rows, _here(instance, service)
    sites, most = len(instance.site_names), int(fits.sum())
    in_site = np.maximum(s.site_cap[service] - np.bincount(rows.site, here, sites).astype(np.int64), 0)
    for cap, place in ((s.rack_cap, rows.rack), (s.feed_cap, rows.feed_group)):
        bare, places = ~rows.is_pool & (place >= 0), int(place.max(initial=-1)) + 1
        inside = np.maximum(cap[service] - np.bincount(place[bare], here[bare], places).astype(np.int64), 0)
        cell = np.bincount((rows.site * places + place)[bare], fits[bare], sites * places).astype(np.int64)
        there = np.minimum(cell.reshape(sites, places), inside).sum(axis=1)
        there += np.bincount(rows.site[~bare], fits[~bare], sites).astype(np.int64)
        most = min(most, int(np.minimum(there, in_site).sum()))
    return most
