"""EV120: objectives that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.audit.reasons import duration
from evac.model.estate import Service
from evac.model.objectives import LOSS_CLASSES, LossClass, rpo_for, rto_for
from evac.model.units import UNLIMITED


def check(context: Context) -> Iterator[Finding]:
    """Warning: an RTO below that of a hard dependency, or an RPO below that of a needed store. A store that
    loses more than it may is reported by EV105 alone.
    """
    graph, services = context.impacts.graph, context.estate.services
    reported = {context.estate.stores[row].family for row in context.above_rpo}
    loosest = {of_class: _loosest(context, of_class) for of_class in LOSS_CLASSES}
    for number, service in enumerate(services):
        needs = [services[other] for other in graph.hard[number]]
        clashes: dict[str, None] = {}
        for of_class in LOSS_CLASSES:
            found = _slower(service, needs, of_class)
            families = [family for family in graph.families[number] if family not in reported]
            found += _looser(service, families, loosest[of_class], of_class)
            clashes |= dict.fromkeys(found)
        if clashes:
            yield RULE.finding(
                context,
                "warning",
                service.id,
                f"{service.id} promises more than its dependencies: {listed(list(clashes))}",
                "Tighten the objective of the dependency, or relax that of the service.",
                paths=(f"services/{service.id}/rto", f"services/{service.id}/rpo", f"services/{service.id}"),
            )


def _slower(service: Service, needs: Sequence[Service], of_class: LossClass) -> list[str]:
    """Dependencies that are back later than a service's objective."""
    own = rto_for(service, of_class)
    if own is None:
        return []
    which = "" if own == service.rto_ms else f" for the loss of a {of_class}"
    return [
        f"RTO {duration(own)}{which}, but {other.id} has {duration(late)}"
        for other in needs
        if (late := rto_for(other, of_class)) is not None and late > own
    ]


def _looser(
    service: Service, families: Sequence[str], loosest: dict[str, int], of_class: LossClass
) -> list[str]:
    """Stores that lose more than a service's objective allows."""
    own = rpo_for(service, of_class)
    if own is None:
        return []
    which = "" if own == service.rpo_ms else f" for the loss of a {of_class}"
    return [
        f"RPO {duration(own)}{which}, but store {family} has {_amount(loosest[family])}"
        for family in families
        if loosest.get(family, 0) > own
    ]


def _amount(rpo_ms: int) -> str:
    return "unlimited" if rpo_ms >= UNLIMITED else duration(rpo_ms)


def _loosest(context: Context, of_class: LossClass) -> dict[str, int]:
    """Store family -> the strictest RPO that any of its stores states."""
    stores, found = context.estate.stores, {}
    for family, rows in context.impacts.graph.family_stores.items():
        stated = [rpo for row in rows if (rpo := rpo_for(stores[row], of_class)) is not None]
        if stated:
            found[family] = min(stated)
    return found


RULE = Rule(
    "contradicting-objectives",
    "EV120",
    "Objectives contradict each other",
    check,
    per_loss=False,
)
