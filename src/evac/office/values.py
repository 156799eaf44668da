"""What the war room shows of the current situation: one frozen value, replaced as a whole on every change.

Field names are those of the API. Times are milliseconds since 1970 (UTC) by the clock of this process, unless
another clock is named. Votes about a site are judged by the same rule as in the controllers: a war room in a
site that is cut off trusts nothing, like the controller there. In a sealed store a vote counts only if it
repeats a challenge of this process, as it does for controllers.

Viewers get news through the hub, where every queue is bounded. A viewer that is too slow is disconnected; it
reconnects with the number of its last message and misses nothing, as the journal has everything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from typing import Any, Final, Literal

from evac.engine.clock import Clock
from evac.engine.lead.challenges import Challenge, PostedChallenge
from evac.engine.lead.votes import VoteReader
from evac.incident.records import Notice
from evac.model.errors import EvacError, StoreError, Unavailable
from evac.model.generation import GENERATION_BITS
from evac.model.records import dataclass
from evac.model.run_policy import WatchProfile
from evac.model.situation import LostNow, Rivals, Silent
from evac.store.opening import SealedStore
from evac.store.port import Store, owner_in
from evac.views.status_document import HoldLine, PlanLine, RunLine
from evac.views.words import wall_clock_here
from evac.watch.verdict import Ballot, judge, judge_halls
from evac.watch.verdict import Standing as Judged

Standing = Literal["healthy", "suspect", "lost", "isolated", "unknown", "unwatched"]
"""As `watch.values.SiteState`; unwatched: no witness votes on the site, so there is nothing to judge."""
VIEWERS_MOST: Final = 1_000
WAITING_MOST: Final = 1_024


@dataclass(frozen=True, slots=True)
class VoteSeen:
    """The vote of one site's witness on another site."""

    witness: str
    opinion: str
    fresh: bool
    """Whether it counts now."""
    since_ms: int
    """By the witness's clock."""
    reason: str
    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SiteSeen:
    """One site."""

    id: str
    role: str
    state: Standing
    """The verdict of the votes, as judged here."""
    since_ms: int
    reason: str
    by: tuple[str, ...]
    """Witnesses that support it."""
    kinds: tuple[str, ...]
    mark: str
    """Its mark in the site register: `active`, `evacuating`, `evacuated` or `lost`; empty without a register.
    """
    votes: tuple[VoteSeen, ...]


@dataclass(frozen=True, slots=True)
class LeaderSeen:
    """The current leader."""

    owner: str
    """Site/process/nonce; empty if there is no leader."""
    term: int
    """Its fencing token, which only grows."""

    @property
    def site(self) -> str:
        return owner_in(self.owner).site

    @property
    def count(self) -> int:
        """The term as shown to people: counted within its generation."""
        return self.term & ((1 << GENERATION_BITS) - 1)


@dataclass(frozen=True, slots=True)
class ControllerSeen:
    """The controller that runs with this war room, by its own report."""

    state: str
    """`leads`, `follows`, or `neither`, with the reason. In that last case the data shown may be old, and the
    controller executes nothing that is requested here.
    """
    why: str
    since_ms: int
    """Since when it has been in this state."""


@dataclass(frozen=True, slots=True)
class NewerSeen:
    """A newer generation that replaced this store: nothing in this one has any effect."""

    generation: int
    by: str
    """Who reported it."""
    at_ms: int


@dataclass(frozen=True, slots=True)
class QuorumSeen:
    """How far the store can be relied on."""

    store: str
    """Its name."""
    survives: bool
    """Whether it survives the loss of any one site."""
    voting: tuple[str, ...]
    """Sites with a fresh vote."""
    needed: int
    """Votes needed for a majority."""
    answers: bool
    """Whether the store answered the last read."""
    since_ms: int
    problem: str = ""
    """Why it did not, or why it cannot be read."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A store that does not answer: everything shown is as it was when it last did."""

    since_ms: int
    """When it last answered; if it never did, when this process began to ask."""
    why: str
    was_read: bool

    @property
    def words(self) -> str:
        at = wall_clock_here().both(self.since_ms, self.since_ms, True)
        since = f"since {at}" if self.was_read else f"yet, asked since {at}"
        return f"the store has not answered {since}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True, slots=True)
class HoldSeen(HoldLine):
    """A hold: every run stops before its next effect."""

    revision: int
    """Revision in the store, for If-Match."""


@dataclass(frozen=True, slots=True)
class ReadyPlan(PlanLine):
    """A standby plan in the plan library."""

    current: bool | None
    """Whether it matches the current estate; None until that is known."""
    kind: str = ""
    """Kind of the domain, or `pair`."""
    people: int = 0
    """Users left without a service by the loss."""
    searched: bool = True
    """Whether the search for a better plan has ended."""
    made_ms: int = 0
    """When it was made, by the leader's clock."""


@dataclass(frozen=True, slots=True)
class RunShort(RunLine):
    """A run in one line."""

    started_ms: int
    ended_ms: int
    events: int
    """Number of the last event."""
    steps: int
    counts: Mapping[str, int]
    waits: tuple[str, ...]
    """What only a person can do now."""
    why: str
    held: str
    open: bool


@dataclass(frozen=True, slots=True)
class ExportSeen:
    """State of the externally hosted public status page, as one site publishes it."""

    site: str
    ok_ms: int
    """When it was last written."""
    since_ms: int
    problem: str
    """Why it cannot be written, and with `since_ms`, since when."""
    languages: tuple[str, ...] = ()
    """Languages of the page, its own first."""


@dataclass(frozen=True, slots=True)
class EstateOnDisk:
    """How the estate files on disk differ from the estate in use."""

    taken_ms: int
    """When the estate in use was read."""
    problems: int
    """Number of problems that keep the files from being loaded."""
    first: str
    """The first of them, with file and line."""
    restart: str
    """Changes that need a restart to take effect."""
    since_ms: int
    """Since when there have been problems or changes that need a restart; 0: there are none."""
    words: str
    """One sentence; empty if all is well."""
    policy_ms: int
    """When the policy in use was read."""
    policy: bool
    """Whether only the policy could not be loaded."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything on the Now page except facts of the estate. `version` grows with every change."""

    version: int
    at_ms: int
    """When this version was made."""
    sites: tuple[SiteSeen, ...]
    leader: LeaderSeen
    quorum: QuorumSeen
    hold: HoldSeen | None
    drawer: tuple[ReadyPlan, ...]
    open_runs: tuple[RunShort, ...]
    ended_runs: tuple[RunShort, ...]
    notices: tuple[Notice, ...]
    notice: int
    """Number of the last alert."""
    estate: str
    """Digest of the estate as last observed; empty until it is computed."""
    problem: str
    """Why the estate could not be computed."""
    noted: int = 0
    """Grows with every note that a person writes."""
    generation: int = 0
    """Generation of the store."""
    newer: NewerSeen | None = None
    """The generation that replaced it."""
    exports: tuple[ExportSeen, ...] = ()
    on_disk: EstateOnDisk | None = None
    """The estate files, if a controller watches them."""
    policy: str = ""
    """Digest of the policy in use; empty until it is read."""
    controller: ControllerSeen | None = None
    """The controller that runs with this war room; None if none has reported."""
    rivals: tuple[Rivals, ...] = ()
    """Stores with two writable primaries: nothing is more severe."""
    silent: tuple[Silent, ...] = ()
    """Stores whose primary does not answer although its site is not lost."""
    lost: tuple[LostNow, ...] = ()
    """Lost or evacuated domains, as published by the leader; known before anything is computed from them."""
    lost_halls: tuple[str, ...] = ()
    """Lost halls at sites that are up, as the witnesses see them."""

    @property
    def lost_sites(self) -> tuple[SiteSeen, ...]:
        """Unusable sites, as the witnesses see them."""
        return tuple(site for site in self.sites if site.state in GONE)

    @property
    def lost_since_ms(self) -> int:
        """Since when the first of them has been lost; 0: none is. A run's mark can be older than what a new
        leader has observed.
        """
        marked = {one.domain: one.since_ms for one in self.lost if one.since_ms}
        seen = (min(site.since_ms, marked.get(site.id, site.since_ms)) for site in self.lost_sites)
        return min(seen, default=0)


NOBODY = LeaderSeen("", 0)


LEAST_S: Final = 0.5
GONE: Final = ("lost", "isolated")
"""States of sites that cannot be used."""


class Ballots:
    """Reads votes and judges them. `follow` sets which sites, and how quickly to believe a loss."""

    def __init__(self, store: Store, clock: Clock, profile: WatchProfile, site: str) -> None:
        self._store, self._clock, self._site = store, clock, site
        self._profile = profile
        self._sites: tuple[tuple[str, str], ...] = ()
        self._challenge = Challenge(clock.monotonic_ms) if isinstance(store, SealedStore) else None
        self._posted = (
            PostedChallenge(store, site, self._challenge, clock.monotonic_ms) if self._challenge else None
        )
        self._unposted = ""
        """Why no witness can read the challenge of this process."""
        self._reader = VoteReader(store, clock, profile, self._challenge)
        self._standings: dict[str, Judged] = {}
        self._halls: dict[str, Judged] = {}
        self._since_ms: dict[str, tuple[str, int]] = {}

    def follow(self, profile: WatchProfile, sites: Sequence[tuple[str, str]]) -> None:
        """`sites`: (id, role). The profile decides when silence counts."""
        self._sites = tuple(sites)
        if profile != self._profile:
            self._profile = profile
            self._reader = VoteReader(self._store, self._clock, profile, self._challenge)

    @property
    def period_s(self) -> float:
        return max(LEAST_S, self._profile.period_ms / 1_000)

    async def read(self) -> None:
        """Raises Unavailable; what was read before then ages."""
        if self._posted is not None:
            try:
                await self._posted.keep()
                self._unposted = ""
            except Unavailable:
                raise
            except StoreError as error:  # Such a room can read, and what it reads is not proven.
                self._unposted = f"no vote can be proven: {error.message}"
        await self._reader.refresh()

    async def close(self) -> None:
        """The store stays open."""
        if self._posted is not None:
            with contextlib.suppress(StoreError):
                await self._posted.withdraw()

    def judge(self) -> bool:
        """Judges again; returns whether any state, reason or vote may have changed."""
        names = [site for site, _ in self._sites]
        ballots, profile, now_ms = self._reader.ballots, self._profile, self._clock.monotonic_ms()
        self._standings = judge(ballots, names, self._standings, profile, now_ms, self._site)
        self._halls = judge_halls(ballots, names, self._halls, profile, now_ms, self._standings)
        return bool(names)

    def lost(self, marks: Mapping[str, str]) -> tuple[str, ...]:
        """Lost halls and sites; also sites that nobody reaches."""
        return (*(one.id for one in self.sites(marks) if one.state in GONE), *self.lost_halls())

    def lost_halls(self) -> tuple[str, ...]:
        """Lost halls at sites that are up."""
        return tuple(hall for hall, one in sorted(self._halls.items()) if one.verdict.state == "lost")

    def voting(self) -> tuple[str, ...]:
        """Sites whose witness has a fresh vote."""
        fresh = {ballot.vote.witness for ballot in self._reader.ballots if self._is_fresh(ballot)}
        return tuple(sorted(fresh.intersection(site for site, _ in self._sites)))

    def sites(self, marks: Mapping[str, str]) -> tuple[SiteSeen, ...]:
        """Every site with its verdict, sorted by name."""
        ballots = self._reader.ballots
        found = []
        for site, role in self._sites:
            votes = sorted((b for b in ballots if b.vote.target == site), key=lambda b: b.vote.witness)
            state, reason, by, kinds = self._verdict(site, bool(ballots))
            found.append(
                SiteSeen(
                    site,
                    role,
                    state,
                    self._since(site, state),
                    reason,
                    by,
                    kinds,
                    marks.get(site, ""),
                    tuple(self._vote(ballot) for ballot in votes),
                )
            )
        return tuple(found)

    def _verdict(self, site: str, watched: bool) -> tuple[Standing, str, tuple[str, ...], tuple[str, ...]]:
        judged = self._standings.get(site)
        if not watched or judged is None:
            return "unwatched", "no witness votes", (), ()
        verdict = judged.verdict
        return verdict.state, self._unposted or verdict.reason, verdict.by, verdict.kinds

    def _since(self, site: str, state: str) -> int:
        """Since when this process has seen the state."""
        known = self._since_ms.get(site)
        if known is None or known[0] != state:
            known = self._since_ms[site] = (state, self._clock.now_ms())
        return known[1]

    def _vote(self, ballot: Ballot) -> VoteSeen:
        vote = ballot.vote
        return VoteSeen(
            vote.witness,
            vote.opinion,
            self._is_fresh(ballot),
            vote.since_ms,
            vote.reason,
            dict(vote.evidence),
        )

    def _is_fresh(self, ballot: Ballot) -> bool:
        age_ms = self._clock.monotonic_ms() - ballot.seen_at_ms
        return ballot.proven and age_ms <= self._profile.vote_ttl_ms


class TooManyViewers(EvacError):
    """More viewers than this process can serve."""

    def __init__(self, most: int) -> None:
        super().__init__("too-many-viewers", f"{most} viewers are already following", "try again in a minute")


@dataclass(frozen=True, slots=True)
class News:
    """One update for viewers."""

    topic: str
    kind: str
    """`notice`, `event` or `situation`."""
    number: int
    """Its place in its journal; 0 if it has none."""
    value: Any


@dataclass(eq=False)
class Viewer:
    """One listener. Iterate over `news`; it ends when the viewer is too slow or the hub closes."""

    topics: frozenset[str]
    waiting: deque[News] = field(default_factory=deque)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    def tell(self, news: News) -> None:
        if len(self.waiting) >= WAITING_MOST:
            self.end()
            return
        self.waiting.append(news)
        self._bell.set()

    def end(self) -> None:
        self.over = True
        self._bell.set()

    async def news(self, pause_s: float) -> AsyncIterator[News | None]:
        """Updates as they arrive; None after each pause without any, as a heartbeat."""
        while True:
            while self.waiting and not self.over:
                yield self.waiting.popleft()
            if self.over:
                return
            self._bell.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._bell.wait()
            except TimeoutError:
                yield None


class Hub:
    """Sends updates to viewers by topic."""

    def __init__(self, most: int = VIEWERS_MOST) -> None:
        self._most = most
        self._by_topic: dict[str, set[Viewer]] = {}
        self.viewers = 0

    def check_room(self) -> None:
        """Raises TooManyViewers if one more would exceed the limit."""
        if self.viewers >= self._most:
            raise TooManyViewers(self._most)

    @contextmanager
    def viewer(self, *topics: str) -> Iterator[Viewer]:
        """Raises TooManyViewers."""
        self.check_room()
        one = Viewer(frozenset(topics))
        self.viewers += 1
        for topic in one.topics:
            self._by_topic.setdefault(topic, set()).add(one)
        try:
            yield one
        finally:
            self.viewers -= 1
            for topic in one.topics:
                self._by_topic[topic].discard(one)
                if not self._by_topic[topic]:
                    del self._by_topic[topic]

    def tell(self, news: News) -> None:
        for viewer in tuple(self._by_topic.get(news.topic, ())):
            viewer.tell(news)

    def close(self) -> None:
        for viewers in tuple(self._by_topic.values()):
            for viewer in tuple(viewers):
                viewer.end()
