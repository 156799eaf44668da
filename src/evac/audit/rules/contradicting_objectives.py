"""EV120: objectives that cannot both be kept."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Maker, Rule
from evac.audit.findings import Finding
from evac.audit.words import duration, listed
from evac.model.estate import Service

_MAKER = Maker("contradicting-objectives", "EV120")


def check(context: Context) -> Iterator[Finding]:
    """Warning: an rto below that of a hard dependency, or an rpo below that of a store it needs."""
    for number, service in enumerate(context.estate.services):
        clashes = [*_slower(context, number, service), *_looser(context, number, service)]
        if clashes:
            yield _MAKER.make(
                context, "warning", service.id,
                f"{service.id} promises more than what it needs: {listed(clashes)}",
                "Tighten the objective of the dependency, or relax the one of the service.",
                paths=(f"services/{service.id}/rto", f"services/{service.id}/rpo", f"services/{service.id}"),
            )  # fmt: skip


def _slower(context: Context, number: int, service: Service) -> list[str]:
    if service.rto_ms is None:
        return []
    needs = [context.estate.services[d] for d in context.impacts.graph.hard[number]]
    return [
        f"rto {duration(service.rto_ms)}, but {d.id} has {duration(d.rto_ms)}"
        for d in needs
        if d.rto_ms is not None and d.rto_ms > service.rto_ms
    ]


def _looser(context: Context, number: int, service: Service) -> list[str]:
    if service.rpo_ms is None:
        return []
    graph, stores = context.impacts.graph, context.estate.stores
    found = []
    for family in graph.families[number]:
        allowed = [stores[d].rpo_ms for d in graph.family_stores.get(family, ())]
        loosest = [rpo for rpo in allowed if rpo is not None]
        if loosest and min(loosest) > service.rpo_ms:
            found.append(f"rpo {duration(service.rpo_ms)}, but store {family} has {duration(min(loosest))}")
    return found


RULE = Rule(
    "contradicting-objectives",
    "EV120",
    "Objectives contradict each other",
    check,
    per_loss=False,
    reads=("objectives", "needs", "stores"),
)
