"""What a restore waits for people for: purge jobs and secrets to be freed, stale copies to be led back."""

from __future__ import annotations

from evac.derive.affected import lost_members as members_lost
from evac.model.domain import Loss, Topology
from evac.model.estate import Estate
from evac.model.instance import LostStore, Reprotect, Services
from evac.model.scenario import Scenario
from evac.model.units import ticks_up


def attests_of(estate: Estate, scenario: Scenario, services: Services, tick_ms: int) -> dict[int, int]:
    """After a restore a person frees what deletes old data by itself, and unseals what starts sealed."""
    if scenario.kind != "restore":
        return {}
    ticks = _ticks(estate, "attest", tick_ms)
    sealed = estate.tools.get("unseal", ())
    return {
        row: ticks
        for row, service in enumerate(estate.services)
        if (service.purges or service.id in sealed)
        and (
            services.base_starts(row) * services.base_lost[row]
            or services.top_starts(row) * services.top_lost[row]
        )
    }


def reprotects_of(
    top: Topology, lost: Loss, scenario: Scenario, stores: tuple[LostStore, ...], tick_ms: int
) -> tuple[Reprotect, ...]:
    """Copies of a restored domain that are behind a primary elsewhere: of a store observed to have left its
    home, the member there; of a lost one, every other member once one of them is promoted.
    """
    if scenario.kind != "restore":
        return ()
    ticks = _ticks(top.estate, "reprotect", tick_ms)
    rows = {store.id: row for row, store in enumerate(stores)}
    found = []
    for store in top.estate.stores:
        gone = members_lost(top, lost, store)
        for member, dead in zip(store.members, gone, strict=True):
            behind = store.id in rows or (store.home == member.at and member.mode != "primary")
            if dead and behind and (member.mode != "none" or store.home == member.at):
                found.append(Reprotect(store.id, member.at, rows.get(store.id, -1), ticks))
    return tuple(sorted(found, key=lambda r: (r.store, r.member)))


def _ticks(estate: Estate, kind: str, tick_ms: int) -> int:
    """How long it takes a person; at most just over the horizon, which is never."""
    most = estate.horizon_ms // tick_ms + 1
    return min(ticks_up(estate.limits.manual_ms.get(kind, 0), tick_ms), most)
