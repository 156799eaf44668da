"""A plan as a printed list with the same step ids, in order of execution. Pure.

For the day when no screen works: what is written beside a step by hand can be attested afterwards by its id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from evac.drivers.by_hand import move_traffic, promote, scale
from evac.drivers.spec import NOTHING, ByHand
from evac.model.errors import InvalidInput
from evac.model.estate import Endpoint, Estate
from evac.model.fleet import ON_POOL, ON_SERVER
from evac.model.plan import Plan, Relocation, Step, site_in
from evac.model.records import dataclass
from evac.steps.registry import kind_of

STEPS_MOST: Final = 20_000
"""More would fill thousands of pages, which no one works through by hand."""
SERVERS_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class RunbookStep:
    """`start_ms`, `end_ms`: from the start of the plan. `after`: ids of steps that must be done first."""

    id: str
    words: str
    where: str
    start_ms: int
    end_ms: int
    after: tuple[str, ...]
    manual: bool
    owner: str
    checks: tuple[str, ...]
    do: str = ""
    """The exact command; empty if the estate has none, or no single one is safe."""
    before: str = ""
    """What must be true first."""
    done_when: str = ""
    roll_back: str = ""
    takes_part: str = ""
    """Staff at the site where it happens, with their contacts, as in the estate."""
    phones: tuple[str, ...] = ()
    """Phone numbers of its owner and of that site, in this order."""


@dataclass(frozen=True, slots=True)
class RunbookPart:
    """A wave of the plan, in order of start."""

    title: str
    steps: tuple[RunbookStep, ...]


@dataclass(frozen=True, slots=True)
class RunbookService:
    """`recovery_ms`: from the loss; None: this plan does not restore it, or the time is not known."""

    service: str
    tier: int
    owner: str
    state: str
    recovery_ms: int | None
    rto_ms: int | None
    reason: str
    moved: Relocation | None = None
    """Where it stops and starts, if the plan moves it."""


@dataclass(frozen=True, slots=True)
class Runbook:
    title: str
    digest: str
    estate_digest: str
    parts: tuple[RunbookPart, ...]
    services: tuple[RunbookService, ...]
    people: Mapping[str, str]
    """Site -> staff there; empty if the estate states only their number."""
    phones: Mapping[str, str]
    """Site or service owner -> phone numbers, if the estate states any."""
    kind: str = "lose"
    """Kind of the scenario."""
    lost: tuple[str, ...] = ()
    """What is lost or evacuated."""
    as_of: str = ""
    """Date of the estate that the plan was made from."""


def runbook(plan: Plan, digest: str, estate: Estate | None = None) -> Runbook:
    """Raises InvalidInput for a plan that is too large to print. `estate`: names service owners and staff at
    sites.
    """
    owners = {s.id: s.owner or "" for s in estate.services} if estate is not None else {}
    if len(plan.steps) > STEPS_MOST:
        raise InvalidInput(
            "runbook-size",
            f"a plan of {len(plan.steps):,} steps is too long to print",
            f"at most {STEPS_MOST:,} steps; plan for a smaller fault domain",
        )
    ground = _Ground(plan, estate)
    waves: dict[int, list[Step]] = {}
    for step in sorted(plan.steps, key=lambda step: (step.start_ms, step.id)):
        waves.setdefault(step.wave, []).append(step)
    parts = tuple(
        RunbookPart(f"Wave {wave}", tuple(_step(step, owners, ground) for step in rows))
        for wave, rows in sorted(waves.items())
    )
    moves = plan.moves
    services = tuple(
        RunbookService(
            o.service,
            o.tier,
            owners.get(o.service, ""),
            o.state,
            o.recovery_ms,
            o.rto_ms,
            o.reason,
            moves.get(o.service),
        )
        for o in sorted(
            plan.outcomes, key=lambda o: (o.tier, o.recovery_ms is None, o.recovery_ms or 0, o.service)
        )
    )
    return Runbook(
        plan.scenario.title,
        digest,
        plan.estate_digest,
        parts,
        services,
        dict(sorted(ground.people.items())),
        ground.phones,
        plan.scenario.kind,
        tuple(plan.scenario.domains),
        plan.as_of.isoformat() if plan.as_of else "",
    )


def _step(step: Step, owners: Mapping[str, str], ground: _Ground) -> RunbookStep:
    checks = [f"before: {step.precheck}"] if step.precheck else []
    checks += [f"first: {kind_of(step.kind).first(step)}"] if step.rebuilds else []
    checks += [f"done when: {step.gate}"] if step.gate else []
    checks += [f"roll back: {step.undo}"] if step.undo else []
    checks += [f"frees capacity for {', '.join(step.for_services[:5])}"] if step.for_services else []
    found, site = ground.by_hand(step), ground.site_of(step)
    return RunbookStep(
        step.id,
        f"{kind_of(step.kind).title}: {step.target}",
        _where(step),
        step.start_ms,
        step.end_ms,
        step.after,
        step.manual,
        owners.get(step.target, ""),
        tuple(checks),
        found.do,
        step.precheck,
        "; ".join(part for part in (step.gate, found.done_when) if part),
        step.undo,
        ground.people.get(site, ""),
        tuple(
            dict.fromkeys(
                ground.phones[name] for name in (owners.get(step.target), site) if name in ground.phones
            )
        ),
    )


class _Ground:
    """Where steps happen according to the estate: sites of pools, endpoints, existing replicas."""

    def __init__(self, plan: Plan, estate: Estate | None) -> None:
        self.endpoints: dict[str, list[Endpoint]] = {}
        self.pools: dict[str, str] = {}
        self.sites: frozenset[str] = frozenset()
        self.people: dict[str, str] = {}
        self.phones: dict[str, str] = {}
        self.running: Counter[tuple[str, str]] = Counter()
        """Replicas by (service, site), as steps are passed in the order of the plan."""
        self.starts: dict[str, str] = {}
        """Service -> site where most of it starts."""
        if estate is None:
            return
        for endpoint in estate.endpoints:
            self.endpoints.setdefault(endpoint.subject, []).append(endpoint)
        self.pools = {pool.id: pool.site for pool in estate.pools}
        self.sites = frozenset(site.id for site in estate.sites)
        self.people = {site.id: site.people or "" for site in estate.sites if site.people or site.phone}
        numbers: dict[str, set[str]] = {}
        for name, phone in (
            *((site.id, site.phone) for site in estate.sites),
            *((service.owner, service.owner_phone) for service in estate.services),
        ):
            if name and phone:
                numbers.setdefault(name, set()).add(phone)
        self.phones = {name: ", ".join(sorted(found)) for name, found in sorted(numbers.items())}
        self._count(estate)
        counts: dict[str, Counter[str]] = {}
        for step in plan.steps:
            if kind_of(step.kind).replicas > 0:
                counts.setdefault(step.target, Counter())[self.site_of(step)] += step.count
        self.starts = {service: most.most_common(1)[0][0] for service, most in counts.items()}

    def _count(self, estate: Estate) -> None:
        rows = estate.replicas
        for service, kind, target, count in zip(
            rows.service.tolist(), rows.kind.tolist(), rows.target.tolist(), rows.count.tolist(), strict=True
        ):
            if kind == ON_SERVER:
                site = estate.sites[int(estate.fleet.site[target])].id
            else:
                site = estate.pools[target].site if kind == ON_POOL else estate.sites[target].id
            self.running[estate.services[service].id, site] += count

    def site_of(self, step: Step) -> str:
        place = step.pool or step.candidate
        return self.pools.get(place) or site_in(place, self.sites)

    def by_hand(self, step: Step) -> ByHand:
        """The command for a person; empty if the estate has no endpoint for it."""
        kind, site = kind_of(step.kind), self.site_of(step)
        mine = self.endpoints.get(step.target, [])
        here = next((one for one in mine if one.at == site), None)
        if kind.replicas:
            self.running[step.target, site] += kind.replicas * step.count
            return scale(here, max(0, self.running[step.target, site])) if here is not None else NOTHING
        if kind.makes_primary and not kind.restores and here is not None:
            return promote(here)
        if kind.moves_traffic and (to := self.starts.get(step.target)):
            found = (move_traffic(one, to) for one in mine)
            return next((one for one in found if one.do), NOTHING)
        return NOTHING


def _where(step: Step) -> str:
    """Pool, servers with the number of replicas, candidate, rung; as far as the step has them."""
    parts = [step.pool] if step.pool else []
    if step.candidate:
        parts.append(f"to {step.candidate}")
    if step.rung:
        parts.append(f"by {step.rung}")
    named = [f"{name} x {count}" if count > 1 else name for name, count in step.servers if name != step.pool]
    if len(named) > SERVERS_SHOWN:
        named = [*named[:SERVERS_SHOWN], f"and {len(named) - SERVERS_SHOWN} more (see the plan file)"]
    if step.count > 1:
        parts.append(f"{step.count:,} in all")
    return "; ".join([*parts, *([", ".join(named)] if named else [])])
