"""How a site is cut off and joined again, in either world; knows nothing of what runs in it but its pids.

On loopback there is no link to take down without root: an isolated site is one whose processes stand still.
Others meet silence, as they should, and what wakes up again believes that no time has passed, which is the
hardest test of a fence. With network namespaces the site lives on, alone.
"""

from __future__ import annotations

from typing import Protocol

from evac_lab import proc_table
from evac_lab.state import LabFolder, LabState, living


class Network(Protocol):
    """What faults need of a world."""

    def isolate(self, site: str) -> None:
        """From now on nothing goes in or out."""
        ...

    def join(self, site: str) -> None:
        """Everything goes in and out again."""
        ...


class StandStill:
    """The loopback world."""

    def __init__(self, folder: LabFolder, state: LabState) -> None:
        self._folder = folder
        self._state = state

    def isolate(self, site: str) -> None:
        proc_table.pause(living(self._state, self._folder, site))

    def join(self, site: str) -> None:
        proc_table.resume(living(self._state, self._folder, site))


def network_of(folder: LabFolder, state: LabState) -> Network:
    """The network of the lab that is up."""
    if state.world == "loopback":
        return StandStill(folder, state)
    from evac_lab import namespaces

    return namespaces.Network(folder, state)
