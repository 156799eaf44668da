"""Audit against plan over random estates: `python -m bench contradictions [--estates 10000]`.

A contradiction is an answer of the audit that a plan denies: restored, and the plan does not restore it, or
later; lost, and the plan restores it; not affected, and the plan sheds it or has it down. An answer that
something is not proved, cannot be judged, or comes back at a time not known contradicts nothing.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.random_estates import random_estate, strange_estate
from evac.audit import AuditReport, audit
from evac.audit.auditing import LossRow
from evac.audit.impacts import planned
from evac.model.estate import Estate
from evac.model.plan import Outcome
from evac.model.scenario import lose
from evac.planning.plan import foresee, plan


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What the audit and the plan say of one service after one loss."""

    loss: str
    service: str
    audit: str
    plan: str


def contradictions(estate: Estate, work: int = 0) -> Iterator[Contradiction]:
    """Every one of an estate. work: generations that the plans search."""
    report = audit(estate)
    for row in report.rows:
        loss = lose(*row.members)
        made = plan(estate, loss, work=work) if work else foresee(estate, loss)
        yield from of_row(report, row, made.outcomes)


def of_row(report: AuditReport, row: LossRow, planned: Iterable[Outcome]) -> Iterator[Contradiction]:
    """Those of one loss. planned: what its plan says."""
    outcomes = {outcome.service: outcome for outcome in planned}
    told = {one.service: (one.fate, one.recovery_ms) for one in row.fates(report.services)}
    for service in report.services:
        fate, back = told.get(service, ("unaffected", None))
        outcome = outcomes.get(service)
        if _denies(fate, back, outcome):
            said = "unaffected" if outcome is None else f"{outcome.state} after {outcome.recovery_ms} ms"
            yield Contradiction(row.domain, service, f"{fate} after {back} ms", said)


def _denies(fate: str, back: int | None, outcome: Outcome | None) -> bool:
    """Whether what a plan says of a service is the opposite of its fate in an audit."""
    down = outcome is not None and outcome.state in ("shed", "unplaced")
    if fate == "recovers":
        down = down or (outcome is not None and outcome.state == "degraded")
        later = back is not None and outcome is not None and (outcome.recovery_ms or 0) > back
        return down or later
    if fate in ("lost", "shed"):
        return outcome is None or not (down or outcome.state == "unknown")
    if fate == "degraded" and back is not None:
        return down or outcome is None or outcome.state == "restored" or (outcome.recovery_ms or 0) > back
    if fate in ("unaffected", "degraded"):
        timed = outcome is not None and outcome.goes_down and outcome.recovery_ms is not None
        return down or timed or (outcome is not None and outcome.state == "unknown")
    return False


def main(arguments: list[str] | None = None) -> None:
    """Count the contradictions of as many estates as asked for, and print the first of each kind."""
    parser = argparse.ArgumentParser(prog="python -m bench contradictions", description=__doc__)
    parser.add_argument("--estates", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--work", type=int, default=0, help="generations that each plan searches")
    parser.add_argument("--estimate", action="store_true", help="as for larger estates")
    parser.add_argument("--strange", action="store_true", help="with more of what strangers write")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    asked = parser.parse_args(arguments)
    found, begin, done = Counter[str](), time.monotonic(), 0
    if asked.estimate:
        planned.PLANNED_MOST = planned.PLACES_MOST = planned.LARGE_MOST = 0  # type: ignore[misc]
    made = strange_estate if asked.strange else random_estate
    for seed in range(asked.first_seed, asked.first_seed + asked.estates):
        if time.monotonic() - begin > asked.seconds:
            break
        done += 1
        for one in contradictions(made(seed), asked.work):
            kind = f"{one.audit.split()[0]} against {one.plan.split()[0]}"
            if not found[kind]:
                print(f"  seed {seed}: {one}", flush=True)
            found[kind] += 1
    asked_of = "estimate" if asked.estimate else "audit"
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
    print(
        f"{asked_of} against plan, work {asked.work}: {done:,} estates, {sum(found.values())} contradictions"
        f"{': ' + kinds if kinds else ''}"
    )
