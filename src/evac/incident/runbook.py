"""A plan as a list for paper: the same ids of steps, in the order in which they are done. Pure.

For the day when no screen works: what is written beside a step by hand can be attested afterwards by its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.plan import Plan, Step
from evac.steps.registry import kind_of

STEPS_MOST: Final = 20_000
"""More would be some thousand pages, which nobody walks through by hand."""
SERVERS_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class RunbookStep:
    """start_ms, end_ms: from the release of the plan. after: ids of what must be done first."""

    id: str
    words: str
    where: str
    start_ms: int
    end_ms: int
    after: tuple[str, ...]
    manual: bool
    owner: str
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunbookPart:
    """A wave of the plan, in order of start."""

    title: str
    steps: tuple[RunbookStep, ...]


@dataclass(frozen=True, slots=True)
class RunbookService:
    """recovery_ms: from the loss on; None: it does not come back in this plan."""

    service: str
    tier: int
    owner: str
    state: str
    recovery_ms: int | None
    rto_ms: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Runbook:
    title: str
    digest: str
    estate_digest: str
    parts: tuple[RunbookPart, ...]
    services: tuple[RunbookService, ...]
    people: Mapping[str, str]
    """Site -> who is there, where the estate says so."""


def runbook(plan: Plan, digest: str, estate: Estate | None = None) -> Runbook:
    """Raises InvalidInput for a plan that no paper holds. estate: says who answers for a service, and who
    is at a site.
    """
    owners = {s.id: s.owner or "" for s in estate.services} if estate is not None else {}
    people = {s.id: s.people for s in estate.sites if s.people} if estate is not None else {}
    return book(plan, digest, owners, people)


def book(plan: Plan, digest: str, owners: Mapping[str, str], people: Mapping[str, str]) -> Runbook:
    """The same by whom it names: owners: service -> who answers for it; people: site -> who is there.

    Raises InvalidInput.
    """
    if len(plan.steps) > STEPS_MOST:
        raise InvalidInput(
            "runbook-size",
            f"a plan of {len(plan.steps):,} steps is too long for paper",
            f"at most {STEPS_MOST:,} steps; plan for a smaller fault domain",
        )
    waves: dict[int, list[Step]] = {}
    for step in sorted(plan.steps, key=lambda step: (step.start_ms, step.id)):
        waves.setdefault(step.wave, []).append(step)
    parts = tuple(
        RunbookPart(f"Wave {wave}", tuple(_step(step, owners) for step in rows))
        for wave, rows in sorted(waves.items())
    )
    services = tuple(
        RunbookService(
            o.service, o.tier, owners.get(o.service, ""), o.state, o.recovery_ms, o.rto_ms, o.reason
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
        MappingProxyType(dict(sorted(people.items()))),
    )


def _step(step: Step, owners: Mapping[str, str]) -> RunbookStep:
    checks = [f"before: {step.precheck}"] if step.precheck else []
    checks += [f"a person agrees: {step.gate}"] if step.gate else []
    checks += [f"to take it back: {step.undo}"] if step.undo else []
    checks += [f"makes room for {', '.join(step.for_services[:5])}"] if step.for_services else []
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
    )


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
