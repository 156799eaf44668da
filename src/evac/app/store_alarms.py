"""Urgent alarms about a store: two of its members accept writes, or none does.

None does if, for as long as it takes to believe the loss of a site, no member is primary and the previous one
does not respond, accepts no connections, or responds in another role, for example after a restart. A member
that responds but refuses logins is not silent. Stores whose roles a run is changing are excluded, because the
run reports what it waits for. Stores of a lost site are part of its loss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from evac.app.observing import confirming
from evac.derive.affected import families_without_instance, hit_by_dependency, service_graph
from evac.derive.domains import is_lost, lost_now, site_of, topology
from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice, Tell
from evac.model.estate import Estate
from evac.model.fleet import np
from evac.model.observation import MemberSeen, Observation
from evac.model.situation import BUSY, Rivals, Silent
from evac.store.port import Lease
from evac.views.situation_view import rivals_hint, rivals_words, silent_hint, silent_words
from evac.watch.verdict import SiteState

AGAIN_S: Final = 2.0


def rivals_in(seen: Observation) -> tuple[Rivals, ...]:
    """Stores with more than one writable member."""
    primaries = _primaries(seen)
    return tuple(
        Rivals(store, sites, seen.at_ms) for store, sites in sorted(primaries.items()) if len(sites) > 1
    )


def rivals_still(known: Iterable[Rivals], seen: Observation) -> tuple[Rivals, ...]:
    """Stores with several writable members now, and known ones where a member has merely fallen silent."""
    found = {one.store: one for one in rivals_in(seen)}
    roles = {(one.store, one.site): one.role for one in seen.members}
    for one in known:
        now = {site: roles.get((one.store, site)) for site in one.sites}
        silent = tuple(site for site, role in now.items() if role == "unreachable")
        writing = sum(role == "primary" for role in now.values())
        if one.store in found:
            found[one.store] = replace(found[one.store], since_ms=one.since_ms)
        elif silent and writing + len(silent) > 1:
            found[one.store] = replace(one, unheard=silent)
    return tuple(one for _, one in sorted(found.items()))


def without_primary(estate: Estate, seen: Observation) -> tuple[str, ...]:
    """Stores whose copies all respond while none accepts writes."""
    top, roles = topology(estate), dict[str, dict[str, str]]()
    for member in seen.members:
        roles.setdefault(member.store, {})[member.site] = member.role
    found = []
    for store in estate.stores:
        now = roles.get(store.id, {})
        asked = now.keys() >= {site_of(top, one.at) for one in store.members if one.mode != "none"}
        if now and asked and not {"primary", "unreachable"} & set(now.values()):
            found.append(store.id)
    return tuple(sorted(found))


def commits_wait(estate: Estate, seen: Observation, store: str, sites: Collection[str]) -> str:
    """Why commits may still wait for copies at these sites: the primary says so, still counts on them, or was
    not observed. Empty if they go on.
    """
    primaries = [one for one in seen.members if (one.store, one.role) == (store, "primary")]
    ends = (end for end in estate.endpoints if end.subject == store and end.at in sites)
    waits = {str(end.settings.get("name")) for end in ends} & confirming(primaries).get(store, set())
    waits.update(name for one in primaries for name in one.waits_for)
    if waits or not primaries:
        why = f"wait for {', '.join(sorted(waits))}" if waits else "cannot be observed: no primary answers"
        return f"commits of {store} {why}"
    return ""


def _role(member: MemberSeen) -> str:
    return BUSY if member.busy else member.role


def _primaries(seen: Observation) -> dict[str, tuple[str, ...]]:
    """For each queried store: store -> sites of the members that report to be primary."""
    found: dict[str, list[str]] = {member.store: [] for member in seen.members}
    for member in seen.members:
        if member.role == "primary":
            found[member.store].append(member.site)
    return {store: tuple(sorted(sites)) for store, sites in found.items()}


class StoreAlarms:
    """Alarms of one controller, kept between observations."""

    def __init__(self) -> None:
        self._rivals: dict[str, Rivals] = {}
        self._silent: dict[str, tuple[Silent, int]] = {}
        """Store -> what is silent, and when that was first seen, by the monotonic clock."""

    def rivals(self, now: Observation, known: Sequence[Rivals]) -> tuple[Rivals, ...]:
        """Stores with more than one writable member in two observations in a row. known: those already
        published.
        """
        first, named = self._rivals, {one.store for one in known}
        found = rivals_still([*(one for name, one in first.items() if name not in named), *known], now)
        self._rivals = {one.store: one for one in found if not one.unheard}
        return tuple(one for one in found if one.store in named or (one.store in first and not one.unheard))

    def silent(
        self,
        estate: Estate,
        now: Observation,
        known: Iterable[Silent],
        moving: Collection[str],
        states: Mapping[str, SiteState],
        at_ms: int,
        believed_ms: int,
        homes: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[Silent, ...]:
        """Stores that have accepted no writes for `believed_ms`.

        estate: with its roles as last seen for certain; homes: site of each primary that was seen nowhere;
        known: those already published, which stay believed; moving: stores whose roles a run changes; states:
        verdicts on sites (a possibly lost one gets twice the time); at_ms: of the observation, by the
        monotonic clock.
        """
        roles = {(one.store, one.site): _role(one) for one in now.members if one.busy or not one.error}
        with_primary = {store for store, sites in _primaries(now).items() if sites}
        since = {one.store: one for one in known}
        top, before, self._silent = topology(estate), self._silent, {}
        lost, late = lost_now(top), dict[str, Silent]()
        for store in estate.stores:
            at = homes.get(store.id, "") if store.primary is None else store.primary.at
            site = (site_of(top, at) or "") if at else ""
            role = roles.get((store.id, site))
            if role is None or store.id in with_primary or store.id in moving:
                continue
            if states.get(site) == "lost" or is_lost(top, lost, at):
                continue
            told = Silent(store.id, site, at, now.at_ms, role="" if role == "unreachable" else role)
            one, first_ms = before.get(store.id, (told, at_ms))
            if (one.store, one.site) != (store.id, site):
                one, first_ms = told, at_ms
            one = replace(one, role=told.role)
            published = since.get(store.id)
            if published is not None and published.site == site and store.id not in before:
                one, first_ms = replace(published, role=told.role), at_ms - believed_ms
            self._silent[store.id] = (one, first_ms)
            if at_ms - first_ms >= believed_ms * (2 if states.get(site) == "suspect" else 1):
                late[store.id] = one
        return tuple(self._with_users(estate, late, states))

    @staticmethod
    def _with_users(
        estate: Estate, late: Mapping[str, Silent], states: Mapping[str, SiteState]
    ) -> Iterator[Silent]:
        graph = service_graph(estate) if late else None
        for name, one in sorted(late.items()):
            assert graph is not None
            gone = np.array([store.id == name for store in estate.stores], np.bool_)
            families = families_without_instance(graph, gone)
            down = np.array([not families.isdisjoint(needed) for needed in graph.families], np.bool_)
            hit = hit_by_dependency(graph, down)
            counts = [s.people for s, is_hit in zip(estate.services, hit, strict=True) if is_hit]
            lives = states.get(one.site) in ("healthy", "isolated")
            people = sum(count or 0 for count in counts)
            yield replace(
                one, services=len(counts), people=people, answers=lives, unstated=counts.count(None)
            )


_CODES: Final = MappingProxyType({"": "primary-silent", BUSY: "primary-busy"})


def _code(one: Silent) -> str:
    return _CODES.get(one.role, "no-primary")


def _end_words(code: str, site: str, primaries: Collection[str]) -> str:
    """Why a store is no longer reported. primaries: sites where one answers now."""
    if not primaries:
        return f"still no primary; {site} is lost or evacuated, or a run is moving the store"
    if site not in primaries or code == "no-primary":
        return "it has a primary again"
    return (
        "its primary answers again" if code == "primary-silent" else "its primary accepts connections again"
    )


class StoreAlarmChore:
    """Reports the start and end of each alarm in the log and the journal.

    seen: what is known, in which a silent member keeps its role; looked: the latest answers of the members
    themselves, None before the first ones of a term.
    """

    def __init__(
        self,
        seen: Callable[[], Observation],
        looked: Callable[[Lease], Observation | None],
        clock: Clock,
        tell: Tell,
    ) -> None:
        self._seen, self._looked, self._clock, self._tell = seen, looked, clock, tell
        self._rivals: dict[str, tuple[str, ...]] = {}
        self._silent: dict[str, tuple[str, str]] = {}
        """Store -> site of the primary, and the code that was reported."""

    async def chore(self, guard: Lease) -> None:
        seen = self._seen()
        lost = () if seen.effects is None else seen.effects.lost
        rivals = {one.store: one for one in seen.rivals}
        for name, one in rivals.items():
            if self._rivals.get(name) != one.sites:
                self._say("two-primaries", name, one.sites, f"{rivals_words(one)}; {rivals_hint(one, lost)}")
        for name in self._rivals.keys() - rivals.keys():
            self._say("two-primaries", name, (), f"{name}: at most one member accepts writes again")
        self._rivals = {name: one.sites for name, one in rivals.items()}
        silent = {one.store: one for one in seen.silent}
        for name, mute in silent.items():
            if self._silent.get(name) != (mute.site, _code(mute)):
                self._say(_code(mute), name, (mute.site,), f"{silent_words(mute)}; {silent_hint(mute)}")
        over = {name: one for name, one in self._silent.items() if name not in silent}
        looked = self._looked(guard)
        if looked is not None:
            primaries = _primaries(looked)
            for name, (site, code) in over.items():
                self._say(code, name, (), f"{name}: {_end_words(code, site, primaries.get(name, ()))}")
            over = {}
        self._silent = over | {name: (mute.site, _code(mute)) for name, mute in silent.items()}
        await asyncio.sleep(AGAIN_S)

    def _say(self, code: str, store: str, sites: tuple[str, ...], words: str) -> None:
        data = {"code": code, "store": store, "sites": list(sites)}
        self._tell(Notice("trouble", self._clock.now_ms(), "", words, data))
