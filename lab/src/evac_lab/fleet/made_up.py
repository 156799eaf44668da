"""A site out of nothing: any number of servers in racks, rows, halls, with feeds that carry them.

Every row of racks hangs on two feeds, and each of them carries the whole row. The budgets leave a tenth to
spare of steady power, and inrush for an eighth of a row at one time, so that a wave must take care.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from evac_lab.fleet.ground import Domain, DomainKind, Ground, Kind, Policy, RackPlace

PER_RACK: Final = 20
RACKS_PER_ROW: Final = 20
ROWS_PER_HALL: Final = 20
SERVERS_PER_BOOT_SERVER: Final = 2_000
_SPARE: Final = 1.1
_INRUSH_SHARE: Final = 8
_UNITS_PER_SERVER: Final = 2


def kinds(policy: Policy) -> tuple[Kind, ...]:
    """Three classes; each rack holds one."""
    return (
        Kind("general", 450, 300_000, 800, 20_000, 60_000, policy),
        Kind("storage", 600, 480_000, 1_200, 30_000, 90_000, policy, 24_000, 128, 96_000),
        Kind("web", 300, 240_000, 550, 20_000, 60_000, policy, 32_000, 128, 1_024),
    )


_KIND_BY_RACK: Final = (0, 0, 0, 2, 0, 1, 0, 2, 0, 0)
"""Of ten racks seven are general, one is storage, two are web."""


def make(servers: int, site: str = "pangyo", policy: Policy = "dark") -> Ground:
    """A site of so many servers. The same number gives the same site."""
    number = np.arange(servers, dtype=np.int32)
    rack = (number // PER_RACK).astype(np.int32)
    rack_count = -(-servers // PER_RACK)
    classes = kinds(policy)
    kind = np.array(_KIND_BY_RACK, np.int32)[rack % len(_KIND_BY_RACK)]
    places = tuple(_place(site, row) for row in range(rack_count))
    watts = np.array([one.watts for one in classes], np.int64)[kind]
    boots = -(-servers // SERVERS_PER_BOOT_SERVER)
    return Ground(
        site=site,
        name=_names(places, servers, site),
        serial=np.array([f"SN{row:07d}" for row in range(servers)], "S9"),
        position=np.array([str(1 + _UNITS_PER_SERVER * (row % PER_RACK)) for row in range(servers)], "S3"),
        rack=rack,
        kind=kind,
        boot_server=(number // SERVERS_PER_BOOT_SERVER).astype(np.int32),
        watts=watts,
        racks=places,
        kinds=classes,
        boot_servers=tuple(f"{site}-boot-{row + 1}" for row in range(boots)),
        domains=tuple(_domains(site, places, kind, rack, classes)),
    )


def _place(site: str, rack: int) -> RackPlace:
    row, hall = rack // RACKS_PER_ROW, rack // (RACKS_PER_ROW * ROWS_PER_HALL)
    hall_id = f"{site}/hall-{hall + 1}"
    feeds = tuple(f"{hall_id}/feed-{row % ROWS_PER_HALL + 1:02d}{side}" for side in "ab")
    return RackPlace(f"{hall_id}/r{rack % (RACKS_PER_ROW * ROWS_PER_HALL) + 1:03d}", hall_id, feeds)


def _names(
    places: tuple[RackPlace, ...], servers: int, site: str
) -> np.ndarray[tuple[int], np.dtype[np.bytes_]]:
    short = [f"{site[:3]}-h{place.hall.rpartition('-')[2]}-{place.id.rpartition('/')[2]}" for place in places]
    return np.array([f"{short[row // PER_RACK]}-s{row % PER_RACK + 1:02d}" for row in range(servers)], "S24")


def _domains(
    site: str, places: tuple[RackPlace, ...], kind: np.ndarray, rack: np.ndarray, classes: tuple[Kind, ...]
) -> list[Domain]:
    """Site, halls, feeds and racks with budgets that carry what hangs on them, and a little more."""
    watts = np.bincount(rack, np.array([one.watts for one in classes])[kind], len(places)).astype(int)
    inrush = np.bincount(rack, np.array([one.inrush_watts for one in classes])[kind], len(places)).astype(int)
    load: dict[tuple[DomainKind, str], list[int]] = {}
    for row, place in enumerate(places):
        feeds: list[tuple[DomainKind, str]] = [("feed", feed) for feed in place.feeds]
        above: list[tuple[DomainKind, str]] = [
            ("site", site),
            ("hall", place.hall),
            ("rack", place.id),
            *feeds,
        ]
        for of in above:
            sums = load.setdefault(of, [0, 0])
            sums[0] += int(watts[row])
            sums[1] += int(inrush[row])
    least = 2 * max(one.inrush_watts for one in classes)
    return [
        Domain(
            id,
            of,
            _round(steady * _SPARE),
            _round(max(rush / _INRUSH_SHARE, least)) if of == "feed" else None,
        )
        for (of, id), (steady, rush) in sorted(load.items())
    ]


def _round(watts: float) -> int:
    """Up to whole hundreds."""
    return -(-int(watts) // 100) * 100
