"""Checks a plan's statements on external services, alternatives, tools and restores, and on what needs them
(F11, F12, F15, F19).

Uses the checker's own walk over the estate's needs: no plan restores what another company runs, and a service
serves only with one of its alternatives.
"""

from __future__ import annotations

from evac.model.estate import Dependency, Estate, Service
from evac.model.plan import Outcome, Plan
from evac.model.reason import Reason
from evac.steps.kind import Need
from evac.steps.registry import kind_of
from evac.verify.reading import Violation

_NOT_THERE = ("unplaced", "shed", "unknown")


def check_needs(estate: Estate, plan: Plan, alone: frozenset[str]) -> list[Violation]:
    """Checks external services, alternatives and tools. alone: services that recover without action. Linear
    in needs.
    """
    own = {service.id: service for service in estate.services}
    outcomes = {outcome.service: outcome for outcome in plan.outcomes}
    taken = _taken(estate, plan)
    tools = {name for group in estate.tool_groups(estate.tools) for name in group}
    return [
        *_external(own, plan, outcomes, taken),
        *(
            violation
            for service in estate.services
            for need in service.needs
            if need.any_of and need.hard
            for violation in _alternatives(service, need, outcomes, tools)
        ),
        *_tools(estate, plan, outcomes, alone),
        *_restores(estate, plan, outcomes),
    ]


def _restores(estate: Estate, plan: Plan, outcomes: dict[str, Outcome]) -> list[Violation]:
    """F12: a restore begins once everything serves that restores of the store need."""
    policies, found = {store.id: store.backup_policy for store in estate.stores}, []
    for step in plan.steps:
        policy = policies.get(step.target) if kind_of(step.kind).restores else None
        for name in () if policy is None else policy.restore_needs:
            outcome = outcomes.get(name)
            if outcome is None:
                continue
            if outcome.state in _NOT_THERE or (outcome.base_ms or 0) > step.start_ms:
                found.append(Violation("F12", step.id, f"restores before {name} is back, which it needs"))
    return found


def _tools(
    estate: Estate, plan: Plan, outcomes: dict[str, Outcome], alone: frozenset[str]
) -> list[Violation]:
    """F15: before a step begins, one tool of each group serves, unless people do the step."""
    found = []
    for step in plan.steps if plan.scenario.kind == "lose" else ():
        if step.manual or (step.target in alone and step.milestone == "base"):
            continue
        if Need.TOOLS not in kind_of(step.kind).needs:
            continue
        for group in estate.tool_groups(kind_of(step.kind).tools):
            known = [outcomes.get(name) for name in group] if len(group) > 1 else [None]
            gone = (o is not None and o.state in ("unplaced", "shed") for o in known)
            late = (o is not None and (o.base_ms or 0) > step.start_ms for o in known)
            if all(map(max, gone, late)):
                found.append(Violation("F15", step.id, f"needs {' or '.join(group)}, and none is back yet"))
    return found


def _external(
    own: dict[str, Service], plan: Plan, outcomes: dict[str, Outcome], taken: set[str]
) -> list[Violation]:
    """No step concerns an external service; what its provider takes down stays down and says why."""
    found = [
        Violation("F11", step.id, f"acts on {step.target}, which another company runs")
        for step in plan.steps
        if step.target in own and own[step.target].external
    ]
    for name in sorted(falling(own, taken)):
        outcome = outcomes.get(name)
        if outcome is None or outcome.state not in ("unplaced", "unknown") or outcome.recovery_ms is not None:
            state = "unaffected" if outcome is None else outcome.state
            words = f"depends on a lost provider, but the plan says {state}"
            found.append(Violation("F12", name, words))
    for name, outcome in sorted(outcomes.items()):
        wanted = Reason("provider", provider=own[name].provided_by) if name in taken else None
        says = outcome.why if outcome.why is not None and outcome.why.kind == "provider" else None
        if says != wanted and (wanted is None or outcome.state == "unplaced"):
            found.append(Violation("F19", name, "the plan names a different provider than the estate"))
    return found


def _taken(estate: Estate, plan: Plan) -> set[str]:
    """External services whose provider is lost in the plan's scenario."""
    if plan.scenario.kind not in ("lose", "evacuate"):
        return set()
    gone = with_members(estate, {*plan.scenario.domains, *estate.lost})
    return {
        service.id
        for service in estate.services
        if service.external and f"provider:{service.provider or service.id}" in gone
    }


def with_members(estate: Estate, domains: set[str]) -> set[str]:
    """These domains and, recursively, the members of groups among them."""
    inside = {group.id: group.members for group in estate.groups}
    found, work = set[str](), list(domains)
    while work:
        name = work.pop()
        if name not in found:
            found.add(name)
            work += inside.get(name, ())
    return found


def falling(own: dict[str, Service], taken: set[str]) -> set[str]:
    """These and all services that cannot serve without them, recursively: a need with alternatives fails with
    the last of them.
    """
    users: dict[str, list[tuple[str, Dependency]]] = {}
    for service in own.values():
        for need in service.needs:
            if need.kind == "service" and need.hard:
                for target in need.targets:
                    users.setdefault(target, []).append((service.id, need))
    found, work = set(taken), sorted(taken)
    while work:
        for user, need in users.get(work.pop(), ()):
            if user not in found and found.issuperset(need.targets):
                found.add(user)
                work.append(user)
    return found


def _alternatives(
    service: Service, need: Dependency, outcomes: dict[str, Outcome], tools: set[str]
) -> list[Violation]:
    """A restored service has an alternative that serves by then; one that stays down for lack of one has
    none, except that its steps may wait if the alternative is also a tool.
    """
    there = [
        0 if outcome is None else outcome.base_ms or 0
        for outcome in (outcomes.get(name) for name in need.any_of)
        if outcome is None or outcome.state not in _NOT_THERE
    ]
    mine, names = outcomes.get(service.id), " or ".join(need.any_of)
    if mine is None or mine.state not in _NOT_THERE:
        unsure = any(o is not None and o.state == "unknown" for o in map(outcomes.get, need.any_of))
        if not there and not (unsure and mine is None):
            return [Violation("F12", service.id, f"is reported as serving, but neither {names} serves")]
        if there and mine is not None and min(there) > (mine.base_ms or 0):
            return [Violation("F12", service.id, f"is reported as serving before {names} does")]
        return []
    why = mine.why
    named = why.services[0] if why is not None and why.kind == "needs" else ""
    if (
        there
        and named in need.any_of
        and named not in tools
        and all(n == need for n in service.needs if n.hard and named in n.targets)
    ):
        return [Violation("F12", service.id, f"stays down because of {named}, but {names} is enough")]
    return []
