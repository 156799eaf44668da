"""What a fleet stands on: its servers as columns, their racks, halls, feeds, classes and boot servers.

Values only: where they come from (made up, or read from an estate) is the matter of other modules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Names = npt.NDArray[np.bytes_]
Whole = npt.NDArray[np.int64]
Index = npt.NDArray[np.int32]
Policy = Literal["on", "dark", "last"]
DomainKind = Literal["feed", "rack", "hall", "site"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of servers. policy: what it does when power returns. Durations in ms."""

    id: str
    watts: int
    boot_ms: int
    inrush_watts: int
    inrush_ms: int
    image_offset_ms: int = 0
    policy: Policy = "dark"
    cpu_millicores: int = 48_000
    memory_gib: int = 256
    disk_gib: int = 4_096


@dataclass(frozen=True, slots=True)
class Domain:
    """What can trip: a feed, a rack, a hall or the site. Budgets in watts, None without limit."""

    id: str
    kind: DomainKind
    power_watts: int | None = None
    inrush_watts: int | None = None


@dataclass(frozen=True, slots=True)
class RackPlace:
    """A rack: where it stands and what feeds it, as ids of domains; hall "" where unknown."""

    id: str
    hall: str = ""
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The fleet before it runs. name, serial, position: V bytes; rack, kind, boot_server: V indices into the
    tuples, boot_server -1 where none is needed; watts: V.
    """

    site: str
    name: Names
    serial: Names
    position: Names
    rack: Index
    kind: Index
    boot_server: Index
    watts: Whole
    racks: tuple[RackPlace, ...]
    kinds: tuple[Kind, ...]
    boot_servers: tuple[str, ...]
    domains: tuple[Domain, ...]

    def __len__(self) -> int:
        return len(self.name)

    def name_of(self, server: int) -> str:
        return bytes(self.name[server]).decode()

    def serial_of(self, server: int) -> str:
        return bytes(self.serial[server]).decode()

    def without_limits(self) -> Ground:
        """The same, with power that carries everything."""
        free = tuple(replace(one, power_watts=None, inrush_watts=None) for one in self.domains)
        return replace(self, domains=free)

    def position_of(self, server: int) -> str:
        return bytes(self.position[server]).decode()
