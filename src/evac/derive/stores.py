"""Stores that a scenario moves, and the ways in which each comes back: from a copy, or from a backup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from evac.derive.affected import lost_members as members_lost
from evac.derive.affected import store_is_lost
from evac.derive.limits import LimitTable
from evac.model.domain import Loss, Topology, is_lost, lost_now, site_of
from evac.model.estate import Store
from evac.model.instance import Candidate, LostStore
from evac.model.policy import Policy
from evac.model.scenario import Scenario
from evac.model.units import ticks_up

_MBIT_PER_GIB: Final = 8_590
"""Megabits in a GiB, rounded up: restores are never predicted too short."""


def lost_stores_of(
    top: Topology,
    lost: Loss,
    policy: Policy,
    limits: LimitTable,
    tick_ms: int,
    scenario: Scenario,
    unknown: set[str],
) -> tuple[tuple[LostStore, ...], dict[int, int]]:
    found: list[LostStore] = []
    rows: dict[int, int] = {}
    for row, store in enumerate(top.estate.stores):
        if not _moves(top, lost, store, scenario):
            continue
        rows[row] = len(found)
        rung = store.fence_rung if scenario.kind in ("lose", "restore") else "demote"
        found.append(
            LostStore(
                id=store.id,
                fence=ticks_up(store.fence_ms, tick_ms),
                fence_rung=rung,
                fence_uses=limits.fence,
                candidates=_candidates(top, lost, store, policy, limits, tick_ms, scenario, unknown),
            )
        )
    return tuple(found), rows


def _moves(top: Topology, lost: Loss, store: Store, scenario: Scenario) -> bool:
    """Whether the primary must move: it is lost, or, on the way home, known to be elsewhere. From files alone
    a way home is planned as if everything had left.
    """
    if scenario.kind != "failback":
        return store_is_lost(store, _out_of_reach(top, lost, store))
    if not store.home or store.primary is None:
        return top.estate.home is None and store_is_lost(store, members_lost(top, lost, store))
    return is_lost(top, lost, store.home) and not is_lost(top, lost, store.primary.at)


def _out_of_reach(top: Topology, lost: Loss, store: Store) -> tuple[bool, ...]:
    """Of each member, whether it is lost by this or was lost before."""
    before = members_lost(top, lost_now(top), store)
    return tuple(now or then for now, then in zip(members_lost(top, lost, store), before, strict=True))


def _candidates(
    top: Topology,
    lost: Loss,
    store: Store,
    policy: Policy,
    limits: LimitTable,
    tick_ms: int,
    scenario: Scenario,
    unknown: set[str],
) -> tuple[Candidate, ...]:
    """Copies first, then backups; places are unique and sorted within each kind."""
    waived = store.id in policy.waivers
    found: dict[tuple[str, str], Candidate] = {}
    for copy in (*_copies(top, lost, store, scenario, unknown), *_backups(top, lost, store, unknown)):
        within = store.rpo_ms is None or (copy.loss_ms is not None and copy.loss_ms <= store.rpo_ms)
        site = site_of(top, copy.at) or ""
        candidate = Candidate(
            id=copy.at,
            site=site,
            kind=copy.kind,
            duration=ticks_up(copy.duration_ms, tick_ms),
            uses=limits.promotion(store.engine, site),
            loss_ms=copy.loss_ms,
            allowed=within or waived,
            waived=waived and not within,
        )
        found.setdefault((copy.kind, copy.at), candidate)
    return tuple(found[way] for way in sorted(found))


@dataclass(frozen=True, slots=True)
class _Copy:
    """Data that can become primary: where, how long it takes, and what would be lost (None unknown).

    A loss that is not known is beyond any stated rpo; a store that states none accepts every loss.
    """

    at: str
    kind: Literal["promote", "restore"]
    duration_ms: int
    loss_ms: int | None


def _copies(
    top: Topology, lost: Loss, store: Store, scenario: Scenario, unknown: set[str]
) -> Iterator[_Copy]:
    """Members with data: the survivors of a loss, all in reach once power is back, the home on failback.

    Nothing is lost where the old primary still writes (evacuate, failback) or comes back itself.
    """
    gone = members_lost(top, lost, store)
    for member, dead in zip(store.members, gone, strict=True):
        reached = dead or not is_lost(top, lost_now(top), member.at)
        wanted = {"restore": reached, "failback": member.at == (store.home or member.at) and dead}.get(
            scenario.kind, not dead
        )
        if member.mode == "none" or not wanted:
            continue
        if store.promote_ms is None:
            unknown.add(f"stores/{store.id}/promote")
        catches_up = scenario.kind == "failback" or (scenario.kind == "evacuate" and not member.detached)
        live = catches_up or member.mode in ("sync", "primary")
        duration_ms = (store.promote_ms or 0) + member.replay_ms
        yield _Copy(member.at, "promote", duration_ms, 0 if live else member.lag_ms)


def _backups(top: Topology, lost: Loss, store: Store, unknown: set[str]) -> Iterator[_Copy]:
    """Backups outside the loss whose size and restore rate are known."""
    for backup in store.backups:
        if is_lost(top, lost, backup.at) or is_lost(top, lost_now(top), backup.at):
            continue
        if backup.size_gib is None or not backup.restore_mbps:
            unknown.add(f"stores/{store.id}/backups")
            continue
        duration_ms = -(-backup.size_gib * _MBIT_PER_GIB * 1_000 // backup.restore_mbps)
        yield _Copy(backup.at, "restore", duration_ms, backup.age_ms)
