"""The estate as it stands when a plan has been carried out: what the next plan begins with.

Nothing is assumed beyond the steps of the plan: replicas that were started or shed, servers that came up or
went dark, primaries that moved. Replicas that a loss took and that found no other place stay bound to what is
lost, because that is what a restore has to bring back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from evac.derive.pools import replicas_lost
from evac.model.domain import Loss, Topology, is_lost, loss, topology
from evac.model.estate import Estate, Store
from evac.model.fleet import (
    AT_SITE,
    CONDEMNED,
    DARK,
    ON_POOL,
    ON_SERVER,
    SERVING,
    SPARE,
    CodeColumn,
    Fleet,
    IndexColumn,
    IntColumn,
    Replicas,
)
from evac.model.plan import Plan, Step
from evac.steps.registry import kind_of

Columns = tuple[IndexColumn, CodeColumn, IndexColumn, IntColumn]
"""(service, kind, target, count) of bindings."""

_GOES: Final = frozenset({"lose", "evacuate"})
"""Scenarios after which the domain is dark; after the others it is up."""


def estate_after(estate: Estate, plan: Plan) -> Estate:
    """The estate after a plan that was made from it. O(servers + replicas + steps).

    A failback leads back to what the files say, so after it the estate is as it was, with the primaries that
    were observed elsewhere at home.
    """
    top = topology(estate)
    lost = loss(top, plan.scenario.domains)
    if plan.scenario.kind == "failback":
        stores = tuple(_store(top, lost, store, plan) if store.home else store for store in estate.stores)
        return estate if stores == estate.stores else replace(estate, stores=stores)
    gone = plan.scenario.kind in _GOES
    replicas = _replicas(top, lost, plan, gone)
    return replace(
        estate,
        fleet=_fleet(estate.fleet, lost, plan, gone, replicas),
        replicas=replicas,
        stores=tuple(_store(top, lost, store, plan) for store in estate.stores),
    )


def _replicas(top: Topology, lost: Loss, plan: Plan, gone: bool) -> Replicas:
    """What survives, plus what was started, less what was shed; sorted as the tables are."""
    old = top.estate.replicas
    dead = replicas_lost(top, lost)
    service_of = {service.id: row for row, service in enumerate(top.estate.services)}
    left = old.count > dead
    rows = [(old.service[left], old.kind[left], old.target[left], (old.count - dead)[left])]
    rows.append(_changes(top, service_of, plan.steps))
    running = _summed(rows)
    if not gone:
        return running
    missing = _per_service(old, len(service_of)) - _per_service(running, len(service_of))
    return _summed([_columns(running), *_waiting(top, old, dead, missing, lost)])


def _per_service(replicas: Replicas, services: int) -> IntColumn:
    found = np.zeros(services, np.int64)
    np.add.at(found, replicas.service, replicas.count)
    return found


def _columns(replicas: Replicas) -> Columns:
    return replicas.service, replicas.kind, replicas.target, replicas.count


def _waiting(top: Topology, old: Replicas, dead: IntColumn, missing: IntColumn, lost: Loss) -> list[Columns]:
    """Bindings of what found no place: those that were lost, first come; the rest at the first lost site."""
    rows = np.flatnonzero(dead)
    count, service = dead[rows], old.service[rows]
    before = np.cumsum(count) - count
    first = np.searchsorted(service, service)
    offered = before - before[first] if len(rows) else before
    kept = np.clip(missing[service] - offered, 0, count)
    found = [(service, old.kind[rows], old.target[rows], kept)]
    held = np.zeros(len(missing), np.int64)
    np.add.at(held, service, kept)
    rest = np.flatnonzero(missing > held).astype(np.int32)
    sites = np.flatnonzero(lost.sites)
    if len(rest) and len(sites):
        at = np.full(len(rest), sites[0], np.int32)
        found.append((rest, np.full(len(rest), AT_SITE, np.uint8), at, (missing - held)[rest]))
    return found


def _summed(rows: list[Columns]) -> Replicas:
    """One binding for each (service, kind, target), where anything is left."""
    service, where, target, count = (np.concatenate(part) for part in zip(*rows, strict=True))
    key = np.stack([service.astype(np.int64), where.astype(np.int64), target.astype(np.int64)], axis=1)
    unique, inverse = np.unique(key, axis=0, return_inverse=True)
    total = np.zeros(len(unique), np.int64)
    np.add.at(total, inverse.reshape(-1), count)
    left = total > 0
    unique, total = unique[left], total[left]
    return Replicas(
        unique[:, 0].astype(np.int32), unique[:, 1].astype(np.uint8), unique[:, 2].astype(np.int32), total
    )


def _changes(top: Topology, service_of: dict[str, int], steps: Iterable[Step]) -> Columns:
    """What steps started or stopped; counts carry the sign."""
    found = [
        (service_of[step.target], name, sign * count)
        for step in steps
        if (sign := kind_of(step.kind).replicas)
        for name, count in step.servers
    ]
    placed = _places(top, [name for _, name, _ in found])
    return (
        np.array([service for service, _, _ in found], np.int32),
        np.array([kind for kind, _ in placed], np.uint8),
        np.array([target for _, target in placed], np.int32),
        np.array([count for _, _, count in found], np.int64),
    )


def _places(top: Topology, names: list[str]) -> list[tuple[int, int]]:
    """(kind, target) of servers, pools and whole sites by the names that steps have of them; what starts on a
    server that a pool owns, the pool places.
    """
    estate = top.estate
    pools = {pool.id: (ON_POOL, row) for row, pool in enumerate(estate.pools)}
    sites = {f"site:{site.id}": (AT_SITE, row) for row, site in enumerate(estate.sites)}
    known = pools | sites
    bare = sorted({name for name in names if name not in known})
    rows = np.searchsorted(estate.fleet.name, np.array([name.encode() for name in bare], "S"))
    owner = estate.fleet.pool[rows].tolist() if bare else []
    servers = {
        name: (ON_SERVER, int(row)) if pool < 0 else (ON_POOL, pool)
        for name, row, pool in zip(bare, rows, owner, strict=True)
    }
    return [known.get(name) or servers[name] for name in names]


def _fleet(fleet: Fleet, lost: Loss, plan: Plan, gone: bool, replicas: Replicas) -> Fleet:
    """Booted servers are on; lost ones are dark; whoever carries something serves."""
    state = fleet.state.copy()
    if gone:
        state[lost.servers & (state != CONDEMNED)] = DARK
    booted = [step.target.encode() for step in plan.steps if kind_of(step.kind).boots]
    booted += [name.encode() for name in plan.scenario.on]
    if booted:
        state[np.searchsorted(fleet.name, np.array(booted, "S"))] = SPARE
    carries = np.unique(replicas.target[replicas.kind == ON_SERVER])
    live = np.isin(state[carries], (SERVING, SPARE))
    state[carries[live]] = SERVING
    return replace(fleet, state=state)


def _store(top: Topology, lost: Loss, store: Store, plan: Plan) -> Store:
    """The candidate is the primary; what was the primary follows nobody until its domain is restored, and
    then it is a copy that follows.
    """
    members, home = list(store.members), store.home
    for row, member in enumerate(members):
        if plan.scenario.kind == "restore" and member.mode == "none" and is_lost(top, lost, member.at):
            members[row] = replace(member, mode="async", lag_ms=0, detached=False)
    moved = next((s for s in plan.stores if s.store == store.id and s.primary_ms is not None), None)
    if moved is not None and not moved.restored:
        for row, member in enumerate(members):
            if member.at == moved.candidate:
                members[row] = replace(member, mode="primary", lag_ms=None, detached=False)
            elif member.mode == "primary":
                members[row] = replace(member, mode="none" if is_lost(top, lost, member.at) else "async")
                home = home or member.at
        home = "" if home == moved.candidate else home
    changed = replace(store, members=tuple(members), home=home)
    return store if changed == store else changed
