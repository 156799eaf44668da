"""What a leader sees of the commits of stores over time: which of them wait for a copy, and which no copy
confirms although one should.

Each fact counts from the first observation that showed it to the last, not to the present: a single
observation, however old, may have met a new primary whose copies had not found it yet. It counts within one
term of leadership. A store whose primary was not observed, or that has two, shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from evac.derive.domains import is_lost, loss, site_of, topology
from evac.derive.stores import wants_confirming
from evac.drivers.capabilities import Protects, ProvesSync
from evac.drivers.registry import offers, spec_of
from evac.engine.clock import Clock
from evac.engine.stores.stalled_commits import plan_to_confirm
from evac.engine.stores.unconfirmed import Unconfirmed
from evac.model.estate import Endpoint, Estate, Store
from evac.model.observation import MemberSeen, Observation
from evac.model.run_policy import WatchProfile

MOVED_MS: Final = 10_000
"""Time in which copies attach to a new primary; commits that wait for them meanwhile are not a loss."""
_FOLLOWS: Final = ("sync", "async")


class _Span(NamedTuple):
    """First and last observation that showed the same."""

    what: object
    since_ms: int
    last_ms: int

    @property
    def ms(self) -> int:
        return self.last_ms - self.since_ms


class Commits:
    """Commits as seen by one leader. files, profile: of the estate and the policy in use; lost: what is lost
    now.
    """

    def __init__(
        self,
        clock: Clock,
        files: Callable[[], Estate],
        lost: Callable[[], Collection[str]],
        profile: Callable[[], WatchProfile],
    ) -> None:
        self._clock, self._files, self._lost, self._profile = clock, files, lost, profile
        self._waits: dict[str, _Span] = {}
        self._go_on: dict[str, _Span] = {}
        self._primaries: dict[str, tuple[str, int]] = {}
        """Store -> site of its primary, and when it was first seen there."""
        self._bare: dict[str, _Span] = {}
        """Stores whose primary lets commits go on without any copy."""
        self._confirmed: dict[str, _Span] = {}
        self._follow: dict[tuple[str, str], _Span] = {}
        self._unable: frozenset[tuple[str, str]] = frozenset()
        """Stores and sites of copies that are set not to confirm commits."""
        self._term = 0

    def note(self, now: Observation, term: int = 0) -> None:
        """Take in another observation. term: the token of the leader that made it. Nobody observed for this
        controller between two terms, so nothing of an earlier one counts.
        """
        if term != self._term:
            self._term = term
            for spans in (self._waits, self._go_on, self._bare, self._confirmed, self._follow):
                spans.clear()
        at_ms = self._clock.monotonic_ms()

        def span(before: Mapping[Any, _Span], key: object, what: object) -> _Span:
            known = before.get(key)
            return _Span(what, at_ms if known is None or known.what != what else known.since_ms, at_ms)

        waits, go_on, follow = self._waits, self._go_on, self._follow
        bare, confirmed = self._bare, self._confirmed
        self._unable = never_confirm_in(now)
        self._waits, self._go_on, self._follow, self._bare, self._confirmed = {}, {}, {}, {}, {}
        for store, primaries in _primaries(now).items():
            if len(primaries) != 1:
                continue
            (member,) = primaries
            if not member.waits_for:
                self._go_on[store] = span(go_on, store, None)
            site, _ = self._primaries.get(store, (member.site, 0))
            if site != member.site or store not in self._primaries:
                self._primaries[store] = (member.site, at_ms if site != member.site else -MOVED_MS)
            if member.waits_for and at_ms - self._primaries[store][1] >= MOVED_MS:
                self._waits[store] = span(waits, store, member.waits_for)
            if member.confirms or member.one_of_several:
                self._confirmed[store] = span(confirmed, store, member.site)
            elif not member.waits_for:
                self._bare[store] = span(bare, store, member.site)
        for member in now.members:
            if member.role in _FOLLOWS:
                key = (member.store, member.site)
                self._follow[key] = span(follow, key, None)

    def hang(self) -> dict[str, tuple[str, ...]]:
        """Store -> sites of synchronous copies that have not followed for as long as it takes to believe the
        loss of a site.
        """
        late = {name: one.what for name, one in self._waits.items() if one.ms >= self._believed_ms}
        found: dict[str, set[str]] = {}
        for end in self._files().endpoints:
            names = late.get(end.subject)
            if isinstance(names, tuple) and end.settings.get("name") in names:
                found.setdefault(end.subject, set()).add(end.at)
        return {store: tuple(sorted(sites)) for store, sites in sorted(found.items())}

    def go_on(self) -> frozenset[str]:
        """Stores whose primaries waited for no one for that long. A primary that was not observed does not
        count.
        """
        return frozenset(name for name, one in self._go_on.items() if one.ms >= self._believed_ms)

    def confirmed(self) -> frozenset[str]:
        """Stores whose every commit a copy has confirmed for that long."""
        return frozenset(name for name, one in self._confirmed.items() if one.ms >= self._believed_ms)

    def unconfirmed(self) -> dict[str, Unconfirmed]:
        """Stores where, according to their files, a copy should confirm every commit and none has done so for
        as long as a site must answer before it counts as healthy again; and the copies that have followed for
        that long. A copy at a place that is lost waits for its restore, even if it follows.

        Covers stores whose drivers report who confirms commits, and whose own cluster does not set it.
        """
        files = self._files()
        top = topology(files)
        wanted = [store for store in files.stores if store.id in self._bare and wants_confirming(top, store)]
        ends = {(end.subject, end.at): end for end in files.endpoints if _sets_who_confirms(end)}
        found: dict[str, Unconfirmed] = {}
        for store in wanted:
            seen = self._bare[store.id]
            primary = ends.get((store.id, str(seen.what)))
            if primary is not None and not store.quorum and seen.ms >= self._settled_ms:
                copies = self._plans(files, store, primary, ends)
                found[store.id] = Unconfirmed(
                    store.id, primary.at, store.rpo_ms, seen.last_ms, MappingProxyType(copies)
                )
        return found

    def _plans(
        self, files: Estate, store: Store, primary: Endpoint, ends: Mapping[tuple[str, str], Endpoint]
    ) -> dict[str, bytes]:
        """Site of each copy that could confirm -> plan of it, those first that confirm by the files."""
        top, rows = topology(files), list[tuple[bool, str, bytes]]()
        gone = loss(top, self._lost())
        for member in store.members:
            site = site_of(top, member.at) or ""
            end, seen = ends.get((store.id, site)), self._follow.get((store.id, site))
            if end is None or seen is None or site == primary.at or seen.ms < self._settled_ms:
                continue
            if (store.id, site) in self._unable:
                continue  # it would be tried, and refused, forever
            name = str(end.settings.get("name", ""))
            if name and not is_lost(top, gone, member.at):
                rows.append((member.mode not in ("sync", "primary"), site, plan_to_confirm(primary, name)))
        return {site: plan for _, site, plan in sorted(rows)}

    @property
    def _believed_ms(self) -> int:
        profile = self._profile()
        return profile.suspect_ms + profile.confirm_ms

    @property
    def _settled_ms(self) -> int:
        return max(self._believed_ms, self._profile().clear_ms)


def never_confirm_in(now: Observation) -> frozenset[tuple[str, str]]:
    """Store and site of each copy whose settings keep it from confirming commits."""
    return frozenset((one.store, one.site) for one in now.members if one.never_confirms)


def _primaries(now: Observation) -> dict[str, list[MemberSeen]]:
    found: dict[str, list[MemberSeen]] = {}
    for member in now.members:
        if member.role == "primary":
            found.setdefault(member.store, []).append(member)
    return found


def _sets_who_confirms(end: Endpoint) -> bool:
    """Whether evac sees and sets at this endpoint which copies confirm commits."""
    spec = spec_of(end.driver)
    able = offers(end.driver, end.settings, Protects) and offers(end.driver, end.settings, ProvesSync)
    return able and spec is not None and not spec.copies_follow_by_themselves
