"""EV111: the remaining capacity is too small for what a loss takes."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.audit.impacts.capacity import Short
from evac.model.diagnostic import Severity
from evac.model.units import amount


def check(context: Context) -> Iterator[Finding]:
    """Error if services that count cannot be placed even after shedding; else a warning.

    One finding for each kind of server and resource, over all losses, with the amount of the worst one.
    """
    groups: dict[tuple[str, str], list[tuple[int, Short, bool]]] = {}
    for number, found in sorted(context.impacts.capacity.short.items()):
        # Kinds of servers on which a service that counts cannot run its smallest share.
        grave = found.classes_of((found.for_good > 0) & context.firm & ~context.harmless)
        rows = [(s, True) for s in found.shorts_for_good if s.classes in grave]
        rows += [(s, False) for s in found.shorts]
        for short, is_error in rows:
            key = (short.classes, short.resource or "fragmentation")
            groups.setdefault(key, []).append((number, short, is_error))
    for (classes, resource), shorts in sorted(groups.items()):
        yield _finding(context, classes, resource, shorts)


def _finding(context: Context, classes: str, resource: str, rows: list[tuple[int, Short, bool]]) -> Finding:
    errors = [(n, s) for n, s, grave in rows if grave]
    chosen = errors or [(n, s) for n, s, _ in rows]
    worst = max(chosen, key=lambda row: (row[1].missing, row[1].replicas, -row[0]))
    losses = [worst[0], *(n for n in context.worst_first(n for n, _ in chosen) if n != worst[0])]
    short = worst[1]
    missing = amount(resource, short.missing) if short.missing else "capacity on any one server"
    severity: Severity = "error" if errors else "warning"
    short_of = "their smallest share" if errors else "full service"
    return RULE.finding(
        context,
        severity,
        f"{classes}: {resource}",
        f"after the loss of {context.names(losses)[0]}, {counted(short.replicas, 'replica')} of"
        f" {counted(short.services, 'service')} lack {missing} on {classes} for {short_of}"
        + (f" (also: {listed(context.names(losses)[1:])})" if len(losses) > 1 else ""),
        _more(classes, resource)
        if short.missing
        else f"Keep whole {classes} servers empty: there is enough capacity overall, "
        "but not on any one server.",
        losses=losses,
        paths=(f"classes/{classes.split('+', maxsplit=1)[0]}", "classes"),
    )


def _more(classes: str, resource: str) -> str:
    """What to add, in the unit of what it is added to."""
    if classes == "pools":
        return f"Add {resource} to the pools of other sites, or let lower tiers be shed."
    return f"Add spare {classes} servers with {resource} elsewhere, or let lower tiers be shed."


RULE = Rule(
    "capacity-short",
    "EV111",
    "Not enough capacity after a loss",
    check,
)
