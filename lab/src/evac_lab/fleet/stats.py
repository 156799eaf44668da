"""What a fleet counts of those who call it: requests, resets, how many at once, what was refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(slots=True)
class Stats:
    """requests: V, of each controller; at_once: V, answers that are awaited now; most_at_once: V."""

    servers: int
    requests: npt.NDArray[np.uint32] = field(init=False)
    at_once: npt.NDArray[np.uint16] = field(init=False)
    most_at_once: npt.NDArray[np.uint16] = field(init=False)
    total: int = 0
    circuits: int = 0
    nobody: int = 0
    connections: int = 0
    connections_most: int = 0
    connections_in_all: int = 0
    connections_refused: int = 0
    unauthorized: int = 0
    lockouts: int = 0
    sessions_opened: int = 0
    sessions_refused: int = 0
    sessions_expired: int = 0
    sessions_closed: int = 0
    sessions_most: int = 0
    statuses: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.requests = np.zeros(self.servers, np.uint32)
        self.at_once = np.zeros(self.servers, np.uint16)
        self.most_at_once = np.zeros(self.servers, np.uint16)

    def begin(self, server: int) -> None:
        """A request has come whole; it is answered when `end` is called."""
        self.total += 1
        if server < 0:
            self.circuits += 1
            return
        self.requests[server] += 1
        self.at_once[server] += 1
        if self.at_once[server] > self.most_at_once[server]:
            self.most_at_once[server] = self.at_once[server]

    def end(self, server: int) -> None:
        if server >= 0:
            self.at_once[server] -= 1

    def answered(self, status: int) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
