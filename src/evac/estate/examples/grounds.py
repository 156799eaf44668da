"""Where the example company stands: sites, halls, rows, racks, feeds, classes, boot servers.

Only counts and budgets; the servers themselves are columns of `machines`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from evac.estate.examples.company import Machine
from evac.model.estate import BootServer, Feed, Hall, Rack, Rate, ServerClass, SharedFate
from evac.model.fleet import IndexColumn, IntColumn

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
"""One rack of a row hangs on one feed only."""

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
"""A flaw: servers of this class come on by themselves if they were on, more at once than a feed stands."""

CLASS_IDS: Final[tuple[Machine, ...]] = ("general", "gpu", "memory", "storage", "web")
CLASS_SHARES: Final = (320, 60, 120, 120, 380)
"""Racks of a thousand, in the order of CLASS_IDS."""


def classes(mended: bool) -> tuple[ServerClass, ...]:
    """Kinds of servers; mended, all stay dark until they are told to boot."""
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
    """Servers of each site of SITE_IDS; Pangyo's share is rounded first, Anyang takes what is left."""
    sizes = {name: round(servers * share / FULL_SERVERS) for name, share in SITE_SHARES}
    sizes["anyang"] += servers - sum(sizes.values())
    return tuple(sizes[name] for name in SITE_IDS)


def lay_out(servers: int) -> Ground:
    """Halls, rows and racks for so many servers. Deterministic, nothing is drawn."""
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
    """Shared fates. The flawed company has a utility line under two sites and a spine over two sites."""
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
