"""The arrays of a weight splitting: milestones, their options, and the rows they may take shares of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.planning.bound.capacity import Curve
from evac.planning.bound.facts import Facts
from evac.planning.bound.network import Network
from evac.planning.bound.rows import CapacityChoice, SupplyChoice

ARC, SHARE = 1, 2

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """Options of milestone i lie at start[i] to start[i+1]: its head first, then arcs, then shares.

    kind: 0 head, ARC or SHARE; target: milestone of an arc, member of a share; worth: ticks that an
    option adds by itself. arc: option of each arc of the network; share: option of each member.
    """

    start: IntArray
    kind: NDArray[np.int8]
    target: IntArray
    worth: FloatArray
    arc: IntArray
    share: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """Members of all rows, row after row: row r has start[r] to start[r+1].

    milestone, size, release, arrivals (members of the row by release): by member; speed: by row, 0
    for capacity rows; first, and gains from gain_start[r] of (gain_tick, gain): their curves.
    """

    start: IntArray
    milestone: IntArray
    lead: FloatArray
    size: FloatArray
    release: FloatArray
    arrivals: IntArray
    speed: FloatArray
    first: FloatArray
    gain_start: IntArray
    gain_tick: FloatArray
    gain: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Everything the kernels read. reserve (N): what placement takes from u, in weight x ticks."""

    facts: Facts
    network: Network
    supply: tuple[SupplyChoice, ...]
    capacity: tuple[CapacityChoice, ...]
    members: Members
    options: Options
    reserve: FloatArray


def problem_of(
    facts: Facts,
    network: Network,
    supply: tuple[SupplyChoice, ...],
    capacity: tuple[CapacityChoice, ...],
    reserve: FloatArray,
) -> Problem:
    """Arrays for the given rows. Milestones that never hold, and pinned ones, take no shares."""
    members = _members(facts, network, supply, capacity)
    return Problem(facts, network, supply, capacity, members, _options(facts, network, members), reserve)


def _members(
    facts: Facts, network: Network, supply: Sequence[SupplyChoice], capacity: Sequence[CapacityChoice]
) -> Members:
    horizon = facts.instance.horizon
    free = [
        i not in network.pinned and not (facts.lost[i] and facts.head[i] >= horizon)
        for i in range(len(facts))
    ]
    rows: list[list[tuple[int, float, float, float]]] = []
    curves = []
    for choice in supply:
        rows.append(
            [
                (i, w.lead / (2 * w.amount), float(w.amount), float(w.release))
                for i, w in choice.works.items()
                if free[i]
            ]
        )
        curves.append(Curve(0, ()))
    for room in capacity:
        rows.append([(i, float(facts.lead[i]), float(d), 0.0) for i, d in room.sizes.items() if free[i]])
        curves.append(_without(room.curve, sum(room.sizes.get(i, 0) for i in network.pinned)))
    flat = [member for row in rows for member in row]
    gains = [gain for curve in curves for gain in curve.gains]
    return Members(
        start=_starts([len(row) for row in rows]),
        milestone=np.array([m[0] for m in flat], np.int64),
        lead=np.array([m[1] for m in flat]),
        size=np.array([m[2] for m in flat]),
        release=np.array([m[3] for m in flat]),
        arrivals=np.concatenate(
            [np.argsort([m[3] for m in row], kind="stable") for row in rows] or [np.empty(0, np.int64)]
        ).astype(np.int64),
        speed=np.array([float(c.speed) for c in supply] + [0.0] * len(capacity)),
        first=np.array([float(c.first) for c in curves]),
        gain_start=_starts([len(c.gains) for c in curves]),
        gain_tick=np.array([float(t) for t, _ in gains]),
        gain=np.array([float(g) for _, g in gains]),
    )


def _starts(lengths: Sequence[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _without(curve: Curve, taken: int) -> Curve:
    """A curve less what pinned milestones take first."""
    first, left = max(0, curve.first - taken), max(0, taken - curve.first)
    gains = []
    for tick, gain in curve.gains:
        used = min(gain, left)
        left -= used
        if gain > used:
            gains.append((tick, gain - used))
    return Curve(first, tuple(gains))


def _options(facts: Facts, network: Network, members: Members) -> Options:
    per_node: list[list[tuple[int, int, float, int]]] = [[(0, 0, 0.0, -1)] for _ in range(len(facts))]
    for number, (i, j, delay) in enumerate(network.arcs):
        per_node[i].append((ARC, j, float(delay), number))
    for number, i in enumerate(members.milestone.tolist()):
        lead = float(members.lead[number]) if facts.lost[i] else 0.0
        per_node[i].append((SHARE, number, lead, number))
    flat = [option for options in per_node for option in options]
    kind = np.array([o[0] for o in flat], np.int8)
    origin = np.array([o[3] for o in flat], np.int64)
    arc, share = np.zeros(len(network.arcs), np.int64), np.zeros(len(members.milestone), np.int64)
    arc[origin[kind == ARC]] = np.flatnonzero(kind == ARC)
    share[origin[kind == SHARE]] = np.flatnonzero(kind == SHARE)
    return Options(
        start=_starts([len(options) for options in per_node]),
        kind=kind,
        target=np.array([o[1] for o in flat], np.int64),
        worth=np.array([o[2] for o in flat]),
        arc=arc,
        share=share,
    )
