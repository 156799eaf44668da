"""Limits as the checker reads them from the estate, and what one action of each kind holds.

Written from the reference of estate files, deliberately not from `derive`: a limit that one of the two
forgets, doubles or holds too briefly shows up as a violation.
"""

from __future__ import annotations

from collections.abc import Iterator

from evac.model.estate import BootServer, Estate, Rate, ServerClass
from evac.model.instance import WHOLE, Limit, Use
from evac.model.step_id import limit_id

BMC_REQUEST_MS = 1_000
"""Powering a server on keeps its management network busy for a second."""


class Limits:
    """Limits of an estate, numbered by id, in ticks; all times after the horizon are equal: never."""

    def __init__(self, estate: Estate, tick_ms: int) -> None:
        self.estate, self._tick_ms = estate, tick_ms
        self.horizon = estate.horizon_ms // tick_ms
        stated = {name: units for name, units in _stated(estate) if units is not None}
        self.rows = tuple(
            Limit(name, units.count, -(-units.window_ms // tick_ms))
            if isinstance(units, Rate)
            else Limit(name, units)
            for name, units in sorted(stated.items())
        )
        self.number = {limit.id: number for number, limit in enumerate(self.rows)}

    def ticks(self, duration_ms: int) -> int:
        """Whole ticks, rounded up; at most one beyond the horizon."""
        return min(-(-duration_ms // self._tick_ms), self.horizon + 1)

    def hold(self, name: str, units: int = 1, offset: int = 0, ticks: int = WHOLE) -> tuple[Use, ...]:
        """`units` of a limit for `ticks`, starting at `offset`; nothing if the estate has no such limit."""
        if name not in self.number or units == 0 or ticks == 0:
            return ()
        return (Use(self.number[name], units, min(offset, self.horizon + 1), min(ticks, self.horizon + 1)),)

    def count(self, name: str) -> tuple[Use, ...]:
        """One start of a rate limit: it counts for the whole window."""
        if name not in self.number:
            return ()
        return self.hold(name, ticks=self.rows[self.number[name]].window or 1)

    def shift(self, kind: str | None, change_ms: int) -> tuple[Use, ...]:
        """Traffic control is held while being changed, not while the change settles."""
        return () if kind is None else self.hold(limit_id("traffic", kind), ticks=self.ticks(change_ms))

    def boot(
        self, server: ServerClass, feeds: tuple[str, ...], source: BootServer | None, hall: str | None
    ) -> tuple[Use, ...]:
        """What one boot holds: a slot and the inrush on each feed; a slot, an image and an address of the
        boot server; a request on the hall's management network.
        """
        held: list[Use] = []
        for feed in feeds:
            held += self.hold(limit_id("boots", feed))
            held += self.hold(
                limit_id("inrush", feed), server.inrush_watts or 0, 0, self.ticks(server.inrush_ms)
            )
        if source is not None:
            begin, length = server.image_offset_ms // self._tick_ms, self.ticks(server.image_hold_ms)
            held += self.hold(limit_id("boots", source.id))
            held += self.hold(limit_id("image", source.id), server.image_mbps or 0, begin, length)
            held += self.count(limit_id("dhcp", source.id))
        if hall is not None:
            held += self.hold(limit_id("bmc", hall), ticks=self.ticks(BMC_REQUEST_MS))
        return tuple(held)


def usable(watts: int, estate: Estate) -> int:
    """The usable part of a budget: the margin stays free, rounded down."""
    return watts * (1_000 - estate.limits.power_margin_permille) // 1_000


def _stated(estate: Estate) -> Iterator[tuple[str, int | Rate | None]]:
    """Name and size of every limit that an estate may state; None if missing."""
    company = estate.limits
    yield "fences", company.fences_at_once
    yield "hands", company.hands_at_once
    yield "starts", company.starts
    for service in estate.services:
        if service.traffic.kind is not None:
            yield limit_id("traffic", service.traffic.kind), company.traffic_changes_at_once
    for site in estate.sites:
        for engine in {store.engine for store in estate.stores}:
            yield limit_id("promotions", engine, site.id), company.promotions_at_once
        for name in ("", *(server.id for server in estate.classes)):
            yield limit_id("sheds", site.id, name), company.sheds_at_once
    for pool in estate.pools:
        yield limit_id("sheds", pool.id), company.sheds_at_once
        yield limit_id("starts", pool.id), pool.starts
    for hall in estate.halls:
        yield limit_id("bmc", hall.id), hall.bmc_requests_at_once
    for feed in estate.feeds:
        yield limit_id("boots", feed.id), feed.boots_at_once
        inrush = feed.inrush_budget_watts
        yield limit_id("inrush", feed.id), None if inrush is None else usable(inrush, estate)
    for source in estate.boot_servers:
        yield limit_id("boots", source.id), source.boots_at_once
        yield limit_id("image", source.id), source.image_mbps
        yield limit_id("dhcp", source.id), source.boots
