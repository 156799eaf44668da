"""One change of the estate: only what follows from it is worked out again.

`update` gives what `audit` of the new estate would give, to the last finding. A change of where
things stand, of what a replica takes or of who goes first for room is audited anew.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from evac.audit.auditing import AuditReport, audit, findings_of, report_from
from evac.audit.closure import order_of
from evac.audit.context import Context
from evac.audit.facets import DYNAMICS, STRUCTURE, WIRES, changed_facets
from evac.audit.findings import Finding
from evac.audit.impacts import Impacts, Wiring, judged, wiring_of
from evac.audit.recovery import times_of
from evac.audit.rules import RULES
from evac.model.affected import service_graph
from evac.model.domain import Topology
from evac.model.estate import Estate


def update(
    previous: AuditReport, estate: Estate, *, as_of: date | None = None, digest: str | None = None
) -> AuditReport:
    """The audit of a changed estate, from the audit of the one before. The same losses are tried.

    Raises UnknownDomain if a named loss is gone from the estate.
    """
    old = previous.impacts
    changed = changed_facets(old.estate, estate)
    today = as_of or estate.as_of
    if today != previous.as_of or digest != previous.digest:
        changed |= {"dates"}
    if previous.paired or changed & STRUCTURE or _order_matters(old, estate, changed):
        return audit(estate, domains=previous.wanted, pairs=previous.paired, as_of=as_of, digest=digest)
    fresh = _impacts(old, estate, changed)
    if changed & DYNAMICS:
        changed |= {"dynamics"}
    context = Context(estate, fresh, today, digest)
    by_rule = tuple(
        findings_of(rule, context)
        if not rule.reads or changed.intersection(rule.reads)
        else _placed_again(found, previous, estate)
        for rule, found in zip(RULES, previous.by_rule, strict=True)
    )
    return report_from(context, by_rule, previous.wanted)


def _order_matters(old: Impacts, estate: Estate, changed: frozenset[str]) -> bool:
    """Whether a change of tiers or people changes who is placed first."""
    if "order" not in changed:
        return False
    keys = [
        [(2**31 if s.tier is None else s.tier, -(s.people or 0), i) for i, s in enumerate(e.services)]
        for e in (old.estate, estate)
    ]
    return [k[2] for k in sorted(keys[0])] != [k[2] for k in sorted(keys[1])]


def _placed_again(found: tuple[Finding, ...], previous: AuditReport, estate: Estate) -> tuple[Finding, ...]:
    """The same findings; where they stand is looked up again if the files have changed."""
    if estate.places is previous.impacts.estate.places:
        return found
    return tuple(replace(f, place=estate.place(*f.paths)) for f in found)


def _impacts(old: Impacts, estate: Estate, changed: frozenset[str]) -> Impacts:
    top = replace(old.top, estate=estate)
    ground = replace(old.ground, top=top)
    if not changed & DYNAMICS:
        return replace(old, ground=ground)
    return judged(ground, _wiring(old, top, changed), old.schedules)


def _wiring(old: Impacts, top: Topology, changed: frozenset[str]) -> Wiring:
    if not changed & WIRES:
        return old.wiring
    if "stores" in changed:
        return wiring_of(top, old.losses)
    graph = service_graph(top.estate) if "needs" in changed else old.graph
    order = order_of(graph) if graph.hard != old.graph.hard else old.order
    return replace(old.wiring, graph=graph, order=order, times=times_of(top.estate, graph, order))
