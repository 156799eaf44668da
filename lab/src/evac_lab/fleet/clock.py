"""Fleet time: milliseconds since the fleet began, faster than the wall's where a speed is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class FleetClock:
    """A speed of 60 makes a minute of the fleet of each second."""

    def __init__(self, speed: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.speed = speed
        self._monotonic = monotonic
        self._began = monotonic()
        self._began_wall = datetime.now(UTC).timestamp()

    def now(self) -> int:
        return int((self._monotonic() - self._began) * self.speed * 1_000)

    def seconds_until(self, at_ms: int) -> float:
        """Of the wall's time."""
        return max(0.0, at_ms / 1_000 / self.speed - (self._monotonic() - self._began))

    def wall_seconds(self, ms: int) -> float:
        """How long a duration of the fleet takes on the wall."""
        return ms / 1_000 / self.speed

    def words(self, at_ms: int) -> str:
        """A moment as Redfish writes it, as if the fleet's time had been the world's."""
        moment = datetime.fromtimestamp(self._began_wall + at_ms / 1_000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
