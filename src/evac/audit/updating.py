"""One change of the estate: only what follows from it is worked out again.

`update` gives what `audit` of the new estate would give, to the last finding. A change of where
things stand, of what a replica takes or of who goes first for room is audited anew.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np

from evac.audit.auditing import AuditReport, audit, findings_of, report_from
from evac.audit.closure import Pairs, RowNumbers, any_of, unpacked
from evac.audit.context import Context
from evac.audit.facets import (
    DYNAMICS,
    STRUCTURE,
    WIDE,
    changed_facets,
    changed_families,
    changed_services,
)
from evac.audit.findings import Finding
from evac.audit.impacts import Ground, Impacts, Wiring, judged, struck, wiring_of
from evac.audit.recovery import Damage, Recovery, by_loss_of
from evac.audit.rules import RULES
from evac.audit.stores import StoreHits, family_hits, store_hits
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, IndexColumn


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
    hits = store_hits(top, old.losses) if "stores" in changed else old.stores
    wiring = wiring_of(top, old.losses, hits)
    if changed & WIDE or old.open.any() or hits.maybe.any():
        return judged(ground, wiring)
    numbers = _touched(old, ground, wiring, estate)
    if 2 * len(numbers) > len(old.losses):
        return judged(ground, wiring)
    part = judged(_ground_part(ground, numbers), _wiring_part(wiring, numbers))
    return _spliced(old, ground, wiring, part, numbers)


def _touched(old: Impacts, ground: Ground, wiring: Wiring, estate: Estate) -> IndexColumn:
    """Losses in which something that changed is down, before or after.

    Whatever waits for it is down in the same losses, and so is whatever stands in line with it.
    """
    families = changed_families(old.estate, estate)
    services = set(changed_services(old.estate, estate))
    for graph in (old.graph, wiring.graph):
        services |= {s for s, names in enumerate(graph.families) if families.intersection(names)}
    soft = {t for s in services for graph in (old.graph, wiring.graph) for t in graph.soft[s]}
    columns = sorted(services | soft)
    down = unpacked(any_of([columns], struck(ground, wiring).bits), len(old.losses))
    hit: BoolColumn = np.asarray(old.down[:, columns].any(axis=1))
    hit[down.loss] = True
    return np.flatnonzero(hit | _stores_differ(old.stores, wiring.stores)).astype(np.int32)


def _stores_differ(old: StoreHits, new: StoreHits) -> BoolColumn:
    """(L,) losses in which other stores are lost than before; every loss if the stores are others."""
    if old is new:
        return np.zeros(len(old.lost), np.bool_)
    if old.lost.shape != new.lost.shape:
        return np.asarray(old.lost.any(axis=1) | new.lost.any(axis=1))
    return np.asarray((old.lost != new.lost).any(axis=1))


def _ground_part(ground: Ground, numbers: IndexColumn) -> Ground:
    renumbered = np.full(len(ground.losses), -1, np.int32)
    renumbered[numbers] = np.arange(len(numbers), dtype=np.int32)
    return replace(
        ground,
        losses=ground.losses.subset(numbers),
        lost=ground.lost[numbers],
        taken=_pairs_part(ground.taken, renumbered),
        short=_pairs_part(ground.short, renumbered),
        endpoints=_pairs_part(ground.endpoints, renumbered),
        loose=ground.loose[numbers],
        fewer=ground.fewer[numbers],
        capacity=ground.capacity.subset(numbers),
    )


def _pairs_part(pairs: Pairs, renumbered: IndexColumn) -> Pairs:
    """The pairs of some losses; `renumbered` (L,): their new numbers, -1 for all others."""
    kept = pairs.only(renumbered[pairs.loss] >= 0)
    return Pairs(kept.service, renumbered[kept.loss])


def _wiring_part(wiring: Wiring, numbers: IndexColumn) -> Wiring:
    hits = wiring.stores.subset(numbers)
    return replace(wiring, stores=hits, families=family_hits(wiring.graph, hits))


def _spliced(old: Impacts, ground: Ground, wiring: Wiring, part: Impacts, numbers: IndexColumn) -> Impacts:
    """The old impacts with some losses replaced."""
    tables = {}
    for name in ("down", "direct", "moved", "open", "fate", "ready_ms", "untimed"):
        table = getattr(old, name).copy()
        table[numbers] = getattr(part, name)
        tables[name] = table
    damage, order = _damage(old.damage, part.damage, numbers)
    return Impacts(
        ground=ground, wiring=wiring, damage=damage, chains=_chains(old, part, numbers, order),
        methods=old.methods, **tables,
    )  # fmt: skip


def _kept(old: Damage, numbers: IndexColumn) -> BoolColumn:
    """Rows of the old damage whose losses are not judged again."""
    again = np.zeros(old.losses, np.bool_)
    again[numbers] = True
    return ~again[old.pairs.loss]


def _damage(old: Damage, part: Damage, numbers: IndexColumn) -> tuple[Damage, RowNumbers]:
    """The damage with some losses replaced, and the order of its rows in those kept, then the new ones."""
    kept = _kept(old, numbers)
    service = np.concatenate([old.pairs.service[kept], part.pairs.service])
    loss = np.concatenate([old.pairs.loss[kept], numbers[part.pairs.loss]])
    order = np.argsort(service.astype(np.int64) * old.losses + loss, kind="stable")
    joined = {
        name: np.concatenate([getattr(old, name)[kept], getattr(part, name)])[order]
        for name in ("starts", "shift", "stuck", "boots")
    }
    pairs = Pairs(service[order], loss[order])
    by_loss, edges = by_loss_of(pairs.loss, old.losses)
    return Damage(pairs, old.losses, by_loss=by_loss, edges=edges, **joined), order


def _chains(old: Impacts, part: Impacts, numbers: IndexColumn, order: RowNumbers) -> Recovery:
    before, after = old.chains, part.chains
    kept = _kept(old.damage, numbers)
    down, released = before.tools_down.copy(), before.released.copy()
    down[numbers], released[numbers] = after.tools_down, after.released
    tools = {}
    for kind, times in before.tool_ready.items():
        tools[kind] = times.copy()
        tools[kind][numbers] = after.tool_ready[kind]
    ready = np.concatenate([before.ready[kept], after.ready])[order]
    return Recovery(ready, tools, down, released)
