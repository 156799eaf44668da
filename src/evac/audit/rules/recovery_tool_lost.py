"""EV103: a recovery tool is lost together with what it must recover, which may be itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, listed, why_down
from evac.audit.findings import Finding
from evac.audit.impacts.all_losses import DEGRADED, LOST, NOT_PROVED, RECOVERS, UNKNOWN
from evac.audit.impacts.stores import NEVER
from evac.audit.reasons import duration
from evac.model.diagnostic import Severity
from evac.steps.registry import PLANNED, STATED_KINDS, base_kinds


def check(context: Context) -> Iterator[Finding]:
    """Error if the tool never comes back, or too late; warning if it is down for a while."""
    for tools, roles in sorted(_roles(context).items()):
        providers = frozenset(context.impacts.losses.of_kind("provider").tolist())
        down = np.flatnonzero(context.impacts.down[:, list(tools)].all(axis=1)).tolist()
        losses = context.worst_first(number for number in down if number not in providers)
        if losses:
            graded = [(number, _self_references(context, tools, number)) for number in losses]
            yield _finding(context, tools, roles, graded)


Chain = tuple[str, ...]
"""Why recovering a tool needs the tool itself; empty if it does not."""


def _roles(context: Context) -> dict[tuple[int, ...], tuple[str, ...]]:
    """Tool service, or a group of which one is enough -> the roles that it fills."""
    index = context.impacts.graph.index
    found: dict[tuple[int, ...], list[str]] = {}
    for role in sorted(context.estate.tools):
        for group in context.estate.tool_groups((role,)):
            found.setdefault(tuple(index[name] for name in group), []).append(role)
    return {tools: tuple(filled) for tools, filled in found.items()}


def _self_references(context: Context, tools: tuple[int, ...], number: int) -> Chain:
    """The chain of the first tool if each of them needs itself; else empty, because one that does not is
    enough.
    """
    chains = [self_reference(context, tool, number) for tool in tools]
    return chains[0] if all(chains) else ()


def _finding(
    context: Context, tools: tuple[int, ...], roles: tuple[str, ...], graded: list[tuple[int, Chain]]
) -> Finding:
    # First, the loss that takes the whole tool and leaves it waiting for itself.
    graded.sort(key=lambda pair: (not pair[1], any(context.impacts.left(pair[0], tool) for tool in tools)))
    errors = [(n, chain) for n, chain in graded if all(_is_error(context, tool, n) for tool in tools)]
    severity: Severity = "error" if errors else "warning"
    worst, chain = min(errors or graded, key=lambda pair: not _is_final(context, tools, pair[0]))
    name = context.estate.services[tools[0]].id
    either = " or ".join(context.estate.services[tool].id for tool in tools)
    few = "".join(left_but_too_few(context, tool, worst) for tool in tools)
    itself = ", and its own recovery needs it" if chain else ""
    ordered = [*(n for n, _ in errors), *(n for n, _ in graded if n not in {e for e, _ in errors})]
    kinds = tuple(name for name in STATED_KINDS if set(PLANNED[name].tools) & set(roles))
    outlook = _outlook(context, tools, worst)
    if len(ordered) > 1:
        outlook = f"after the loss of {context.impacts.losses.ids[worst]}, {outlook}"
    return RULE.finding(
        context,
        severity,
        name,
        f"{either} ({', '.join(roles)}) is lost with {listed(context.names(ordered))}{itself}: {outlook}",
        f"{few}Run {either} so that it serves with any one domain lost, or rehearse how to do this by hand: "
        f"{', '.join(kinds) or 'what people do with it'}.",
        losses=ordered,
        chain=chain or why_down(context, tools[0], worst).words,
        paths=(f"tools/{roles[0]}", f"services/{name}"),
    )


def _is_final(context: Context, tools: tuple[int, ...], number: int) -> bool:
    """Whether none of the tools comes back after a loss."""
    return bool((context.impacts.fate[number, list(tools)] == LOST).all())


def _outlook(context: Context, tools: tuple[int, ...], number: int) -> str:
    """When the first of the tools is back after a loss."""
    impacts = context.impacts
    fates = {int(impacts.fate[number, tool]) for tool in tools}
    back = [tool for tool in tools if impacts.fate[number, tool] in (RECOVERS, DEGRADED)]
    soonest = min((int(impacts.ready_ms[number, tool]) for tool in back), default=NEVER)
    if soonest < NEVER:
        return f"it is back after {duration(soonest)}"
    if back:
        return "it comes back at an unknown time"
    if fates & {UNKNOWN, NOT_PROVED}:
        return "it is unknown whether it comes back"
    return "it never comes back"


def left_but_too_few(context: Context, service: int, number: int) -> str:
    """What to state if the replicas that a loss leaves are enough after all; empty if none is left, or none
    is missing.
    """
    impacts = context.impacts
    left, needed = impacts.left(number, service), int(impacts.presence.m[service])
    if not 0 < left < needed:
        return ""
    name, all_of = context.estate.services[service].id, int(impacts.presence.n[service])
    words = f"{name} keeps {left:,} of {all_of:,} replicas."
    return f"{words} If fewer than {needed:,} are enough, set its `share`. "


def _is_error(context: Context, tool: int, number: int) -> bool:
    """Whether it is lost for good, later than its objective, or beyond the horizon."""
    ready = int(context.impacts.ready_ms[number, tool])
    return bool(context.grave[number, tool]) or ready > context.estate.horizon_ms


def self_reference(context: Context, tool: int, number: int) -> tuple[str, ...]:
    """Why recovering a tool needs the tool itself under a loss; empty if it does not."""
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
        gone = (group for group in impacts.times.tools[kind] if all(down[other] for other in group))
        found += [(other, kind) for group in gone for other in group]
    return found


def _steps(context: Context, service: int, number: int) -> list[str]:
    impacts = context.impacts
    rows = impacts.damage.rows_of(number)
    if impacts.chains.alone[rows[impacts.damage.pairs.service[rows] == service]].any():
        return []
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
    "A recovery tool is lost with the services it must recover",
    check,
)
