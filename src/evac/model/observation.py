"""What the real systems reported, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from evac.model.backup import NOTHING_SEEN, BackupFacts, ListedBackup
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.model.situation import Effects, Rivals, Silent

Role = Literal["primary", "sync", "async", "detached", "none", "unreachable"]


@dataclass(frozen=True, slots=True)
class MemberSeen:
    """One copy of a store. Role `unreachable` keeps what the estate says; `detached` is set to follow but
    receives nothing at the moment; `none` follows no member, or was demoted. `lag_ms` None: not known.
    `waits_for`: for a primary whose commits hang, the synchronous members that do not follow it. `position`:
    bytes of log that it holds, comparable only within one `history`; None if the engine does not report it.
    `error`: for an unreachable one, code, message and next step, if its reply or our settings explain it.
    """

    store: str
    site: str
    role: Role
    lag_ms: int | None = None
    detail: str = ""
    """Its name in its system."""
    waits_for: tuple[str, ...] = ()
    position: int | None = None
    history: str = ""
    error: tuple[str, str, str] | None = None
    token: int = field(default=0, compare=False)
    epoch: int = field(default=0, compare=False)
    """The highest token and epoch that it has obeyed, if it keeps them. Not part of the estate's identity."""
    confirms: tuple[str, ...] = ()
    """Names of the copies that a primary counts on to confirm its commits."""
    one_of_several: bool = field(default=False, compare=False)
    """Whether one of several copies confirms each commit of a primary, so that `confirms` names none."""
    busy: bool = field(default=False, compare=False)
    """Whether an unreachable one answers, but has no connection for evac at the moment; `error` says why."""
    never_confirms: bool = field(default=False, compare=False)
    """Whether the settings of a copy keep it from confirming commits."""


@dataclass(frozen=True, slots=True)
class UnitsSeen:
    """How many replicas of a service its driver is set to run at a site."""

    service: str
    site: str
    replicas: int
    driver: str
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class TrafficSeen:
    """Sites that users of a service are sent to, as the traffic driver reports them."""

    service: str
    sites: tuple[str, ...]
    driver: str
    at_ms: int = 0


SiteAnswer = Literal["answers", "silent", "unknown"]
"""silent: nothing there answered, which a network cut also causes; unknown: there is nothing to ask."""


@dataclass(frozen=True, slots=True)
class LeavingSite:
    """What was observed at a site right before a run treats it as lost."""

    site: str
    state: SiteAnswer
    at_ms: int = 0
    answering: tuple[str, ...] = ()
    """Its agent and the subjects of the endpoints that answered, sorted."""
    writable: tuple[str, ...] = ()
    """Stores whose primary there accepts writes, sorted."""
    services: int = 0
    """Number of services with replicas there."""
    people: int = 0
    """Users of these services, counted once per service."""
    is_last: bool = False
    """Whether no other site remains to serve."""
    unstated: int = 0
    """How many of these services do not state their number of users."""


def seen_in(fields: Mapping[str, Any]) -> LeavingSite:
    """Rebuilds it from the fields in a journal."""
    lists = {name: tuple(fields.get(name, ())) for name in ("answering", "writable")}
    return LeavingSite(**{**fields, **lists})


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known beyond the files at one time: what systems reported, and what runs did."""

    at_ms: int
    """When it was observed, by the wall clock."""
    members: tuple[MemberSeen, ...] = ()
    """Sorted by store, then site."""
    units: tuple[UnitsSeen, ...] = ()
    traffic: tuple[TrafficSeen, ...] = ()
    rivals: tuple[Rivals, ...] = ()
    """Stores with more than one writable member."""
    effects: Effects | None = None
    """None if the effects of runs are not known: there is no store, or it records none."""
    backups: BackupFacts = NOTHING_SEEN
    """What was observed and proven about backups."""
    restores: tuple[tuple[str, str, int], ...] = ()
    """(data set, backup, milliseconds), sorted: how long a restore takes, as measured by restore tests."""
    repositories: tuple[tuple[str, str, str], ...] = ()
    """(data set, backup, id of its repository), sorted: the one that a run may restore from."""
    listed: tuple[ListedBackup, ...] = ()
    """What the last listing and the checks say of each backup that its tool listed, sorted."""
    silent: tuple[Silent, ...] = ()
    """Stores whose primary has been silent long enough to be considered lost."""

    def unobserved(self, estate: Estate) -> list[str]:
        """Stores of which no member has answered: where they are is only what the files say. Sorted."""
        answered = {one.store for one in self.members if one.role != "unreachable"}
        return sorted({one.id for one in estate.stores if one.members} - answered)

    @property
    def facts(self) -> tuple[object, ...]:
        """Everything that determines the estate as it is now: equal facts give the same estate."""
        units = tuple((one.service, one.site, one.replicas) for one in self.units)
        traffic = tuple((one.service, one.sites) for one in self.traffic)
        silent = tuple(sorted({one.site for one in self.silent if not one.answers}))
        effects = self.effects or Effects()
        backups = self.restores, self.repositories, self.listed
        return self.members, units, traffic, effects, backups, silent
