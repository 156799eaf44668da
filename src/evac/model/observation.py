"""What the real systems said, with its age."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evac.model.backup import NOTHING_SEEN, BackupFacts
from evac.model.digest import digest
from evac.model.situation import Effects, Rivals, Silent

Role = Literal["primary", "sync", "async", "detached", "none", "unreachable"]


@dataclass(frozen=True, slots=True)
class MemberSeen:
    """One copy of a store: role `unreachable` keeps what the estate says; `detached` is a copy that is set to
    follow and receives nothing just now, `none` one that follows nobody, or was demoted. lag_ms None: not
    known. waits_for: of a primary whose commits hang, names of the synchronous members that do not follow it.
    position: bytes of its log that it holds, comparable only within one `history`; None where the engine does
    not say. error: of one that is unreachable: code, words and what to do, where its answer or our settings
    say why.
    """

    store: str
    site: str
    role: Role
    lag_ms: int | None = None
    detail: str = ""
    waits_for: tuple[str, ...] = ()
    position: int | None = None
    history: str = ""
    error: tuple[str, str, str] | None = None
    token: int = field(default=0, compare=False)
    epoch: int = field(default=0, compare=False)
    """The highest token and epoch that it has obeyed, where it keeps them. No part of what the estate is."""


@dataclass(frozen=True, slots=True)
class UnitsSeen:
    """How many replicas of a service the driver that runs them is to keep at a site."""

    service: str
    site: str
    replicas: int
    driver: str
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class TrafficSeen:
    """Sites that the users of a service are sent to, as what routes them says."""

    service: str
    sites: tuple[str, ...]
    driver: str
    at_ms: int = 0


SiteAnswer = Literal["answers", "silent", "unknown"]
"""silent: nothing there answered, which a cut does too; unknown: nothing there can be asked."""


@dataclass(frozen=True, slots=True)
class LeavingSite:
    """What was seen of a site right before a run takes it for lost."""

    site: str
    state: SiteAnswer
    at_ms: int = 0
    answering: tuple[str, ...] = ()
    """Its agent, and the subjects of the endpoints that answered, sorted."""
    writable: tuple[str, ...] = ()
    """Stores whose primary there accepts writes, sorted."""
    services: int = 0
    """How many have replicas there."""
    people: int = 0
    """Users of these services, once for each service."""
    is_last: bool = False
    """Whether no other site is left to serve."""
    unstated: int = 0
    """Of these services, those of which nobody states how many people use them."""


def seen_in(fields: Mapping[str, Any]) -> LeavingSite:
    """As its fields say it, in a journal."""
    lists = {name: tuple(fields.get(name, ())) for name in ("answering", "writable")}
    return LeavingSite(**{**fields, **lists})


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known beside the files at one time: what systems said, and what runs did."""

    at_ms: int
    """Of the look, by the wall clock."""
    members: tuple[MemberSeen, ...] = ()
    """Sorted by store, then site."""
    units: tuple[UnitsSeen, ...] = ()
    traffic: tuple[TrafficSeen, ...] = ()
    rivals: tuple[Rivals, ...] = ()
    """Stores with more than one writable member."""
    effects: Effects | None = None
    """None where nobody knows what runs did."""
    backups: BackupFacts = NOTHING_SEEN
    """What was seen and proven of backups."""
    restores: tuple[tuple[str, str, int], ...] = ()
    """(data set, backup, milliseconds): how long a restore takes, as restore tests measured. Sorted."""
    silent: tuple[Silent, ...] = ()
    """Stores whose primary has not answered for as long as it takes to believe a loss."""

    @property
    def facts(self) -> tuple[object, ...]:
        """All that an estate as it is now follows from: equal facts, the same estate."""
        units = tuple((one.service, one.site, one.replicas) for one in self.units)
        traffic = tuple((one.service, one.sites) for one in self.traffic)
        return self.members, units, traffic, self.effects or Effects(), self.restores


def observation_digest(observation: Observation) -> str:
    """Over roles only: the same roles, the same digest."""
    return digest([[m.store, m.site, m.role] for m in observation.members])
