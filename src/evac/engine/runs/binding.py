"""From a plan to what a run executes: steps with limits and deadlines, and the actions of each step.

Pure: the same estate, plan and policy give the same run. A step without a known endpoint becomes manual work:
driver `manual`, with instructions.

Bound runs are kept in the store, so that every leader and reader sees the same steps and actions.

bound/<run>/<plan digest>/<part:06d> canonical JSON of spec and actions, written before the run is

A run is bound once for each of its plans. Estate and policy may change afterwards, but the meaning of a
journal must not. The journal names the document's digest, which every reader compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson

from evac.derive.limits import limits_of
from evac.derive.stores import primary_site
from evac.drivers.port import Action, Value
from evac.drivers.registry import is_by_person
from evac.engine.boots.binding import fed_already, in_time, longest_first, with_power
from evac.engine.boots.loads import approved_loads
from evac.engine.runs.ground import Ground, ground_of
from evac.engine.runs.ordering import in_order
from evac.engine.runs.protection import protection_after, rejoin_ms
from evac.engine.runs.step_actions import (
    BEFORE,
    actions_of,
    follow_actions,
    old_of,
    redirects,
    stopped_last,
    yielding,
)
from evac.engine.stores.permits import wait_ms
from evac.engine.stores.sightings import within
from evac.model.errors import Corrupt, InvalidInput
from evac.model.estate import Estate
from evac.model.plan import Plan, Step
from evac.model.records import dataclass
from evac.model.run_policy import Envelope, Pace, Patience, RunPolicy
from evac.model.step_id import StepId, limit_id
from evac.run import envelope, recovery_groups
from evac.run.data_loss import Basis, Loss, labels_of
from evac.run.values import ATTESTED, Left, RunLimit, RunSpec, RunStep, left_of
from evac.steps.registry import kind_of
from evac.steps.rejoin import Rejoin
from evac.steps.restore import Restore
from evac.store.port import Compare, Delete, Lease, Put, Store, entries

PACE_LEAST_MS: Final = 1_000
"""Minimum time between two shares: traffic that has just arrived shows nothing yet."""

WORDS_MOST: Final = 200
MEND_MS: Final = 60_000
"""How long the run holds what was to start on a server that does not come up, waiting for a repaired plan."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound run. actions: step id -> its actions in order. The envelope of the spec is what an approval
    must cover.
    """

    spec: RunSpec
    actions: Mapping[str, tuple[Action, ...]]
    digest: str = ""
    """SHA-256 of its stored document, which the journal names and approvals sign; empty if it is derived from
    the plan each time.
    """


def bind(
    estate: Estate,
    plan: Plan,
    policy: RunPolicy,
    *,
    run: str,
    incident: str,
    digest: str,
    losses: Mapping[str, Loss] = MappingProxyType({}),
) -> Bound:
    """The run of a plan on the estate it was made from. losses: store -> the most that its promotion loses as
    observed; for others the plan's figure. Raises RunError if steps wait for each other.
    """
    ground = ground_of(estate, plan, policy)
    critical = _critical(plan)
    actions: dict[str, tuple[Action, ...]] = {}
    steps: list[RunStep] = []
    totals = dict(ground.serving.live)
    last: dict[str, str] = {}
    uses = _limit_windows(estate, plan.tick_ms)
    for step in plan.steps:
        found = actions_of(ground, step, totals)
        made = with_power(ground.boots, step, _run_step(ground, step, found, uses, losses))
        if step.id in critical:
            made = replace(made, critical=True)
        parts = _in_shares(ground, made, found)
        for part, done in parts:
            steps.append(part)
            actions[part.id] = done
        if len(parts) > 1:
            last[step.id] = parts[-1][0].id
        if kind_of(step.kind).makes_primary:
            if found and (given_up := yielding(ground, step)):
                actions[old_of(step.id)] = given_up
            for site, action in follow_actions(ground, step):
                follow = _follow_step(step, site, action)
                steps.append(follow)
                actions[follow.id] = (action,)
    protection = protection_after(ground, steps, actions)
    for added, done in (*((one, (act,)) for one, act in protection.steps), *redirects(ground, steps)):
        steps.append(replace(added, act=_digest(done)))
        actions[added.id] = done
    steps = stopped_last(ground, steps)
    needed = needed_envelope(ground, losses)
    if last:
        steps = _after_the_last(steps, last)
    if ground.boots is not None:
        steps = longest_first(steps)
        if plan.wave is not None:
            steps = in_time(steps, _limits(ground, steps), plan.wave.bound_ms)
    for fed, action in (*fed_already(steps), *(approved_loads(ground.boots.loads) if ground.boots else ())):
        steps.append(fed)
        actions[fed.id] = (action,)
    in_order(steps)
    spec = RunSpec(
        run=run,
        incident=incident,
        plan=digest,
        steps=tuple(steps),
        limits=_limits(ground, steps),
        envelope=needed,
        patience=policy.patience,
        pace=replace(policy.pace, wait_ms=max(policy.pace.wait_ms, PACE_LEAST_MS)) if last else policy.pace,
        approvals=policy.approvals,
        horizon_ms=plan.horizon_ms,
        mend_ms=MEND_MS if any(kind_of(step.kind).boots for step in steps) else 0,
        labels=MappingProxyType(_labels(estate, plan, policy, steps, losses)),
        leaves=(*_leaves(plan), *(Left(name, "unprotected") for name in protection.missing)),
    )
    return Bound(spec, MappingProxyType(actions))


def _labels(
    estate: Estate, plan: Plan, policy: RunPolicy, steps: Sequence[RunStep], losses: Mapping[str, Loss]
) -> dict[str, str]:
    """Labels kept with a run besides its steps."""
    restored = {one.store for one in plan.stores if one.restored}
    groups = recovery_groups.labels_of(estate.recovery_groups, restored)
    return {"scenario": plan.scenario.title, **_attested(policy, steps), **labels_of(losses), **groups}


def _attested(policy: RunPolicy, steps: Sequence[RunStep]) -> dict[str, str]:
    """Stores for which policy accepts a person's attestation as the fence, because no other proof is
    available.
    """
    fenced = {step.target for step in steps if kind_of(step.kind).fences}
    found = sorted(store for store in fenced if "attest" in policy.store(store).proofs)
    return {ATTESTED: " ".join(found)} if found else {}


def _critical(plan: Plan) -> frozenset[str]:
    """Steps on the chain that decides when the last service is restored."""
    times = [one.base_ms for one in plan.outcomes if one.base_ms is not None and one.goes_down]
    last = max(times, default=None)
    return frozenset(name for one in plan.outcomes if one.base_ms == last for name in one.critical)


_LEFT: Final[Mapping[str, Literal["down", "shed", "unknown"]]] = MappingProxyType(
    {"unplaced": "down", "shed": "shed", "unknown": "unknown"}
)


def _leaves(plan: Plan) -> tuple[Left, ...]:
    """Services that the plan does not restore, most important first."""
    gone = (one for one in plan.outcomes if one.state in _LEFT)
    ordered = sorted(gone, key=lambda one: (one.tier, -one.people, one.service))
    return tuple(Left(one.service, _LEFT[one.state], one.people) for one in ordered)


def _run_step(
    ground: Ground,
    step: Step,
    actions: tuple[Action, ...],
    windows: Mapping[str, int],
    losses: Mapping[str, Loss],
) -> RunStep:
    held = [(limit, units, windows.get(limit, 0)) for limit, units in step.uses]
    for driver in sorted({action.driver for action in actions}):
        if driver in ground.policy.driver_limits:
            held.append((limit_id("driver", driver), 1, 0))
    kind = kind_of(step.kind)
    rejoins = kind.follows and any(action.verb == "rejoin" for action in actions)
    manual = all(is_by_person(action.driver) for action in actions)
    return RunStep(
        id=StepId.parse(step.id),
        kind=Rejoin.name if rejoins else step.kind,
        target=step.target,
        start_ms=step.start_ms,
        duration_ms=_duration_ms(step, actions),
        after=step.after,
        uses=tuple(held),
        deadline_ms=max(step.deadline_ms, rejoin_ms(actions)) if rejoins else step.deadline_ms,
        gate=_gate(ground, step, losses),
        safe_undo=kind.is_undone_safely,
        manual=manual,
        words=_words(actions[0]) if manual and actions else "",
        data_set=step.target if kind.claims_epoch else "",
        site=actions[0].at if actions else "",
        act=_act_of(ground, step, actions),
    )


def _words(action: Action) -> str:
    """Instructions for a person, within a readable length."""
    words = str(action.parameters.get("instructions", ""))
    return words if len(words) <= WORDS_MOST else f"{words[:WORDS_MOST]}..."


def _in_shares(
    ground: Ground, step: RunStep, actions: tuple[Action, ...]
) -> list[tuple[RunStep, tuple[Action, ...]]]:
    """Splits a shift into growing shares, each after the one before, if policy asks for it and both sites
    serve. From a lost site all traffic moves at once.
    """
    shares = ground.policy.pace.shares
    alive = ground.healthy and all(a.verb == "shift" and a.parameters.get("away") for a in actions)
    if not kind_of(step.kind).moves_traffic or len(shares) < 2 or not alive:
        return [(step, actions)]
    parts: list[tuple[RunStep, tuple[Action, ...]]] = []
    before = 0
    for number, share in enumerate(shares, 1):
        given = {"share": share, "from_share": before}
        done = tuple(
            replace(a, parameters=MappingProxyType(dict(sorted({**a.parameters, **given}.items()))))
            for a in actions
        )
        part = replace(step, paced=True, act=_digest(done))
        if parts:
            part = replace(part, id=step.id.of_batch(number), after=(parts[-1][0].id,))
        parts.append((part, done))
        before = share
    return parts


def _after_the_last(steps: list[RunStep], last: Mapping[str, str]) -> list[RunStep]:
    """Makes steps that wait for a shift wait for its last share; the shares follow each other."""
    return [
        step
        if step.paced and step.id not in last
        else replace(step, after=tuple(last.get(name, name) for name in step.after))
        for step in steps
    ]


def _act_of(ground: Ground, step: Step, actions: tuple[Action, ...]) -> str:
    """Distinguishes this step from one with the same id in another plan. A promotion is identified by its
    site alone, so that a running one is never begun twice.
    """
    kind = kind_of(step.kind)
    if kind.fences:
        given = actions[0].parameters
        old = str(given.get("old", "")) or primary_site(ground.top, ground.stores[step.target])
        candidate = str(given.get("candidate", ""))
        return f"{old}>{candidate}" if given.get("proof") == "sync" else old
    if kind.makes_primary:
        return ""
    return _digest(actions)


def _digest(actions: tuple[Action, ...]) -> str:
    told = [
        (a.verb, a.target, a.driver, a.at, sorted((k, v) for k, v in a.parameters.items() if k != BEFORE))
        for a in actions
    ]
    return blake2b(repr(told).encode(), digest_size=6).hexdigest()


def _duration_ms(step: Step, actions: tuple[Action, ...]) -> int:
    """The planned duration; a fence that waits for a lease takes at least that long."""
    waits = [wait_ms(int(str(a.parameters["ttl_ms"]))) for a in actions if a.driver == "lease"]
    return max(step.end_ms - step.start_ms, *waits, 0)


def _follow_step(promote: Step, site: str, action: Action) -> RunStep:
    """Points one copy to the new primary; only the copy itself waits for it."""
    return RunStep(
        id=StepId(Rejoin.name, promote.target, member=site),
        kind=Rejoin.name,
        target=promote.target,
        start_ms=promote.end_ms,
        duration_ms=promote.end_ms - promote.start_ms,
        after=(promote.id,),
        site=site,
        deadline_ms=rejoin_ms((action,)),
    )


def _gate(ground: Ground, step: Step, losses: Mapping[str, Loss]) -> str:
    """What a person must agree to first; empty if policy lets evac continue. Names no figure if one is known:
    it grows until the old primary is fenced, so it is shown as it is at that time.
    """
    if not kind_of(step.kind).makes_primary or ground.healthy:
        return ""
    moment_s = dict(ground.plan.scenario.moments).get(step.target)
    if moment_s is not None:
        return Restore().approval_to(step.target, moment_s)
    known = losses.get(step.target)
    loss = known or _planned_loss(ground, step.target)
    if loss.most_ms == 0 or within(loss, ground.policy):
        return ""
    words = None if loss.most_ms is None else loss.words if known is None else ""
    return kind_of(step.kind).approval(step.target, words)


def _planned_loss(ground: Ground, store: str) -> Loss:
    """The loss declared in the estate."""
    lost_ms = next((s.loss_ms for s in ground.plan.stores if s.store == store), 0)
    basis: Basis = "unknown" if lost_ms is None else "declared"
    return Loss(store, "", ground.candidates.get(store, ""), lost_ms, basis)


def needed_envelope(ground: Ground, losses: Mapping[str, Loss]) -> Envelope:
    """What an approval must cover for this plan. An unknown loss counts as the whole horizon."""
    promoted = sorted(s.store for s in ground.plan.stores if s.candidate)
    known = [(losses.get(store) or _planned_loss(ground, store)).most_ms for store in promoted]
    most = max((lost if lost is not None else ground.plan.horizon_ms for lost in known), default=0)
    shed = sum(o.people for o in ground.plan.outcomes if o.state == "shed")
    return Envelope(tuple(sorted(ground.left)), tuple(promoted), most, shed)


def _limits(ground: Ground, steps: Sequence[RunStep]) -> tuple[RunLimit, ...]:
    used, tick_ms = {limit for step in steps for limit, _, _ in step.uses}, ground.plan.tick_ms
    found = [
        RunLimit(
            limit.id,
            "slots" if limit.window is None else "rate",
            limit.capacity,
            (limit.window or 0) * tick_ms,
        )
        for limit in limits_of(ground.estate, tick_ms).limits
        if limit.id in used
    ]
    found += [
        RunLimit(limit_id("driver", driver), "slots", most)
        for driver, most in ground.policy.driver_limits.items()
    ]
    if ground.boots is not None:
        found += [limit for limit in ground.boots.limits if limit.id in used]
    return tuple(sorted(found, key=lambda limit: limit.id))


def _limit_windows(estate: Estate, tick_ms: int) -> dict[str, int]:
    """Limit -> how long a use of it lasts, if it is a rate with a window."""
    rows = limits_of(estate, tick_ms).limits
    return {limit.id: limit.window * tick_ms for limit in rows if limit.window is not None}


PART_BYTES: Final = 512 * 1024
PARTS_MOST: Final = 1_024
_VERSION: Final = 1


def encode_bound(bound: Bound) -> bytes:
    """Deterministic bytes: the same run gives the same bytes."""
    spec = bound.spec
    settings = _Settings()
    actions = {
        str(step): [_action_row(one, settings) for one in found]
        for step, found in sorted(bound.actions.items())
    }
    return orjson.dumps(
        {
            "version": _VERSION,
            "run": spec.run,
            "incident": spec.incident,
            "plan": spec.plan,
            "envelope": envelope.to_data(spec.envelope),
            "approvals": spec.approvals,
            "monitor_ms": spec.monitor_ms,
            "horizon_ms": spec.horizon_ms,
            "mend_ms": spec.mend_ms,
            "labels": dict(spec.labels),
            **({"leaves": [list(one) for one in spec.leaves]} if spec.leaves else {}),
            "patience": _fields(spec.patience),
            "pace": _fields(spec.pace),
            "limits": [_limit_row(limit) for limit in spec.limits],
            "steps": [_step_row(step) for step in spec.steps],
            "actions": actions,
            "settings": settings.rows,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def decode_bound(data: bytes) -> Bound:
    """Raises Corrupt for bytes that this program did not write."""
    try:
        found = orjson.loads(data)
        if found["version"] != _VERSION:
            raise Corrupt(f"cannot read a bound run of version {found['version']}")
        pace = found["pace"]
        spec = RunSpec(
            run=found["run"],
            incident=found["incident"],
            plan=found["plan"],
            steps=tuple(_step_of(row) for row in found["steps"]),
            limits=tuple(RunLimit(*row) for row in found["limits"]),
            envelope=envelope.from_data(found["envelope"]),
            patience=Patience(**found["patience"]),
            pace=Pace(**{**pace, "shares": tuple(pace["shares"])}),
            approvals=found["approvals"],
            monitor_ms=found["monitor_ms"],
            horizon_ms=found["horizon_ms"],
            mend_ms=found.get("mend_ms", 0),
            labels=MappingProxyType(found["labels"]),
            leaves=left_of(found.get("leaves", ())),
        )
        settings = [_values(one) for one in found.get("settings", ())]
        actions = {
            step: tuple(_action_of(row, settings) for row in rows) for step, rows in found["actions"].items()
        }
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise Corrupt("cannot read a bound run in the store") from error
    return Bound(spec, MappingProxyType(actions))


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _limit_row(limit: RunLimit) -> list[Any]:
    row = [limit.id, limit.kind, limit.capacity, limit.window_ms]
    return [*row, limit.whole, limit.beside] if limit.whole or limit.beside else row


def _step_row(step: RunStep) -> list[Any]:
    row = [
        step.id,
        step.kind,
        step.target,
        step.start_ms,
        step.duration_ms,
        list(step.after),
        [list(use) for use in step.uses],
        step.deadline_ms,
        step.gate,
        step.manual,
        step.safe_undo,
        step.data_set,
        step.site,
        step.paced,
        step.act,
    ]
    of_boot = [step.rack, list(step.feeds), step.boot_server, step.lag_ms]
    if step.optional:
        return [*row, *of_boot, step.words, step.cold, step.critical, True]
    if step.critical:
        return [*row, *of_boot, step.words, step.cold, True]
    if step.cold:
        return [*row, *of_boot, step.words, True]
    if step.words:
        return [*row, *of_boot, step.words]
    return [*row, *of_boot] if any(of_boot) else row


def _step_of(row: list[Any]) -> RunStep:
    id, kind, target, start_ms, duration_ms, after, uses, *rest = row
    if len(rest) > _FEEDS:
        rest[_FEEDS] = tuple(rest[_FEEDS])
    return RunStep(
        StepId.parse(id),
        kind,
        target,
        start_ms,
        duration_ms,
        tuple(after),
        tuple(tuple(use) for use in uses),
        *rest,
    )


_FEEDS: Final = 9
"""Position of the feeds in a row, counted after the uses."""


class _Settings:
    """Settings belong to an endpoint and so to many actions: equal ones are stored once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._seen: dict[int, tuple[Mapping[str, Value], int]] = {}
        self._numbers: dict[bytes, int] = {}

    def number(self, settings: Mapping[str, Value]) -> int:
        seen = self._seen.get(id(settings))
        if seen is not None:
            return seen[1]
        plain = _plain(settings)
        number = self._numbers.setdefault(orjson.dumps(plain), len(self.rows))
        if number == len(self.rows):
            self.rows.append(plain)
        self._seen[id(settings)] = settings, number  # held, so that no other takes its id
        return number


def _action_row(action: Action, settings: _Settings) -> list[Any]:
    number = settings.number(action.settings)
    return [action.verb, action.target, action.driver, action.at, number, _plain(action.parameters)]


def _plain(values: Mapping[str, Value]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in sorted(values.items())}


def _action_of(row: list[Any], shared: Sequence[Mapping[str, Value]]) -> Action:
    """Older runs have the settings in the row."""
    verb, target, driver, at, settings, parameters = row
    found = shared[settings] if isinstance(settings, int) else _values(settings)
    return Action(verb, target, driver, at, found, _values(parameters))


def _values(found: dict[str, Any]) -> Mapping[str, Value]:
    return MappingProxyType(
        {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    )


def _prefix(run: str, plan: str) -> str:
    return f"bound/{run}/{plan}/"


async def put_bound(
    store: Store, bound: Bound, guard: Lease | None, compares: Sequence[Compare] = ()
) -> Bound:
    """Writes it in parts and returns it with its digest. Anything already there, from a leader that died
    before the run was made or from anyone else, is overwritten while the compares hold. Raises Conflict.
    """
    data = encode_bound(bound)
    parts = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)]
    if len(parts) > PARTS_MOST:
        raise InvalidInput("run-size", f"a run of {len(data):,} bytes cannot be stored", "split the scenario")
    prefix = _prefix(bound.spec.run, bound.spec.plan)
    there = {entry.key: entry for entry in await store.list(prefix, "", PARTS_MOST)}
    for number, part in enumerate(parts):
        key = f"{prefix}{number:06d}"
        entry = there.pop(key, None)
        if entry is None or entry.value != part:
            same = Compare(key, 0 if entry is None else entry.revision)
            await store.transact((same, *compares), (Put(key, part),), guard)
    for key, entry in there.items():
        await store.transact((Compare(key, entry.revision), *compares), (Delete(key),), guard)
    return replace(bound, digest=_bytes_digest(data))


def _bytes_digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def was_bound_again(store: Store, run: str, plan: str) -> bool:
    """Whether a run was bound to a later plan as well; that plan may never have taken effect."""
    prefix = f"bound/{run}/"
    first = _prefix(run, plan)
    later = await store.list(prefix, f"{first}~", 1)
    return bool(later) or any(not entry.key.startswith(first) for entry in await store.list(prefix, "", 1))


async def get_bound(store: Store, run: str, plan: str, digest: str = "") -> Bound:
    """digest: as the journal names it; journals of older versions name none. Raises Corrupt if the document
    is missing, incomplete or different.
    """
    parts: list[bytes] = []
    prefix = _prefix(run, plan)
    async for entry in entries(store, prefix, 8):
        if entry.key != f"{prefix}{len(parts):06d}" or len(parts) >= PARTS_MOST:
            raise Corrupt(f"part {len(parts)} of run {run} is missing")
        parts.append(entry.value)
    if not parts:
        raise Corrupt(f"the actions of run {run} are not in the store")
    data = b"".join(parts)
    found = _bytes_digest(data)
    if digest not in ("", found):
        raise Corrupt(f"the actions of run {run} were changed in the store after the run was created")
    return replace(decode_bound(data), digest=found)
