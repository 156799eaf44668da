"""Propagate facts along dependencies for all losses at once, with one bit for each loss.

Each service has an integer of arbitrary length, so facts of all losses are joined in one operation.
Components of hard dependencies are ordered so that dependencies have lower numbers, and one pass over the
edges is enough. Few services are down, so results are pairs, not tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evac.derive.affected import ServiceGraph, components
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.records import dataclass

Kind = TypeVar("Kind", bound=np.generic)

Bits = list[int]
"""One number for each service; bit l stands for loss l."""

RowNumbers = NDArray[np.intp]
"""Row numbers of pairs."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Components of hard dependencies, dependencies first: members, and outside services they need."""

    component: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    outside: tuple[tuple[int, ...], ...]
    to_start: tuple[tuple[int, ...], ...]
    """The outside services that they need to start."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs (service, loss), each once, sorted by service, then loss."""

    service: IndexColumn
    loss: IndexColumn

    def __len__(self) -> int:
        return len(self.service)

    def of(self, table: NDArray[Kind]) -> NDArray[Kind]:
        """The entries of an (L, S) table, one for each pair."""
        found: NDArray[Kind] = table[self.loss, self.service]
        return found

    def marked(self, losses: int, services: int, chosen: BoolColumn | None = None) -> BoolColumn:
        """(L, S) table that is set at all pairs, or at some of them."""
        table = np.zeros((losses, services), np.bool_)
        if chosen is None:
            table[self.loss, self.service] = True
        else:
            table[self.loss[chosen], self.service[chosen]] = True
        return table

    def only(self, chosen: BoolColumn) -> Pairs:
        return Pairs(self.service[chosen], self.loss[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Pairs in which replicas are taken, and how many."""

    pairs: Pairs
    count: IntColumn


def order_of(graph: ServiceGraph) -> Order:
    """Topological order of the components of the hard dependencies."""
    component = components(graph.hard)
    count = max(component, default=-1) + 1
    members: list[list[int]] = [[] for _ in range(count)]
    for service, own in enumerate(component):
        members[own].append(service)
    return Order(
        tuple(component),
        tuple(map(tuple, members)),
        tuple(_outside(graph.hard, component, own) for own in members),
        tuple(_outside(graph.start_edges, component, own) for own in members),
    )


def outside_of(graph: ServiceGraph, order: Order) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """(outside services that components need, those they need to start) by plain needs; order: of all
    needs.
    """
    component = list(order.component)
    edges = (graph.hard, graph.start_edges)
    hard, start = (tuple(_outside(rows, component, list(own)) for own in order.members) for rows in edges)
    return hard, start


def _outside(hard: Sequence[tuple[int, ...]], component: list[int], members: list[int]) -> tuple[int, ...]:
    """What members of a component need outside it, sorted."""
    own = component[members[0]]
    if len(members) == 1 and own not in map(component.__getitem__, hard[members[0]]):
        return hard[members[0]]
    return tuple(sorted({other for service in members for other in hard[service] if component[other] != own}))


def pairs_of(table: BoolColumn) -> Pairs:
    """The pairs that are set in an (L, S) table."""
    return _pairs(np.ascontiguousarray(table.T))


def taken_of(lost: NDArray[np.int32]) -> Taken:
    """The non-zero pairs of an (L, S) table of replica counts."""
    pairs = pairs_of(lost > 0)
    return Taken(pairs, pairs.of(lost).astype(np.int64))


def _pairs(by_service: BoolColumn) -> Pairs:
    """The pairs that are set in an (S, L) table."""
    found = np.flatnonzero(by_service)
    service, loss = np.divmod(found, max(1, by_service.shape[1]))
    return Pairs(service.astype(np.int32), loss.astype(np.int32))


def packed(found: Sequence[Pairs], services: int, losses: int) -> Bits:
    """The bits of all pairs."""
    table = np.zeros((services, losses), np.bool_)
    for pairs in found:
        table[pairs.service, pairs.loss] = True
    return _packed(table)


def _packed(by_service: BoolColumn) -> Bits:
    """(S, L) booleans as bits."""
    rows = np.packbits(by_service, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def _unpacked(bits: Bits, losses: int) -> BoolColumn:
    """Bits as (S, L) booleans."""
    width = -(-losses // 8)
    text = b"".join(number.to_bytes(width, "little") for number in bits)
    rows = np.frombuffer(text, np.uint8).reshape(len(bits), width)
    return np.unpackbits(rows, axis=1, count=losses, bitorder="little").view(np.bool_)


def unpacked(bits: Bits, losses: int) -> Pairs:
    """The pairs of some bits. Few are set, so only non-zero bytes are decoded."""
    width = max(1, -(-losses // 8))
    text = np.frombuffer(b"".join([number.to_bytes(width, "little") for number in bits]), np.uint8)
    byte = np.flatnonzero(text)
    found = np.flatnonzero(np.unpackbits(text[byte], bitorder="little"))
    service, place = np.divmod(byte[found >> 3], width)
    return Pairs(service.astype(np.int32), (place * 8 + (found & 7)).astype(np.int32))


def spread(order: Order, bits: Bits) -> Bits:
    """Bits of each service joined with those of all its transitive hard dependencies."""
    found = list(bits)
    for members, outside in zip(order.members, order.outside, strict=True):
        joined = 0
        for service in members:
            joined |= found[service]
        for service in outside:
            joined |= found[service]
        if joined:
            for service in members:
                found[service] = joined
    return found


def spread_all(order: Order, graph: ServiceGraph, bits: Bits, down: Bits | None = None) -> Bits:
    """`spread` that also joins bits common to all alternatives of a group. down: bits of services that are
    down; then it joins bits of any alternative if each of the others is down or has them.
    """
    found = spread(order, bits)
    while graph.has_alternatives:
        more = list(found)
        for service, group in graph.choices:
            every, some = -1, 0
            for member in group.members:
                every &= found[member] if down is None else found[member] | down[member]
                some |= found[member]
            more[service] |= every & some
        if more == found:
            break
        found = spread(order, more)
    return found


def spread_table(
    order: Order, table: BoolColumn, graph: ServiceGraph | None = None, down: Bits | None = None
) -> BoolColumn:
    """`spread` for (L, S) booleans; with a graph, `spread_all`."""
    direct = _packed(np.ascontiguousarray(table.T))
    bits = spread(order, direct) if graph is None else spread_all(order, graph, direct, down)
    return np.ascontiguousarray(_unpacked(bits, len(table)).T)


def any_of(rows: Sequence[Sequence[int]], bits: Bits) -> Bits:
    """The union of bits of the services that each service names; names by index, one list for each
    service.
    """
    found = []
    for named in rows:
        joined = 0
        for service in named:
            joined |= bits[service]
        found.append(joined)
    return found
