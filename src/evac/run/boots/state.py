"""What a run knows of its cold start: feeds, management controllers, boot servers, and each boot. Pure.

`run.boots.events` writes it, as events say; `run.boots.rules` decides by it. Boots are steps, by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any

from evac.run.renumbering import Renumber, renumbered, renumbered_facts
from evac.run.values import RunStep

Moments = dict[int, int]
"""Boot -> a time."""


@dataclass(slots=True)
class Boots:
    """Changed by events alone."""

    steps: Sequence[RunStep] = ()
    """Of the present plan."""

    # What is true of all servers
    refusing: bool = False
    """Credentials are refused, or evac itself lacks something, and nobody has said go on since."""
    missing: str = ""
    """What evac itself lacks, for people."""

    # Feeds
    tripped: dict[str, bool] = field(default_factory=dict)
    """Feeds without power -> whether their breaker was seen open."""
    tripped_ms: dict[str, int] = field(default_factory=dict)
    """Feed -> when it tripped last, whether it has power again or not."""
    gone: dict[str, Moments] = field(default_factory=dict)
    """Feed -> boots that fell silent or went off since the last sign of life behind it, and when."""
    powered: set[str] = field(default_factory=set)
    """Feeds behind which a server answered since they were closed."""
    heard: dict[str, int] = field(default_factory=dict)
    """Feeds behind which a management controller answered -> since when."""
    open_breakers: set[str] = field(default_factory=set)
    """Feeds whose breaker was seen open; the rules have not looked at that yet."""
    gates: dict[int, str] = field(default_factory=dict)
    """Steps that need an approval which the plan does not ask for -> why: they close a feed that tripped."""

    # Boot servers
    stalled: dict[str, Moments] = field(default_factory=dict)
    """Boot server -> boots that do not come up since the last one from it did, and when that was seen."""
    lost_servers: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Boot servers that are given up -> what replaces each (if that died as well: what replaces that), and
    since when. Empty: no other is at its site.
    """
    unreplaced: set[str] = field(default_factory=set)
    """Boot servers that are given up and not replaced: one boot at a time tries them."""
    unreplaced_ms: dict[str, int] = field(default_factory=dict)
    """Boot server -> when it was last given up so, whether it serves again or not."""
    served_by: dict[int, str] = field(default_factory=dict)
    """Boots whose last try was from another boot server than the plan says -> which."""

    # Boots
    booting: set[int] = field(default_factory=set)
    """In doubt, and on their way up when last seen."""
    inrush_ms: Moments = field(default_factory=dict)
    """By when the inrush of this try began at the latest, if it did: when the controller took the request, or
    a while after its leader was gone.
    """
    given_up: Moments = field(default_factory=dict)
    """Failed for good, or no one can tell -> since when."""
    quarantined: set[int] = field(default_factory=set)
    """The run goes on without them."""
    blind: set[int] = field(default_factory=set)
    """No one can tell what their last try did."""
    hung: set[int] = field(default_factory=set)
    """Of the blind: their controller answered, and they were not up."""
    turns: dict[int, int] = field(default_factory=dict)
    """How often each was tried again at its boot server for want of an image."""
    cycled: set[int] = field(default_factory=set)
    """Of these: those that are switched off first if they are found on."""
    trip_signs: dict[int, int] = field(default_factory=dict)
    """Of how many trips each was a sign since it last came up."""
    refused: set[int] = field(default_factory=set)
    """Steps that failed because credentials are refused, or evac itself lacks something."""
    misconfigured: set[int] = field(default_factory=set)
    """Boots in a row that could not be asked, maybe because of the settings of evac."""

    def is_dark(self, i: int) -> bool:
        """Whether step i is of a server whose feeds have all tripped."""
        feeds = self.steps[i].feeds
        return bool(feeds) and all(feed in self.tripped for feed in feeds)

    def server_of(self, i: int) -> str:
        """The boot server that step i boots from by now; empty if it has none."""
        server = self.steps[i].boot_server
        return (self.lost_servers[server][0] or server) if server in self.lost_servers else server

    def queue_of(self, i: int) -> str:
        """The boot server that is not replaced, if a boot from it takes its turn; otherwise empty. A person
        who boots by hand needs none.
        """
        server = self.server_of(i) if self.unreplaced and not self.steps[i].manual else ""
        return server if server in self.unreplaced else ""

    def begins_again(self, i: int) -> None:
        """Step i is to be done again, as if never tried."""
        self.booting.discard(i)
        self.given_up.pop(i, None)
        self.quarantined.discard(i)
        self.refused.discard(i)
        self.misconfigured.discard(i)

    def laid_out(self, steps: Sequence[RunStep]) -> Boots:
        """What stays true with the steps of another plan: all that names no step."""
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
        """Takes over what was known of the boots before another plan gave them other numbers.

        kept: gives none for boots that begin again with the plan. Approvals to close feeds that tripped are
        asked for again, and so is what may be wrong with the settings of evac.
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
        """The same, apart."""
        other = copy(self)
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, dict | set):
                setattr(other, one.name, value.copy())
        other.gone = {feed: boots.copy() for feed, boots in self.gone.items()}
        other.stalled = {server: boots.copy() for server, boots in self.stalled.items()}
        return other

    def as_data(self) -> tuple[tuple[str, Any], ...]:
        """All of it in an order that does not depend on how it came about; empty if nothing is known."""
        values = ((one.name, _in_order(getattr(self, one.name))) for one in fields(self))
        return tuple((name, value) for name, value in values if value and name != "steps")


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _in_order(one)) for key, one in value.items())
    return sorted(value) if isinstance(value, set) else value
