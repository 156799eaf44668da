"""How well a service is where its traffic was moved to, by the endpoints that it has there."""

from __future__ import annotations

from typing import Final

from evac.app.observing import action_of
from evac.drivers.capabilities import ReportsHealth
from evac.drivers.registry import Drivers, can
from evac.model.estate import Endpoint, Estate
from evac.run.pacing import SAMPLES_LEAST, Health

ASK_S: Final = 2.0


class ServiceHealth:
    """Asks the drivers of services, when it is asked."""

    def __init__(self, estate: Estate, drivers: Drivers) -> None:
        self._drivers = drivers
        self._ends: dict[tuple[str, str], Endpoint] = {}
        self.adopt(estate)

    def adopt(self, estate: Estate) -> None:
        """Endpoints of an estate, instead of those known before."""
        self._ends = {}
        for end in estate.endpoints:
            if can(end.driver, ReportsHealth):
                self._ends.setdefault((end.subject, end.at), end)

    async def __call__(self, service: str, site: str) -> Health | None:
        """What was seen since the last time; None where the service has no endpoint there."""
        end = self._ends.get((service, site))
        if end is None:
            return None
        driver = self._drivers.able(end.driver, ReportsHealth)
        report = await driver.report_health(action_of(end), ASK_S, SAMPLES_LEAST)
        return Health(report.requests, report.errors)
