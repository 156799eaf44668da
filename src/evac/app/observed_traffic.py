"""Where name servers and proxies are set to send the users of each service, as seen in quiet times.

An answer counts only where it is clear: whatever routes the users of a service is of one kind, name servers
or proxies, all of it can be asked, and all that answer agree. Otherwise the last run or the files say it. The
answer must have been the same for a while, because a deployment may take a site out for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from evac.app.observing import AT_ONCE, LOOK_S, action_of
from evac.app.quiet_looks import Behind, Now, QuietLooks, still_sent
from evac.drivers.capabilities import ReportsTraffic, RoutesTraffic
from evac.drivers.registry import DRIVERS, Drivers, offers
from evac.engine.clock import Clock
from evac.model.errors import ActionError, Permanent
from evac.model.estate import Endpoint, Estate
from evac.model.observation import Observation, TrafficSeen
from evac.model.situation import Effects
from evac.store.port import Store

LASTS_S: Final = 60.0
_MOVED_BY_STEPS: Final = frozenset({None, "dns", "load_balancer"})
_Answer = tuple[str, ...] | None
_SILENT: Final[_Answer] = ()


def traffic_endpoints(estate: Estate) -> Mapping[str, tuple[Endpoint, ...]]:
    """Service -> what routes its users, sorted by id, where all of it is of one layer and can be asked."""
    kinds = {service.id: service.traffic.kind for service in estate.services}
    found: dict[str, list[Endpoint]] = {}
    for end in sorted(estate.endpoints, key=lambda one: one.id):
        if kinds.get(end.subject, "none") in _MOVED_BY_STEPS and offers(
            end.driver, end.settings, RoutesTraffic
        ):
            found.setdefault(end.subject, []).append(end)
    return {service: tuple(ends) for service, ends in sorted(found.items()) if _is_clear(ends)}


def _is_clear(ends: list[Endpoint]) -> bool:
    layers = {DRIVERS[end.driver].answers_are_cached for end in ends}
    return len(layers) == 1 and all(offers(end.driver, end.settings, ReportsTraffic) for end in ends)


async def observe_traffic(
    estate: Estate, drivers: Drivers, now_ms: int, timeout_s: float = LOOK_S
) -> tuple[tuple[TrafficSeen, ...], frozenset[tuple[str, str]]]:
    """Where each service's users are sent, all queried concurrently; and (service, "") of each service
    none of whose endpoints answers. Services where this is not clear, or that may not be asked, are left out.
    """
    gate, ends = asyncio.Semaphore(AT_ONCE), traffic_endpoints(estate)

    async def look(end: Endpoint) -> _Answer:
        async with gate:
            try:
                driver = drivers.able(end.driver, ReportsTraffic)
                async with asyncio.timeout(timeout_s):
                    return await driver.report_traffic(action_of(end), timeout_s)
            except Permanent:
                return None
            except (ActionError, TimeoutError, OSError):
                return _SILENT

    asked = [end for some in ends.values() for end in some]
    answers = dict(zip((end.id for end in asked), await asyncio.gather(*map(look, asked)), strict=True))
    seen, silent = list[TrafficSeen](), set[tuple[str, str]]()
    for service, some in ends.items():
        heard = {answers[end.id] for end in some} - {_SILENT}
        by = ", ".join(sorted({end.driver for end in some}))
        if not heard:
            silent.add((service, ""))
        elif len(heard) == 1 and (sites := heard.pop()) is not None:
            seen.append(TrafficSeen(service, sites, by, now_ms))
    return tuple(seen), frozenset(silent)


class SeenTraffic:
    """What the leader saw last."""

    def __init__(self, store: Store, drivers: Drivers, clock: Clock, behind: Behind) -> None:
        self._drivers, self._clock = drivers, clock
        self._looks = QuietLooks[TrafficSeen](
            store, clock, behind, lambda one: ((one.service, ""), one.sites), LASTS_S
        )

    async def look(self, files: Estate, now: Now) -> float:
        """Asks every driver once. Returns the seconds until the next look. Raises Unavailable."""
        return await self._looks.look(
            sum(map(len, traffic_endpoints(files).values())),
            lambda: observe_traffic(files, self._drivers, self._clock.now_ms()),
            now,
        )

    def known(self, files: Estate, before: Observation, effects: Effects | None) -> tuple[TrafficSeen, ...]:
        """What counts after these runs, sorted. before: the last observation."""
        kept = self._looks.kept(still_sent(before, effects), effects)
        asked = {(service, "") for service in traffic_endpoints(files)}
        return tuple(kept[key] for key in sorted(kept.keys() & asked))
