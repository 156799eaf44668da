"""How many replicas of each service its drivers are set to run, as seen in quiet times.

A number counts once it was seen twice, because it may change with the load.
"""

from __future__ import annotations

from evac.app.observing import observe_units, units_endpoints
from evac.app.quiet_looks import Behind, Now, QuietLooks, still_run
from evac.drivers.registry import Drivers
from evac.engine.clock import Clock
from evac.model.estate import Estate
from evac.model.observation import Observation, UnitsSeen
from evac.model.situation import Effects
from evac.store.port import Lease, Store


class SeenReplicas:
    """What the leader saw last."""

    def __init__(self, store: Store, drivers: Drivers, clock: Clock, behind: Behind) -> None:
        self._drivers, self._clock = drivers, clock
        self._looks = QuietLooks[UnitsSeen](
            store, clock, behind, lambda one: ((one.service, one.site), one.replicas)
        )

    async def look(self, files: Estate, now: Now, guard: Lease) -> float:
        """Asks every driver once. Returns the seconds until the next look. Raises Unavailable."""
        return await self._looks.look(
            len(units_endpoints(files)),
            lambda: observe_units(files, self._drivers, self._clock.now_ms(), guard.token),
            now,
        )

    def known(self, files: Estate, before: Observation, effects: Effects | None) -> tuple[UnitsSeen, ...]:
        """What counts after these runs, sorted. before: the last observation.

        A service that is set to run nowhere is left out: it is down now, and what a loss has to bring back is
        where it belongs.
        """
        kept = self._looks.kept(still_run(before, effects), effects)
        asked = {(end.subject, end.at) for end in units_endpoints(files)}
        running = {service for (service, _), one in kept.items() if one.replicas}
        return tuple(kept[key] for key in sorted(kept.keys() & asked) if key[0] in running)
