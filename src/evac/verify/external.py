"""What a plan says of external services and of all that needs them, derived from the estate by the checker's
own walk: nothing in a plan restores what another company runs (rules F11, F12 and F19).
"""

from __future__ import annotations

from evac.model.estate import Estate, Service
from evac.model.plan import Plan
from evac.model.reason import Reason
from evac.verify.reading import Violation

_DOWN_FOR_GOOD = ("unplaced", "unknown")


def check_external(estate: Estate, plan: Plan) -> list[Violation]:
    """No step is for an external service; what its provider takes down stays down and says why."""
    own = {service.id: service for service in estate.services}
    external = {name for name, service in own.items() if service.external}
    found = [
        Violation("F11", step.id, f"acts on {step.target}, which another company runs")
        for step in plan.steps
        if step.target in external
    ]
    outcomes = {outcome.service: outcome for outcome in plan.outcomes}
    taken = _taken(estate, plan)
    for name in sorted(taken | _needing(own, taken)):
        outcome = outcomes.get(name)
        if outcome is None or outcome.state not in _DOWN_FOR_GOOD or outcome.recovery_ms is not None:
            state = "unaffected" if outcome is None else outcome.state
            found.append(
                Violation("F12", name, f"depends on a provider that is lost, and the plan says {state}")
            )
    for name, outcome in sorted(outcomes.items()):
        wanted = Reason("provider", provider=own[name].provided_by) if name in taken else None
        says = outcome.why if outcome.why is not None and outcome.why.kind == "provider" else None
        if says != wanted and (wanted is None or outcome.state == "unplaced"):
            found.append(Violation("F19", name, "the plan names another provider than the estate"))
    return found


def _taken(estate: Estate, plan: Plan) -> set[str]:
    """External services whose provider is lost by what the plan is about."""
    if plan.scenario.kind not in ("lose", "evacuate"):
        return set()
    gone = {*plan.scenario.domains, *estate.lost}
    return {
        service.id
        for service in estate.services
        if service.external and f"provider:{service.provider or service.id}" in gone
    }


def _needing(own: dict[str, Service], taken: set[str]) -> set[str]:
    """Services that cannot serve without any of these, however far down."""
    users: dict[str, list[str]] = {}
    for service in own.values():
        for need in service.needs:
            if need.kind == "service" and need.hard:
                users.setdefault(need.target, []).append(service.id)
    found, work = set[str](), sorted(taken)
    while work:
        for user in users.get(work.pop(), ()):
            if user not in found:
                found.add(user)
                work.append(user)
    return found
