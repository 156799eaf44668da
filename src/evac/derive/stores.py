"""Observed roles of a store's copies, what is left of a store, and how it comes back.

Files state the intended roles; after a failover the primary is elsewhere. A plan is made from the observed
estate. Only roles change it, and a lag worse than stated, in coarse steps: a plan must not go stale because a
replica is a few milliseconds further behind.

Votes and data are different. A store that writes only with a majority of votes continues while a majority is
left: if its primary is lost, the others elect a new one, or evac promotes one, and no fence is needed,
because the minority cannot acknowledge. Without a majority writes stop, and only people can force a new
cluster from what is left; data acknowledged by the lost majority may be missing there, so someone must waive
it by name. A witness votes and has no data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

from evac.derive.domains import Topology, site_of, topology
from evac.derive.listed_backups import with_listed
from evac.derive.objectives import Rpo, may_lose_nothing
from evac.model.estate import NO_TIMEOUT_MS, Estate, ReplicationMode, Store, StoreMember
from evac.model.instance import Candidate, Cut
from evac.model.objectives import accepts, backups_fact, lag_fact
from evac.model.observation import MemberSeen, Observation
from evac.model.units import ticks_up
from evac.steps.elect import Elect
from evac.steps.force_quorum import ForceQuorum
from evac.steps.kind import Left, PeopleTimes, Unstated, Way
from evac.steps.promote import Promote
from evac.steps.registry import PLANNED, kind_of
from evac.steps.unprotect import Unprotect

Fresh = TypeVar("Fresh", bound="Candidate | Way")


def freshness(way: Candidate | Way) -> tuple[bool, bool, int, bool]:
    """Sort key of a plan's preference, regardless of duration: nothing waived, then least data lost, then a
    copy that every commit needed.
    """
    return way.waived, way.loss_ms is None, way.loss_ms or 0, not way.confirms


def freshest(ways: Iterable[Fresh]) -> list[Fresh]:
    """The ways that a plan prefers to all others; among them duration decides."""
    found = list(ways)
    best = min(map(freshness, found), default=None)
    return [way for way in found if freshness(way) == best]


def has_majority(store: Store, gone: tuple[bool, ...]) -> bool:
    """Whether more than half of the votes are left."""
    left = sum(m.votes for m, dead in zip(store.members, gone, strict=True) if not dead)
    return 2 * left > sum(m.votes for m in store.members)


def store_is_lost(store: Store, gone: tuple[bool, ...]) -> bool:
    """A store is lost when its primary, its majority of votes, or every member is.

    A store without listed members is not known to be lost. Services that need it cannot be judged.
    """
    if not store.members:
        return False
    if all(gone) or (store.quorum and not has_majority(store, gone)):
        return True
    return any(dead for m, dead in zip(store.members, gone, strict=True) if m.mode == "primary")


def wants_confirming(top: Topology, store: Store) -> bool:
    """Whether a copy should confirm every commit: the store may lose nothing, or has such a copy."""
    return store.id in may_lose_nothing(top) or has_confirming(store)


def has_confirming(store: Store) -> bool:
    """Whether a copy confirms every commit."""
    return any(member.mode == "sync" for member in store.members)


def confirms_by_hand(top: Topology, store: Store) -> bool:
    """Whether people ensure that a copy confirms commits: the store may lose nothing or has such a copy, and
    no endpoint in the estate acts on it.
    """
    wanted = wants_confirming(top, store)
    return wanted and not store.quorum and all(one.subject != store.id for one in top.estate.endpoints)


def loses_confirming(store: Store, gone: tuple[bool, ...]) -> bool:
    """Whether the primary is left, but every copy that confirms its commits is gone."""
    left = {(m.mode, dead) for m, dead in zip(store.members, gone, strict=True)}
    return {("primary", False), ("sync", True)} <= left and ("sync", False) not in left


def commits_wait(store: Store, gone: tuple[bool, ...]) -> bool:
    """Whether a surviving primary answers no write because every copy that confirms its commits is gone.

    A quorum needs a majority, not a named copy. A timeout of 0 s is no wait.
    """
    return loses_confirming(store, gone) and not store.quorum and store.sync_timeout_ms != 0


def is_down(store: Store, gone: tuple[bool, ...]) -> bool:
    """Whether a store accepts no writes after a loss: it is lost, or its commits wait."""
    return store_is_lost(store, gone) or commits_wait(store, gone)


def people_times(estate: Estate) -> PeopleTimes:
    """How long people take, as far as the estate states it."""
    return PeopleTimes(estate.limits.manual_ms, estate.lead.approval_ms or None)


def is_fenced(store: Store, gone: tuple[bool, ...]) -> bool:
    """Whether a lost primary must be fenced before another is promoted: not if a majority is left without
    it.
    """
    return not (store.quorum and has_majority(store, gone))


def fence_is_unknown(store: Store, rung: str) -> bool:
    """Whether the duration of a fence by a rung is unknown; without a rung it takes no time."""
    return store.fence_ms is None and rung != "none"


def rpo_is_open(rpo: Rpo, allowed: Iterable[Candidate | Way]) -> bool:
    """Whether the allowed ways that a plan prefers lose data, or may, and the files do not say for everyone
    who needs the store how much it may lose.
    """
    return rpo.is_open and any(way.loss_ms != 0 for way in freshest(allowed))


def surviving_ways(store: Store, gone: tuple[bool, ...], people: PeopleTimes, rpo: Rpo) -> tuple[Way, ...]:
    """Ways through copies that a loss leaves, in the order of the members."""
    if commits_wait(store, gone) and store.primary is not None:
        takes_ms = kind_of(Unprotect.name).way_ms(store, people)
        own, at = store.sync_timeout_ms != NO_TIMEOUT_MS, store.primary.at
        return (Way(Unprotect.name, at, takes_ms, 0, by_itself=True, from_loss=own, confirms=True),)
    left = [m for m, dead in zip(store.members, gone, strict=True) if not dead and m.mode != "none"]
    if store.quorum and not has_majority(store, gone):
        force_ms = kind_of(ForceQuorum.name).way_ms(store, people)
        return tuple(
            Way(ForceQuorum.name, m.at, force_ms, _forced_loss_ms(store, m), only_waived=True) for m in left
        )
    ways = tuple(promotion(store, m) for m in left)
    if store.quorum and store.automatic:
        voters = {m.at for m in left if m.votes > 0}
        within = [w for w in ways if w.at in voters and accepts(rpo.limit_ms, w.loss_ms)]
        best = min(within, key=lambda w: (-1 if w.loss_ms is None else w.loss_ms, w.at), default=None)
        if best is not None:
            elect_ms = kind_of(Elect.name).way_ms(store, people)
            return (Way(Elect.name, best.at, elect_ms, best.loss_ms, by_itself=True, from_loss=True),)
    return ways


def _forced_loss_ms(store: Store, member: StoreMember) -> int | None:
    """What a cluster forced from a member lacks: nothing if it is the primary, or if no majority confirms a
    write without it. None if that is unknown.
    """
    others = sum(one.votes for one in store.members if one is not member)
    has_all = member.mode == "primary" or 2 * others <= others + member.votes
    return 0 if has_all else member.lag_ms


def promotion(store: Store, member: StoreMember, loses: bool = True, follows: bool = False) -> Way:
    """The way through a copy. loses: not if the old primary still writes, or itself comes back. follows:
    whether an old primary is a copy by then, which may be behind.
    """
    copied = follows or member.mode != "primary"
    lag_ms = behind_ms(store, member) if copied and not member.detached else 0
    duration = None if store.promote_ms is None else store.promote_ms + (lag_ms or 0)
    live = not loses or member.mode in ("sync", "primary")
    loss_ms = 0 if live else member.lag_ms
    return Way(Promote.name, member.at, duration, loss_ms, confirms=live, untimed=lag_ms is None)


def behind_ms(store: Store, member: StoreMember) -> int | None:
    """How far a copy is behind while it follows; None if that is not stated. An old primary confirms commits
    if the copies of its store do; otherwise it lags as far as they do at most, unless its own lag is stated.
    """
    if member.lag_ms is not None or member.mode == "async":
        return member.lag_ms
    if has_confirming(store):
        return 0
    lags = [one.lag_ms for one in store.members if one is not member and one.mode != "none"]
    return None if None in lags else max((ms for ms in lags if ms is not None), default=None)


def lag_in(store: Store, member: StoreMember, role: ReplicationMode) -> int | None:
    """How far a copy is behind once a run gave it a role; of a primary, once it follows again."""
    if role == member.mode:
        return member.lag_ms
    if role == "primary":
        return 0 if member.mode == "sync" else member.lag_ms
    return 0 if role == "sync" else behind_ms(store, member)


def loss_fact(store: str, kind: str) -> str:
    """The fact that a store lacks if it is unknown how much data a way of a kind loses."""
    return backups_fact(store) if kind_of(kind).restores else lag_fact(store)


def kept_up_to(store: Store, way: Way, fenced: bool, backup: bool, dark_ms: int | None, tick_ms: int) -> Way:
    """The way through a copy that follows a primary which writes until it is fenced, at a site that goes
    dark at a time; None if that is after the plan. What the copy has not received by then is lost: at least
    `loss_ms`, and more if the fence has to wait (`cut`). A time that is not stated counts as too long.
    """
    if dark_ms is None:
        return replace(way, loss_ms=0, confirms=True)
    until_ms = writes_until_ms(store, fenced, backup, tick_ms)
    if not way.loss_ms or until_ms is None:
        return way
    cut = Cut(way.loss_ms, dark_ms)
    left_ms = cut.loss_ms(until_ms)
    return replace(way, loss_ms=left_ms, confirms=left_ms == 0, cut=None if way.by_itself else cut)


def writes_until_ms(store: Store, fenced: bool, backup: bool, tick_ms: int) -> int | None:
    """When a primary that is moved in an orderly way refuses writes, if nothing has to wait: after a backup,
    if one comes first, and the fence, in whole ticks. None if either takes a time that is not stated.
    """
    takes = ((store.fence_ms, fenced), (store.backup_time_ms, backup))
    known = [ticks_up(ms, tick_ms) for ms, counts in takes if counts and ms is not None]
    return sum(known) * tick_ms if len(known) == fenced + backup else None


def offered_ways(left: Left) -> Iterator[Way | Unstated]:
    """Ways that need no surviving member, such as a restore from a backup: what the kinds of steps offer."""
    for kind in PLANNED.values():
        yield from kind.ways(left)


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


def observed(estate: Estate, observation: Observation) -> Estate:
    """The estate with observed roles, and backups as they were listed, checked and restored. The same object
    if nothing differs.

    A store with two observed primaries keeps the roles in the files: that is for people to resolve.
    """
    seen: dict[str, dict[str, MemberSeen]] = {}
    for member in observation.members:
        seen.setdefault(member.store, {})[member.site] = member
    top = topology(estate)
    measured = {(data_set, copy): takes_ms for data_set, copy, takes_ms in observation.restores}
    expected = {(data_set, copy): id_ for data_set, copy, id_ in observation.repositories}
    listed = {(one.data_set, one.copy): one for one in observation.listed}
    stores = tuple(
        with_listed(_store(store, seen.get(store.id, {}), top), top, measured, expected, listed)
        for store in estate.stores
    )
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
        return without_primary(member) if member.mode == "primary" else member
    if seen.role == "detached":
        return replace(member, mode="async", lag_ms=seen.lag_ms, detached=True, left=False)
    if seen.role == "none":
        return without_primary(member)
    mode: ReplicationMode = seen.role
    lag = _lag(member, seen)
    same = mode == member.mode and lag == member.lag_ms and not member.left
    return member if same else replace(member, mode=mode, lag_ms=lag, left=False)


def without_primary(member: StoreMember) -> StoreMember:
    """The copy once it follows no one. A witness has no data and never did."""
    return member if member.mode == "none" else replace(member, mode="none", left=True)


def _lag(member: StoreMember, seen: MemberSeen) -> int | None:
    """The lag of a copy. The stated lag counts only in the role that it was stated for."""
    own = seen.role in (member.mode, "primary") or (member.mode == "primary" and seen.role == "async")
    stated = member.lag_ms if own else 0 if seen.role == "sync" else None
    if seen.role in ("primary", "none") or seen.lag_ms is None:
        return stated
    return _coarse(max(stated or 0, seen.lag_ms))


def _coarse(lag_ms: int) -> int:
    return next((step for step in _LAG_STEPS_MS if step >= lag_ms), lag_ms)


def primary_site(top: Topology, store: Store) -> str:
    """The site of the primary; empty if there is none or its site is unknown."""
    return "" if store.primary is None else site_of(top, store.primary.at) or ""
