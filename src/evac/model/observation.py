"""What the real systems said, with its age, and an estate as it stands by that.

Files say how things were meant to be; after a failover the primary stands elsewhere. A plan is made from the
estate as observed. Only roles change it, and a lag that is worse than stated, in coarse steps: a plan must
not go stale because a replica is a few milliseconds further behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from evac.model.canonical import digest
from evac.model.domain import Topology, site_of, topology
from evac.model.estate import Estate, ReplicationMode, Store, StoreMember
from evac.model.situation import Effects, Rivals

Role = Literal["primary", "sync", "async", "detached", "none", "unreachable"]
_LAG_STEPS_MS: Final = (
    0,
    1_000,
    2_000,
    5_000,
    10_000,
    30_000,
    60_000,
    300_000,
    900_000,
    3_600_000,
    86_400_000,
)


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
class SiteSeen:
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


def seen_in(fields: Mapping[str, Any]) -> SiteSeen:
    """As its fields say it, in a journal."""
    lists = {name: tuple(fields.get(name, ())) for name in ("answering", "writable")}
    return SiteSeen(**{**fields, **lists})


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

    @property
    def facts(self) -> tuple[object, ...]:
        """All that an estate as it is now follows from: equal facts, the same estate."""
        units = tuple((one.service, one.site, one.replicas) for one in self.units)
        traffic = tuple((one.service, one.sites) for one in self.traffic)
        return self.members, units, traffic, self.effects or Effects()


def observation_digest(observation: Observation) -> str:
    """Over roles only: the same roles, the same digest."""
    return digest([[m.store, m.site, m.role] for m in observation.members])


def observed(estate: Estate, observation: Observation) -> Estate:
    """The estate with the roles that were seen. The same object where nothing differs.

    A store of which two primaries were seen is left as the files say: that is for people.
    """
    seen: dict[str, dict[str, MemberSeen]] = {}
    for member in observation.members:
        seen.setdefault(member.store, {})[member.site] = member
    top = topology(estate)
    stores = tuple(_store(store, seen.get(store.id, {}), top) for store in estate.stores)
    return estate if stores == estate.stores else replace(estate, stores=stores)


def _store(store: Store, seen: dict[str, MemberSeen], top: Topology) -> Store:
    if sum(member.role == "primary" for member in seen.values()) != 1:
        return store
    members = (_member(member, seen.get(site_of(top, member.at) or "")) for member in store.members)
    home = store.home or ("" if store.primary is None else store.primary.at)
    return replace(store, members=tuple(members), home=home)


def _member(member: StoreMember, seen: MemberSeen | None) -> StoreMember:
    if seen is None:
        return member
    if seen.role == "unreachable":
        return replace(member, mode="none") if member.mode == "primary" else member
    if seen.role == "detached":
        return replace(member, mode="async", lag_ms=seen.lag_ms, detached=True)
    mode: ReplicationMode = seen.role
    lag = _lag(member, seen)
    return member if mode == member.mode and lag == member.lag_ms else replace(member, mode=mode, lag_ms=lag)


def _lag(member: StoreMember, seen: MemberSeen) -> int | None:
    """What a copy may be behind. What the files say counts only for the role that they say it of."""
    stated = member.lag_ms if member.mode == seen.role else 0 if seen.role == "sync" else None
    if seen.role in ("primary", "none") or seen.lag_ms is None:
        return stated
    return _coarse(max(stated or 0, seen.lag_ms))


def _coarse(lag_ms: int) -> int:
    return next((step for step in _LAG_STEPS_MS if step >= lag_ms), lag_ms)


def primary_site(top: Topology, store: Store) -> str:
    """Where the primary stands; empty where there is none or its site is not known."""
    return "" if store.primary is None else site_of(top, store.primary.at) or ""


def sites_of_copies(top: Topology, store: Store) -> tuple[str, ...]:
    """Sites of the live copies of a store, sorted."""
    return tuple(sorted({site_of(top, m.at) or "" for m in store.members if m.mode != "none"} - {""}))
