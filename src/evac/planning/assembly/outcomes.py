"""What becomes of every affected service and store, with the chain of steps that decides it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from evac.derive.planning_instance import tools_of_base
from evac.model.instance import Instance, LostStore, Stuck
from evac.model.plan import Outcome, ServiceState, StoreOutcome, needs_reason, unjudged_reason
from evac.planning.assembly.milestones import Times, outages
from evac.planning.assembly.steps import Draft
from evac.planning.evacuation.board import FAILED_TIME, NEVER
from evac.planning.evacuation.legality import lack_time
from evac.steps.registry import kind_of

CHAIN_MOST: Final = 60


def outcomes_of(
    draft: Draft, times: Times, rto_ms: Mapping[str, int | None], lead_ms: int
) -> tuple[Outcome, ...]:
    """One for each service the loss touches, sorted by id. lead_ms: detection and approval."""
    instance, s = draft.instance, draft.instance.services
    base, top = outages(instance, times)
    tick, late, helped = instance.tick_ms, _late(draft, times), _helped(draft)
    found = []
    for service in range(len(s)):
        touched = s.base_lost[service] or s.top_lost[service] or base[service] or top[service]
        touched = touched or service in instance.unjudged
        if not touched and times.top_gone[service] >= instance.horizon:
            continue
        state = state_of(instance, times, service)
        back = times.base_at[service] < instance.horizon
        found.append(
            Outcome(
                service=s.id[service],
                state=state,
                base_ms=int(times.base_at[service]) * tick if back else None,
                top_ms=int(times.top_at[service]) * tick
                if times.top_at[service] < instance.horizon
                else None,
                base_outage_ms=int(base[service]) * tick,
                top_outage_ms=int(top[service]) * tick,
                recovery_ms=_recovery(instance, times, service, state, lead_ms),
                rto_ms=rto_ms.get(s.id[service]),
                people=int(s.people[service]),
                tier=int(s.tier[service]),
                critical=_chain(draft, service) if back and s.base_lost[service] else (),
                reason=_reason(draft, times, service, state, late, helped),
            )
        )
    return tuple(found)


def state_of(instance: Instance, times: Times, service: int) -> ServiceState:
    """unknown, shed, unplaced, degraded or restored."""
    horizon = instance.horizon
    if service in instance.unjudged:
        return "unknown"
    if times.base_gone[service] < horizon:
        return "shed"
    if times.base_at[service] >= horizon:
        return "unplaced"
    full = times.top_at[service] < horizon and times.top_gone[service] >= horizon
    return "restored" if full else "degraded"


def _recovery(
    instance: Instance, times: Times, service: int, state: ServiceState, lead_ms: int
) -> int | None:
    """From the loss on; nothing to wait for where the base never went; an evacuation has no lead."""
    if state in ("shed", "unplaced", "unknown"):
        return None
    if not instance.services.base_lost[service]:
        return 0
    late = max(0, int(times.base_at[service]) - instance.grace) * instance.tick_ms
    return late if instance.grace else late + lead_ms


def _chain(draft: Draft, service: int) -> tuple[str, ...]:
    """Backwards through whatever ended last among what each step waited for."""
    members = draft.members[int(draft.instance.services.component[service])]
    ends = [draft.last_of[m] for m in members if m in draft.last_of]
    chain: list[str] = []
    name = max(ends, key=lambda n: (draft.steps[n].end_ms, n), default="")
    while name and len(chain) < CHAIN_MOST:
        chain.append(name)
        name = max(draft.steps[name].after, key=lambda n: (draft.steps[n].end_ms, n), default="")
    return tuple(reversed(chain))


def _reason(
    draft: Draft,
    times: Times,
    service: int,
    state: ServiceState,
    late: frozenset[int],
    helped: Mapping[str, set[str]],
) -> str:
    if state == "shed":
        some = sorted(helped.get(draft.instance.services.id[service], ()))
        return f"makes room for {', '.join(some[:3])}{' and others' if len(some) > 3 else ''}"
    if state == "unknown":
        return unjudged_reason(draft.instance.unjudged[service])
    if state != "unplaced":
        return ""
    others = _waits_in_vain(draft, times, service)
    if others:
        return others
    return "it would not be back before the horizon" if service in late else "no room is left for it"


def _waits_in_vain(draft: Draft, times: Times, service: int) -> str:
    """The store, service or tool that does not come back and that a service cannot do without; empty for
    none."""
    instance, s = draft.instance, draft.instance.services
    if service in instance.stuck:
        return _stuck_words(instance.stuck[service], s.id[service])
    for store in s.lost_stores[service]:
        if not 0 <= draft.board.store[store]["primary_at"] < NEVER:
            return _no_data(instance.stores[store])
    for other in s.hard[service]:
        if times.base_at[other] >= instance.horizon and s.component[other] != s.component[service]:
            return needs_reason(s.id[other])
    for tool in tools_of_base(s, instance.tools, service) if s.base_lost[service] else ():
        if times.base_at[tool] >= instance.horizon and tool != service:
            return needs_reason(s.id[tool])
    return ""


def _stuck_words(stuck: Stuck, service: str) -> str:
    """Why a service can never be restored, and what would change that."""
    others = [other for other in stuck.services if other != service]
    through = f", which needs {service}" if others else ""
    return (
        f"circular dependency: restoring {service} needs {others[0] if others else service}{through};"
        " state a way without the tool under limits: manual"
    )


def _no_data(store: LostStore) -> str:
    """Why a lost store does not come back, and what would change that."""
    if any(c.allowed for c in store.candidates):
        return f"store {store.id} would not be back before the horizon"
    known = sorted((c.loss_ms, c.site, c.kind) for c in store.candidates if c.loss_ms is not None)
    if known:
        what = "backup" if kind_of(known[0][2]).restores else "copy"
        words = f"its {what} at {known[0][1]} may lack more than its rpo allows"
    elif store.candidates:
        words = "nobody knows what its copy lacks"
    else:
        return f"store {store.id} has no copy and no backup that is left"
    return f"store {store.id}: {words}; --waive {store.id} takes it all the same"


def _late(draft: Draft, times: Times) -> frozenset[int]:
    """Services that nothing keeps down but that they would not be back before the horizon."""
    instance, board = draft.instance, draft.board
    down = [
        service
        for service in range(len(instance.services))
        if state_of(instance, times, service) == "unplaced" and not _waits_in_vain(draft, times, service)
    ]
    why = board.item["why"][instance.services.component[down]]
    late = {service for service, one in zip(down, why.tolist(), strict=True) if one == FAILED_TIME}
    open_ = sorted(set(down) - late, key=lambda service: (board.service["tier"][service], service))
    flags = np.zeros(len(open_), np.int64)
    if open_:
        lack_time(board, np.array(open_, np.int64), flags)
    return frozenset(late.union(service for service, one in zip(open_, flags.tolist(), strict=True) if one))


def _helped(draft: Draft) -> dict[str, set[str]]:
    """Of each service that is shed, those that it makes room for."""
    found: dict[str, set[str]] = {}
    for step in draft.steps.values():
        if kind_of(step.kind).frees_room:
            found.setdefault(step.target, set()).update(step.for_services)
    return found


def store_outcomes(draft: Draft) -> tuple[StoreOutcome, ...]:
    """Every lost store: where it came back, when, and what was lost."""
    tick = draft.instance.tick_ms
    found = []
    for row, store in enumerate(draft.instance.stores):
        entry = draft.board.store[row]
        back = 0 <= entry["primary_at"] < NEVER
        candidate = store.candidates[int(entry["candidate"])] if back else None
        found.append(
            StoreOutcome(
                store=store.id,
                candidate=candidate.id if candidate else "",
                primary_ms=int(entry["primary_at"]) * tick if back else None,
                loss_ms=candidate.loss_ms if candidate else None,
                waiver=store.id if candidate is not None and candidate.waived else "",
                restored=candidate is not None and kind_of(candidate.kind).restores,
            )
        )
    return tuple(found)
