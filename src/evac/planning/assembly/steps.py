"""Builds the steps of a plan from the logs of a generation: what each waits for and which limits it uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import pairwise
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import Instance
from evac.model.plan import FROM_LOSS_MS, Step
from evac.model.step_id import MILES, MOVED, batch_step, boot_step, milestone_step, target_step
from evac.planning.assembly.draft import Draft, Times
from evac.planning.assembly.waves import BY_ITSELF, attest_steps, boot_fields, power_steps, reprotect_steps
from evac.planning.evacuation.board import NEVER, SHEDS, STARTS, Board
from evac.steps.kind import Need
from evac.steps.places import Places
from evac.steps.registry import PLANNED, kind_of

_Needed = tuple[tuple[int, ...], ...]
_FIELDS: Final = tuple(f.name for f in fields(Step))
_VALUES_OF: Final = attrgetter(*_FIELDS)
"""Fields of a step, with one getter for all: there are thousands of steps."""
_LAST: Final = tuple(_FIELDS.index(name) for name in ("after", "wave", "uses"))
"""Positions of the fields known once all steps are drafted."""


def draft_steps(instance: Instance, board: Board) -> Draft:
    """All steps with `after`; sorted by start, then id, when read through `ordered`."""
    draft = Draft(instance, board)
    for service in range(len(instance.services)):
        draft.members.setdefault(int(instance.services.component[service]), []).append(service)
    power_steps(draft)
    attest_steps(draft)
    _stores(draft)
    reprotect_steps(draft)
    _boots(draft)
    _sheds(draft)
    _starts(draft)
    _checks(draft)
    after = _after(draft)
    waves, uses = _waves(draft, after), _held(draft)
    for name, step in draft.steps.items():
        values = list(_VALUES_OF(step))
        for place, value in zip(_LAST, (after[name], waves[name], uses[name]), strict=True):
            values[place] = value
        draft.steps[name] = Step(*values)
    return draft


def ordered(draft: Draft) -> tuple[Step, ...]:
    """Steps in planned order."""
    return tuple(sorted(draft.steps.values(), key=lambda s: (s.start_ms, s.end_ms, s.id)))


def _stores(draft: Draft) -> None:
    for row, store in enumerate(draft.instance.stores):
        entry = draft.board.store[row]
        if not 0 <= entry["primary_at"] < NEVER:
            continue
        if store.elects:
            elected, end = store.candidates[int(entry["candidate"])], int(entry["primary_at"])
            name, within = target_step(elected.kind, store.id), max(end, elected.from_loss)
            tick = draft.instance.tick_ms
            own = {FROM_LOSS_MS: elected.from_loss * tick} if elected.from_loss >= 0 else {}
            draft.promote_of[row] = draft.add(
                elected.kind,
                store.id,
                name,
                0,
                end,
                candidate=elected.id,
                deadline_ms=max(1, 2 * within) * tick,
                parameters=own,
            )
            continue
        at = int(entry["fence_at"])
        first: tuple[str, ...] = ()
        if store.backup is not None:
            name = target_step("backup", store.id)
            first = (draft.add("backup", store.id, name, 0, store.backup, manual=True),)
        length = draft.manual_ticks("fence", store.fence, bool(entry["fence_manual"]))
        fence = draft.add(
            "fence",
            store.id,
            target_step("fence", store.id),
            at,
            at + length,
            rung=store.fence_rung,
            manual=bool(entry["fence_manual"]),
            after=first,
        )
        candidate = store.candidates[int(entry["candidate"])]
        draft.promote_of[row] = draft.add(
            candidate.kind,
            store.id,
            target_step(candidate.kind, store.id),
            int(entry["promote_at"]),
            int(entry["primary_at"]),
            candidate=candidate.id,
            manual=bool(entry["promote_manual"]),
            after=(fence,),
        )


def _boots(draft: Draft) -> None:
    rows, instance = draft.board.row, draft.instance
    chosen = np.flatnonzero((rows["dark"] != 0) & (rows["on_at"] >= 0))
    columns = (rows["boot_at"], rows["on_at"], rows["boot_manual"], instance.rows.pool)
    lines = zip(chosen.tolist(), *(column[chosen].tolist() for column in columns), strict=True)
    for row, at, on_at, manual, pool in lines:
        name = instance.row_names[row]
        draft.boot_of[row] = draft.add(
            "boot",
            name,
            boot_step(name),
            at,
            on_at,
            servers=((name, 1),),
            manual=bool(manual),
            pool=instance.pools[pool].id,
            **boot_fields(draft, row),
        )


class _Batch(NamedTuple):
    """What a log batch has in common: service, milestone, start tick, pool, by hand or not."""

    service: int
    mile: int
    at: int
    pool: int
    manual: int


def _batches(columns: NDArray[np.int64]) -> Iterator[tuple[_Batch, dict[int, int]]]:
    """(batch, row -> replicas), sorted. columns: (7, N) batch, row and replicas of each line of a log."""
    order = np.lexsort(columns[5::-1])
    lines = columns[:, order]
    new = np.flatnonzero(np.r_[True, (lines[:6, 1:] != lines[:6, :-1]).any(axis=0)][: len(order)])
    if not len(new):
        return
    keys, rows = lines[:5, new], lines[5, new].tolist()
    counts = np.add.reduceat(lines[6], new).tolist()
    ends = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(axis=0), True]).tolist()
    for first, last in pairwise(ends):
        yield _Batch(*keys[:, first].tolist()), dict(zip(rows[first:last], counts[first:last], strict=True))


def _servers(draft: Draft, rows: dict[int, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((draft.instance.row_names[row], count) for row, count in rows.items()))


def _sheds(draft: Draft) -> None:
    s, board = draft.instance.services, draft.board
    log = board.shed[: board.size[SHEDS]]
    victims, rows = board.present["service"][log["entry"]], board.present["row"][log["entry"]]
    lines = np.stack(
        [
            victims,
            np.zeros_like(rows),
            log["at"],
            draft.instance.rows.pool[rows],
            log["manual"],
            rows,
            log["count"],
        ]
    )
    started_on = _started_on(draft, rows)
    ordinal: dict[int, int] = {}
    for batch, placed in _batches(lines[:, log["count"] > 0]):
        number = ordinal[batch.service] = ordinal.get(batch.service, 0) + 1
        length = draft.manual_ticks("shed", int(s.shed[batch.service]), bool(batch.manual))
        helped = {o for row in placed for o in started_on.get(row, ()) if s.tier[o] < s.tier[batch.service]}
        name = draft.add(
            "shed",
            s.id[batch.service],
            batch_step("shed", s.id[batch.service], number),
            batch.at,
            batch.at + length,
            count=sum(placed.values()),
            servers=_servers(draft, placed),
            manual=bool(batch.manual),
            pool=draft.instance.pools[batch.pool].id,
            for_services=tuple(sorted(s.id[o] for o in helped)),
        )
        for row in placed:
            draft.sheds_on.setdefault(row, []).append(name)


def _started_on(draft: Draft, rows: NDArray[np.int64]) -> dict[int, set[int]]:
    """Services started on each of some rows."""
    log = draft.board.started[: draft.board.size[STARTS]]
    found: dict[int, set[int]] = {}
    here = log[np.isin(log["row"], rows)]
    for service, row in zip(here["service"].tolist(), here["row"].tolist(), strict=True):
        found.setdefault(row, set()).add(service)
    return found


def _starts(draft: Draft) -> None:
    s, log = draft.instance.services, draft.board.started[: draft.board.size[STARTS]]
    pools, row = draft.instance.rows.pool[log["row"]], log["row"]
    lines = np.stack([log["service"], log["mile"], log["at"], pools, log["manual"], row, np.ones_like(row)])
    ordinal: dict[tuple[int, int], int] = {}
    for batch, rows in _batches(lines):
        key = (batch.service, batch.mile)
        number = ordinal[key] = ordinal.get(key, 0) + 1
        name = batch_step("start", s.id[batch.service], number, MILES[batch.mile])
        length = draft.manual_ticks("start", int(s.start[batch.service]), bool(batch.manual))
        boots = {draft.boot_of[row] for row in rows if row in draft.boot_of}
        tick = draft.instance.tick_ms
        sheds = _ended_sheds(draft, rows, batch.at * tick)
        draft.add(
            "start",
            s.id[batch.service],
            name,
            batch.at,
            batch.at + length,
            count=sum(rows.values()),
            milestone=MILES[batch.mile],
            pool=draft.instance.pools[batch.pool].id,
            servers=_servers(draft, rows),
            manual=bool(batch.manual),
            after=tuple(sorted(boots | sheds)),
        )
        draft.starts_of.setdefault(key, []).append(name)


def _ended_sheds(draft: Draft, rows: Iterable[int], start_ms: int) -> set[str]:
    """Sheds on the rows of a start that have ended by then: it may use their capacity."""
    names = {name for row in rows for name in draft.sheds_on.get(row, ())}
    return {name for name in names if draft.steps[name].end_ms <= start_ms}


def _checks(draft: Draft) -> None:
    """Verify and shift of every generated milestone."""
    s, board = draft.instance.services, draft.board
    for service in range(len(s)):
        entry = board.service[service]
        for mile in (0, 1):
            at = int(entry["verify_at"][mile])
            if not 0 <= at < NEVER:
                continue
            manual = bool(entry["verify_manual"][mile])
            length = draft.manual_ticks("verify", int(s.verify[service]), manual)
            milestone = MOVED if entry["moved"] else MILES[mile]
            name = milestone_step("verify", s.id[service], milestone)
            rebuilds = () if mile else draft.instance.rebuilds.get(service, ())
            draft.add(
                "verify",
                s.id[service],
                name,
                at,
                at + length,
                milestone=milestone,
                manual=manual,
                rebuilds=rebuilds,
            )
            if mile == 0:
                draft.last_of[service] = name
        at = int(entry["shift_at"])
        if s.shift[service] and 0 <= at < NEVER and service in draft.last_of:
            manual = bool(entry["shift_manual"])
            length = draft.manual_ticks("shift", int(s.change[service] + s.settle[service]), manual)
            before = draft.last_of[service]
            draft.last_of[service] = draft.add(
                "shift",
                s.id[service],
                target_step("shift", s.id[service]),
                at,
                at + length,
                milestone="base",
                manual=manual,
                after=(before,),
            )


def _after(draft: Draft) -> dict[str, tuple[str, ...]]:
    """What each step waits for: gates of dependencies and tools, its own starts, its own boots."""
    index = {name: n for n, name in enumerate(draft.instance.services.id)}
    s = draft.instance.services
    gates = {c: _gates(draft, c, s.hard, s.lost_stores) for c in draft.members}
    start_gates = {c: _gates(draft, c, s.hard_start, s.start_stores) for c in draft.members}
    tools = {kind.name: _tool_gates(draft, kind.like) for kind in PLANNED.values()}
    found = {}
    for name, step in draft.steps.items():
        after, needs = set(step.after), kind_of(step.kind).needs
        if needs & {Need.DEPENDENCIES, Need.START_DEPENDENCIES}:
            service = index[step.target]
            mile = MILES.index(step.milestone)
            component = int(s.component[service])
            if s.base_lost[service]:
                after |= (gates if Need.DEPENDENCIES in needs else start_gates)[component]
            if Need.RELEASE in needs and service in draft.instance.attests:
                after.add(target_step("attest", step.target))
            if Need.STARTS in needs:
                owners = draft.members[component] if mile == 0 else [service]
                after |= {n for owner in owners for n in draft.starts_of.get((owner, mile), ())}
        if kind_of(step.kind).restores:
            after |= _restore_gates(draft, step.target)
        if kind_of(step.kind).frees_capacity and s.movable[index[step.target]]:
            after.add(milestone_step("verify", step.target, MOVED))
        alone = step.milestone == "base" and index.get(step.target) in s.alone
        if not (step.manual or alone or BY_ITSELF in step.parameters):
            after |= tools[step.kind]
        found[name] = tuple(sorted(after - {name}))
    return found


def _gates(draft: Draft, component: int, services: _Needed, stores: _Needed) -> set[str]:
    """Steps that end what a component needs from outside, for each service."""
    s = draft.instance.services
    found: set[str] = set()
    for member in draft.members[component]:
        for other in services[member]:
            if s.component[other] != component and s.base_lost[other]:
                found |= {
                    draft.last_of[m] for m in draft.members[int(s.component[other])] if m in draft.last_of
                }
        found |= {draft.promote_of[store] for store in stores[member] if store in draft.promote_of}
    return found


def _restore_gates(draft: Draft, store: str) -> set[str]:
    """Steps that end the bases of services that a restore of a store waits for."""
    s, needs = draft.instance.services, {one.id: one.needs for one in draft.instance.stores}[store]
    members = {member for other in needs for member in draft.members[int(s.component[other])]}
    return {draft.last_of[member] for member in members if member in draft.last_of}


def _tool_gates(draft: Draft, kind: str) -> set[str]:
    need = draft.instance.tools.get(kind)
    tools = () if need is None else need.services
    return {draft.last_of[tool] for tool in tools if tool in draft.last_of}


def _held(draft: Draft) -> dict[str, tuple[tuple[str, int], ...]]:
    """Units of each limit that a whole step holds: the uses of its kind and target, times its count."""
    limits, places = draft.instance.limits, Places(draft.instance)
    found = {}
    for name, step in draft.steps.items():
        held: dict[str, int] = {}
        for use in places.uses(step):
            limit = limits[use.limit].id
            held[limit] = held.get(limit, 0) + use.units * step.count
        found[name] = tuple(sorted(held.items()))
    return found


def _waves(draft: Draft, after: dict[str, tuple[str, ...]]) -> dict[str, int]:
    """Wave of a step: one more than the last wave of what it waits for, if that contains a gate; gates begin
    waves.
    """
    waves: dict[str, int] = {}
    for step in ordered(draft):
        wave = same = 0
        for name in after[step.id]:
            before = waves.get(name, 0)
            same = max(same, before)
            wave = max(wave, before + kind_of(draft.steps[name].kind).opens_wave)
        waves[step.id] = same if kind_of(step.kind).joins_wave else wave
    return waves


def _add_stops_away(draft: Draft, times: Times) -> None:
    """For each service that returned home, one stop of its replicas elsewhere, once all of it serves at
    home.
    """
    instance, s = draft.instance, draft.instance.services
    for leaving in instance.leaving:
        service, at = leaving.service, int(times.top_at[leaving.service])
        name, length = s.id[service], int(s.shed[service])
        if at + length >= instance.horizon:
            continue
        draft.add(
            "stop",
            name,
            target_step("stop", name),
            at,
            at + length,
            after=tuple(sorted(step.id for step in draft.steps.values() if step.target == name)),
            servers=leaving.places,
            count=sum(count for _, count in leaving.places),
            precheck="all of it serves at home",
        )


def add_stops(draft: Draft, times: Times) -> None:
    """One stop for each service at an evacuated site, after it moved or just before the deadline, or, if it
    takes longer than the site still runs, once its tools serve elsewhere; and for what returned home.
    """
    _add_stops_away(draft, times)
    instance, s = draft.instance, draft.instance.services
    tools, gates = _tools_back(instance, times, "stop"), _tool_gates(draft, kind_of("stop").like)
    for service in sorted(instance.evacuated):
        length = int(s.shed[service])
        moved = times.base_at[service] + length <= instance.grace
        at = int(times.base_at[service]) if moved else max(0, instance.grace - length)
        after: tuple[str, ...] = (draft.last_of[service],) if moved and service in draft.last_of else ()
        words = "its replacement serves" if moved else "the site still has power"
        if not 0 < instance.grace >= at + length:
            at, after = tools, tuple(sorted(gates))
            words = "its tools serve elsewhere" if gates else words
            if at + length >= instance.horizon:
                continue
        name = s.id[service]
        draft.add("stop", name, target_step("stop", name), at, at + length, after=after, precheck=words)


def _tools_back(instance: Instance, times: Times, kind: str) -> int:
    """The tick from which every affected tool of a kind serves."""
    need = instance.tools.get(kind_of(kind).like)
    return max((int(times.base_at[tool]) for tool in need.services), default=0) if need else 0
