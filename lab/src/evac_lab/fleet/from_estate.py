"""A fleet out of an existing estate: the servers of one site, at the addresses that the estate says.

Read in a process of its own, because reading an estate takes more memory than serving it.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Estate, ServerClass
from evac_lab.fleet.addresses import NOBODY, address_of, server_at
from evac_lab.fleet.ground import Domain, Ground, Kind, RackPlace

_WATTS: Final = 400
_BOOT_MS: Final = 300_000
"""Where the estate does not know."""
_NO_RACK: Final = "no-rack"
_NO_CLASS: Final = Kind("unknown", _WATTS, _BOOT_MS, 0, 0)


def read(folder: Path, site: str) -> Ground:
    """The site as a fleet. Raises `InvalidInput` where it cannot be one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(_read, folder, site).result()
    if isinstance(found, Ground):
        return found
    raise InvalidInput(*found)


def _read(folder: Path, site: str) -> Ground | tuple[str, str, str]:
    from evac.estate.loading import load

    try:
        return ground_of(load(folder), site)
    except EvacError as error:
        return error.code, error.message, error.hint


def ground_of(estate: Estate, site: str) -> Ground:
    """The servers of a site by their addresses; where none is known, by their names."""
    sites = [one.id for one in estate.sites]
    if site not in sites:
        raise InvalidInput("fleet-site", f"there is no site {site[:80]}", f"--site {' or '.join(sites[:9])}")
    fleet = estate.fleet
    rows = np.flatnonzero(fleet.site == sites.index(site))
    if not len(rows):
        raise InvalidInput("fleet-site", f"{site} has no servers", "name another site")
    rows = rows[_order(fleet.bmc_address[rows], site)]
    racks = _racks(estate, site)
    rack_ids = [rack.id for rack in racks]
    number = {id: row for row, id in enumerate(rack_ids)}
    rack = np.array(
        [number.get(_rack_id(estate, int(one)), len(racks) - 1) for one in fleet.rack[rows]], np.int32
    )
    kinds = (*(_kind(one) for one in estate.classes), _NO_CLASS)
    kind = np.where(fleet.server_class[rows] < 0, len(kinds) - 1, fleet.server_class[rows]).astype(np.int32)
    nominal = np.array([one.watts for one in kinds], np.int64)[kind]
    return Ground(
        site=site,
        name=fleet.name[rows],
        serial=fleet.serial[rows],
        position=fleet.position[rows],
        rack=rack,
        kind=kind,
        boot_server=fleet.boot_server[rows].astype(np.int32),
        watts=np.where(fleet.watts_known[rows], fleet.watts[rows], nominal),
        racks=racks,
        kinds=kinds,
        boot_servers=tuple(one.id for one in estate.boot_servers),
        domains=_domains(estate, site, racks),
    )


def _order(addresses: np.ndarray, site: str) -> np.ndarray:
    """Positions of the servers by their number. Raises `InvalidInput` where an address cannot be served."""
    count = len(addresses)
    if not addresses.astype(bool).any():
        return np.arange(count)
    found = np.array([_number(bytes(one).decode(), count) for one in addresses])
    if (found == NOBODY).any() or len(set(found.tolist())) < count:
        wrong = bytes(
            addresses[int(np.flatnonzero(found == NOBODY)[0]) if (found == NOBODY).any() else 0]
        ).decode()
        raise InvalidInput(
            "fleet-addresses",
            f"the BMC addresses of {site} cannot be served: {wrong or 'one is missing'}",
            f"give its servers {address_of(0)} to {address_of(count - 1)}, or no addresses",
        )
    return np.argsort(found)


def _number(address: str, count: int) -> int:
    host = address.partition(":")[0]
    parts = host.split(".")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        return NOBODY
    number = server_at(host, count)
    return number if number >= 0 else NOBODY


def _rack_id(estate: Estate, row: int) -> str:
    return estate.racks[row].id if row >= 0 else ""


def _racks(estate: Estate, site: str) -> tuple[RackPlace, ...]:
    """The racks of the site, and one that stands for servers without a rack."""
    found = [RackPlace(one.id, one.hall or "", one.feeds) for one in estate.racks if one.site == site]
    return (*found, RackPlace(f"{site}/{_NO_RACK}"))


def _kind(one: ServerClass) -> Kind:
    return Kind(
        one.id,
        one.watts or _WATTS,
        one.boot_ms or _BOOT_MS,
        one.inrush_watts or 0,
        one.inrush_ms,
        one.image_offset_ms,
        one.power_on or "dark",
    )


def _domains(estate: Estate, site: str, racks: tuple[RackPlace, ...]) -> tuple[Domain, ...]:
    found = [Domain(one.id, "site", one.power_budget_watts) for one in estate.sites if one.id == site]
    found += [Domain(one.id, "hall", one.power_budget_watts) for one in estate.halls if one.site == site]
    found += [
        Domain(one.id, "feed", one.power_budget_watts, one.inrush_budget_watts)
        for one in estate.feeds
        if one.site == site
    ]
    budgets = {one.id: one.power_budget_watts for one in estate.racks}
    found += [Domain(rack.id, "rack", budgets.get(rack.id)) for rack in racks]
    known = {one.id for one in found}
    found += [Domain(id, "hall") for id in sorted({rack.hall for rack in racks} - known) if id]
    found += [Domain(id, "feed") for id in sorted({feed for rack in racks for feed in rack.feeds} - known)]
    return tuple(found)
