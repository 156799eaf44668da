"""What differs between the impacts of two audits: after which losses, and for which services.

Both audits try the same losses on estates with the same services. Whatever is found about a service
by itself follows from its own facts, from how it and all that it hard-needs are hit, and from when
the tools are back; so only services with a difference in any of these need another look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.audit.capacity import Shortfall
from evac.audit.closure import Pairs, spread
from evac.audit.facets import changed_families, other_services, placed_elsewhere
from evac.audit.impacts import Impacts
from evac.model.fleet import BoolColumn, IntColumn


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """losses (L,): after which anything is different; services (S,): about which findings may be."""

    losses: BoolColumn
    services: BoolColumn


def differences(old: Impacts, new: Impacts, changed: frozenset[str]) -> Differences:
    """Differences of two impacts whose estates differ in some facets. Never too few."""
    if "limits" in changed:
        return Differences(np.ones(len(new.losses), np.bool_), np.ones(len(new.estate.services), np.bool_))
    own = other_services(old.estate, new.estate)
    losses: BoolColumn = np.asarray((new.down[:, own] | old.down[:, own]).any(axis=1))
    hit, later = np.zeros(len(own), np.bool_), own
    if "dynamics" in changed:
        hit = _other_fates(old, new, losses) | _rewired(old, new) | _without_room(old, new, losses)
        hit |= _elsewhere(old, new, losses)
        tables = ((old.direct, new.direct), (old.moved, new.moved), (old.untimed, new.untimed))
        others = [(one, other) for one, other in tables if one is not other]
        for pairs in (old.damage.pairs, new.damage.pairs):
            _mark(pairs, [pairs.of(one) != pairs.of(other) for one, other in others], losses, hit)
            _mark(pairs, [pairs.of(old.ready_ms) != pairs.of(new.ready_ms)], losses, later)
        _late_tools(old, new, losses, later)
    for part in {*old.stores.parts} ^ {*new.stores.parts}:
        losses[part.losses] = True
    bits = spread(new.order, hit.astype(np.int64).tolist())
    return Differences(losses, later | np.array(bits, np.bool_))


def _other_fates(old: Impacts, new: Impacts, losses: BoolColumn) -> BoolColumn:
    """(S,) services with another fate after some loss; marks those losses."""
    if old.fate is new.fate:
        return np.zeros(len(new.estate.services), np.bool_)
    fates = old.fate != new.fate
    losses |= fates.any(axis=1)
    return np.asarray(fates.any(axis=0))


def _rewired(old: Impacts, new: Impacts) -> BoolColumn:
    """(S,) services that need something else, or a store that is another."""
    stores = changed_families(old.estate, new.estate) if old.estate.stores != new.estate.stores else set()
    both = zip(old.graph.hard, new.graph.hard, old.graph.families, new.graph.families, strict=True)
    return np.array(
        [hard != more or names != other or not stores.isdisjoint(other) for hard, more, names, other in both],
        np.bool_,
    )


def _without_room(old: Impacts, new: Impacts, losses: BoolColumn) -> BoolColumn:
    """(S,) services that find more or less room after some loss; marks those losses."""
    found = np.zeros(len(new.estate.services), np.bool_)
    before, after = old.capacity.short, new.capacity.short
    for number in before.keys() | after.keys():
        if before.get(number) is not after.get(number):
            losses[number] = True
            found |= _missing(before.get(number)) != _missing(after.get(number))
    losses |= old.capacity.placed != new.capacity.placed
    losses |= old.capacity.to_place != new.capacity.to_place
    if old.capacity.room_known is not new.capacity.room_known:
        found |= (old.capacity.room_known != new.capacity.room_known).any(axis=0)
    return found


def _elsewhere(old: Impacts, new: Impacts, losses: BoolColumn) -> BoolColumn:
    """(S,) services of which other replicas stand somewhere; marks losses that take more or fewer."""
    before, after = old.ground.standing, new.ground.standing
    if before is after:
        return np.zeros(len(new.estate.services), np.bool_)
    moved = placed_elsewhere(old.estate, new.estate)
    losses |= (before.lost[:, moved] != after.lost[:, moved]).any(axis=1)
    losses |= (before.loose[:, moved] != after.loose[:, moved]).any(axis=1)
    return moved


def _missing(short: Shortfall | None) -> IntColumn | int:
    return 0 if short is None else short.for_good


def _mark(pairs: Pairs, differs: list[BoolColumn], losses: BoolColumn, services: BoolColumn) -> None:
    for different in differs:
        losses[pairs.loss[different]] = True
        services[pairs.service[different]] = True


def _late_tools(old: Impacts, new: Impacts, losses: BoolColumn, services: BoolColumn) -> None:
    """Where the tools are back at another time, all that is down is told another reason."""
    late = np.zeros(len(losses), np.bool_)
    for kind, ready in new.chains.tool_ready.items():
        late |= ready != old.chains.tool_ready[kind]
    pairs = new.damage.pairs
    services[pairs.service[late[pairs.loss]]] = True
    losses |= late
