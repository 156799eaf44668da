"""A plan: immutable, computed from one estate and one scenario, with its proof.

All times are integer milliseconds from the release of the plan. The codec to and from canonical
JSON lives at the edge; this module owns the values.

The certificate of a lower bound is non-negative integers from which anybody can recompute it: any such
integers give a true bound (weak duality over a finite box), so a bug in the planner can only weaken it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import field
from datetime import date
from types import MappingProxyType
from typing import Final, Literal, get_args

from evac.model.estate import Lead
from evac.model.instance import LeftOff
from evac.model.objectives import rpo_fact
from evac.model.reason import PLACEMENT, Reason
from evac.model.records import dataclass
from evac.model.scenario import Policy, Scenario
from evac.model.step_id import MOVED
from evac.model.units import traffic

SCALE: Final = 2**20
ServiceState = Literal["restored", "degraded", "shed", "unplaced", "unknown", "running"]
"""degraded: it serves with some of its replicas, or without something that it needs softly, until the
horizon; unknown: the effect of the loss on it cannot be judged.
"""
Proof = Literal["full", "partial"]
Parameter = int | str | bool
SITE_PREFIX: Final = "site:"
"""Prefix of a place of which only the site is known."""


def site_in(place: str, sites: Container[str]) -> str:
    """The site of a place that is no pool: SITE/HALL, `site:SITE`, or SITE:CLASS for servers without a pool.
    Empty if it is none of these sites. Ids may contain colons: the longest site counts.
    """
    for name in (place.removeprefix(SITE_PREFIX), place):
        parts = name.partition("/")[0].split(":")
        heads = (":".join(parts[:count]) for count in range(len(parts), 0, -1))
        if found := next((head for head in heads if head in sites), ""):
            return found
    return ""


@dataclass(frozen=True, slots=True)
class SupplyRow:
    """Weight that milestones put on one limit, or on a combination of pool limits (rule R3).

    limits: (limit id, factor) sorted by id; shares: (milestone, integer weight) sorted by milestone.
    """

    limits: tuple[tuple[str, int], ...]
    shares: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class CapacityRow:
    """Capacity freed by boots and sheds, priced per pool and resource (rule R4).

    prices: (pool, resource, factor) sorted; shares: (milestone, integer weight) sorted by milestone,
    running ones included.
    """

    prices: tuple[tuple[str, int, int], ...]
    shares: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PlacementRows:
    """Prices of the final placement (rule R5), zero entries left out, sorted.

    room: (pool, resource, price); fit: (service, pool, price); site: (service, site, price). What a
    replica pays where it is cheapest follows from them.
    """

    room: tuple[tuple[str, int, int], ...] = ()
    fit: tuple[tuple[str, str, int], ...] = ()
    site: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """All multipliers of one bound. arcs: (from milestone, to milestone, multiplier), where the
    first waits for the second (rule R2). What weight no row takes stands on the heads (R1)."""

    scale: int = SCALE
    arcs: tuple[tuple[str, str, int], ...] = ()
    supply: tuple[SupplyRow, ...] = ()
    capacity: tuple[CapacityRow, ...] = ()
    placement: PlacementRows = PlacementRows()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan."""

    id: str
    """Kind, target and ordinal; it stays the same in every replan."""
    kind: str
    """A name of `evac.steps`."""
    target: str
    """The service, store, server or supply it acts on."""
    start_ms: int
    end_ms: int
    count: int = 1
    """Unit actions of the step; each holds the uses of its kind."""
    wave: int = 0
    milestone: str = ""
    """`base` or `top`, for steps that restore a service."""
    pool: str = ""
    servers: tuple[tuple[str, int], ...] = ()
    """(server or pool, replicas), sorted, for steps that start or shed; a boot has exactly one."""
    uses: tuple[tuple[str, int], ...] = ()
    """(limit, units held by the whole step), sorted."""
    candidate: str = ""
    """Where a store is promoted, or the location of the backup that it is restored from."""
    rung: str = ""
    """How drastically an old primary is stopped: one of `FENCE_RUNGS`."""
    manual: bool = False
    """People do it."""
    tools: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Ids of steps that end at or before `start_ms`."""
    for_services: tuple[str, ...] = ()
    """The services that a shed frees capacity for."""
    rebuilds: tuple[tuple[str, str], ...] = ()
    """(store, its source): stores without a copy that a service rebuilds before it answers."""
    precheck: str = ""
    gate: str = ""
    undo: str = ""
    deadline_ms: int = 0
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))


FROM_LOSS_MS: Final = "from_loss_ms"
"""The parameter of a step that happens by itself: its duration from the loss. The step itself is the part
left when the plan begins.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happens to one affected service."""

    service: str
    state: ServiceState
    base_ms: int | None
    """When the base holds; None if it never does within the horizon."""
    top_ms: int | None
    base_outage_ms: int
    """The O of the objective."""
    top_outage_ms: int
    recovery_ms: int | None
    """From the loss, including detection and approval; it is compared with `rto_ms`. None if it is not
    restored, or at an unknown time; times of milestones then leave out what is unknown.
    """
    rto_ms: int | None
    people: int
    tier: int
    critical: tuple[str, ...] = ()
    """IDs of the steps that determine `base_ms`, first to last."""
    why: Reason | None = None
    """Why it is shed, is unplaced or cannot be judged; None otherwise."""
    congested: bool = False
    """Whether its traffic comes through a link or ingress that is too small, or may be: see `Congestion`."""

    @property
    def reason(self) -> str:
        """The same in words; empty if there is nothing to explain."""
        return "" if self.why is None else self.why.words

    @property
    def needs(self) -> str:
        """The unrestored service that this one, or its recovery, depends on; empty if that is not the
        reason.
        """
        waits = self.why is not None and self.why.kind in ("needs", "needs-tool")
        return self.why.services[0] if self.why is not None and waits else ""

    @property
    def is_untimed(self) -> bool:
        """Whether it is restored at an unknown time."""
        return self.state in ("restored", "degraded") and self.recovery_ms is None

    @property
    def is_half_judged(self) -> bool:
        """Whether it serves in part, without it being known whether the rest comes back."""
        return self.state == "degraded" and self.why is not None and self.why.kind == "fact-unknown"

    @property
    def goes_down(self) -> bool:
        """Whether it is without service, temporarily or permanently; also if only before a plan begins,
        because it recovers by itself.
        """
        early = self.state in ("restored", "degraded") and self.recovery_ms != 0
        return self.base_outage_ms > 0 or early

    @property
    def meets_rto(self) -> bool | None:
        """None if no objective is stated, if the service is restored at an unknown time, or if it is on time
        but its traffic may not get through.
        """
        if self.rto_ms is None:
            return None
        if self.recovery_ms is None:
            return False if self.state in ("shed", "unplaced") else None
        is_on_time = self.recovery_ms <= self.rto_ms
        return None if is_on_time and self.congested else is_on_time

    @property
    def rto_unknown(self) -> bool:
        """Whether an objective is stated and it is not known whether it is met."""
        return self.rto_ms is not None and self.meets_rto is None


Measure = Literal["bandwidth", "connections"]
MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)


@dataclass(frozen=True, slots=True)
class Congestion:
    """A link or the ingress of a site that carries less than the traffic after the loss, or may, while more
    may come through than before it: its limit is not known while the limits of others are, or services state
    no peak.
    """

    at: tuple[str, ...]
    """The site of the ingress, or the two ends of the link."""
    measure: Measure
    arriving: int
    """Mbit/s or connections at peak, as far as the peaks are known."""
    limit: int | None
    """None: not known."""
    services: tuple[str, ...]
    """Those whose traffic comes through it, sorted."""
    unstated: int = 0
    """How many of these services state no peak."""
    at_most: bool = False
    """Whether less may arrive: it is not known where all of these services run, or it depends on the plan."""

    @property
    def is_too_small(self) -> bool:
        """Whether what is known to arrive, or the most of it, is already too much; false if it is unknown."""
        return self.limit is not None and self.arriving > self.limit

    @property
    def is_certain(self) -> bool:
        """Whether it is too small wherever services run."""
        return self.is_too_small and not self.at_most

    @property
    def arriving_words(self) -> str:
        """`at least 45 Gbit/s` if some of the peaks are not known, `up to 45 Gbit/s` if it may be less."""
        if self.unstated and not self.arriving:
            return "an unknown amount of traffic"
        shown = traffic(self.measure, self.arriving)
        if self.at_most:
            return f"{shown} or more" if self.unstated else f"up to {shown}"
        return f"at least {shown}" if self.unstated else shown

    @property
    def unstated_words(self) -> str:
        """`1 of 3 services states no peak`; empty if all state one."""
        if not self.unstated:
            return ""
        of, what = len(self.services), "peak" if self.measure == "bandwidth" else "number of connections"
        verb = "states" if self.unstated == 1 else "state"
        return f"{self.unstated:,} of {of:,} {'service' if of == 1 else 'services'} {verb} no {what}"

    @property
    def name(self) -> str:
        """`the ingress of anyang` or `the link anyang - gasan`."""
        return link_or_ingress(self.at)

    @property
    def words(self) -> str:
        """`45 Gbit/s would come through the ingress of anyang, which can carry 30 Gbit/s`."""
        comes = f"{self.arriving_words} {'may' if self.at_most else 'would'} come through {self.name}"
        carries = ", and its limit is not known"
        if self.limit is not None:
            carries = f", which can carry {traffic(self.measure, self.limit)}"
        return f"{comes}{carries}; {self.unstated_words}" if self.unstated else comes + carries


def link_or_ingress(at: tuple[str, ...]) -> str:
    """See `Congestion`: its name."""
    return f"the link {' - '.join(at)}" if len(at) > 1 else f"the ingress of {at[0]}"


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """What happens to one lost store: where and when it is promoted or restored, and how much data is
    lost.
    """

    store: str
    candidate: str
    primary_ms: int | None
    loss_ms: int | None
    waiver: str = ""
    restored: bool = False
    """Whether the candidate is the location of a backup, not of a copy."""
    in_doubt: bool = False
    """Whether it is not restored because it is unknown how much data its copies and backups lack."""


@dataclass(frozen=True, slots=True)
class Relocation:
    """A service that still ran: where a plan stops replicas of it and starts new ones. Times are from the
    loss: of the first stop, of the first start, and until when its new replicas are verified.
    """

    stops: tuple[str, ...]
    starts: tuple[str, ...]
    stop_ms: int
    start_ms: int
    serves_ms: int
    stops_last: bool
    """Whether it never stops serving: its stops wait until the new replicas are verified."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The objective if demand or weights are off: the same plan at the new values, and one replan each."""

    case: str
    fixed: int
    replanned: int


@dataclass(frozen=True, slots=True)
class Wave:
    """Servers of a restored domain that this plan boots: how many, when the last one is on, the tick
    before which no order can have all of them on, and the limit that causes it (empty: the longest
    chain).
    """

    servers: int
    on_ms: int
    bound_ms: int
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Worst:
    """The outage of a plan if all that is unknown about it turns out worst, in user-milliseconds: what cannot
    be judged is down, what comes back at an unknown time never does, and replicas that may not fit stay away.
    """

    objective: int
    """From the beginning of the plan, tier-weighted."""
    unweighted: int
    """The same with weight 1."""
    unweighted_before: int
    """From the loss until the plan begins."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A computed plan."""

    name: str
    scenario: Scenario
    estate_digest: str
    planner_version: str
    seed: int
    work: int
    """Units of search spent."""
    tick_ms: int
    horizon_ms: int
    grace_ms: int
    tier_weights: tuple[int, ...]
    steps: tuple[Step, ...]
    outcomes: tuple[Outcome, ...]
    stores: tuple[StoreOutcome, ...]
    objective: int
    """Weighted person-ticks, Z of the formal model: base_weight x ticks of `tick_ms`."""
    unweighted: int
    """Person-ticks with weight 1."""
    heads: int
    """The part of Z that critical chains alone make unavoidable."""
    bound: int
    """A lower bound of Z."""
    certificate: Certificate
    detection_ms: int = 0
    approval_ms: int = 0
    assumed: tuple[str, ...] = ()
    """Which of the two the estate does not state."""
    unweighted_before: int | None = None
    """User-milliseconds without service from the loss until the plan begins; None in older files."""
    worst: Worst | None = None
    """None if its outage depends on nothing unknown, and in older files."""
    as_of: date | None = None
    observation_digest: str | None = None
    waivers: tuple[str, ...] = ()
    """Stores promoted beyond their rpo by name, and those that nothing else could restore."""
    attest: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """Facts treated as unknown; the proof is partial if there are any."""
    proof: Proof = "full"
    sensitivity: tuple[Sensitivity, ...] = ()
    intervals: tuple[str, ...] = ()
    """Facts known within bounds: the steps use the worse end, and the bound the better one."""
    wave: Wave | None = None
    """For a restored domain: what comes up."""
    left_off: tuple[LeftOff, ...] = ()
    """For a restored domain: what stays off, and why."""
    passed_over: tuple[str, ...] = ()
    """Services that are not restored, so that the services that need them rely on an alternative."""
    congestion: tuple[Congestion, ...] = ()
    """Links and ingress that carry too little after the loss, or may."""

    @property
    def policy(self) -> Policy:
        """The policy that it was planned with."""
        return Policy(self.waivers, self.tier_weights, passed_over=self.passed_over)

    @property
    def lead(self) -> Lead:
        """The time before the first step."""
        return Lead(self.detection_ms, self.approval_ms, self.assumed)

    def back_ms(self, store: StoreOutcome) -> int | None:
        """From the loss until a store accepts writes; None if it never does."""
        if store.primary_ms is None:
            return None
        own = (step.parameters.get(FROM_LOSS_MS) for step in self.steps if step.target == store.store)
        return next((ms for ms in own if isinstance(ms, int)), store.primary_ms + self.lead.ms)

    @property
    def moves(self) -> Mapping[str, Relocation]:
        """Services that are stopped in one place and started in another."""
        again: dict[str, list[Step]] = {step.target: [] for step in self.steps if step.milestone == MOVED}
        for step in self.steps:
            if step.target in again and (step.milestone == MOVED or step.for_services):
                again[step.target].append(step)
        found, lead = dict[str, Relocation](), self.lead.ms
        for service, steps in sorted(again.items()):
            stops = [step for step in steps if step.for_services]
            starts = [step for step in steps if step.servers and not step.for_services]
            starts_again = {step.id for step in steps if step not in stops}
            if not stops or not starts:
                continue  # no checked plan: nothing moves
            found[service] = Relocation(
                tuple(sorted({name for step in stops for name, _ in step.servers})),
                tuple(sorted({name for step in starts for name, _ in step.servers})),
                min(step.start_ms for step in stops) + lead,
                min(step.start_ms for step in starts) + lead,
                max(step.end_ms for step in steps if step not in stops) + lead,
                all(starts_again.intersection(step.after) for step in stops),
            )
        return found

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Services for which the effect of the loss cannot be judged."""
        return tuple(o.service for o in self.outcomes if o.state == "unknown")

    @property
    def without_rpo(self) -> tuple[StoreOutcome, ...]:
        """Lost stores that lose data, or may, and do not say how much they may lose."""
        unknown = set(self.unknown)
        return tuple(one for one in self.stores if rpo_fact(one.store) in unknown)

    @property
    def open_stores(self) -> tuple[StoreOutcome, ...]:
        """Lost stores that may lose too much data: some come back without a stated limit, and for others the
        amount is unknown.
        """
        back = {one.store for one in self.without_rpo if one.primary_ms is not None}
        return tuple(one for one in self.stores if one.in_doubt or one.store in back)

    @property
    def gone_stores(self) -> tuple[StoreOutcome, ...]:
        """Lost stores that certainly do not come back."""
        return tuple(one for one in self.stores if one.primary_ms is None and not one.in_doubt)

    @property
    def unstated(self) -> frozenset[str]:
        """Services that do not state how many people use them."""
        paths = [path.split("/") for path in self.unknown]
        return frozenset(path[1] for path in paths if path[0] == "services" and path[2:] == ["people"])

    def by_weight(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Highest tier first; within a tier, services with unstated users first, then those with most
        users.
        """
        unstated = self.unstated
        return sorted(outcomes, key=lambda o: (o.tier, o.service not in unstated, -o.people, o.service))

    @property
    def places_unknown(self) -> tuple[tuple[str, str], ...]:
        """(`services` or `stores`, id) of what makes the loss impossible to judge: its place is unknown."""
        paths = [path.split("/") for path in self.unknown]
        return tuple((path[0], path[1]) for path in paths if len(path) == 3 and path[2] == PLACEMENT)

    @property
    def estimated(self) -> tuple[str, ...]:
        """Services in pools that lose some of their servers: the number of lost replicas is estimated by
        share.
        """
        paths = [path.split("/") for path in self.intervals]
        return tuple(path[1] for path in paths if path[2:] == [PLACEMENT])

    @property
    def gap_permille(self) -> int | None:
        """(Z - bound) / bound in thousandths, rounded up; None where the bound is zero."""
        return None if self.bound <= 0 else -(-(self.objective - self.bound) * 1000 // self.bound)

    @property
    def contention_gap_permille(self) -> int | None:
        """(Z - bound) / (Z - heads) in thousandths: the gap over what contention adds."""
        over = self.objective - self.heads
        return None if over <= 0 else -(-(self.objective - self.bound) * 1000 // over)
