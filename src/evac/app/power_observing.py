"""Asks the management controllers of an estate's servers whether they are on: a dated fact for each.

Composition: it reads the estate, chooses the driver of each site, and hands the answers on as values.

Reads back what `evac observe --power --output json` wrote: which servers were on, and when that was.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from evac.drivers.capabilities import BootsServers, PowerReport
from evac.drivers.credentials import sweep
from evac.drivers.port import Action
from evac.drivers.registry import Drivers
from evac.engine.boots.binding import boot_endpoint
from evac.model.errors import InvalidInput
from evac.model.estate import Endpoint, Estate
from evac.model.fleet import BMC_NO

OLDEST_MS: Final = 3_600_000
"""Power facts that are older say nothing about now: who has gone off since would never be booted."""
_LARGEST_BYTES: Final = 64 << 20
_ON: Final = frozenset({"on", "rising"})
_HINT: Final = "make it anew: evac observe ESTATE --power --output json"


def servers_on(path: Path, now_ms: int) -> tuple[str, ...]:
    """Names of the servers that were seen on or on their way there, sorted. Raises InvalidInput."""
    power = _read(path).get("power")
    if not isinstance(power, dict):
        raise InvalidInput("power-facts", f"{path} says nothing of the power of servers", _HINT)
    age_ms = now_ms - _moment_ms(path, power.get("observed_at"))
    if not -OLDEST_MS <= age_ms <= OLDEST_MS:
        raise InvalidInput("power-facts-old", f"what {path} says was not seen within the last hour", _HINT)
    try:
        rows = [row for site in power["sites"] for row in site["servers"]]
        found = {row["server"] for row in rows if row["power"] in _ON}
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            "power-facts", f"{path} does not say server by server what is on", _HINT
        ) from error
    if not all(isinstance(name, str) for name in found):
        raise InvalidInput("power-facts", f"{path} names servers by something that is no name", _HINT)
    return tuple(sorted(found))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InvalidInput("power-facts", f"{path} is larger than {_LARGEST_BYTES >> 20} MiB", _HINT)
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput("power-facts", f"{path} cannot be read: {error.strerror}", _HINT) from error
    except orjson.JSONDecodeError as error:
        raise InvalidInput("power-facts", f"{path} is no JSON: {error}", _HINT) from error
    if not isinstance(found, dict):
        raise InvalidInput("power-facts", f"{path} is not what `evac observe` writes", _HINT)
    return found


def _moment_ms(path: Path, stated: object) -> int:
    try:
        moment = datetime.fromisoformat(str(stated))
    except ValueError as error:
        raise InvalidInput("power-facts", f"{path} does not say when it was seen", _HINT) from error
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)


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
