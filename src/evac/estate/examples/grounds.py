"""Where the example company runs: sites, halls, rows, racks, feeds, classes, boot servers, and its servers
as columns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl

from evac.estate.examples.company import Machine
from evac.model.estate import BootServer, Feed, Hall, Rack, Rate, ServerClass, SharedFate, Site
from evac.model.fleet import (
    BMC_NO,
    BMC_YES,
    CONDEMNED,
    DARK,
    SERVING,
    SPARE,
    CodeColumn,
    Fleet,
    IndexColumn,
    IntColumn,
    NameColumn,
)
from evac.model.records import dataclass

FULL_SERVERS: Final = 90_000
SITE_SHARES: Final = (("anyang", 24_000), ("bundang", 14_000), ("gasan", 20_000), ("pangyo", 32_000))
"""Servers of 90,000. Pangyo's 32,000 and the number of sites, four, are published; the rest is assumed."""
SITE_IDS: Final = tuple(name for name, _ in SITE_SHARES)
WITNESS: Final = "sejong"
LOST_SITE: Final = "pangyo"

HALLS_PER_SITE: Final = 4
LARGEST_RACK: Final = 40
SMALLEST_RACK: Final = 8
RACKS_PER_ROW: Final = 20
SINGLE_FED_EVERY: Final = 20
"""One rack of each row has a single feed."""

BOOTS_PER_FEED: Final = 24
INRUSH_PER_FEED_WATTS: Final = 36_000
NETWORK_UP_MS: Final = 240_000
BMC_REQUESTS_PER_HALL: Final = 64


def _class(
    name: str,
    cores: int,
    gib: int,
    disk_gib: int,
    accelerators: int,
    watts: int,
    boot_minutes: int,
    odds_permille: int,
    inrush_watts: int,
) -> ServerClass:
    """A boot loads its image in the second minute, at 400 Mbit/s for 90 s."""
    return ServerClass(
        name,
        (cores * 1_000, gib * 1_024, disk_gib, accelerators),
        watts,
        boot_minutes * 60_000,
        odds_permille,
        inrush_watts,
        20_000,
        400,
        60_000,
        90_000,
        "dark",
    )


CLASSES: Final = (
    _class("general", 48, 256, 4_096, 0, 450, 5, 990, 800),
    _class("gpu", 64, 512, 8_192, 8, 1_000, 9, 980, 1_600),
    _class("memory", 48, 768, 4_096, 0, 550, 7, 990, 900),
    _class("storage", 24, 128, 98_304, 0, 420, 8, 985, 1_000),
    _class("web", 32, 128, 2_048, 0, 350, 4, 990, 600),
)
BY_THEMSELVES: Final = "memory"
"""A flaw: servers of this class switch on by themselves if they were on, more at once than a feed can
carry.
"""

CLASS_IDS: Final[tuple[Machine, ...]] = ("general", "gpu", "memory", "storage", "web")
CLASS_SHARES: Final = (320, 60, 120, 120, 380)
"""Racks of a thousand, in the order of CLASS_IDS."""


def classes(mended: bool) -> tuple[ServerClass, ...]:
    """Server classes. When fixed, all stay dark until they are booted."""
    if mended:
        return CLASSES
    return tuple(replace(c, power_on="last") if c.id == BY_THEMSELVES else c for c in CLASSES)


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The racks of all sites as columns, one row a rack in the order of rack ids.

    site, hall: indices into SITE_IDS and over all halls; row: over all rows; machine: index into
    CLASSES; spread: rank within the site so that neighbours stand in different halls and rows;
    size: servers in it.
    """

    racks: tuple[Rack, ...]
    halls: tuple[Hall, ...]
    feeds: tuple[Feed, ...]
    site: IndexColumn
    hall: IndexColumn
    row: IndexColumn
    machine: IndexColumn
    spread: IndexColumn
    size: IndexColumn


def site_sizes(servers: int) -> tuple[int, ...]:
    """Servers of each site of SITE_IDS; Pangyo's share is rounded first, Anyang takes the rest."""
    sizes = {name: round(servers * share / FULL_SERVERS) for name, share in SITE_SHARES}
    sizes["anyang"] += servers - sum(sizes.values())
    return tuple(sizes[name] for name in SITE_IDS)


def lay_out(servers: int) -> Ground:
    """Halls, rows and racks for this many servers. Deterministic; nothing is drawn."""
    rack_size = min(LARGEST_RACK, max(SMALLEST_RACK, servers // 240))
    hall_sizes = [
        size // HALLS_PER_SITE + (number < size % HALLS_PER_SITE)
        for size in site_sizes(servers)
        for number in range(HALLS_PER_SITE)
    ]
    counts = np.array([-(-size // rack_size) for size in hall_sizes], np.int64)
    hall = np.repeat(np.arange(len(counts)), counts)
    in_hall = np.arange(len(hall)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = -(-counts // RACKS_PER_ROW)
    first_row = np.cumsum(rows) - rows
    row = first_row[hall] + in_hall // RACKS_PER_ROW
    site = hall // HALLS_PER_SITE
    in_row = in_hall % RACKS_PER_ROW
    spread = _spread_rank(site, in_row, in_hall // RACKS_PER_ROW, hall)
    size = np.minimum(rack_size, np.array(hall_sizes)[hall] - in_hall * rack_size)
    ids = _hall_ids()
    digits = max(3, len(str(int(counts.max()))))
    return Ground(
        racks=tuple(
            _rack(ids[h], n, i, digits)
            for h, n, i in zip(hall.tolist(), in_hall.tolist(), in_row.tolist(), strict=True)
        ),
        halls=tuple(
            Hall(name, name.split("/")[0], None, None, BMC_REQUESTS_PER_HALL, NETWORK_UP_MS) for name in ids
        ),
        feeds=_feeds(ids, rows.tolist()),
        site=site.astype(np.int32),
        hall=hall.astype(np.int32),
        row=row.astype(np.int32),
        machine=_machine(spread),
        spread=spread,
        size=size.astype(np.int32),
    )


def _hall_ids() -> tuple[str, ...]:
    return tuple(f"{site}/hall-{n + 1}" for site in SITE_IDS for n in range(HALLS_PER_SITE))


def _spread_rank(site: IntColumn, in_row: IntColumn, row: IntColumn, hall: IntColumn) -> IndexColumn:
    order = np.lexsort((hall, row, in_row, site))
    sorted_site = site[order]
    start = np.searchsorted(sorted_site, sorted_site)
    rank = np.empty(len(site), np.int32)
    rank[order] = np.arange(len(site)) - start
    return rank


def _machine(spread: IndexColumn) -> IndexColumn:
    """Class of a rack by a golden-ratio sequence in integers: shares hold in every stretch of racks."""
    place = (spread.astype(np.int64) * 618_034 + 309_017) % 1_000_000
    edges = np.cumsum(CLASS_SHARES)[:-1] * 1_000
    return np.searchsorted(edges, place, side="right").astype(np.int32)


def _feed_id(hall: str, row: int, side: str) -> str:
    return f"{hall}/feed-{row + 1:02d}{side}"


def _feeds(halls: tuple[str, ...], rows: list[int]) -> tuple[Feed, ...]:
    found = (
        _feed(hall, n, side)
        for hall, count in zip(halls, rows, strict=True)
        for n in range(count)
        for side in "ab"
    )
    return tuple(sorted(found, key=lambda feed: feed.id))


def _feed(hall: str, row: int, side: str) -> Feed:
    return Feed(
        _feed_id(hall, row, side),
        hall.split("/", maxsplit=1)[0],
        inrush_budget_watts=INRUSH_PER_FEED_WATTS,
        boots_at_once=BOOTS_PER_FEED,
    )


def _rack(hall: str, number: int, in_row: int, digits: int) -> Rack:
    row = number // RACKS_PER_ROW
    sides = "ab" if in_row % SINGLE_FED_EVERY != 7 else "ab"[row % 2]
    return Rack(
        f"{hall}/r{number + 1:0{digits}d}",
        hall.split("/", maxsplit=1)[0],
        hall,
        tuple(_feed_id(hall, row, side) for side in sides),
    )


def groups(mended: bool) -> tuple[SharedFate, ...]:
    """Shared fates. In the flawed company, a utility line and a spine each serve two sites."""
    line = ("bundang/hall-1", "bundang/hall-2") if mended else ("bundang", "pangyo")
    spine = ("gasan/hall-3", "gasan/hall-4") if mended else ("anyang/hall-4", "gasan/hall-3", "gasan/hall-4")
    return (
        SharedFate("anyang-cooling-1", "cooling", ("anyang/hall-1", "anyang/hall-2")),
        SharedFate("bundang-utility", "utility", line),
        SharedFate("gasan-spine-b", "network", spine),
        SharedFate("pangyo-batteries", "battery", ("pangyo/hall-3", "pangyo/hall-4")),
        SharedFate("pangyo-cooling-1", "cooling", ("pangyo/hall-1", "pangyo/hall-2")),
    )


def boot_servers(servers: int) -> tuple[BootServer, ...]:
    """One per hall, in the order of halls; slots and image bandwidth grow with the company."""
    slots = max(8, 96 * servers // FULL_SERVERS)
    leases = Rate(max(10, 40 * servers // FULL_SERVERS), 10_000)
    mbps = max(8_000, 36_000 * servers // FULL_SERVERS)
    return tuple(
        BootServer(hall.replace("/hall-", "-boot-"), hall.split("/", maxsplit=1)[0], slots, mbps, leases)
        for hall in _hall_ids()
    )


DARK_PERMILLE: Final = 85
"""Servers per thousand kept dark as a reserve, in whole racks of every class and site."""
LEAST_RESERVE: Final = 4
"""Servers of the reserve of a class at a site, if it has six times as many."""
SPARE_EVERY: Final = 80
"""One in this many servers is empty."""

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
    """Columns of the fleet. In the flawed company, half the reserve is scrap and most servers are booted by
    hand.
    """
    count = len(machines.rack)
    state, bmc = machines.state.copy(), np.full(count, BMC_YES, np.uint8)
    if not mended:
        state[(state == DARK) & np.asarray(ground.spread[machines.rack] % 2 == 0)] = CONDEMNED
        lost = machines.site == SITE_IDS.index(LOST_SITE)
        bmc[np.asarray(lost | ((state == DARK) & (machines.slot % 5 < 3)))] = BMC_NO
    capacity = np.array([c.capacity for c in CLASSES], np.int64)
    watts = np.array([c.watts for c in CLASSES], np.int64)
    numbers = pl.Series(np.arange(1, count + 1)).cast(pl.String).str.zfill(7)
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
        serial=_as_names("KX" + numbers),
        position=_as_names(pl.Series(machines.slot + 1).cast(pl.String)),
    )


def _addresses(bmc: CodeColumn) -> NameColumn:
    """Addresses such as `10.0.17.5`, in sequence, for every server with a BMC."""
    row = pl.DataFrame({"n": np.arange(len(bmc), dtype=np.int64), "has": bmc == BMC_YES})
    octets = [pl.col("n") // 62_500, pl.col("n") // 250 % 250, pl.col("n") % 250 + 1]
    text = pl.concat_str([pl.lit("10"), *octets], separator=".")
    return _as_names(row.select(pl.when("has").then(text).otherwise(pl.lit(""))).to_series())


def _as_names(text: pl.Series) -> NameColumn:
    return np.array(text.cast(pl.Binary).to_list())


def _names(ground: Ground, machines: Machines) -> NameColumn:
    """`pan-h2-r017-s05`: written digit by digit, so that a million names need no Python loop."""
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
    """Power budgets: a tenth above all servers on; in the flawed company, only Pangyo has that much.

    Elsewhere the flawed company can power only a quarter of its reserve on top of the present load.
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
    """When fixed, cooling matches power; in the flawed company, Pangyo has a twentieth less and elsewhere it
    is unknown.
    """
    here = hall.site == LOST_SITE
    cooling = watts if mended else watts * 19 // 20 if here else None
    return replace(hall, power_budget_watts=watts, cooling_watts=cooling)


def _per_rack(fleet: Fleet, watts: IntColumn) -> IntColumn:
    return np.bincount(fleet.rack, watts).astype(np.int64)
