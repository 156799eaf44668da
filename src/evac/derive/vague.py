"""Amounts that nobody knows: what a replica takes, and what a pool or a site has.

Something that runs keeps running, whatever it takes. But what is free beside it is not known, and neither is
whether something fits that takes nobody knows what.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from evac.derive.domains import Topology
from evac.model.fleet import IntColumn
from evac.model.instance import Present, Vague
from evac.model.scenario import Scenario
from evac.model.units import RESOURCE_COUNT, RESOURCE_WORDS, UNBOUNDED

NEEDED = 2
"""Resources that every service needs: cpu and memory. Of others, what is not stated is none."""


def vague_demand(top: Topology) -> Mapping[int, tuple[tuple[int, str], ...]]:
    """Service -> (resource, path) of what a replica takes of it, where nobody knows that."""

    def work() -> dict[int, tuple[tuple[int, str], ...]]:
        found = {}
        for row, service in enumerate(top.estate.services):
            missing = [resource for resource in range(NEEDED) if service.demand[resource] is None]
            path = f"services/{service.id}/demand"
            if len(missing) == NEEDED:
                found[row] = tuple((resource, path) for resource in missing)
            elif missing:
                found[row] = tuple((resource, f"{path}/{RESOURCE_WORDS[resource]}") for resource in missing)
        return found

    return top.once("vague demand", work)


def vague_amounts(
    top: Topology, scenario: Scenario, first: int, capacity: IntColumn, owners: list[str], present: Present
) -> Vague:
    """What nobody knows of the rows of a loss or an evacuation. first: number of the first row that is a pool
    or a site; capacity (N, R) and owners (N,): of these rows, and their paths. What goes home fits there, as
    it did before.
    """
    if scenario.kind not in ("lose", "evacuate"):
        return Vague()
    demand = vague_demand(top)
    asked = [any(s.demand[resource] for s in top.estate.services) for resource in range(RESOURCE_COUNT)]
    rows: dict[int, tuple[tuple[int, str], ...]] = {}
    for number, (amounts, owner) in enumerate(zip(capacity.tolist(), owners, strict=True), first):
        missing = tuple(
            (resource, f"{owner}/{RESOURCE_WORDS[resource]}" if owner.startswith("pools/") else owner)
            for resource, amount in enumerate(amounts)
            if amount >= UNBOUNDED and asked[resource]
        )
        if missing:
            rows[number] = missing
    for line in np.flatnonzero(np.isin(present.service, list(demand))).tolist():
        row = int(present.row[line])
        rows[row] = rows.get(row, ()) + demand[int(present.service[line])]
    return Vague(
        MappingProxyType({service: missing[0][1] for service, missing in demand.items()}),
        MappingProxyType(dict(sorted(rows.items()))),
    )
