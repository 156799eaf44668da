"""EV100: the loss of one domain takes a service down permanently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.audit.context import (
    Context,
    Rule,
    by_service,
    listed,
    root_paths,
    why_lost,
)
from evac.audit.findings import Finding
from evac.audit.reasons import Cause
from evac.audit.rules.recovery_tool_lost import left_but_too_few
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error for a service that counts; warning for one that may be shed, or that has no users."""
    for service, found in by_service(context.gone):
        losses = context.worst_first(found)
        worst = next((n for n in losses if context.grave[n, service]), losses[0])
        severity: Severity = "error" if context.grave[worst, service] else "warning"
        chain = why_lost(context, service, worst)
        fix, roots = _way_out(context, chain.cause, worst)
        name = context.estate.services[service].id
        yield RULE.finding(
            context,
            severity,
            name,
            f"{name} does not come back after the loss of {listed(context.names(losses))}: {chain.words[-1]}",
            fix,
            losses=losses,
            chain=chain.words,
            paths=(f"services/{name}",),
            roots=roots,
        )


def _way_out(context: Context, cause: Cause | None, number: int) -> tuple[str, tuple[str, ...]]:
    """What to change, in words and as fact paths; no paths if the service itself has to change. number: of
    the loss.
    """
    if cause is None:
        return _ANY_WAY, ()
    name, reason = cause.service, cause.reason
    store = reason.stores[0] if reason.stores else ""
    match reason.kind:
        case "majority-lost":
            words = (
                f"Spread the votes of {store} over three domains, so that no "
                "single loss takes out the majority."
            )
            return words, (f"stores/{store}/members", f"stores/{store}")
        case "no-copy":
            within = f" within {reason.rpo}" if reason.rpo else ""
            what = f"a copy of {store}{within}, or a backup that restores in time,"
            return context.keep_a_copy(store, number, what)
        case "nowhere-else":
            return f"Run {name} at a second site, or state capacity for it there.", root_paths(context, name)
        case "no-headroom":
            kinds = context.estate.classes or context.estate.pools
            where = "classes" if context.estate.classes else "pools"
            paths = (f"{where}/{kinds[0].id}",) if kinds else ()
            return "Add capacity at other sites, or let lower tiers be shed.", (*paths, where)
        case "start-cycle":
            words = f"Let one of {', '.join(reason.services)} start without the others."
            return words, (f"services/{name}/needs", f"services/{name}")
        case "tools-lost":
            index = context.impacts.graph.index
            few = "".join(left_but_too_few(context, index[tool], number) for tool in reason.services)
            words = (
                f"Run {' and '.join(reason.services)} at a second site, or add a manual way to start them."
            )
            return few + words, ("tools",)
    return _ANY_WAY, (f"services/{name}",)


_ANY_WAY: Final = "Give the last service in the chain a copy, a way to start, or capacity outside the domain."


RULE = Rule(
    "service-lost",
    "EV100",
    "A loss takes a service down for good",
    check,
)
