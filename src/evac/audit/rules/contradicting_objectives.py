"""EV120: objectives that cannot both be kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evac.audit.context import Context, Rule, duration, listed
from evac.audit.findings import Finding
from evac.model.estate import Service


def check(context: Context) -> Iterator[Finding]:
    """Warning: an rto below that of a hard dependency, or an rpo below that of a store it needs."""
    graph, loosest = context.impacts.graph, _loosest(context)
    rto = [service.rto_ms for service in context.estate.services]
    for number, service in enumerate(context.estate.services):
        slower = [] if service.rto_ms is None else _slower(context, service.rto_ms, graph.hard[number], rto)
        clashes = slower + _looser(service, graph.families[number], loosest)
        if clashes:
            yield RULE.finding(
                context,
                "warning",
                service.id,
                f"{service.id} promises more than what it needs: {listed(clashes)}",
                "Tighten the objective of the dependency, or relax the one of the service.",
                paths=(f"services/{service.id}/rto", f"services/{service.id}/rpo", f"services/{service.id}"),
            )


def _slower(context: Context, own: int, needs: Sequence[int], rto: list[int | None]) -> list[str]:
    """What is back later than a service promises to be; rto: of every service."""
    return [
        f"rto {duration(own)}, but {context.estate.services[other].id} has {duration(late)}"
        for other in needs
        if (late := rto[other]) is not None and late > own
    ]


def _looser(service: Service, families: Sequence[str], loosest: dict[str, int]) -> list[str]:
    """Stores that lose more than a service promises to."""
    if service.rpo_ms is None:
        return []
    return [
        f"rpo {duration(service.rpo_ms)}, but store {family} has {duration(loosest[family])}"
        for family in families
        if loosest.get(family, 0) > service.rpo_ms
    ]


def _loosest(context: Context) -> dict[str, int]:
    """Store family -> the strictest rpo that any of its stores states."""
    stores, found = context.estate.stores, {}
    for family, rows in context.impacts.graph.family_stores.items():
        stated = [rpo for row in rows if (rpo := stores[row].rpo_ms) is not None]
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
