"""The effect of every loss on every service: computed once for all losses, read by every rule.

Arrays are (L, S): losses by services. Verdicts are left to rules and rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np

from evac.audit.impacts.capacity import Capacity
from evac.audit.impacts.crowding import Crowding
from evac.audit.impacts.dependencies import Bits, Order, Pairs, any_of, spread_table, unpacked
from evac.audit.impacts.hits import Down, Ground, Wiring, caused_by, down_by, ground_of, wiring_of
from evac.audit.impacts.losses import CountTable, Losses, Presence, tripping
from evac.audit.impacts.proved import Alone, doubts
from evac.audit.impacts.recovery import Chains, Damage, Recovery, Times, by_loss_of, levels_of, recovery
from evac.audit.impacts.stores import FENCE, NEVER, RELEASE, FamilyHits, StoreHits
from evac.derive.affected import ServiceGraph
from evac.derive.domains import Topology
from evac.model import reason as planned
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, CodeColumn, IntColumn
from evac.model.objectives import LOSS_CLASSES, rto_for
from evac.model.records import dataclass

UNAFFECTED: Final = 0
DEGRADED: Final = 1
RECOVERS: Final = 2
LOST: Final = 3
UNKNOWN: Final = 4
SHED: Final = 5
NOT_PROVED: Final = 6
FATES: Final = ("unaffected", "degraded", "recovers", "lost", "unknown", "shed", "not proved")

Method = Literal["plan", "estimate"]
PLANNED: Final[Method] = "plan"
ESTIMATED: Final[Method] = "estimate"


@dataclass(frozen=True, eq=False)
class Impacts:
    """All losses of one audit."""

    ground: Ground
    wiring: Wiring
    hit: Down
    damage: Damage
    chains: Recovery
    down: BoolColumn
    """(L, S) less than base serves right after the loss."""
    away: BoolColumn
    """(L, S) without service for a while or for good: down right after the loss, or stopped by its plan."""
    open: BoolColumn
    """(L, S) whether it is down is unknown."""
    fate: CodeColumn
    """(L, S) codes of FATES."""
    ready_ms: CountTable
    """(L, S) milliseconds until base, including detection and approval; 0 if not down, NEVER if nothing
    restores it. If the loss was not planned, a lower bound for every plan.
    """
    untimed: BoolColumn
    """(L, S) recovery time unknown: the loss was not planned, or some duration on the way is unknown."""
    methods: tuple[Method, ...]
    reasons: Mapping[tuple[int, int], planned.Reason] = field(default_factory=lambda: MappingProxyType({}))
    """(loss, service) -> why a plan does not restore it, for planned losses."""
    facts: Mapping[int, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Loss -> paths of the amounts without which it cannot be judged, for planned losses."""

    @property
    def top(self) -> Topology:
        return self.ground.top

    @property
    def estate(self) -> Estate:
        return self.ground.top.estate

    @property
    def losses(self) -> Losses:
        return self.ground.losses

    @property
    def direct(self) -> BoolColumn:
        return self.hit.direct

    @property
    def moved(self) -> BoolColumn:
        return self.hit.moved

    @property
    def presence(self) -> Presence:
        return self.ground.presence

    @property
    def lost(self) -> CountTable:
        return self.ground.lost

    @property
    def capacity(self) -> Capacity:
        return self.ground.capacity

    @property
    def graph(self) -> ServiceGraph:
        return self.wiring.graph

    @property
    def order(self) -> Order:
        return self.wiring.order

    @property
    def stores(self) -> StoreHits:
        return self.wiring.stores

    @property
    def families(self) -> FamilyHits:
        return self.wiring.families

    @property
    def times(self) -> Times:
        return self.wiring.times

    @cached_property
    def surviving(self) -> CountTable:
        """(L, S) replicas left."""
        return surviving_of(self.ground)

    @cached_property
    def crowding(self) -> Crowding:
        """Links and ingress that may be too small after each loss."""
        return Crowding(self.ground)

    @cached_property
    def caused(self) -> BoolColumn:
        """(L, S) down by the loss itself, not before it: servers that are off may keep services down."""
        return caused_by(self.ground, self.wiring, self.hit)

    def left(self, number: int, service: int) -> int:
        """Replicas of one service that one loss leaves."""
        return int(self.ground.presence.n[service] - self.ground.lost[number, service])

    def starting_gone(self, number: int) -> tuple[str, ...]:
        """Tools that never come back from one loss and without which nothing starts."""
        groups = self.times.tools["start"]
        gone = [group for group in groups if (self.ready_ms[number, list(group)] >= NEVER).all()]
        return tuple(dict.fromkeys(self.estate.services[tool].id for group in gone for tool in group))

    @cached_property
    def tiers(self) -> IntColumn:
        """(S,) tier; -1 if unknown."""
        return np.array([-1 if s.tier is None else s.tier for s in self.estate.services], np.int64)

    @cached_property
    def rto_ms(self) -> IntColumn:
        """(C, S) recovery time objective by class of loss (`LOSS_CLASSES`); NEVER if none is stated."""
        services = self.estate.services
        plain = np.array([NEVER if s.rto_ms is None else s.rto_ms for s in services], np.int64)
        found = np.tile(plain, (len(LOSS_CLASSES), 1))
        for row, service in enumerate(services):
            if service.objectives is not None:
                stated = [rto_for(service, of_class) for of_class in LOSS_CLASSES]
                found[:, row] = [NEVER if one is None else one for one in stated]
        return found

    def rto_at(self, loss: Any, service: Any) -> IntColumn:
        """The objectives of services after losses; both are numbers of one length, or one of them has length
        one.
        """
        found: IntColumn = self.rto_ms[self.losses.classes[loss], service]
        return found


def surviving_of(ground: Ground) -> CountTable:
    """(L, S) replicas left."""
    return (ground.presence.n[None, :] - ground.lost).astype(np.int32)


def impacts(top: Topology, losses: Losses) -> Impacts:
    """Everything the rules read. Linear in servers, bindings, losses x services and dependencies."""
    return judged(ground_of(top, losses), wiring_of(top, losses))


def judged(ground: Ground, wiring: Wiring) -> Impacts:
    """Which services are down, for how long, and permanently."""
    hit = down_by(ground, wiring)
    damage = _damage(ground, wiring, hit)
    levels = levels_of(wiring.whole, wiring.graph)
    paths = Chains(wiring.graph, levels, wiring.families, damage.pairs, len(ground.losses))
    chains = recovery(ground.top.estate, wiring.times, paths, damage)
    open_question, size = _open(ground, wiring, hit), (len(ground.losses), len(wiring.graph.hard))
    open_question, unsure = _open_by_tools(wiring, hit, damage, paths, chains, open_question)
    fate = _fates(ground, wiring, hit, chains.ready >= NEVER, open_question)
    proofs = doubts(ground, wiring, hit, damage, chains, (fate == LOST) | (fate == UNKNOWN))
    fate[np.isin(fate, (UNAFFECTED, DEGRADED)) & proofs.stays] = NOT_PROVED
    fate[(fate == RECOVERS) & (proofs.returns | unsure)] = NOT_PROVED
    down = hit.down.marked(*size)
    unsafe = ground.capacity.may_take.any & (ground.capacity.to_place > 0)
    fate[unsafe[:, None] & ((fate == RECOVERS) | (fate == DEGRADED) & down)] = NOT_PROVED
    return Impacts(
        ground=ground,
        wiring=wiring,
        hit=hit,
        damage=damage,
        chains=chains,
        down=down,
        away=down,
        open=open_question,
        fate=fate,
        ready_ms=_by_loss(hit.down, chains.ready, size),
        untimed=down,
        methods=(ESTIMATED,) * len(ground.losses),
    )


def _by_loss(pairs: Pairs, ready: IntColumn, size: tuple[int, int]) -> CountTable:
    """(L, S) ready times, 0 for services that are not down."""
    table = np.zeros(size, np.int32)
    table[pairs.loss, pairs.service] = ready
    return table


def _open(ground: Ground, wiring: Wiring, hit: Down) -> BoolColumn:
    """(L, S) unknown whether a service is down, or where it could come back.

    If some replicas are left and capacity elsewhere is unknown, it may or may not be filled up.
    """
    short, families = ground.short, wiring.families
    left = ground.presence.n[short.service] - short.of(ground.lost)
    may_fit = ground.capacity.may_fit
    some = (left > 0) | ground.capacity.reserves.last.any() | short.of(may_fit)
    vague = ~short.of(ground.capacity.headroom_known) & some
    vague |= np.isin(short.loss, list(tripping(ground.top, ground.losses)))
    doubtful = short.only(vague | short.of(ground.capacity.crowded)).marked(*ground.lost.shape)
    doubtful |= ground.loose
    for number, missing in ground.capacity.short.items():
        doubtful[number] |= (missing.for_good > 0) & may_fit[number]
    open_ones = [bool(found.any()) for found in families.open]
    for service, names in enumerate(wiring.graph.families):
        for family in (families.index[name] for name in names if name in families.index):
            if open_ones[family]:
                doubtful[:, service] |= families.open[family]
    return spread_table(wiring.order, doubtful, wiring.graph, hit.bits) if doubtful.any() else doubtful


def _open_by_tools(
    wiring: Wiring, hit: Down, damage: Damage, paths: Chains, chains: Recovery, open_question: BoolColumn
) -> tuple[BoolColumn, BoolColumn]:
    """(L, S) each: `open_question` and everything that needs tools that may or may not run; and what may need
    such tools, or is done by hand in an unknown time.
    """
    pairs, unsure = hit.down, np.zeros(open_question.shape, np.bool_)
    down, starts = pairs.marked(*open_question.shape), damage.starts > 0
    stores, all_of_them = paths.stores[FENCE][1] | paths.stores[RELEASE][1], np.ones(len(starts), np.bool_)
    certain = {
        "start": starts,
        "verify": all_of_them,
        "shift": damage.shift,
        "fence": stores,
        "promote": stores,
    }
    while open_question.any():
        found = open_question.copy()
        for kind, needed in {**certain, "boot": starts, "shed": starts}.items():
            gone = np.zeros(len(found), np.bool_)
            for tools in map(list, wiring.times.tools[kind]):
                gone |= (found | down)[:, tools].all(axis=1) & found[:, tools].any(axis=1)
            who = gone[pairs.loss] & needed & ~chains.alone
            table = found if kind in certain and kind not in wiring.times.manual else unsure
            table[pairs.loss[who], pairs.service[who]] = True
        found = spread_table(wiring.order, found, wiring.graph, hit.bits)
        if (found == open_question).all():
            break
        open_question = found
    return open_question, spread_table(
        wiring.order, unsure, wiring.graph, hit.bits
    ) if unsure.any() else unsure


def _damage(ground: Ground, wiring: Wiring, hit: Down) -> Damage:
    """What must be started and moved, and what cannot be placed."""
    pairs, headroom = hit.down, ground.capacity
    lost = pairs.of(ground.lost).astype(np.int64)
    left = ground.presence.n[pairs.service] - lost
    starts = np.where(lost > 0, np.maximum(ground.presence.m[pairs.service] - left, 0), 0)
    by_loss, edges = by_loss_of(pairs.loss, len(ground.losses))
    # Where nothing is known that could carry a service elsewhere, one that lost its last replica is
    # lost, as nothing says otherwise.
    may_fit = pairs.of(headroom.may_fit)
    somewhere = may_fit & headroom.supply.known[pairs.service]
    stuck = (starts > 0) & ~pairs.of(headroom.headroom_known) & ~somewhere & (left == 0)
    stuck &= not headroom.reserves.last.any()
    for number, short in headroom.short.items():
        rows = by_loss[edges[number] : edges[number + 1]]
        stuck[rows] |= (short.for_good[pairs.service[rows]] > 0) & ~may_fit[rows]
    circle = _in_start_circle(wiring, pairs, starts, len(ground.losses))
    stuck &= pairs.of(hit.direct)
    alone = Alone(ground)
    for row in np.flatnonzero(stuck & headroom.supply.known[pairs.service]).tolist():
        stuck[row] = not alone.fits(int(pairs.service[row]), int(pairs.loss[row]), int(starts[row]))
    stuck |= pairs.of(ground.losses.external)
    return Damage(
        pairs,
        len(ground.losses),
        starts,
        pairs.of(hit.moved),
        stuck | (circle & (wiring.times.start_cycle is None)),
        circle,
        by_loss,
        edges,
    )


def _in_start_circle(wiring: Wiring, pairs: Pairs, starts: IntColumn, losses: int) -> BoolColumn:
    """Pairs of services in a dependency cycle, one of which has to start and needs another one to do so."""
    component = np.array(wiring.order.component, np.int64)
    inner = np.array(
        [
            any(component[other] == component[service] for other in needed)
            for service, needed in enumerate(wiring.graph.start_edges)
        ],
        np.bool_,
    )
    if not inner.any():
        return np.zeros(len(pairs), np.bool_)
    key = component[pairs.service] * losses + pairs.loss
    return np.isin(key, key[inner[pairs.service] & (starts > 0)])


def _fates(
    ground: Ground, wiring: Wiring, hit: Down, gone: BoolColumn, open_question: BoolColumn
) -> CodeColumn:
    """(L, S) codes of FATES, the more severe applied last. gone: by pair that is down, nothing restores
    it.
    """
    fate = np.zeros(ground.lost.shape, np.uint8)
    taken = ground.replicas.taken.pairs
    fate[taken.loss, taken.service] = DEGRADED
    less = unpacked(any_of(wiring.graph.soft, hit.bits), len(ground.losses))
    fate[less.loss, less.service] = DEGRADED
    _less_by_alternatives(fate, wiring.graph, hit.bits)
    for service, others in enumerate(wiring.graph.soft):
        if others:
            fate[open_question[:, list(others)].any(axis=1), service] = DEGRADED
    fate[hit.down.loss, hit.down.service] = RECOVERS
    if open_question.any():
        fate[open_question] = UNKNOWN
    tied = _tied(wiring)[hit.down.service]
    vague, lost = hit.down.only(tied), hit.down.only(gone & ~tied)
    fate[vague.loss, vague.service] = UNKNOWN
    fate[lost.loss, lost.service] = LOST
    return fate


def _less_by_alternatives(fate: CodeColumn, graph: ServiceGraph, down: Bits) -> None:
    """Services whose soft alternatives are all down."""
    for service, groups in enumerate(graph.alternatives):
        for group in groups:
            if not group.hard:
                every = -1
                for member in group.members:
                    every &= down[member]
                less = unpacked([every], len(fate))
                fate[less.loss, service] = DEGRADED


def _tied(wiring: Wiring) -> BoolColumn:
    """(S,) services in a cycle that an alternative closes: chains cannot say when those come back."""
    found, component = np.zeros(len(wiring.graph.hard), np.bool_), np.array(wiring.whole.component, np.int64)
    for service, group in wiring.graph.choices:
        if any(component[member] == component[service] for member in group.members):
            found |= component == component[service]
    return found
