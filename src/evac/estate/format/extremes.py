"""What can be written and not reckoned with: horizons, weights and counts beyond any company.

Each amount alone may be as large as 2^53; together they would leave the integers that planner and
checker count in, or fill memory. Noted when all is known, so that no later stage has to guard.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from evac.estate.format.assembling import Assembly
from evac.estate.format.bindings import ReplicaRows, totals
from evac.estate.format.problems import Problems, shown
from evac.estate.format.reading import Reader
from evac.model.diagnostic import Place
from evac.model.estate import Service
from evac.model.fleet import Fleet
from evac.model.units import QUANTITY_LIMIT, RESOURCE_WORDS

HORIZON_MIN_MS: Final = 1_000
HORIZON_MAX_MS: Final = 366 * 86_400_000
REPLICAS_MAX: Final = 1_000_000


def check_extremes(assembly: Assembly, fleet: Fleet, rows: ReplicaRows, reader: Reader) -> None:
    """Note what no plan could be made of. `rows`: where replicas are, from YAML and the table."""
    values, problems = assembly.values, reader.problems
    if not HORIZON_MIN_MS <= values["horizon_ms"] <= HORIZON_MAX_MS:
        message = "the horizon is not between 1 second and 366 days"
        problems.add("out-of-range", message, _place(reader, "horizon"), "write it like 24 h")
    weights = values["tier_weights"] or (1,)
    placed = totals(rows.replicas, len(values["services"])).tolist()
    for service, count in zip(values["services"], placed, strict=True):
        _check_weight(service, weights, reader)
        whole = max(count, service.replicas or 0)
        _check_count(service, whole, problems, reader)
        _check_demand(service, min(whole, REPLICAS_MAX), reader)
    _check_fleet(fleet, problems)


def _check_weight(service: Service, weights: tuple[int, ...], reader: Reader) -> None:
    tier = len(weights) - 1 if service.tier is None else min(service.tier, len(weights) - 1)
    people = service.people or 0
    if people * weights[tier] > QUANTITY_LIMIT:
        message = f"{people:,} people times the weight {weights[tier]:,} of the tier is more than 2^53"
        place = _place(reader, f"services/{service.id}/people")
        reader.problems.add("quantity-too-large", message, place, "check people and tier_weights")


def _check_demand(service: Service, count: int, reader: Reader) -> None:
    for word, amount in zip(RESOURCE_WORDS, service.demand, strict=True):
        if (amount or 0) * count > QUANTITY_LIMIT:
            message = f"{count:,} replicas of {shown(service.id)} demand more than 2^53 base units of {word}"
            place = _place(reader, f"services/{service.id}/demand/{word}")
            reader.problems.add("quantity-too-large", message, place, "check the unit, and the count")


def _check_fleet(fleet: Fleet, problems: Problems) -> None:
    """Columns are added up in 64 bits, so the whole fleet has to stay well within them."""
    for resource, word in enumerate(RESOURCE_WORDS):
        if fleet.capacity[:, resource].sum(dtype=np.float64) > 2**61:
            message = f"the servers have more than 2^61 base units of {word} together"
            problems.add("quantity-too-large", message, Place("servers"), "check the unit of the column")


def _check_count(service: Service, count: int, problems: Problems, reader: Reader) -> None:
    if count > REPLICAS_MAX:
        message = f"{shown(service.id)} has {count:,} replicas; at most {REPLICAS_MAX:,} can be planned"
        place = _place(reader, f"services/{service.id}/replicas", f"services/{service.id}")
        problems.add("too-many-replicas", message, place, "check the number")


def _place(reader: Reader, *paths: str) -> Place:
    row = next((reader.places[path] for path in paths if path in reader.places), None)
    return Place("") if row is None else Place(*row)
