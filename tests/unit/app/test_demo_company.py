"""The simulated company answers everything that a leader asks real systems for."""

from __future__ import annotations

import asyncio

from evac.app.demo.room import Company
from evac.app.observed_traffic import observe_traffic
from evac.app.observing import observe_units
from evac.drivers.registry import Drivers
from evac.model.estate import Endpoint, Estate, Service, Site, Traffic


def test_what_runs_and_where_users_go_is_left_to_files_and_runs() -> None:
    """A leader of the demo ended with an internal error if the files name drivers that report replicas."""
    drivers = ("process", "kubernetes", "haproxy", "dns", "powerdns")
    estate = Estate(
        "demo",
        sites=(Site("east"),),
        services=tuple(Service(name, traffic=Traffic("dns")) for name in drivers),
        endpoints=tuple(Endpoint(name, name, "east", name, {}) for name in drivers),
    )

    async def story() -> None:
        hands = Drivers(Company(1, {}).hands())
        assert await observe_units(estate, hands, 0, 1) == ((), frozenset())
        assert await observe_traffic(estate, hands, 0) == ((), frozenset())

    asyncio.run(story())
