"""The certificate of a lower bound: non-negative integers from which anybody can recompute it.

Any such integers give a true bound (weak duality over a finite box), so a bug in the planner can
only weaken it. Milestones are named `service.base` and `service.top`; a combination of limits is a
list of (limit id, factor). All multipliers are scaled by `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCALE: Final = 2**20


@dataclass(frozen=True, slots=True)
class SupplyRow:
    """Weight that milestones put on one limit, or on a combination of pool limits (rule R3).

    limits: (limit id, factor) sorted by id; shares: (milestone, integer weight) sorted by milestone.
    """

    limits: tuple[tuple[str, int], ...]
    shares: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class CapacityRow:
    """Price of one resource over a set of pools as boots and sheds free it (rule R4).

    members: milestones that can only live in `pools`, running ones included; multiplier >= 0.
    """

    resource: int
    pools: tuple[str, ...]
    members: tuple[str, ...]
    multiplier: int


@dataclass(frozen=True, slots=True)
class PlacementRows:
    """Multipliers of the final placement (rule R5), zero entries left out, sorted.

    need: (milestone, multiplier); fit: (service, pool, multiplier); room: (pool, resource,
    multiplier).
    """

    need: tuple[tuple[str, int], ...] = ()
    fit: tuple[tuple[str, str, int], ...] = ()
    room: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """All multipliers of one bound. arcs: (from milestone, to milestone, multiplier), where the
    first waits for the second (rule R2). What weight no row takes stands on the heads (R1)."""

    scale: int = SCALE
    arcs: tuple[tuple[str, str, int], ...] = ()
    supply: tuple[SupplyRow, ...] = ()
    capacity: tuple[CapacityRow, ...] = ()
    placement: PlacementRows = PlacementRows()
