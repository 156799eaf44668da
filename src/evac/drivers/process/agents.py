"""How the agent of a site is found in an estate: by an endpoint that names it and its key."""

from __future__ import annotations

from evac.drivers.process import DRIVER
from evac.model.estate import Endpoint, Estate


def agent_endpoints(estate: Estate) -> dict[str, Endpoint]:
    """Site -> the first endpoint that names its agent."""
    found: dict[str, Endpoint] = {}
    for end in estate.endpoints:
        if end.driver == DRIVER.name and "agent" in end.settings:
            found.setdefault(end.at, end)
    return found


def agent_of(estate: Estate, site: str) -> Endpoint | None:
    """The endpoint that names the agent of a site; None if there is none."""
    return agent_endpoints(estate).get(site)
