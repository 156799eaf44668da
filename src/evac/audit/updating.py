"""One change of the estate: only what follows from it is worked out again.

`update` gives what `audit` of the new estate would give, to the last finding. Cheap parts are worked
out whole; kept are placements in which the same services go first, shapes of servers that are left as
they were, rows of losses and findings about services without a difference. A change of fault domains,
of pools or of which services there are is audited anew.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from evac.audit.auditing import AuditReport, audit, findings_of, report_from
from evac.audit.capacity import reordered
from evac.audit.closure import order_of
from evac.audit.context import Context, Rule
from evac.audit.differences import differences
from evac.audit.facets import (
    DYNAMICS,
    GROUND,
    STRUCTURE,
    WIRES,
    changed_facets,
    placed_elsewhere,
    taking_other,
)
from evac.audit.findings import Finding
from evac.audit.impacts import Impacts, Wiring, ground_again, judged, wiring_of
from evac.audit.kept import Kept
from evac.audit.recovery import times_of
from evac.audit.rows import loss_rows
from evac.audit.rules import RULES
from evac.audit.schedule import course_of
from evac.audit.stores import store_hits
from evac.derive.affected import service_graph_again
from evac.model.collector import collector_at_rest
from evac.model.domain import Topology
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn


@collector_at_rest()
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
    if previous.paired or changed & STRUCTURE:
        return audit(estate, domains=previous.wanted, pairs=previous.paired, as_of=as_of, digest=digest)
    moved = placed_elsewhere(old.estate, estate) if changed & GROUND else None
    fresh = _impacts(old, estate, changed, moved)
    different = differences(old, fresh, moved)
    changed |= different.tables
    context = Context(estate, fresh, today, digest, different.fates)
    timed = context.asking(different.times)
    by_rule = tuple(
        _found(rule, timed if rule.by_time else context, _placed_again(found, previous, estate), changed)
        for rule, found in zip(RULES, previous.by_rule, strict=True)
    )
    rows = loss_rows(fresh, previous.rows, different.losses)
    return report_from(context, by_rule, previous.wanted, rows)


def _found(
    rule: Rule, context: Context, known: tuple[Finding, ...], changed: frozenset[str]
) -> tuple[Finding, ...]:
    """What a rule finds now; known: what it found before."""
    if not rule.by_service or context.asked is None:
        return findings_of(rule, context) if not rule.reads or changed.intersection(rule.reads) else known
    if not context.asked.any():
        return known
    found = findings_of(rule, context)
    index, asked = context.impacts.graph.index, context.asked.tolist()
    kept = [finding for finding in known if not asked[index[finding.subject]]]
    if not found and len(kept) == len(known):
        return known
    return tuple(sorted((*kept, *found), key=lambda finding: index[finding.subject]))


def _placed_again(found: tuple[Finding, ...], previous: AuditReport, estate: Estate) -> tuple[Finding, ...]:
    """The same findings; where they stand is looked up again if the files have changed."""
    if estate.places is previous.impacts.estate.places:
        return found
    return tuple(replace(f, place=estate.place(*f.paths)) for f in found)


def _impacts(old: Impacts, estate: Estate, changed: frozenset[str], moved: BoolColumn | None) -> Impacts:
    top = replace(old.top, estate=estate, kept={})
    ground = replace(old.ground, top=top)
    if moved is not None:
        ground = ground_again(old.ground, top, moved, moved | taking_other(old.estate, estate))
    elif "order" in changed:
        ground = replace(ground, capacity=reordered(old.capacity, top, old.losses, old.lost))
    if not changed & DYNAMICS:
        return replace(old, ground=ground, kept=Kept(old.kept))
    return judged(ground, _wiring(old, top, changed), old)


def _wiring(old: Impacts, top: Topology, changed: frozenset[str]) -> Wiring:
    if not changed & WIRES:
        return old.wiring
    if "stores" in changed:
        parts = {part.store.id: part for part in old.stores.parts}
        before, after = old.estate.stores, top.estate.stores
        same = [(d.id, d.family) for d in before] == [(d.id, d.family) for d in after]
        known = old.wiring if same and "needs" not in changed else None
        return wiring_of(top, old.losses, store_hits(top, old.losses, parts), known)
    graph = service_graph_again(old.graph, old.estate, top.estate) if "needs" in changed else old.graph
    order = order_of(graph) if graph.hard != old.graph.hard else old.order
    same = order is old.order and graph.families == old.graph.families
    course = old.wiring.course if same else course_of(graph, order)
    times = times_of(top.estate, graph, order)
    return replace(old.wiring, graph=graph, order=order, course=course, times=times)
