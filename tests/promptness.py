"""How long something takes, without what a busy machine takes from all of us."""

from __future__ import annotations

import time
from pathlib import Path


class Stopwatch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._began, self._stalled = time.monotonic(), _stalled_s()

    @property
    def took_s(self) -> float:
        """By the clock."""
        return time.monotonic() - self._began

    @property
    def counted_s(self) -> float:
        """As `took_s`, without the time in which any process had to wait for a core or for the disk. What has
        to be quick is measured so: it fails when the program waits, and not when the machine is busy.
        """
        return max(0.0, self.took_s - (_stalled_s() - self._stalled))


def _stalled_s() -> float:
    """For how long, since the machine started, some process waited; 0 where the kernel does not say."""
    total = 0
    for resource in ("cpu", "io"):
        try:
            words = Path(f"/proc/pressure/{resource}").read_text()
        except OSError:
            continue
        total += int(words.partition("total=")[2].split()[0])
    return total / 1_000_000
