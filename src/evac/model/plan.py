"""A plan: immutable, computed from one estate and one scenario, with its proof.

All times are integer milliseconds from the release of the plan. The codec to and from canonical
JSON lives at the edge; this module owns the values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Final, Literal

from evac.model.certificate import Certificate
from evac.model.instance import LeftOff
from evac.model.scenario import Scenario
from evac.model.steps import StepKind

ServiceState = Literal["restored", "degraded", "shed", "unplaced", "running"]
Proof = Literal["full", "partial"]
Parameter = int | str | bool


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `id` is kind + target + ordinal and stays the same in every replan.

    target: the service, store or server it acts on. servers: (server or pool name, replicas)
    sorted, for start and shed; boots have exactly one. count: unit actions of the step (each holds
    the uses of its kind). milestone: `base` or `top` for start, verify and shift. after: ids that
    end at or before `start_ms`. candidate: where a store is promoted. manual: done by people.
    for_services: whom a shed makes room for. uses: (limit id, units held by the whole step), sorted.
    """

    id: str
    kind: StepKind
    target: str
    start_ms: int
    end_ms: int
    count: int = 1
    wave: int = 0
    milestone: str = ""
    pool: str = ""
    servers: tuple[tuple[str, int], ...] = ()
    uses: tuple[tuple[str, int], ...] = ()
    candidate: str = ""
    rung: str = ""
    manual: bool = False
    tools: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    for_services: tuple[str, ...] = ()
    precheck: str = ""
    gate: str = ""
    undo: str = ""
    deadline_ms: int = 0
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))


def needs_reason(service: str) -> str:
    """The reason of a service that cannot do without another one. Plan files carry it as text."""
    return f"needs {service}, which does not come back"


_NEEDS: Final = re.compile(re.escape(needs_reason("@")).replace("@", r"(\S+)"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one affected service.

    base_ms, top_ms: when the milestone holds; None where it never does within the horizon.
    base_outage_ms, top_outage_ms: the O of the objective. recovery_ms counts from the loss, so
    detection and approval are in it; it is what `rto_ms` is compared with. critical: ids of the
    steps that decide base_ms, first to last. reason: why it is shed or unplaced.
    """

    service: str
    state: ServiceState
    base_ms: int | None
    top_ms: int | None
    base_outage_ms: int
    top_outage_ms: int
    recovery_ms: int | None
    rto_ms: int | None
    people: int
    tier: int
    critical: tuple[str, ...] = ()
    reason: str = ""

    @property
    def needs(self) -> str:
        """The service that does not come back and that this one cannot do without; empty where that is not
        the reason.
        """
        found = _NEEDS.fullmatch(self.reason)
        return found[1] if found and self.state == "unplaced" else ""

    @property
    def meets_rto(self) -> bool | None:
        """None where no objective is stated."""
        if self.rto_ms is None:
            return None
        return self.recovery_ms is not None and self.recovery_ms <= self.rto_ms


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """What becomes of one lost store: promoted or restored where and when, and how much is lost."""

    store: str
    candidate: str
    primary_ms: int | None
    loss_ms: int | None
    waiver: str = ""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The objective when demand or weights are off: fixed plan re-priced, and one replan each."""

    case: str
    fixed: int
    replanned: int


@dataclass(frozen=True, slots=True)
class Wave:
    """Servers of a restored domain that this plan brings up: how many, when the last of them is on, and the
    tick before which no order has all of them on, by which limit (empty: the longest chain)."""

    servers: int
    on_ms: int
    bound_ms: int
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A computed plan.

    objective, bound, heads: weighted person-ticks (Z, its lower bound, and the part that critical
    chains alone make unavoidable); base_weight x ticks of `tick_ms`. unweighted: person-ticks with
    weight 1. waivers: stores promoted beyond rpo by name. unknown: facts taken as unknown; the
    proof is partial when there are any. intervals: facts known within bounds, of which the steps take
    the worse end and the bound the better one. wave, left_off: of a restored domain, what comes up and what
    stays off, and why. work: units of search spent.
    """

    name: str
    scenario: Scenario
    estate_digest: str
    planner_version: str
    seed: int
    work: int
    tick_ms: int
    horizon_ms: int
    grace_ms: int
    tier_weights: tuple[int, ...]
    steps: tuple[Step, ...]
    outcomes: tuple[Outcome, ...]
    stores: tuple[StoreOutcome, ...]
    objective: int
    unweighted: int
    heads: int
    bound: int
    certificate: Certificate
    detection_ms: int = 0
    approval_ms: int = 0
    as_of: date | None = None
    observation_digest: str | None = None
    waivers: tuple[str, ...] = ()
    attest: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    proof: Proof = "full"
    sensitivity: tuple[Sensitivity, ...] = ()
    intervals: tuple[str, ...] = ()
    wave: Wave | None = None
    left_off: tuple[LeftOff, ...] = ()

    @property
    def gap_permille(self) -> int | None:
        """(Z - bound) / bound in thousandths, rounded up; None where the bound is zero."""
        return None if self.bound <= 0 else -(-(self.objective - self.bound) * 1000 // self.bound)

    @property
    def contention_gap_permille(self) -> int | None:
        """(Z - bound) / (Z - heads) in thousandths: the gap over what contention adds."""
        over = self.objective - self.heads
        return None if over <= 0 else -(-(self.objective - self.bound) * 1000 // over)
