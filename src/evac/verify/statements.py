"""The figures of a plan follow from the estate and its steps: rules F1, F3, F15 and F19.

A run does not use them, but people judge a plan by them: who waits, for how long, and what is lost.
"""

from __future__ import annotations

import numpy as np

from evac.model.estate import Estate
from evac.model.plan import Outcome, Plan, StoreOutcome
from evac.steps.registry import kind_of
from evac.verify.milestones import Milestones, outages
from evac.verify.reading import Reading, Violation, way_of


def check_header(estate: Estate, plan: Plan) -> list[Violation]:
    """F1 and F19: the lead before a plan begins and each rto are those of the estate."""
    found = []
    if (plan.detection_ms, plan.approval_ms) != (estate.detection_ms, estate.approval_ms):
        found.append(Violation("F1", plan.name, "detection and approval are not the estate's"))
    if plan.attest != plan.unknown:
        found.append(Violation("F1", plan.name, "what is to be attested is not what is unknown"))
    rto_ms = {service.id: service.rto_ms for service in estate.services}
    for outcome in plan.outcomes:
        wanted = rto_ms.get(outcome.service)
        if outcome.rto_ms != wanted:
            words = f"rto is {wanted} ms, the plan says {outcome.rto_ms}"
            found.append(Violation("F19", outcome.service, words))
    return found


def check_statements(reading: Reading, times: Milestones) -> None:
    """F3, F15 and F19: deadlines, tools, what becomes of services and stores, and people in all."""
    for step in reading.plan.steps:
        if step.tools != kind_of(step.kind).tools:
            reading.complain("F15", step.id, f"does not name the tools that a {step.kind} needs")
        if step.deadline_ms < step.end_ms - step.start_ms:
            reading.complain("F3", step.id, "its deadline ends before it can be done")
    rows = {name: row for row, name in enumerate(reading.instance.services.id)}
    ends = {step.id: (step.start_ms, step.end_ms) for step in reading.plan.steps}
    for outcome in reading.plan.outcomes:
        if outcome.service in rows:
            _check_service(reading, times, rows[outcome.service], outcome)
            _check_chain(reading, outcome, ends)
    _check_stores(reading, times)
    _check_people(reading, times)


def _check_service(reading: Reading, times: Milestones, service: int, outcome: Outcome) -> None:
    instance, s = reading.instance, reading.instance.services
    top = int(times.top_at[service])
    wanted = {
        "people": (int(s.people[service]), outcome.people),
        "tier": (int(s.tier[service]), outcome.tier),
        "top_ms": (top * instance.tick_ms if top < instance.horizon else None, outcome.top_ms),
        "recovery_ms": (_recovery_ms(reading, times, service), outcome.recovery_ms),
    }
    for name, (is_, said) in wanted.items():
        if is_ != said:
            reading.complain("F19", outcome.service, f"{name} is {is_}, the plan says {said}")


def _recovery_ms(reading: Reading, times: Milestones, service: int) -> int | None:
    """From the loss on, detection and approval included; an evacuation has no such lead."""
    instance, plan = reading.instance, reading.plan
    at = int(times.base_at[service])
    if at >= instance.horizon or times.base_gone[service] < instance.horizon or service in instance.unjudged:
        return None
    if not instance.services.base_lost[service]:
        return 0
    late = max(0, at - instance.grace) * instance.tick_ms
    return late if instance.grace else late + plan.detection_ms + plan.approval_ms


def _check_chain(reading: Reading, outcome: Outcome, ends: dict[str, tuple[int, int]]) -> None:
    """F19: the critical chain is one of steps of this plan, each begun when the one before had ended."""
    if not all(name in ends for name in outcome.critical):
        reading.complain("F19", outcome.service, "its critical chain names no step of the plan")
        return
    for before, after in zip(outcome.critical, outcome.critical[1:], strict=False):
        if ends[after][0] < ends[before][1]:
            reading.complain("F19", outcome.service, f"{after} is not after {before} in its critical chain")


def _check_stores(reading: Reading, times: Milestones) -> None:
    """F19: every lost store once: where it comes back, when, and what is lost of it."""
    instance = reading.instance
    wanted = []
    for row, store in enumerate(instance.stores):
        timed = reading.promotes.get(row)
        way = None if timed is None else way_of(reading, timed)
        if way is None:
            wanted.append(StoreOutcome(store.id, "", None, None))
            continue
        at_ms = int(times.primary_at[row]) * instance.tick_ms
        waiver = store.id if way.waived else ""
        restored = kind_of(way.kind).restores
        wanted.append(StoreOutcome(store.id, way.id, at_ms, way.loss_ms, waiver, restored))
    said = {outcome.store: outcome for outcome in reading.plan.stores}
    if len(said) != len(reading.plan.stores):
        reading.complain("F1", reading.plan.name, "a store has two outcomes")
    for one in wanted:
        if said.pop(one.store, None) != one:
            reading.complain("F19", one.store, "what the plan says of it is not what its promotion gives")
    for name in sorted(said):
        reading.complain("F1", name, "has an outcome and is no store that lost its primary")


def _check_people(reading: Reading, times: Milestones) -> None:
    """F19: people without service, each tier alike; of a tier that weighs nothing nobody is known here."""
    instance, s = reading.instance, reading.instance.services
    weights = np.array(instance.tier_weights, np.int64)
    if not len(s) or (weights < 1).any():
        return
    base, top = outages(reading, times)
    of = weights[s.tier]
    whole = int(
        ((s.base_weight // of).astype(object) * base + (s.top_weight // of).astype(object) * top).sum()
    )
    if whole != reading.plan.unweighted:
        words = f"outage of people, unweighted, is {whole}, the plan says {reading.plan.unweighted}"
        reading.complain("F19", reading.plan.name, words)
