"""Which running services a plan may move to other servers, to free capacity, without an outage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from evac.derive.rows import RowSet
from evac.model.estate import Estate
from evac.model.instance import Services
from evac.model.scenario import Scenario

_SCENARIOS: Final = ("lose", "evacuate")


def with_movable(
    services: Services, estate: Estate, scenario: Scenario, rows: RowSet, unjudged: Iterable[int]
) -> Services:
    """The same services, with those marked that may move. unjudged: those that a loss may or may not touch.

    Only what the loss certainly does not touch moves, and only if it may run twice for a while and both its
    start and its demand are known. What may be shed is not marked: it makes way as it is.
    """
    declared = [
        scenario.kind in _SCENARIOS
        and service.movable
        and not service.single_run
        and service.start_ms is not None
        and row not in rows.vague.demand
        for row, service in enumerate(estate.services)
    ]
    touched = services.base_lost | services.top_lost | services.sheddable
    touched[list(unjudged)] = True
    return replace(services, movable=np.array(declared, np.bool_) & ~touched)
