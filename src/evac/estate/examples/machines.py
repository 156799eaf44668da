"""The servers of the example company as columns: classes, states, names, power budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from evac.estate.examples.grounds import CLASSES, HALLS_PER_SITE, LOST_SITE, SITE_IDS, Ground
from evac.model.estate import Feed, Hall, Rack, Site
from evac.model.fleet import (
    BMC_NO,
    BMC_YES,
    CONDEMNED,
    DARK,
    SERVING,
    SPARE,
    BoolColumn,
    CodeColumn,
    Fleet,
    IndexColumn,
    IntColumn,
    NameColumn,
)

DARK_PERMILLE: Final = 85
"""Servers of a thousand that are kept dark as a reserve, whole racks of every class and site."""
LEAST_RESERVE: Final = 4
"""Servers of the reserve of a class at a site, if it has six times as many."""
SPARE_EVERY: Final = 80
"""One server in so many runs empty."""

_ZERO: Final = ord("0")


@dataclass(frozen=True, slots=True, eq=False)
class Machines:
    """Servers in the order of their names: rack, slot within the rack, class, state."""

    rack: IndexColumn
    slot: IndexColumn
    site: IndexColumn
    machine: IndexColumn
    state: CodeColumn

    def members(self, site: int, machine: int, state: int) -> IndexColumn:
        return np.flatnonzero((self.site == site) & (self.machine == machine) & (self.state == state)).astype(
            np.int32
        )


@dataclass(frozen=True, slots=True)
class Grounded:
    """Fault domains with their power budgets."""

    sites: tuple[Site, ...]
    halls: tuple[Hall, ...]
    feeds: tuple[Feed, ...]
    racks: tuple[Rack, ...]


def stand_up(ground: Ground) -> Machines:
    """Servers with the states of the mended company: serving, spare (on, empty) and dark reserve."""
    rack = np.repeat(np.arange(len(ground.racks), dtype=np.int32), ground.size)
    slot = (np.arange(len(rack)) - np.repeat(np.cumsum(ground.size) - ground.size, ground.size)).astype(
        np.int32
    )
    site, machine = ground.site[rack], ground.machine[rack]
    state = np.full(len(rack), SERVING, np.uint8)
    for group in np.unique(site * len(CLASSES) + machine):
        rows = np.flatnonzero(site * len(CLASSES) + machine == group)
        rows = rows[np.lexsort((slot[rows], ground.spread[rack[rows]]))]
        reserve = max(len(rows) * DARK_PERMILLE // 1_000, min(LEAST_RESERVE, len(rows) // 6))
        lit = rows[: len(rows) - reserve]
        state[rows[len(rows) - reserve :]] = DARK
        state[lit[SPARE_EVERY // 2 :: SPARE_EVERY]] = SPARE
    return Machines(rack, slot, site, machine, state)


def spread_order(ground: Ground, machines: Machines, rows: IndexColumn) -> IndexColumn:
    """The same servers so that neighbours stand in different halls, rows and racks."""
    return rows[np.lexsort((ground.spread[machines.rack[rows]], machines.slot[rows]))]


def fleet_of(ground: Ground, machines: Machines, mended: bool) -> Fleet:
    """Columns of the fleet. Unmended, half the reserve is scrap and hands must boot most servers."""
    count = len(machines.rack)
    state, bmc = machines.state.copy(), np.full(count, BMC_YES, np.uint8)
    if not mended:
        state[(state == DARK) & _old_racks(ground, machines)] = CONDEMNED
        bmc[_by_hand(machines, state)] = BMC_NO
    capacity = np.array([c.capacity for c in CLASSES], np.int64)
    watts = np.array([c.watts for c in CLASSES], np.int64)
    return Fleet(
        name=_names(ground, machines),
        site=machines.site,
        rack=machines.rack,
        server_class=machines.machine,
        pool=np.full(count, -1, np.int32),
        boot_server=ground.hall[machines.rack],
        state=state,
        capacity=capacity[machines.machine],
        capacity_known=np.ones((count, capacity.shape[1]), np.bool_),
        watts=watts[machines.machine],
        watts_known=np.ones(count, np.bool_),
        bmc=bmc,
        bmc_address=_addresses(bmc),
        serial=_serials(count),
        position=_positions(machines.slot),
    )


def _addresses(bmc: CodeColumn) -> NameColumn:
    """`10.0.17.5`, one after the other, for every server that has a BMC."""
    row = pl.DataFrame({"n": np.arange(len(bmc), dtype=np.int64), "has": bmc == BMC_YES})
    octets = [pl.col("n") // 62_500, pl.col("n") // 250 % 250, pl.col("n") % 250 + 1]
    text = pl.concat_str([pl.lit("10"), *octets], separator=".")
    return _as_names(row.select(pl.when("has").then(text).otherwise(pl.lit(""))).to_series())


def _serials(count: int) -> NameColumn:
    numbers = pl.Series(np.arange(1, count + 1)).cast(pl.String).str.zfill(7)
    return _as_names("KX" + numbers)


def _positions(slot: IndexColumn) -> NameColumn:
    return _as_names(pl.Series(slot + 1).cast(pl.String))


def _as_names(text: pl.Series) -> NameColumn:
    return np.array(text.cast(pl.Binary).to_list())


def _old_racks(ground: Ground, machines: Machines) -> BoolColumn:
    return np.asarray(ground.spread[machines.rack] % 2 == 0)


def _by_hand(machines: Machines, state: CodeColumn) -> BoolColumn:
    lost = machines.site == SITE_IDS.index(LOST_SITE)
    return np.asarray(lost | ((state == DARK) & (machines.slot % 5 < 3)))


def _names(ground: Ground, machines: Machines) -> NameColumn:
    """`pan-h2-r017-s05`: written digit by digit, so that a million names take no loop over servers."""
    digits = len(ground.racks[0].id.rsplit("/r", 1)[1])
    text = np.full((len(machines.rack), 3 + 3 + 2 + digits + 4), ord("-"), np.uint8)
    codes = np.array([list(site[:3].encode()) for site in SITE_IDS], np.uint8)
    text[:, :3] = codes[machines.site]
    text[:, 4], text[:, 7], text[:, 9 + digits] = ord("h"), ord("r"), ord("s")
    _write_digits(text[:, 5:6], ground.hall[machines.rack] % HALLS_PER_SITE + 1)
    first = np.searchsorted(ground.hall, ground.hall)
    _write_digits(text[:, 8 : 8 + digits], (np.arange(len(ground.hall)) - first + 1)[machines.rack])
    _write_digits(text[:, 10 + digits : 12 + digits], machines.slot + 1)
    return np.ascontiguousarray(text).view(f"S{text.shape[1]}").ravel()


def _write_digits(columns: CodeColumn, numbers: IntColumn | IndexColumn) -> None:
    for column in range(columns.shape[1] - 1, -1, -1):
        columns[:, column] = _ZERO + numbers % 10
        numbers = numbers // 10


def with_budgets(ground: Ground, fleet: Fleet, sites: tuple[Site, ...], mended: bool) -> Grounded:
    """Power budgets: a tenth above all servers on; unmended, only Pangyo has that much.

    Elsewhere the unmended company can feed a quarter of its reserve beside what is on.
    """
    everything = _per_rack(fleet, fleet.watts)
    reserve = _per_rack(fleet, np.where(fleet.state == DARK, fleet.watts, 0))
    lost = ground.site == SITE_IDS.index(LOST_SITE)
    roomy = everything * 11 // 10
    budget = roomy if mended else np.where(lost, roomy, everything - reserve * 3 // 4)
    per_hall = np.bincount(ground.hall, budget, len(ground.halls)).astype(np.int64).tolist()
    per_site = np.bincount(ground.site, budget, len(SITE_IDS)).astype(np.int64).tolist()
    watts_of_site = dict(zip(SITE_IDS, per_site, strict=True))
    watts_of_feed: dict[str, int] = {}
    for rack, watts in zip(ground.racks, roomy.tolist(), strict=True):
        for feed in rack.feeds:
            watts_of_feed[feed] = watts_of_feed.get(feed, 0) + watts
    return Grounded(
        tuple(replace(s, power_budget_watts=watts_of_site.get(s.id, s.power_budget_watts)) for s in sites),
        tuple(_cooled(h, w, mended) for h, w in zip(ground.halls, per_hall, strict=True)),
        tuple(replace(f, power_budget_watts=watts_of_feed[f.id]) for f in ground.feeds),
        tuple(replace(r, power_budget_watts=w) for r, w in zip(ground.racks, roomy.tolist(), strict=True)),
    )


def _cooled(hall: Hall, watts: int, mended: bool) -> Hall:
    """Mended, cooling carries what power feeds; unmended, at Pangyo a twentieth less, elsewhere unknown."""
    here = hall.site == LOST_SITE
    cooling = watts if mended else watts * 19 // 20 if here else None
    return replace(hall, power_budget_watts=watts, cooling_watts=cooling)


def _per_rack(fleet: Fleet, watts: IntColumn) -> IntColumn:
    return np.bincount(fleet.rack, watts).astype(np.int64)
