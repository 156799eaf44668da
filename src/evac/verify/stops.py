"""Clean stops of an evacuation: rule F25."""

from __future__ import annotations

import numpy as np

from evac.verify.milestones import Milestones
from evac.verify.reading import Reading


def latest_stop(reading: Reading, service: int) -> int:
    """The tick at which a service that has not moved is stopped: just before its site goes dark."""
    return max(0, reading.instance.grace - int(reading.instance.services.shed[service]))


def check_stops(reading: Reading, times: Milestones) -> None:
    """F25: what an evacuation leaves is stopped once, and not before its replacement serves or its site goes
    dark; nothing else is stopped.
    """
    s = reading.instance.services
    stands = s.surviving < s.n if reading.plan.scenario.kind == "evacuate" else np.zeros(len(s), np.bool_)
    stopped: set[int] = set()
    for timed in reading.of_kind("stop"):
        service, name = timed.service, timed.step.id
        if not stands[service]:
            reading.complain("F25", name, "stops what no evacuation leaves")
            continue
        if service in stopped:
            reading.complain("F25", name, f"a second stop of {timed.step.target}")
        stopped.add(service)
        if timed.end - timed.start != s.shed[service]:
            took = timed.end - timed.start
            reading.complain("F25", name, f"takes {took} ticks, must take {int(s.shed[service])}")
        if timed.start < min(int(times.base_at[service]), latest_stop(reading, service)):
            reading.complain("F25", name, "stops what still serves, before its replacement does")
    for service in np.flatnonzero(stands).tolist():
        if service not in stopped:
            reading.complain("F25", s.id[service], "stands in a site that is left, and nothing stops it")
