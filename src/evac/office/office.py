"""The office behind the war room: follows a store, knows an estate, and records what people request.

It answers three kinds of questions and contains no HTTP:

    situation           a frozen `Situation`: verdicts and votes, leader, hold, library, runs, alerts
    facts               frozen `EstateFacts`: sites, services, headroom, losses, findings; one per digest
    runs, plans, what_if    looked up on request

`run` keeps the first two up to date until it is cancelled. The office only reads, except that it records
people's requests (`office.requests`). It executes nothing, never waits for a controller, and shows the last
known state while the store does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import orjson

from evac.app.applying import Rehearser
from evac.app.backups import kept_facts
from evac.app.controlling import hands_of
from evac.app.doctor import Systems
from evac.app.estates.copies import Standing, edition_of, read_standing, words_of
from evac.app.published import Published
from evac.app.side_process import NEITHER
from evac.backup.evidence import BackupsReader, BackupsSeen, Evidence
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.watch_journal import STREAM as WATCH
from evac.engine.lead.watch_journal import decode as decode_notice
from evac.engine.plans import library
from evac.engine.stores.guards import HOLD_KEY, SITES_KEY, marks_in
from evac.estate.codecs import plan as plan_codec
from evac.incident.records import Notice
from evac.incident.runbook import Runbook
from evac.model.backup import BackupEvent
from evac.model.errors import Corrupt, EvacError, InvalidInput, Unavailable
from evac.model.observation import Observation
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.run_policy import PROFILES
from evac.office import values
from evac.office.doctor import DoctorDesk, Examiner, Examines
from evac.office.facts import EstateFacts
from evac.office.incidents import IncidentDesk
from evac.office.newly_lost import answer_in_doubt, facts_in_doubt, newly_lost, unmarked
from evac.office.notices.overview import NoticeBoard
from evac.office.reckoning import CapacityOf, PlanVerdict, Reckoner, Rules, WhatIf, Worker, judged, verdict_of
from evac.office.runs import Register
from evac.store.generation import read_generation, read_newer, takes_place_of
from evac.store.journal import last_of, records_after, tail
from evac.store.opening import open_store
from evac.store.port import Entry, Store, all_entries
from evac.views.backup_view import BackupsDocument
from evac.views.status_document import hold_line
from evac.watch.verdict import quorum_of

LOOK_S: Final = 1.0
"""How often the store is read if no change is signalled earlier."""
SOON_S: Final = 0.1
"""Changes within this time are combined into one situation."""
AGAIN_S: Final = 1.0
SILENT_MS: Final = 30_000
"""After this long without reading the store or hearing from the controller, what is known may no longer be
true.
"""
BACKUPS_MS: Final = 10_000
"""Minimum time between two evaluations of the backups."""
NOTICES_MOST: Final = 200
ENDED_SHOWN: Final = 20
SEGMENTS_BACK: Final = 64
VERDICTS_A_LOOK: Final = 32
VERDICTS_MOST: Final = 4_096
TOPIC_WATCH: Final = "watch"
TOPIC_SITUATION: Final = "situation"


@dataclass(frozen=True, slots=True)
class OfficeSetting:
    """Estate, store, and the site where the war room runs: its network determines what it may believe."""

    estate: Path
    store: str
    site: str = ""
    policy: Path | None = None
    as_of: date | None = None
    apart: bool = True
    """Whether to compute in a separate process."""
    standing: Path | None = None
    """File in which a controller reports how the estate on disk differs from the one in use."""
    systems: Systems = hands_of
    """What the doctor reaches endpoints with; a demonstration simulates them."""


class Office:
    """Created by `open_office`; close it. Read `situation`, `facts` and `rules` at any time. `rehearser`:
    asks the real systems about a plan; `examine`: asks them all what they can do. `edition`: name of the
    estate in use; `standing`: how the files differ from it.
    """

    def __init__(
        self,
        store: Store,
        reckoner: Reckoner,
        clock: Clock,
        site: str = "",
        rehearser: Rehearser | None = None,
        edition: Callable[[], str] = lambda: "",
        standing: Callable[[], Standing | None] = lambda: None,
        examine: Examines | None = None,
    ) -> None:
        self._edition, self._standing_of = edition, standing
        self._standing: Standing | None = None
        self.store, self.clock, self.site, self.rehearser = store, clock, site, rehearser
        self.doctor = DoctorDesk(clock, examine)
        self.hub = values.Hub()
        self.facts: EstateFacts | None = None
        self._estimated: EstateFacts | None = None
        """Facts from the audit alone."""
        self._verdicts: OrderedDict[tuple[str, str], PlanVerdict] = OrderedDict()
        """Verdicts of standby plans, by their digest and that of the plan for what is already lost."""
        self._before: tuple[str, Plan | None] = "", None
        """Digest of the plan for what is already lost; empty if nothing is."""
        self._before_is_made = False
        """Whether that plan is being recomputed: until it is ready, what a further loss makes worse is
        unknown.
        """
        self.rules: Rules | None = None
        self._reckoner = reckoner
        self._observation = Observation(0)
        self._capacity: tuple[tuple[str, Observation], tuple[CapacityOf, ...]] | None = None
        """The last capacity result, and what it was for."""
        self._backups: tuple[int, BackupsDocument] | None = None
        """The last backup verdicts, and when they were computed."""
        self._published = Published(store)
        self._backups_read = BackupsReader(store, clock)
        self._reckoned: tuple[Observation, str, BackupsSeen] | None = None
        self._problem = "the estate is being read"
        self._ballots = values.Ballots(store, clock, PROFILES["cautious"], site)
        self._bell = asyncio.Event()
        self.register = Register(store, self.hub, self._bell.set, self.silence)
        self.incidents = IncidentDesk(store, clock, self.register)
        self.board = NoticeBoard(store)
        self._notices: deque[Notice] = deque(maxlen=NOTICES_MOST)
        self._leader = values.NOBODY
        self._generation = 0
        self._newer: values.NewerSeen | None = None
        self._hold: values.HoldSeen | None = None
        self._marks: Mapping[str, str] = {}
        self._drawer: tuple[library.Ready, ...] = ()
        self._answers, self._answers_ms = False, clock.now_ms()
        self.looked_ms, self._began_ms = 0, clock.now_ms()
        self._looked_at = self._heard_at = clock.monotonic_ms()
        self._unread = ""
        self._controller: values.ControllerSeen | None = None
        self.situation = self._compose(0)

    async def run(self) -> None:
        """Follows everything until cancelled. Retries failures; nothing here ends the war room."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._look_again, self._follow_notices, self._vote, self._reckon, self._show):
                tasks.create_task(work(), name=work.__name__.strip("_"))

    def silence(self) -> values.Silence | None:
        """Since when the store has not answered; None while it does."""
        if self._answers:
            return None
        return values.Silence(self.looked_ms or self._began_ms, self._unread, self.looked_ms > 0)

    @property
    def ready(self) -> str:
        """Why the data shown cannot be trusted yet, or any more; empty if it can."""
        if not self.looked_ms:
            return self._unread or "the store has not been read yet"
        if not self._answers:
            return f"the store does not answer: {self._unread}"
        if self._newer is not None:
            return (
                f"generation {self._newer.generation} was opened elsewhere: "
                "controllers of this store do not act"
            )
        if self._unread:
            return f"the store cannot be read: {self._unread}"
        return self._out_of_touch or ("" if self.facts is not None else self._problem)

    @property
    def _out_of_touch(self) -> str:
        """Why the controller here is cut off from the others; empty if it is not, or if there is none."""
        now_ms, seen = self.clock.monotonic_ms(), self._controller
        if now_ms - self._looked_at > SILENT_MS:
            return f"the store has not been read for {(now_ms - self._looked_at) // 1_000} s"
        if seen is not None and now_ms - self._heard_at > SILENT_MS:
            return f"the local controller has been silent for {(now_ms - self._heard_at) // 1_000} s"
        if seen is not None and seen.state == NEITHER:
            return f"the controller here can neither lead nor follow: {seen.why}"
        return ""

    def hear(self, line: bytes) -> None:
        """Takes the report of the controller next to this war room, as written by `controller_line`."""
        try:
            told = orjson.loads(line)
            state, why = str(told["state"]), str(told["why"])
        except (ValueError, KeyError, TypeError):
            return
        self._heard_at = self.clock.monotonic_ms()
        known = self._controller
        if known is None or (known.state, known.why) != (state, why):
            self._controller = values.ControllerSeen(state, why, self.clock.now_ms())
            self._bell.set()

    @property
    def published(self) -> Observation | None:
        """What the leader knows beyond the files; None if no leader has published it."""
        return self._observation if self._observation.at_ms else None

    async def what_if(self, domains: Sequence[str]) -> WhatIf:
        """What losing these domains at once does, with the last observed roles. Raises InvalidInput."""
        found = await self._reckoner.what_if(self._observation, domains)
        return answer_in_doubt(found, unmarked(self._ballots.lost(self._marks), self._observation.effects))

    async def capacity(self, digest: str) -> tuple[CapacityOf, ...]:
        """Site capacity before and after a plan; empty if the plan is not for the current estate. Raises
        EvacError.
        """
        key = (digest, self._observation)
        if self._capacity is None or self._capacity[0] != key:
            self._capacity = key, await self._reckoner.capacity(self._observation, await self.plan(digest))
        return self._capacity[1]

    async def backups(self) -> BackupsDocument:
        """The current verdict on the backups of every data set, recomputed only once in a while. Raises
        EvacError.
        """
        moment = self.clock.now_ms() // BACKUPS_MS
        if self._backups is None or self._backups[0] != moment:
            facts = await Evidence(self.store).facts()
            self._backups = moment, await self._reckoner.backups(facts, self.clock.now_ms())
        return self._backups[1]

    async def backup_history(self, data_set: str, most: int) -> list[BackupEvent]:
        """Newest first. Raises Corrupt, Unavailable."""
        return await Evidence(self.store).history(data_set, most)

    async def runbook(self, digest: str) -> Runbook:
        """A printable plan. Raises EvacError, and InvalidInput if it is too large to print."""
        return await self._reckoner.runbook(await self.plan(digest), digest)

    async def plan(self, digest: str) -> bytes:
        """Canonical bytes of a plan. Raises Corrupt if it is incomplete."""
        return await library.get_plan(self.store, digest)

    async def notices(self, after: int, limit: int) -> list[Notice]:
        """Alerts after a number: from memory if it reaches back far enough, else from the journal."""
        kept = tuple(self._notices)
        if kept and kept[0].number <= after + 1:
            return [one for one in kept if one.number > after][:limit]
        found = []
        async for number, record in records_after(self.store, WATCH, after, limit, proven=False):
            found.append(_notice(number, record))
        return found

    async def _look_again(self) -> None:
        while True:
            try:
                await self.look()
            except Unavailable as error:
                self._unread = error.message
                self._said(False)
            except EvacError as error:
                self._unread = error.message
                self._bell.set()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Reads everything except journals and votes once. Raises Unavailable."""
        self._standing = self._standing_of()
        lease = await self.store.holder(LEADER)
        self._leader = values.NOBODY if lease is None else values.LeaderSeen(lease.owner, lease.token)
        own, newer = await read_generation(self.store), await read_newer(self.store)
        self._generation = own.number
        over = newer is not None and takes_place_of(newer, own)
        self._newer = (
            values.NewerSeen(newer.number, newer.by, newer.at_ms) if newer is not None and over else None
        )
        self._hold = await self.standing_hold()
        register = await self.store.get(SITES_KEY)
        self._marks = {} if register is None else marks_in(register.value) or {}
        found = [library.decode(entry) for entry in await all_entries(self.store, library.PREFIX)]
        self._drawer = tuple(ready for ready in found if ready is not None)
        with contextlib.suppress(Corrupt):
            self._observation = await self._published.get() or self._observation
        await self._read_verdicts()
        await self.register.look()
        await self.incidents.look()
        await self.board.look()
        self.looked_ms, self._looked_at = self.clock.now_ms(), self.clock.monotonic_ms()
        self._unread = ""
        self._said(True)

    async def _read_verdicts(self) -> None:
        """Reads the verdicts of standby plans, a limited number per look; facts then use them."""
        effects = self._observation.effects
        lost = {one.domain for one in effects.lost if one.state != "evacuating"} if effects else set()
        ready = [one for one in self._drawer if one.plan and not one.problem]
        now = self._estimated.digest if self._estimated else ""
        about = [one for one in ready if lost and set(one.lost) == lost]
        first = next((one.plan for one in about if one.estate == now), "")
        self._before_is_made = bool(about) and not first
        if first != self._before[0]:
            self._before = "", None
            with contextlib.suppress(Corrupt, InvalidInput):
                self._before = first, await self._plan(first) if first else None
        wanted = [(one.plan, self._before[0]) for one in ready if len(one.lost) == 1]
        missing = [key for key in wanted if key not in self._verdicts]
        for digest, before in missing[:VERDICTS_A_LOOK]:
            with contextlib.suppress(Corrupt, InvalidInput):
                self._verdicts[digest, before] = verdict_of(
                    digest, await self._plan(digest), self._before[1] if digest != before else None
                )
        while len(self._verdicts) > VERDICTS_MOST:
            self._verdicts.popitem(last=False)
        self._judge()

    @property
    def before(self) -> Plan | None:
        """The plan for what is already lost."""
        return self._before[1]

    async def _plan(self, digest: str) -> Plan:
        """Raises Corrupt, InvalidInput, Unavailable."""
        data = await library.get_plan(self.store, digest)
        return await asyncio.to_thread(plan_codec.decode, data, digest)

    @property
    def newly_lost(self) -> tuple[str, ...]:
        """What is lost according to witnesses or runs, and not in the facts: no verdict counts with it."""
        if self._estimated is None:
            return ()
        return newly_lost(self._estimated, self._ballots.lost(self._marks), self._observation.effects)

    def _judge(self) -> None:
        """Facts by the verdicts of plans for the current estate, else by the audit."""
        known = self._estimated
        if known is None:
            return
        before = self._before[0]
        plans = {
            one.lost[0]: self._verdicts[one.plan, before]
            for one in self._drawer
            if len(one.lost) == 1 and one.estate == known.digest and (one.plan, before) in self._verdicts
        }
        plans = {} if self._before_is_made else plans
        facts = facts_in_doubt(judged(known, plans, before), self.newly_lost)
        if self.facts is None or self.facts.stamp != facts.stamp:
            self.facts = facts
            self._bell.set()

    async def standing_hold(self) -> values.HoldSeen | None:
        """The current hold in the store; one of revision 0 was not written by evac, and stops every run all
        the same. Raises Unavailable.
        """
        try:
            return _hold(await self.store.get(HOLD_KEY))
        except Corrupt as error:
            before = self._hold
            at_ms = before.at_ms if before is not None and not before.revision else self.clock.now_ms()
            return values.HoldSeen(
                "someone else", f"{error.message}; place a hold, then release it", at_ms, 0
            )

    def _said(self, answers: bool) -> None:
        if answers != self._answers:
            self._answers, self._answers_ms = answers, self.clock.now_ms()
        self._bell.set()

    async def _follow_notices(self) -> None:
        """The last alerts, then each new one as soon as it is written."""
        while True:
            try:
                end = await last_of(self.store, WATCH)
                begin = max(0, end.segment - SEGMENTS_BACK) if end else 0
                async with aclosing(tail(self.store, WATCH, begin, proven=False)) as segments:
                    async for segment in segments:
                        for number, record in enumerate(segment.records, segment.first):
                            self._take(_notice(number, record))
            except EvacError:
                await asyncio.sleep(AGAIN_S)

    def _take(self, notice: Notice) -> None:
        if self._notices and notice.number <= self._notices[-1].number:
            return
        self._notices.append(notice)
        self.hub.tell(values.News(TOPIC_WATCH, "notice", notice.number, notice))
        self._bell.set()

    async def _vote(self) -> None:
        """Reads the votes at the interval set by the policy, and judges them."""
        while True:
            with contextlib.suppress(Unavailable):
                await self._ballots.read()
            if self._ballots.judge():
                self._judge()
                self._bell.set()
            await asyncio.sleep(self._ballots.period_s)

    async def _reckon(self) -> None:
        """Recomputes facts whenever roles of stores, the estate, or facts about backups change."""
        while True:
            await self.reckon()
            await asyncio.sleep(LOOK_S)

    async def reckon(self) -> None:
        """Computes facts of the estate with the last observed roles, unless they are known.
        Reports errors.
        """
        wanted, edition, backups = self._observation, self._edition(), await self._backups_read.read()
        known = self._reckoned
        if known is not None and known[0].facts == wanted.facts and known[1:] == (edition, backups):
            return
        try:
            found = await self._reckoner.reckon(wanted, backups)
        except EvacError as error:
            self._problem = error.message
        else:
            self._estimated, self.rules, self._problem = found.facts, found.rules, ""
            self._judge()
            self._reckoned = wanted, edition, backups
            self._ballots.follow(found.rules.profile, [(s.id, s.role) for s in found.facts.sites])
            self.refresh()  # whoever sees the facts sees the sites that go with them
        self._bell.set()

    async def _show(self) -> None:
        """Publishes a new situation soon after a change, and only if it differs."""
        while True:
            await self._bell.wait()
            await asyncio.sleep(SOON_S)
            self._bell.clear()
            self.refresh()

    def refresh(self) -> values.Situation:
        """The situation as of now; a new version of it if anything differs."""
        old = self.situation
        new = self._compose(old.version + 1)
        if replace(new, version=old.version, at_ms=old.at_ms) != old:
            self.situation = new
            self.hub.tell(values.News(TOPIC_SITUATION, "situation", 0, new.version))
        return self.situation

    def _compose(self, version: int) -> values.Situation:
        open_runs, ended = self.register.lines
        facts = self.facts
        sites = [site.id for site in facts.sites] if facts else []
        return values.Situation(
            version=version,
            at_ms=self.clock.now_ms(),
            sites=self._ballots.sites(self._marks),
            lost_halls=self._ballots.lost_halls(),
            leader=self._leader,
            quorum=values.QuorumSeen(
                self.store.name,
                self.store.quorum,
                self._ballots.voting(),
                quorum_of(sites),
                self._answers,
                self._answers_ms,
                self._unread,
            ),
            generation=self._generation,
            newer=self._newer,
            hold=self._hold,
            drawer=tuple(_ready(one, facts) for one in self._drawer),
            open_runs=(*open_runs, *self.register.unread),
            ended_runs=ended[:ENDED_SHOWN],
            notices=tuple(self._notices)[-20:],
            notice=self._notices[-1].number if self._notices else 0,
            noted=self.incidents.noted,
            exports=self.incidents.exports,
            estate=facts.digest if facts else "",
            problem=self._problem,
            on_disk=_on_disk(self._standing),
            policy=self.rules.digest if self.rules else "",
            controller=self._controller,
            rivals=self._observation.rivals,
            silent=self._observation.silent,
            lost=self._observation.effects.lost if self._observation.effects is not None else (),
        )

    def runs(self) -> tuple[values.RunShort, ...]:
        """All runs: open ones first, then ended ones, newest first. Raises Unavailable if none is known only
        because the store was never read.
        """
        open_runs, ended = self.register.lines
        found = (*open_runs, *self.register.unread, *ended)
        if not found and (silence := self.silence()) and not silence.was_read:
            raise Unavailable(f"{silence.words}: it is unknown which runs there are")
        return found

    async def close(self) -> None:
        self.hub.close()
        self.incidents.close()
        await self.doctor.close()
        await self.register.close()
        self._reckoner.close()
        await self._ballots.close()
        await self.store.close()


def open_office(setting: OfficeSetting, clock: Clock | None = None) -> Office:
    """Opens the store and prepares the worker. Raises StoreError. `run` reads the estate."""
    worker = Worker(setting.estate, setting.as_of, setting.policy, apart=setting.apart)
    made: list[Office] = []
    rehearser = Rehearser(
        setting.estate, setting.policy, lambda: made[0].published, lambda: kept_facts(made[0].store)
    )
    office = Office(
        open_store(setting.store),
        worker,
        clock or SystemClock(),
        setting.site,
        rehearser,
        lambda: edition_of(setting.estate),
        lambda: None if setting.standing is None else read_standing(setting.standing),
        Examiner(setting.estate, setting.policy, lambda: made[0].published, setting.systems),
    )
    made.append(office)
    return office


async def beside(office: Office, work: Callable[[], Awaitable[Any]]) -> Any:
    """Runs some work while the office follows its store; closes the office at the end."""
    following = asyncio.create_task(office.run(), name="office")
    try:
        return await work()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await office.close()


def _notice(number: int, record: bytes) -> Notice:
    try:
        found = decode_notice(record)
    except Corrupt as error:
        return Notice(number, "trouble", 0, "", error.message)
    return Notice(number, found.kind, found.at_ms, found.site, found.words, found.data)


def _hold(entry: Entry | None) -> values.HoldSeen | None:
    if entry is None:
        return None
    said = hold_line(entry.value)
    return values.HoldSeen(said.who, said.reason, said.at_ms, entry.revision)


def _on_disk(standing: Standing | None) -> values.EstateOnDisk | None:
    return (
        None
        if standing is None
        else values.EstateOnDisk(
            standing.taken_ms,
            standing.problems,
            standing.first,
            standing.restart,
            standing.since_ms,
            words_of(standing),
            standing.policy_ms,
            standing.policy,
        )
    )


def _ready(ready: library.Ready, facts: EstateFacts | None) -> values.ReadyPlan:
    return values.ReadyPlan(
        "+".join(ready.lost),
        ready.lost,
        ready.plan,
        ready.estate,
        ready.at_ms,
        ready.took_ms,
        ready.problem,
        None if facts is None else facts.digest == ready.estate,
        ready.kind,
        ready.people,
        ready.searched,
        ready.made_ms,
    )
