"""State of a cold start: feeds, management controllers, boot servers, and each boot. Pure.

`run.boots.events` updates it from events; `run.boots.rules` decides from it. Boots are steps, by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import field, fields
from typing import Any

from evac.model.records import dataclass
from evac.run.values import Renumber, RunStep, renumbered, renumbered_facts

Moments = dict[int, int]
"""Boot -> time."""


@dataclass(slots=True)
class Boots:
    """Changed only by events."""

    steps: Sequence[RunStep] = ()
    """Steps of the present plan."""

    # What concerns all servers
    refusing: bool = False
    """Credentials are refused, or evac itself lacks something, and nobody has resumed since."""
    missing: str = ""
    """What evac itself lacks, for messages."""

    # Feeds
    tripped: dict[str, bool] = field(default_factory=dict)
    """Feeds without power -> whether their breaker was seen open."""
    tripped_ms: dict[str, int] = field(default_factory=dict)
    """Feed -> when it last tripped, whether or not it has power again."""
    gone: dict[str, Moments] = field(default_factory=dict)
    """Feed -> boots that fell silent or went off since the last sign of life behind it, and when."""
    powered: set[str] = field(default_factory=set)
    """Feeds behind which a server answered since they were closed."""
    heard: dict[str, int] = field(default_factory=dict)
    """Feeds behind which a management controller answered -> since when."""
    open_breakers: set[str] = field(default_factory=set)
    """Feeds whose breaker was seen open and that the rules have not processed yet."""
    gates: dict[int, str] = field(default_factory=dict)
    """Steps that need an approval missing from the plan -> why: they close a tripped feed."""

    # Boot servers
    stalled: dict[str, Moments] = field(default_factory=dict)
    """Boot server -> boots that have not come up since the last one from it did, and when that was seen."""
    lost_servers: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Given-up boot servers -> what replaces each (directly or through other replacements), and since when.
    Empty: the site has no other.
    """
    unreplaced: set[str] = field(default_factory=set)
    """Given-up boot servers without a replacement: one boot at a time tries them."""
    unreplaced_ms: dict[str, int] = field(default_factory=dict)
    """Boot server -> when it was last given up without a replacement, whether or not it works again."""
    served_by: dict[int, str] = field(default_factory=dict)
    """Boots whose last try used another boot server than planned -> which."""

    # Boots
    booting: set[int] = field(default_factory=set)
    """In doubt, and booting when last seen."""
    inrush_ms: Moments = field(default_factory=dict)
    """Latest start of this try's inrush, if there is one: when the controller accepted the request, or a
    while after its leader was gone.
    """
    given_up: Moments = field(default_factory=dict)
    """Failed for good or unclear -> since when."""
    quarantined: set[int] = field(default_factory=set)
    """The run continues without them."""
    blind: set[int] = field(default_factory=set)
    """The effect of their last try is unknown."""
    hung: set[int] = field(default_factory=set)
    """Of those: the controller answered, and they were not up."""
    turns: dict[int, int] = field(default_factory=dict)
    """How often each was retried at its boot server because it lacked an image."""
    cycled: set[int] = field(default_factory=set)
    """Of these: those to switch off first if found on."""
    trip_signs: dict[int, int] = field(default_factory=dict)
    """In how many trips each was involved since it last came up."""
    refused: set[int] = field(default_factory=set)
    """Steps that failed because credentials are refused or evac itself lacks something."""
    misconfigured: set[int] = field(default_factory=set)
    """Consecutive boots that could not be reached, possibly because of evac's settings."""

    def is_dark(self, i: int) -> bool:
        """Whether all feeds of step i's server have tripped."""
        feeds = self.steps[i].feeds
        return bool(feeds) and all(feed in self.tripped for feed in feeds)

    def server_of(self, i: int) -> str:
        """The boot server that step i boots from now; empty if none."""
        server = self.steps[i].boot_server
        return (self.lost_servers[server][0] or server) if server in self.lost_servers else server

    def queue_of(self, i: int) -> str:
        """The unreplaced boot server, if a boot from it takes its turn; otherwise empty. A manual boot needs
        none.
        """
        server = self.server_of(i) if self.unreplaced and not self.steps[i].manual else ""
        return server if server in self.unreplaced else ""

    def begins_again(self, i: int) -> None:
        """Step i must be repeated as if never tried."""
        self.booting.discard(i)
        self.given_up.pop(i, None)
        self.quarantined.discard(i)
        self.refused.discard(i)
        self.misconfigured.discard(i)

    def laid_out(self, steps: Sequence[RunStep]) -> Boots:
        """What stays valid for the steps of another plan: everything that names no step."""
        return Boots(
            steps,
            refusing=self.refusing,
            missing=self.missing,
            tripped=self.tripped,
            tripped_ms=self.tripped_ms,
            powered=self.powered,
            heard=self.heard,
            open_breakers=self.open_breakers,
            lost_servers=self.lost_servers,
            unreplaced=self.unreplaced,
            unreplaced_ms=self.unreplaced_ms,
        )

    def carry_over(self, old: Boots, number_of: Renumber, kept: Renumber) -> None:
        """Takes over what was known of the boots before another plan renumbered them.

        kept: gives none for boots that restart with the plan. Approvals to close tripped feeds are requested
        again, and so is what may be wrong with evac's settings.
        """
        self.gone = {feed: renumbered_facts(boots, number_of) for feed, boots in old.gone.items()}
        self.stalled = {server: renumbered_facts(boots, number_of) for server, boots in old.stalled.items()}
        self.served_by.update(renumbered_facts(old.served_by, kept))
        self.booting.update(renumbered(old.booting, kept))
        self.inrush_ms.update(renumbered_facts(old.inrush_ms, kept))
        self.given_up.update(renumbered_facts(old.given_up, kept))
        self.quarantined.update(renumbered(old.quarantined, kept))
        self.blind.update(renumbered(old.blind, kept))
        self.hung.update(renumbered(old.hung, kept))
        self.turns.update(renumbered_facts(old.turns, kept))
        self.cycled.update(renumbered(old.cycled, kept))
        self.trip_signs.update(renumbered_facts(old.trip_signs, kept))

    def fork(self) -> Boots:
        """An independent copy."""
        other = copy(self)
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, dict | set):
                setattr(other, one.name, value.copy())
        other.gone = {feed: boots.copy() for feed, boots in self.gone.items()}
        other.stalled = {server: boots.copy() for server, boots in self.stalled.items()}
        return other

    def as_data(self) -> tuple[tuple[str, Any], ...]:
        """All of it in a deterministic order; empty if nothing is known."""
        values = ((one.name, _in_order(getattr(self, one.name))) for one in fields(self))
        return tuple((name, value) for name, value in values if value and name != "steps")


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _in_order(one)) for key, one in value.items())
    return sorted(value) if isinstance(value, set) else value
