"""The controller of a site: it always watches and votes; while it leads, it acts on verdicts and executes
runs.

Its dependencies are injected: store, clock, probes, planner, drivers. It acts only under its lease: when that
is lost, or too little is left to be sure, every running effect is cancelled at once.

A short lease ends soon after its holder dies, but on a slow machine or store it is lost again and again. So a
leader that lost it twice within half a minute requests double the length, up to four times the minimum, and
the minimum again once it was held for a minute and no run is open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import Any, Final

import orjson

from evac.engine.lead.candidacy import Candidacy
from evac.engine.lead.challenges import Challenge
from evac.engine.lead.generations import Generations
from evac.engine.lead.leadership import LEADER, Leadership
from evac.engine.lead.verdict_answers import VerdictAnswers
from evac.engine.lead.votes import VotePublisher, VoteReader
from evac.engine.lead.watch_journal import CURE, Chronicle, Notice, NoticeKind
from evac.engine.plans.library import Drawer
from evac.engine.runs.conductor import Conductor
from evac.engine.runs.desk import Desk
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import ensure_register
from evac.engine.stores.stalled_commits import Hanging, Hangs, Protections
from evac.engine.stores.unconfirmed import Protecting, SeenCommits
from evac.model.errors import (
    Conflict,
    Corrupt,
    EvacError,
    LeaseLost,
    NotAllowed,
    StoreError,
    Unavailable,
)
from evac.model.records import dataclass
from evac.net.internal_errors import enduring, in_own_task
from evac.store.anchors import Anchor
from evac.store.journal import Journal
from evac.store.opening import SealedStore
from evac.store.port import Lease, Put, Store
from evac.watch.verdict import SiteState, Standing, Vote, clocks_off, judge, judge_halls
from evac.watch.witness import Probe, Witness

AGAIN_MS: Final = 30_000
MOST_TIMES: Final = 4
QUIET_S: Final = 60.0


class LeaseSpan:
    """The lease length of one controller, over all its terms. least_ms: the minimum. ms: what to request
    now.
    """

    def __init__(self, least_ms: int) -> None:
        self.ms = self._least_ms = least_ms
        self._lost_ms: int | None = None

    def lost(self, now_ms: int) -> None:
        """Records that the lease was lost at a moment of the monotonic clock."""
        if self._lost_ms is not None and now_ms - self._lost_ms < AGAIN_MS:
            self.ms = min(2 * self.ms, MOST_TIMES * self._least_ms)
        self._lost_ms = now_ms

    async def mind(self, leadership: Leadership, store: Store, quiet_s: float = QUIET_S) -> None:
        """Ends a term with an extended lease, by LeaseLost, once the extension is no longer needed and
        nothing is running. Returns at once if the lease is not extended.
        """
        if leadership.lease.ttl_ms <= self._least_ms:
            return
        while True:
            await asyncio.sleep(quiet_s)
            try:
                if await store.list(OPEN, limit=1):
                    continue
            except Unavailable:
                continue
            self.ms = self._least_ms
            leadership.trouble = ("it was held longer than needed; acquiring it again with a shorter TTL",)
            raise LeaseLost(LEADER)


AnchorSink = Callable[[Anchor], Awaitable[None]]
"""Keeps the head of a journal elsewhere; raises EvacError if it cannot."""

Chore = Callable[[Lease], Awaitable[NotAllowed | None]]
"""A recurring task of the leader alone, such as checking the standing facts of stores. It waits until its
next turn is due. A refusal that it returns concerns a part of its work; the rest is done.
"""

ANCHOR_PERIOD_S: Final = 0.5
ANCHOR_DEADLINE_S: Final = 2.0
KEEP_PERIOD_S: Final = 5.0
LEAD_AGAIN_S: Final = 0.1
MINUTE_MS: Final = 60_000
SET_CLOCK: Final = "set the clock there; until then, proofs and signatures that depend on it may be refused"


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a controller."""

    site: str
    sites: tuple[str, ...]
    """All voters, including this one."""
    desk: Desk
    drawer: Drawer
    targets: Mapping[str, Sequence[Probe]]
    """Site -> its probes."""
    control: Probe | None = None
    protections: Protections | None = None
    """Lost sites -> store -> plan bytes that make another replica synchronous."""
    hangs: Hangs | None = None
    """Store -> sites of synchronous copies that have been behind for too long, even if the sites live."""
    commits_go_on: Callable[[], Collection[str]] | None = None
    """Stores whose commits have waited for no one for as long."""
    commits: SeenCommits | None = None
    """Stores where no copy confirms commits although one should; None: not checked."""
    anchors: Sequence[AnchorSink] = ()
    chores: Sequence[Chore] = ()
    leader_ttl_ms: int = 5_000
    """How long a dead leader blocks the others; up to four times that where everything is slow."""
    generations: Generations | None = None
    """None: no agent is asked."""
    estate: Callable[[], str] = lambda: ""
    """Digest of the present planning input."""


@dataclass(slots=True)
class _Term:
    """One term of leadership."""

    leadership: Leadership
    conductor: Conductor
    chronicle: Chronicle
    hanging: Hanging
    anchored: dict[str, Anchor] = field(default_factory=dict)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    clocks_off: frozenset[str] = frozenset()
    """Sites whose clock differs now."""


class Controller:
    """One per site. `run` continues until cancelled."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._desk = parts.desk
        self._profile = parts.desk.policy.profile
        store, clock = self._desk.store, self._desk.clock
        challenge = Challenge(clock.monotonic_ms) if isinstance(store, SealedStore) else None
        self._reader = VoteReader(store, clock, self._profile, challenge)
        self._publisher = VotePublisher(store, parts.site, self._desk.owner, self._profile, challenge)
        self._term: _Term | None = None
        self._votes_read = asyncio.Event()
        self._judged = asyncio.Event()
        self.standings: dict[str, Standing] = {}
        self.halls: dict[str, Standing] = {}
        self._witness: Witness | None = None
        pause_s = max(LEAD_AGAIN_S, parts.leader_ttl_ms / 10_000)
        self._span = LeaseSpan(parts.leader_ttl_ms)
        self._candidacy = Candidacy(self._desk.store, self._take_office, pause_s, self._cannot_lead)
        if parts.generations is not None:
            parts.generations.on_ended = self._must_not_act
            parts.generations.on_raised = self._end_term
            parts.generations.on_lost = self._end_term
            parts.generations.leads_with = self._leads_with

    @property
    def leads(self) -> bool:
        return self._term is not None and self._term.leadership.holding

    def _leads_with(self) -> int:
        """The token of the lease that is ours now by our own clock; 0 without one."""
        term = self._term
        return term.leadership.token if term is not None and term.leadership.holding else 0

    @property
    def neither(self) -> str:
        """Why it can neither lead nor follow; empty if it does either."""
        return "" if self._term is not None else self._candidacy.why

    def retarget(self, targets: Mapping[str, Sequence[Probe]]) -> None:
        """Replaces the probes of the same sites from the next round."""
        self.parts = replace(self.parts, targets=targets)
        if self._witness is not None:
            self._witness.retarget(targets)

    def say(self, kind: NoticeKind, words: str, data: Mapping[str, Any]) -> None:
        """Reports something about this controller, through `tell`."""
        self.tell(Notice(kind, self._desk.clock.now_ms(), self.parts.site, words, data))

    def tell(self, notice: Notice) -> None:
        """Notifies listeners; while leading, also writes the journal."""
        self._desk.tell(notice) if self._term is None else self._tell(self._term, notice)

    async def run(self) -> None:
        """Watches, votes, judges and competes for the lease, until cancelled."""
        answered = await self._answered_before()
        witness = self._witness = Witness(
            self.parts.site,
            self.parts.targets,
            self._profile,
            self._desk.clock,
            self._vote,
            self.parts.control,
            answered,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(witness.run(), name="witness")
            tasks.create_task(self._publisher.run(), name="votes out")
            tasks.create_task(self._read_votes(), name="votes in")
            tasks.create_task(self._judge(), name="judge")
            tasks.create_task(self._keep_answered(witness), name="answered")
            if self.parts.generations is not None:
                tasks.create_task(self.parts.generations.run(), name="generations")
            tasks.create_task(self._compete(), name="lead")

    def _vote(self, vote: Vote) -> None:
        self._publisher.publish(vote)

    async def _read_votes(self) -> None:
        """Every controller reads all votes continuously, so that a new leader knows their ages."""
        period_s = self._profile.period_ms / 1_000
        while True:
            try:
                async for _ in self._desk.store.watch("votes/"):
                    await self._reader.refresh()
                    self._votes_read.set()
            except Unavailable:
                await asyncio.sleep(period_s / 2)

    async def _judge(self) -> None:
        """Computes verdicts whenever votes change, and each period otherwise: silence is news too."""
        period_s = self._profile.period_ms / 1_000
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._votes_read.wait()
            self._votes_read.clear()
            now_ms = self._desk.clock.monotonic_ms()
            ballots, sites = self._reader.ballots, self.parts.sites
            self.standings = judge(ballots, sites, self.standings, self._profile, now_ms, self.parts.site)
            self.halls = judge_halls(ballots, sites, self.halls, self._profile, now_ms, self.standings)
            self._judged.set()
            if self._term is not None:
                wall_ms = self._desk.clock.now_ms()
                self._tell_clocks(self._term, *clocks_off(ballots, self.parts.site, wall_ms, now_ms))

    def _tell_clocks(self, term: _Term, off: Mapping[str, int], agreed: bool) -> None:
        """Names each machine whose clock differs, once until it agrees again."""
        others = "the others" if agreed else f"the one at {self.parts.site}"
        for site, ahead_ms in off.items():
            if site not in term.clocks_off:
                by = f"{round(abs(ahead_ms) / MINUTE_MS)} min {'ahead of' if ahead_ms > 0 else 'behind'}"
                words = f"the clock of the controller at {site} is {by} {others}"
                self._say(term, "trouble", site, words, {"code": "clock-off", "hint": SET_CLOCK})
        term.clocks_off = frozenset(off)

    async def _compete(self) -> None:
        """Tries to lead whenever no one does."""
        while True:
            await in_own_task(self._lead(await self._candidacy.wait()))
            await asyncio.sleep(LEAD_AGAIN_S)

    def _cannot_lead(self, error: StoreError) -> None:
        told, now_ms = {"code": error.code}, self._desk.clock.now_ms()
        words = f"cannot lead: {error.with_hint}"
        self._desk.tell(Notice("trouble", now_ms, self.parts.site, words, told))

    async def _take_office(self) -> _Term:
        """Raises `LockHeld` while someone else leads, `Superseded` where a newer generation acts,
        `StoreNotObeyed` where systems obey the leader of another store.
        """
        generation = await self._generation()
        terms: list[_Term] = []

        def lost() -> None:
            for term in terms:
                term.conductor.lost()

        leadership = await Leadership.acquire(
            self._desk.store,
            self._desk.owner,
            self._span.ms,
            self._desk.clock,
            lost,
            LEADER,
            generation,
        )
        chronicle = Chronicle(self._desk.store, leadership.lease)
        conductor = Conductor(_telling(self._desk, chronicle), leadership, self._state_of)
        hanging = Hanging(
            self._desk,
            len(self.parts.sites),
            conductor,
            self.parts.protections,
            self._lost_now,
            lambda kind, site, words, data: self._say(terms[0], kind, site, words, data),
        )
        terms.append(_Term(leadership, conductor, chronicle, hanging))
        return terms[0]

    async def _generation(self) -> int:
        """The store's generation. Raises `Superseded`, `StoreNotObeyed`."""
        generations = self.parts.generations
        if generations is None:
            return 0
        await generations.begin()
        await generations.compare()
        return generations.own.number

    def _must_not_act(self) -> None:
        """Nothing in this store acts any more: everything running is cancelled at once."""
        assert self.parts.generations is not None
        self._end_term()
        self._desk.tell(self.parts.generations.notice(self.parts.site))

    def _end_term(self) -> None:
        """Ends the term; if this controller leads again, it does so under another token."""
        if self._term is not None:
            self._term.conductor.lost()
            self._term.ending.set()

    async def _lead(self, term: _Term) -> None:
        """Runs the leader's duties until the lease is lost or someone else writes."""
        self._term = term
        now_ms = self._desk.clock.now_ms()
        words = f"{self._desk.owner} leads"
        try:
            made_of = {"estate": self.parts.estate(), "policy": self._desk.policies.digest}
            data = {"token": term.leadership.token, **made_of}
            self._tell(term, Notice("leader", now_ms, self.parts.site, words, data))
            await self._ensure_register(term)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._mind(term), name="lease")
                tasks.create_task(self._mind_generation(term), name="generation")
                tasks.create_task(self._span.mind(term.leadership, self._desk.store), name="span")
                tasks.create_task(term.leadership.hang_out_sign(), name="sign")
                tasks.create_task(term.conductor.run(), name="runs")
                say = partial(self._say, term, "trouble", "")
                tasks.create_task(term.chronicle.run(say), name="chronicle")
                answers = VerdictAnswers(
                    self._desk,
                    self.parts.sites,
                    self.parts.drawer,
                    term.leadership,
                    term.conductor,
                    term.hanging,
                    lambda: self.standings,
                    lambda: self.halls,
                    self._judged,
                    partial(self._tell, term),
                )
                tasks.create_task(answers.run(), name="verdicts")
                for what, work in self._duties(term):
                    tasks.create_task(enduring(what, partial(_retried, what, work, say), say), name=what)
        except* (LeaseLost, Conflict, Unavailable) as group:
            why = "; ".join([*map(str, _leaves(group)), *term.leadership.trouble])
            self._desk.tell(
                Notice("leader", self._desk.clock.now_ms(), self.parts.site, f"stopped leading: {why}")
            )
        finally:
            self._term = None
            if term.leadership.given_up:
                self._span.lost(self._desk.clock.monotonic_ms())
            if self.parts.generations is not None and self.parts.generations.over:
                await term.chronicle.last_words(self.parts.generations.notice(self.parts.site))
            await term.leadership.release()

    def _duties(self, term: _Term) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """Duties that an internal error or a refusal interrupts but does not end."""
        parts, lease = self.parts, term.leadership.lease
        yield "drawer", partial(parts.drawer.run, lease)
        yield "anchors", partial(self._anchor, term)
        if parts.hangs is not None and parts.protections is not None:
            yield "hanging commits", partial(term.hanging.watch, parts.hangs, parts.commits_go_on)
        if parts.commits is not None:
            say = partial(self._say, term)
            protecting = Protecting(self._desk, term.conductor, term.hanging, self._lost_now, say)
            yield "unconfirmed commits", partial(protecting.watch, parts.commits)
        for chore in parts.chores:
            name = f"background task {getattr(chore, '__qualname__', type(chore).__name__)}"
            yield name, partial(_chore, chore, lease, partial(self._say, term, "trouble", ""))

    async def _mind(self, term: _Term) -> None:
        """Ends the term with the lease, whatever the other tasks wait for."""
        await term.leadership.over()
        raise LeaseLost(LEADER)

    async def _mind_generation(self, term: _Term) -> None:
        """Ends the term when a newer generation acts, when this store's own generation is raised, or when
        either was learned while the lease was taken.
        """
        known = self.parts.generations
        if known is not None:
            await known.compare_tokens()
        if known is None or not known.ended(term.leadership.lease.generation):
            await term.ending.wait()
        if known is not None:
            known.check()
        raise LeaseLost(LEADER)

    async def _ensure_register(self, term: _Term) -> None:
        try:
            permit = await ensure_register(self._desk.store, self.parts.sites)
        except (NotAllowed, Corrupt) as error:  # guards allow nothing meanwhile, and all else goes on
            self._say(term, "trouble", "", f"{error.message}; next: {CURE}", {"code": error.code})
            return
        if permit.changes:
            await self._desk.store.transact(permit.compares, permit.changes, term.leadership.lease)

    def _state_of(self, site: str) -> SiteState:
        standing = self.standings.get(site)
        return "unknown" if standing is None else standing.verdict.state

    def states(self) -> dict[str, SiteState]:
        """The verdict on each site that this controller may rely on."""
        return {site: one.verdict.state for site, one in self.standings.items()}

    def _lost_now(self) -> set[str]:
        return {site for site, state in self.states().items() if state == "lost"}

    async def _anchor(self, term: _Term) -> None:
        """Sends heads of journals to the other sites soon after they move. A failing sink blocks nothing."""
        while True:
            await asyncio.sleep(ANCHOR_PERIOD_S)
            journals: list[Journal] = list(term.conductor.journals)
            if term.chronicle.journal is not None:
                journals.append(term.chronicle.journal)
            heads = [j.head for j in journals if not j.in_doubt and j.head.segment]
            news = [head for head in heads if term.anchored.get(head.stream) != head]
            for head in news:
                kept = await _together([_keep_anchor(sink, head) for sink in self.parts.anchors])
                if all(kept):
                    term.anchored[head.stream] = head

    async def _answered_before(self) -> tuple[str, ...]:
        """Probes that answered before this controller restarted; () if unknown."""
        try:
            entry = await self._desk.store.get(self._answered_key)
            return tuple(str(name) for name in orjson.loads(entry.value)) if entry is not None else ()
        except (StoreError, ValueError, TypeError):
            return ()

    async def _keep_answered(self, witness: Witness) -> None:
        kept: tuple[str, ...] = ()
        while True:
            await asyncio.sleep(KEEP_PERIOD_S)
            now = witness.answered()
            if now == kept:
                continue
            with contextlib.suppress(StoreError):
                await self._desk.store.transact((), (Put(self._answered_key, orjson.dumps(now)),))
                kept = now

    @property
    def _answered_key(self) -> str:
        return f"answered/{self.parts.site}"

    def _say(
        self, term: _Term, kind: Any, site: str, words: str, data: Mapping[str, Any] | None = None
    ) -> None:
        self._tell(term, Notice(kind, self._desk.clock.now_ms(), site, words, data or {}))

    def _tell(self, term: _Term, notice: Notice) -> None:
        """Writes the journal and notifies listeners."""
        term.chronicle.add(notice)
        self._desk.tell(notice)


def _telling(desk: Desk, chronicle: Chronicle) -> Desk:
    """The same desk, with every notice written to the journal as well."""

    def tell(notice: Notice) -> None:
        chronicle.add(notice)
        desk.tell(notice)

    return replace(desk, tell=tell)


async def _retried(what: str, work: Callable[[], Awaitable[None]], say: Callable[..., None]) -> None:
    """Runs the work until it ends. A refusal ends neither the term nor the controller, whose successors would
    meet the same one: it is reported once, and the work begins again after a while.
    """
    reported = ""
    while True:
        try:
            return await work()
        except (LeaseLost, Conflict, Unavailable):
            raise
        except EvacError as error:
            words = f"{what}: {error.message}"
            if words != reported:
                say(words, {"code": error.code, "hint": error.hint})
            reported = words
        await asyncio.sleep(KEEP_PERIOD_S)


async def _chore(chore: Chore, guard: Lease, say: Callable[..., None]) -> None:
    """A failing chore never ends leadership, but loss of the lease does. A refusal is reported once
    while its words stay the same. Only a chore that raised has not waited.
    """
    reported = ""
    while True:
        pause_s = 0.0
        try:
            refusal = await chore(guard)
        except LeaseLost:
            raise
        except NotAllowed as error:
            refusal, pause_s = error, KEEP_PERIOD_S
        except EvacError:
            await asyncio.sleep(KEEP_PERIOD_S)
            continue
        if refusal is not None and refusal.message != reported:
            say(refusal.message, {"code": refusal.code, "hint": refusal.hint})
        reported = "" if refusal is None else refusal.message
        if pause_s:
            await asyncio.sleep(pause_s)


async def _together(calls: Sequence[Coroutine[Any, Any, bool]]) -> Sequence[bool]:
    """Runs the calls concurrently if there are several."""
    return await asyncio.gather(*calls) if len(calls) > 1 else [await call for call in calls]


async def _keep_anchor(sink: AnchorSink, head: Anchor) -> bool:
    try:
        async with asyncio.timeout(ANCHOR_DEADLINE_S):
            await sink(head)
    except (EvacError, TimeoutError, OSError):
        return False
    return True


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
