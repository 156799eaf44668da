"""Monte Carlo over a fixed plan: percentiles of recovery, odds of meeting each rto, critical steps.

The plan's steps, dependencies and limits are fixed; durations and failures are drawn. Trials are drawn in
blocks from one seeded PCG64 stream, so the same seed gives the same answer on the same machine. How often
boots, starts and people fail is a parameter, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evac.derive.untimed import from_loss
from evac.model.errors import InvalidInput
from evac.model.instance import WHOLE, Instance, Use
from evac.model.plan import Outcome, Plan, Step
from evac.model.records import dataclass
from evac.steps.kind import Uncertainty
from evac.steps.places import Places
from evac.steps.registry import PLANNED, kind_of

ATTEMPTS: Final = 5
PAUSE_TICKS: Final = 30


DEFAULTS: Final[dict[str, Uncertainty]] = {
    kind.name: kind.uncertainty for kind in PLANNED.values() if kind.uncertainty is not None
}

_FIELDS: Final = ("fail", "slow", "spread", "common")


def parse_faults(specs: Iterable[str]) -> dict[str, Uncertainty]:
    """`KIND:FIELD=NUMBER` over the defaults, for example `boot:fail=0.1` or `start:slow=2`.

    Raises InvalidInput naming every spec that cannot be read.
    """
    table = dict(DEFAULTS)
    wrong = []
    for spec in specs:
        kind, _, rest = spec.partition(":")
        name, _, text = rest.partition("=")
        value = _number(text)
        limit = 0.99 if name == "fail" else 100.0
        if kind not in PLANNED or name not in _FIELDS or value is None or not 0.0 <= value <= limit:
            wrong.append(spec[:80])
            continue
        table[kind] = _with(table.get(kind, Uncertainty()), name, value)
    if wrong:
        kinds, names = ", ".join(DEFAULTS), ", ".join(_FIELDS)
        hint = f"write KIND:FIELD=NUMBER; kinds: {kinds}; fields: {names} (fail below 1)"
        raise InvalidInput("fault-spec", f"cannot read fault {', '.join(wrong)}", hint)
    return table


def _with(found: Uncertainty, name: str, value: float) -> Uncertainty:
    if name == "fail":
        return replace(found, fail=value)
    if name == "slow":
        return replace(found, slow=value)
    return replace(found, spread=value) if name == "spread" else replace(found, common=value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value else None


Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
PERCENTILES: Final = (50, 90, 95, 99)
TRIALS_LIMIT: Final = 1_000_000
_BLOCK: Final = 64
NOT_BACK: Final = 2**60
"""Milliseconds for anything not back within the horizon."""


@dataclass(frozen=True, slots=True)
class ServiceForecast:
    """recovery_ms: at PERCENTILES, counted like that of the plan's outcomes; None: not within the
    horizon, or, with `untimed`, unknown. meets_rto_permille: of the trials; None without an
    objective, and where no one knows."""

    service: str
    tier: int
    planned_ms: int | None
    recovery_ms: tuple[int | None, ...]
    meets_rto_permille: int | None
    rto_ms: int | None
    untimed: str = ""
    """Path of the missing fact if its recovery time is unknown; empty if it is known."""


@dataclass(frozen=True, slots=True)
class TierForecast:
    """When the last service of a tier is restored, at PERCENTILES, over the services that the plan
    restores.
    """

    tier: int
    services: int
    planned_ms: int | None
    last_ms: tuple[int | None, ...]
    untimed: str = ""
    """Path of the missing fact if that is unknown; empty if it is known."""


@dataclass(frozen=True, slots=True)
class Critical:
    """How often a step, or the wait for a limit, lay on the critical chain of the last milestone."""

    name: str
    kind: str
    permille: int


@dataclass(frozen=True, slots=True)
class Simulation:
    """objective: weighted person-ticks at PERCENTILES, next to the plan's; uncertainty: what was assumed."""

    trials: int
    seed: int
    planned_objective: int
    objective: tuple[int, ...]
    services: tuple[ServiceForecast, ...]
    tiers: tuple[TierForecast, ...]
    critical: tuple[Critical, ...]
    uncertainty: Mapping[str, Uncertainty]


@dataclass(frozen=True, slots=True, eq=False)
class _Arrays:
    """The plan as columns, steps in planned order; `net` is a kernel.Net."""

    steps: list[Step]
    length: Ints
    """Start ticks of each step; for steps that begin with the loss, from the loss."""
    early: Ints
    """Ticks of those that have passed when the plan begins."""
    stores: dict[int, int]
    """Row of each store that recovers by itself from the loss on, and its step."""
    checks: dict[int, int]
    """Service -> the check of its base."""
    net: Any


def simulate(
    instance: Instance,
    plan: Plan,
    *,
    trials: int = 1000,
    seed: int = 0,
    uncertainty: Mapping[str, Uncertainty] = DEFAULTS,
    progress: Callable[[float], None] = lambda share: None,
) -> Simulation:
    """Simulates `plan` `trials` times. Raises InvalidInput if trials is not 1 to 1,000,000."""
    if not 1 <= trials <= TRIALS_LIMIT:
        raise InvalidInput("trials", f"cannot run {trials} trials", f"choose 1 to {TRIALS_LIMIT}")
    from evac.planning.simulation.kernel import CHAIN, play_all

    arrays = _arrays(instance, plan)
    last = _last_steps(instance, arrays)
    services = sorted(last)
    watched = np.array([step for s in services for step in last[s]], np.int64)
    base = np.empty((trials, len(services)), np.int64)
    back = np.empty((trials, len(services)), np.int64)
    top = np.empty((trials, len(instance.services)), np.int64)
    chains: Counter[int] = Counter()
    stream = np.random.Generator(np.random.PCG64(seed))
    for begin in range(0, trials, _BLOCK):
        block = min(_BLOCK, trials - begin)
        drawn = _draw(stream, arrays, uncertainty, block)
        lengths = np.where(drawn > 0, np.maximum(drawn - arrays.early, 0), drawn)
        ends = np.empty((block, len(arrays.steps)), np.int64)
        chain = np.full((block, CHAIN), -1, np.int64)
        play_all(arrays.net, lengths, watched, ends, chain)
        for column, service in enumerate(services):
            base[begin : begin + block, column] = ends[:, last[service]].max(axis=1)
        back[begin : begin + block] = _back(
            instance, plan, arrays, services, base[begin : begin + block], drawn
        )
        top[begin : begin + block] = _tops(instance, arrays, ends, base[begin : begin + block], services)
        chains.update(chain[chain != -1].tolist())
        progress((begin + block) / trials)
    return _summary(instance, plan, arrays, services, base, top, back, chains, trials, seed, uncertainty)


def _back(
    instance: Instance, plan: Plan, arrays: _Arrays, services: list[int], base: Ints, drawn: Ints
) -> Ints:
    """(T, services) milliseconds until each serves, counted as in the plan: from the loss, or from the
    deadline of an evacuation; NOT_BACK if it does not.
    """
    lead_ms = 0 if instance.grace else plan.lead.ms
    late = np.maximum(base - instance.base_since[services], 0) * instance.tick_ms + lead_ms
    found = np.where(base > instance.horizon, NOT_BACK, late)
    if not arrays.stores:
        return found
    stores = {row: np.abs(drawn[:, step]) for row, step in arrays.stores.items()}
    checks = dict(enumerate(instance.services.verify))
    checks |= {service: np.abs(drawn[:, step]) for service, step in arrays.checks.items()}
    alone = from_loss(instance, stores, checks)
    for column, service in enumerate(services):
        if service in alone:
            found[:, column] = alone[service] * instance.tick_ms
    return found


def warm() -> None:
    """Compiles the kernels, or loads them from the cache: two trials of one step with a limit of its own."""
    from evac.planning.simulation.kernel import CHAIN, Net, play_all

    zero, one, edges = (np.array(column, np.int64) for column in ([0], [1], [0, 1]))
    net = Net(
        waits=zero,
        after_from=np.zeros(2, np.int64),
        after_to=zero[:0],
        use_from=edges,
        use_limit=zero,
        use_units=one,
        use_hold=-one,
        groups_from=edges,
        group_from=edges,
        capacity=one,
        queue_from=edges,
        horizon=10,
    )
    ends, chains = np.empty((2, 1), np.int64), np.full((2, CHAIN), -1, np.int64)
    play_all(net, np.ones((2, 1), np.int64), zero, ends, chains)


def _arrays(instance: Instance, plan: Plan) -> _Arrays:
    from evac.planning.simulation.kernel import Net

    steps = sorted(plan.steps, key=lambda s: (s.start_ms, s.end_ms, s.id))
    index = {step.id: n for n, step in enumerate(steps)}
    places = Places(instance)
    followers: list[list[int]] = [[] for _ in steps]
    waits = np.zeros(len(steps), np.int64)
    for n, step in enumerate(steps):
        for name in step.after:
            followers[index[name]].append(n)
            waits[n] += 1
    uses = [sorted(places.uses(step), key=_hold) for step in steps]
    groups = [[len(list(alike)) for _, alike in groupby(row, _hold)] for row in uses]
    flat = [(u, step) for row, step in zip(uses, steps, strict=True) for u in row]
    limit = np.array([u.limit for u, _ in flat], np.int64)
    net = Net(
        waits=waits,
        after_from=_offsets(len(f) for f in followers),
        after_to=np.array([n for f in followers for n in f], np.int64),
        use_from=_offsets(len(u) for u in uses),
        use_limit=limit,
        use_units=np.array([u.units * step.count for u, step in flat], np.int64),
        use_hold=np.array([_hold(u) for u, _ in flat], np.int64),
        groups_from=_offsets(len(row) for row in groups),
        group_from=_offsets(size for row in groups for size in row),
        capacity=np.array([x.capacity for x in instance.limits], np.int64),
        queue_from=_offsets(np.bincount(limit, minlength=len(instance.limits))),
        horizon=instance.horizon,
    )
    length = np.array([(s.end_ms - s.start_ms) // instance.tick_ms for s in steps], np.int64)
    early = np.zeros(len(steps), np.int64)
    own = {
        store.id: (row, way.from_loss) for row, store in enumerate(instance.stores) for way in store.allowed
    }
    stores: dict[int, int] = {}
    for n, step in enumerate(steps):
        row, ticks = own.get(step.target, (-1, -1)) if kind_of(step.kind).is_awaited else (-1, -1)
        if ticks >= 0:
            length[n], early[n], stores[row] = ticks, plan.lead.ms // instance.tick_ms, n
    names = {name: row for row, name in enumerate(instance.services.id)}
    checks = {
        names[step.target]: n
        for n, step in enumerate(steps)
        if kind_of(step.kind).checks and step.milestone == "base"
    }
    return _Arrays(steps, length, early, stores, checks, net)


def _hold(use: Use) -> int:
    """Ticks; -1: as long as the step."""
    return -1 if use.hold == WHOLE else use.hold


def _offsets(lengths: Iterable[int]) -> Ints:
    return np.cumsum([0, *lengths]).astype(np.int64)


def _last_steps(instance: Instance, arrays: _Arrays) -> dict[int, list[int]]:
    """Service -> the steps that end its base: its own, and those of its cycle."""
    service_of = {name: n for n, name in enumerate(instance.services.id)}
    own: dict[int, int] = {}
    for n, step in enumerate(arrays.steps):
        kind = kind_of(step.kind)
        if kind.moves_traffic or (kind.checks and step.milestone == "base"):
            service = service_of[step.target]
            if kind.moves_traffic or not instance.services.shift[service]:
                own[service] = n
    group: dict[int, list[int]] = {}
    for service, n in own.items():
        group.setdefault(int(instance.services.component[service]), []).append(n)
    return {service: group[int(instance.services.component[service])] for service in own}


def _draw(
    stream: np.random.Generator, arrays: _Arrays, table: Mapping[str, Uncertainty], trials: int
) -> Ints:
    """(T, N) lengths of one block: lognormal factors, retries with a pause, negative for permanent
    failures.
    """
    kinds = sorted({step.kind for step in arrays.steps})
    of_kind = np.array([kinds.index(step.kind) for step in arrays.steps], np.int64)
    rows = [table.get(kind, Uncertainty(0.0, 0.0, 0.0)) for kind in kinds]
    count = np.array([step.count for step in arrays.steps], np.float64)
    spread, common = (np.array([getattr(r, f) for r in rows]) for f in ("spread", "common"))
    slow, fail = (np.array([getattr(r, f) for r in rows]) for f in ("slow", "fail"))
    noise = stream.standard_normal((trials, len(of_kind))) * spread[of_kind]
    shared = stream.standard_normal((trials, len(kinds))) * common
    length = arrays.length * slow[of_kind] * np.exp(noise + shared[:, of_kind])
    failures = _failures(stream.random((trials, len(of_kind))), fail[of_kind], count)
    total = np.where(arrays.length > 0, length * (failures + 1) + failures * PAUSE_TICKS, 0.0)
    ticks = np.minimum(np.rint(total), 2**40).astype(np.int64)
    return np.asarray(np.where(failures >= ATTEMPTS, -np.maximum(ticks, 1), ticks), np.int64)


def _failures(luck: Floats, fail: Floats, count: Floats) -> Floats:
    """Attempts that fail before the last of `count` unit actions has succeeded; only those that failed
    are tried again, so all are done after k attempts with probability (1 - fail^k)^count."""
    with np.errstate(divide="ignore"):
        missed = -np.expm1(np.log(luck) / count)
        attempts = np.ceil(np.log(missed) / np.log(np.clip(fail, 1e-12, 0.999)))
    return np.asarray(np.where(fail > 0, np.clip(attempts - 1, 0, ATTEMPTS), 0.0), np.float64)


def _tops(instance: Instance, arrays: _Arrays, ends: Ints, base: Ints, services: list[int]) -> Ints:
    """(T, S) when top holds; 0 for what is not lost, horizon + 1 for never."""
    s = instance.services
    base_all = np.where(s.base_lost, instance.horizon + 1, 0) * np.ones((len(ends), 1), np.int64)
    base_all[:, services] = base
    top = base_all.copy()
    verified = {
        step.target: n
        for n, step in enumerate(arrays.steps)
        if kind_of(step.kind).checks and step.milestone == "top"
    }
    for service in np.flatnonzero(s.top_lost).tolist():
        if s.top_starts(service):
            n = verified.get(s.id[service])
            top[:, service] = instance.horizon + 1 if n is None else np.maximum(top[:, service], ends[:, n])
        for other in s.soft[service]:
            np.maximum(top[:, service], base_all[:, other], out=top[:, service])
    return top


def _summary(
    instance: Instance,
    plan: Plan,
    arrays: _Arrays,
    services: list[int],
    base: Ints,
    top: Ints,
    back: Ints,
    chains: Counter[int],
    trials: int,
    seed: int,
    uncertainty: Mapping[str, Uncertainty],
) -> Simulation:
    planned, unsure = {o.service: o for o in plan.outcomes}, {**instance.unjudged, **instance.untimed}
    for service, name in enumerate(instance.services.id):
        outcome = planned.get(name)
        if outcome is not None and outcome.state == "unknown" and outcome.why is not None:
            unsure[service] = outcome.why.fact or unsure[service]
    rows = []
    for column, service in enumerate(services):
        name, untimed = instance.services.id[service], unsure.get(service, "")
        rows.append(_forecast(planned[name], back[:, column], untimed))
    return Simulation(
        trials=trials,
        seed=seed,
        planned_objective=plan.objective,
        objective=_percentiles(_objectives(instance, plan, services, base, top)),
        services=tuple(sorted(rows, key=lambda r: (r.tier, r.service))),
        tiers=tuple(_tiers(instance, planned, services, back, unsure)),
        critical=tuple(_critical(instance, arrays, chains, trials)),
        uncertainty=uncertainty,
    )


def _percentiles(values: Ints) -> tuple[int, ...]:
    """The least value that at least p per cent of the trials do not exceed."""
    ordered = np.sort(values)
    return tuple(int(ordered[-(-p * len(ordered) // 100) - 1]) for p in PERCENTILES)


def _known(times_ms: tuple[int, ...]) -> tuple[int | None, ...]:
    return tuple(None if ms >= NOT_BACK else ms for ms in times_ms)


def _forecast(outcome: Outcome, back: Ints, untimed: str) -> ServiceForecast:
    rto_ms = outcome.rto_ms
    met = None if rto_ms is None or untimed else int(1000 * (back <= rto_ms).sum() // len(back))
    recovery = (None,) * len(PERCENTILES) if untimed else _known(_percentiles(back))
    return ServiceForecast(outcome.service, outcome.tier, outcome.recovery_ms, recovery, met, rto_ms, untimed)


def _tiers(
    instance: Instance,
    planned: Mapping[str, Outcome],
    services: list[int],
    back: Ints,
    unsure: Mapping[int, str],
) -> Iterator[TierForecast]:
    tiers = instance.services.tier[services]
    for tier in sorted(set(tiers.tolist())):
        columns = np.flatnonzero(tiers == tier)
        rows = [services[c] for c in columns]
        untimed = next((unsure[row] for row in rows if row in unsure), "")
        if untimed:
            yield TierForecast(int(tier), len(columns), None, (None,) * len(PERCENTILES), untimed)
            continue
        plans = [planned[instance.services.id[row]].recovery_ms for row in rows]
        known = [p for p in plans if p is not None]
        last = _known(_percentiles(back[:, columns].max(axis=1)))
        yield TierForecast(int(tier), len(columns), max(known, default=None), last)


def _objectives(instance: Instance, plan: Plan, services: list[int], base: Ints, top: Ints) -> Ints:
    """(T,) weighted person-ticks: drawn outages where the plan restores, the plan's own elsewhere."""
    s, horizon, tick = instance.services, instance.horizon, instance.tick_ms
    column = {service: n for n, service in enumerate(services)}
    index = {name: n for n, name in enumerate(s.id)}
    since = instance.base_since, instance.top_since
    total = np.zeros(len(base), np.int64)
    for outcome in plan.outcomes:
        service = index[outcome.service]
        lasts = np.full(len(base), outcome.base_outage_ms // tick)
        if service in column:
            lasts = np.maximum(np.minimum(base[:, column[service]], horizon) - since[0][service], 0)
        total += s.base_weight[service] * lasts
        lasts = np.full(len(base), outcome.top_outage_ms // tick)
        if s.top_lost[service] and outcome.state in ("restored", "degraded"):
            lasts = np.maximum(np.minimum(top[:, service], horizon) - since[1][service], 0)
        total += s.top_weight[service] * lasts
    return total


def _critical(instance: Instance, arrays: _Arrays, chains: Counter[int], trials: int) -> Iterator[Critical]:
    """Most frequent first; limits appear as what was waited for."""
    for code, times in sorted(chains.items(), key=lambda pair: (-pair[1], pair[0]))[:20]:
        permille = min(1000, 1000 * times // trials)
        if code >= 0:
            yield Critical(arrays.steps[code].id, arrays.steps[code].kind, permille)
        else:
            yield Critical(instance.limits[-2 - code].id, "limit", permille)
