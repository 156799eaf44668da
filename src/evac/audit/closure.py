"""Spreading facts along dependencies for all losses at once, 64 losses to a machine word.

A row of bits a service, a bit a loss. Components of hard dependencies come in an order in which
what is needed has the lower number, so one pass over the edges is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.model.affected import ServiceGraph
from evac.model.fleet import BoolColumn
from evac.model.graph import components

Words = NDArray[np.uint64]
_WORD_BITS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Components of hard dependencies, what is needed first: members, and services they need outside."""

    component: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    outside: tuple[tuple[int, ...], ...]


def order_of(graph: ServiceGraph) -> Order:
    """Topological order of the components of the hard dependencies."""
    component = components(graph.hard)
    count = max(component, default=-1) + 1
    members: list[list[int]] = [[] for _ in range(count)]
    outside: list[set[int]] = [set() for _ in range(count)]
    for service, own in enumerate(component):
        members[own].append(service)
        outside[own].update(other for other in graph.hard[service] if component[other] != own)
    return Order(
        tuple(component), tuple(map(tuple, members)), tuple(tuple(sorted(found)) for found in outside)
    )


def packed(table: BoolColumn) -> Words:
    """(L, S) booleans as (S, words) bits."""
    bits = np.packbits(table, axis=0)
    padding = -len(bits) % (_WORD_BITS // 8)
    bits = np.pad(bits, ((0, padding), (0, 0)))
    return np.ascontiguousarray(bits.T).view(np.uint64)


def unpacked(words: Words, losses: int) -> BoolColumn:
    """(S, words) bits as (L, S) booleans."""
    bits = np.ascontiguousarray(words.view(np.uint8).T)
    return np.unpackbits(bits, axis=0, count=losses).view(np.bool_)


def spread(order: Order, words: Words) -> Words:
    """Bits of each service joined with those of all it hard-depends on, transitively."""
    found = words.copy()
    for members, outside in zip(order.members, order.outside, strict=True):
        if len(members) > 1:
            found[list(members)] = np.bitwise_or.reduce(found[list(members)], axis=0)
        if outside:
            found[list(members)] |= np.bitwise_or.reduce(found[list(outside)], axis=0)
    return found


def spread_table(order: Order, table: BoolColumn) -> BoolColumn:
    """`spread` on (L, S) booleans."""
    return unpacked(spread(order, packed(table)), len(table))


def any_of(rows: Sequence[Sequence[int]], table: BoolColumn) -> BoolColumn:
    """(L, S) whether any of the services that a service names is set; names by index, one list a service."""
    words = packed(table)
    found = np.zeros_like(words)
    for service, named in enumerate(rows):
        if named:
            found[service] = np.bitwise_or.reduce(words[list(named)], axis=0)
    return unpacked(found, len(table))
