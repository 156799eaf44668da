"""The certificate of a lower bound: non-negative integers from which anybody can recompute it.

Any such integers give a true bound (weak duality over a finite box), so a bug in the planner can
only weaken it. Milestones are named `service.base`, `service.top` and `store.primary`; a
combination of limits is a list of (limit id, factor). All multipliers are scaled by `scale`.
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
    """Room as boots and sheds free it, priced per pool and resource (rule R4).

    prices: (pool, resource, factor) sorted; shares: (milestone, integer weight) sorted by milestone,
    running ones included.
    """

    prices: tuple[tuple[str, int, int], ...]
    shares: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PlacementRows:
    """Prices of the final placement (rule R5), zero entries left out, sorted.

    room: (pool, resource, price); fit: (service, pool, price); site: (service, site, price). What a
    replica pays where it is cheapest follows from them.
    """

    room: tuple[tuple[str, int, int], ...] = ()
    fit: tuple[tuple[str, str, int], ...] = ()
    site: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """All multipliers of one bound. arcs: (from milestone, to milestone, multiplier), where the
    first waits for the second (rule R2). What weight no row takes stands on the heads (R1)."""

    scale: int = SCALE
    arcs: tuple[tuple[str, str, int], ...] = ()
    supply: tuple[SupplyRow, ...] = ()
    capacity: tuple[CapacityRow, ...] = ()
    placement: PlacementRows = PlacementRows()
