"""EV103: a tool of recovery is lost together with what it must recover, itself first of all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, duration, listed, why_down
from evac.audit.findings import Finding
from evac.audit.impacts.stores import NEVER
from evac.model.diagnostic import Severity
from evac.steps.registry import PLANNED, STATED_KINDS, base_kinds


def check(context: Context) -> Iterator[Finding]:
    """Error where the tool never comes back, or too late; warning where it is down for a while."""
    for tool, roles in sorted(_roles(context).items()):
        providers = frozenset(context.impacts.losses.of_kind("provider").tolist())
        down = np.flatnonzero(context.impacts.down[:, tool]).tolist()
        losses = context.worst_first(number for number in down if number not in providers)
        if losses:
            yield _finding(context, tool, roles, [(n, self_reference(context, tool, n)) for n in losses])


Chain = tuple[str, ...]
"""By which the recovery of a tool needs the tool itself; empty if it does not."""


def _roles(context: Context) -> dict[int, tuple[str, ...]]:
    """Tool service -> the roles it fills."""
    index = context.impacts.graph.index
    found: dict[int, list[str]] = {}
    for role, names in sorted(context.estate.tools.items()):
        for name in names:
            found.setdefault(index[name], []).append(role)
    return {tool: tuple(filled) for tool, filled in found.items()}


def _finding(context: Context, tool: int, roles: tuple[str, ...], graded: list[tuple[int, Chain]]) -> Finding:
    # Shown first is the loss that takes the tool whole and leaves it waiting for itself.
    graded.sort(key=lambda pair: (not pair[1], bool(context.impacts.left(pair[0], tool))))
    errors = [(n, chain) for n, chain in graded if _is_error(context, tool, n)]
    severity: Severity = "error" if errors else "warning"
    worst, chain = (errors or graded)[0]
    name = context.estate.services[tool].id
    ready = int(context.impacts.ready_ms[worst, tool])
    outlook = (
        "it never comes back" if ready >= NEVER else f"it is back after {duration(ready)}, by hand or late"
    )
    itself = ", and its own recovery needs it" if chain else ""
    ordered = [*(n for n, _ in errors), *(n for n, _ in graded if n not in {e for e, _ in errors})]
    return RULE.finding(
        context,
        severity,
        name,
        f"{name} ({', '.join(roles)}) is lost with {listed(context.names(ordered))}{itself}: {outlook}",
        f"Run {name} so that it serves with any one domain lost, or rehearse a way by hand for: "
        f"{', '.join(_kinds(roles)) or 'what people do with it'}.",
        losses=ordered,
        chain=chain or why_down(context, tool, worst).words,
        paths=(f"tools/{roles[0]}", f"services/{name}"),
    )


def _is_error(context: Context, tool: int, number: int) -> bool:
    """Gone for good, later than its objective, or beyond the horizon."""
    ready = int(context.impacts.ready_ms[number, tool])
    return bool(context.grave[number, tool]) or ready > context.estate.horizon_ms


def _kinds(roles: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in STATED_KINDS if set(PLANNED[name].tools) & set(roles))


def self_reference(context: Context, tool: int, number: int) -> tuple[str, ...]:
    """Chain by which the recovery of a tool needs the tool itself under a loss; empty if it does not."""
    before: dict[int, tuple[int, str]] = {}
    work = [tool]
    while work:
        node = work.pop(0)
        for other, step in _waits_for(context, node, number):
            if other == tool:
                return _path(context, tool, node, step, before)
            if other not in before:
                before[other] = (node, step)
                work.append(other)
    return ()


def _path(
    context: Context, tool: int, last: int, step: str, before: dict[int, tuple[int, str]]
) -> tuple[str, ...]:
    services = context.estate.services
    links = [f"{services[tool].id} (for {step})" if step else services[tool].id]
    node = last
    while node != tool:
        origin, why = before[node]
        links.append(f"{services[node].id} (for {why})" if why else services[node].id)
        node = origin
    return (services[tool].id, *reversed(links))


def _waits_for(context: Context, service: int, number: int) -> list[tuple[int, str]]:
    """What is down and must be back before a service that is down: dependencies, and tools of its steps."""
    impacts = context.impacts
    down = impacts.down[number]
    found = [(other, "") for other in impacts.graph.lacking(service, down)]
    for kind in _steps(context, service, number):
        found += [(other, kind) for other in impacts.times.tools[kind] if down[other]]
    return found


def _steps(context: Context, service: int, number: int) -> list[str]:
    impacts = context.impacts
    families = (impacts.families.index.get(family) for family in impacts.graph.families[service])
    kinds = base_kinds(
        starts=bool(impacts.lost[number, service])
        and impacts.left(number, service) < impacts.presence.m[service],
        shifts=bool(impacts.moved[number, service]),
        stores=any(row is not None and number in impacts.families.losses[row] for row in families),
    )
    return [kind.name for kind in kinds]


RULE = Rule(
    "recovery-tool-lost",
    "EV103",
    "A recovery tool is lost with what it must recover",
    check,
)
