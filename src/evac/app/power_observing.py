"""Asks the management controllers of an estate's servers whether they are on: a dated fact for each.

Composition: it reads the estate, chooses the driver of each site, and hands the answers on as values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from evac.drivers.capabilities import BootsServers, PowerReport
from evac.drivers.port import Action
from evac.drivers.power_sweep import sweep
from evac.drivers.registry import Drivers
from evac.engine.boots.binding import boot_endpoint
from evac.model.estate import Endpoint, Estate
from evac.model.fleet import BMC_NO

SWEEP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class SitePower:
    """One site. asked: servers with a controller that can be reached; seen: what those said, in the order of
    the estate; beside: servers of which nobody can ask.
    """

    site: str
    asked: int
    beside: int
    seen: tuple[PowerReport, ...]

    def counts(self) -> dict[str, int]:
        """Power, or why it is not known -> servers, the most first."""
        found: dict[str, int] = {}
        for one in self.seen:
            key = one.power or one.why
            found[key] = found.get(key, 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True, slots=True)
class PowerFacts:
    """at_ms: wall clock at the begin of the look."""

    at_ms: int
    sites: tuple[SitePower, ...]

    @property
    def asked(self) -> int:
        """Servers of all sites whose controller can be reached, as far as the estate knows."""
        return sum(site.asked for site in self.sites)

    def unknown(self) -> dict[str, int]:
        """Why the power of a server that can be asked is not known -> how many, the most first."""
        found: dict[str, int] = {}
        for site in self.sites:
            for one in site.seen:
                if not one.power:
                    found[one.why] = found.get(one.why, 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


async def observe_power(
    estate: Estate, drivers: Drivers, now_ms: int, within_s: float = SWEEP_S
) -> PowerFacts:
    """Of all sites that have an endpoint of their servers. Changes nothing."""
    actions = {site.id: _actions(estate, number) for number, site in enumerate(estate.sites)}
    asked: list[tuple[BootsServers, Action]] = []
    for found in actions.values():
        for action in found:
            asked.append((drivers.able(action.driver, BootsServers), action))
    seen = iter(await sweep(asked, within_s))
    sites = []
    for number, site in enumerate(estate.sites):
        count = len(actions[site.id])
        beside = int((estate.fleet.site == number).sum()) - count
        sites.append(SitePower(site.id, count, beside, tuple(next(seen) for _ in range(count))))
    return PowerFacts(now_ms, tuple(sites))


def _actions(estate: Estate, number: int) -> list[Action]:
    """A question to each server of a site whose controller has a known address."""
    endpoint = _endpoint(estate, estate.sites[number].id)
    if endpoint is None:
        return []
    fleet = estate.fleet
    found = []
    for row in np.flatnonzero((fleet.site == number) & (fleet.bmc != BMC_NO)).tolist():
        address, serial, _ = fleet.bmc_of(row)
        if not address:
            continue
        name, rack = bytes(fleet.name[row]).decode(), int(fleet.rack[row])
        network = (estate.racks[rack].hall or "") if rack >= 0 else ""
        told = {"server": name, "address": address, "serial": serial, "network": network}
        found.append(Action("boot", name, endpoint.driver, endpoint.at, endpoint.settings, told))
    return found


def _endpoint(estate: Estate, site: str) -> Endpoint | None:
    return boot_endpoint(e for e in estate.endpoints if e.subject == site and e.at == site)
