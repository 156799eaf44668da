"""Assemble the controller of a site: store, clock, drivers, probes, planner, and the observed estate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final

from evac import estate as estates
from evac.app import detached
from evac.app.accepting import Checker, Forethought, decoded
from evac.app.anchoring import (
    HeadChore,
    HeldJournals,
    Newest,
    StrangeEntryChore,
    agents_of,
    check_agents,
    heard,
    signing,
)
from evac.app.backups import scheduler_of
from evac.app.binding import bind_anew, bind_once
from evac.app.certificates import CertificateChore
from evac.app.lost_store import MayLead
from evac.app.observed_stores import SeenEstate
from evac.app.observing import ServiceHealth, control_of, look_at, probes_of
from evac.app.planner.plans import Mender
from evac.app.planner.worker import BUDGET_MS, PlanningWorker
from evac.app.side_process import give_way
from evac.app.store_alarms import StoreAlarmChore, commits_wait
from evac.backup.complete import recorded, restoring_complete
from evac.backup.evidence import Evidence
from evac.drivers import process
from evac.drivers.process.client import AgentPeer, peer_of
from evac.drivers.process.driver import (
    AgentAnchors,
    AgentGenerations,
    AgentPermits,
    ProcessDriver,
    RemoteDriver,
)
from evac.drivers.registry import DRIVERS, Drivers, Maker
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead.access_journal import AccessJournal
from evac.engine.lead.controller import AnchorSink, Chore, Controller, Parts
from evac.engine.lead.generations import Generations
from evac.engine.lead.policies import Policies
from evac.engine.lead.watch_journal import Notice, NoticeKind, Tell
from evac.engine.plans.journal import PlanJournal
from evac.engine.plans.library import Drawer, get_plan
from evac.engine.runs import effects, requests
from evac.engine.runs.binding import Bound
from evac.engine.runs.desk import ActionsOf, Desk
from evac.engine.runs.proving import (
    OF_PROPOSAL,
    Asked,
    Provers,
    asked_of,
    asked_of_ended,
    outlived,
    prove,
    room_in,
    vouched,
)
from evac.engine.runs.releases import Releases
from evac.engine.stores import stalled_commits
from evac.engine.stores.datasets import DataSets
from evac.engine.stores.guards import Guards, check_mode
from evac.engine.stores.permits import LeaseDriver, Permitting
from evac.estate.codecs.access import access_beside, load_access
from evac.estate.codecs.policy import load_policy, policy_beside
from evac.model.access import Person, Proven
from evac.model.errors import EstateError, NotAllowed, StoreError
from evac.model.estate import Estate
from evac.model.names import alike
from evac.model.observation import LeavingSite
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.net.internal_errors import enduring
from evac.run.view import RunView
from evac.store.anchors import Anchor
from evac.store.generation import raise_generation
from evac.store.opening import SealedStore, open_store
from evac.store.port import Owner, Store
from evac.watch.witness import Probe

LEADER_TTL_MS: Final = 4_000
"""TTL of the leader's lease: if a leader dies silently, another leads shortly after it expires."""
LAB_TTL_MS: Final = 2_000
LINGER_MS: Final = 1_000
ANCHOR_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings of a controller.

    watch: False for the controller of an embedded store, which only executes requests. leader_ttl_ms None: by
    the watch profile. idle_s: exit after this time without a run; 0: never. generation: set in the store, if
    it differs; 0: leave it. budget_ms: of one search. anchors: agents keep journal heads without watching.
    """

    estate: Path
    site: str
    store: str
    policy: Path | None = None
    as_of: date | None = None
    watch: bool = True
    leader_ttl_ms: int | None = None
    drawer: bool = True
    idle_s: float = 0
    generation: int = 0
    boundary: Callable[[int], None] | None = None
    budget_ms: int = BUDGET_MS
    anchors: bool = False
    access: Path | None = None
    """The access file, if not the one next to the estate."""
    named: tuple[Path, Path | None] | None = None
    """Estate and policy as the user named them, if it runs from copies."""


@dataclass(slots=True)
class Composed:
    """A controller and everything that must be closed with it."""

    controller: Controller
    store: Store
    drivers: Drivers
    worker: PlanningWorker
    seen: SeenEstate
    agents: Sequence[AgentAnchors | AgentPermits | AgentGenerations]
    permits: Mapping[str, AgentPermits]
    mender: Mender
    ahead: Forethought

    async def close(self) -> None:
        self.worker.close()
        self.mender.close()
        await self.controller.parts.desk.sets.close()
        for agent in (*self.agents, *self.permits.values()):
            await agent.close()
        await self.drivers.close()
        await self.store.close()


def read_policy(path: Path, given: Path | None, estate: Estate) -> RunPolicy:
    """The named policy, else the one next to the estate, else the cautious default."""
    found = given or policy_beside(path)
    return RunPolicy() if found is None else load_policy(found, estate)


def _opened(setting: Setting) -> tuple[Estate, RunPolicy, Store]:
    """Estate, policy and store, all checked before anything is built on them."""
    estate = estates.load(setting.estate, setting.as_of)
    policy = read_policy(setting.estate, setting.policy, estate)
    check_agents(estate)
    sites = [site.id for site in estate.sites]
    if setting.watch and setting.site not in sites:
        raise NotAllowed(
            "site-unknown", f"the estate has no site {setting.site}", f"sites: {', '.join(sites)}"
        )
    store = open_store(setting.store)
    if setting.watch:
        check_mode(policy.mode, store.quorum, len(sites))
    return estate, policy, store


def _say(desk: Desk, kind: NoticeKind, site: str, words: str, data: Mapping[str, Any]) -> None:
    desk.tell(Notice(kind, desk.clock.now_ms(), site, words, data))


def _permitting(
    desk: Desk, policy: RunPolicy, estate: Estate, agents: dict[str, AgentPermits], seen: SeenEstate
) -> Permitting:
    return Permitting(
        desk.store,
        desk.sets,
        policy,
        desk.clock,
        lambda site: _permitter(estate, agents, site),
        *(seen.primary_of, seen.obeyed, seen.runs_at, seen.see, seen.has_looked),
        say=partial(_say, desk),
    )


def _anchors_elsewhere(setting: Setting, estate: Estate) -> dict[str, AgentAnchors]:
    others = sorted(agents_of(estate).items()) if setting.watch or setting.anchors else ()
    return {site: AgentAnchors(*found) for site, found in others if site != setting.site}


async def compose(
    setting: Setting,
    tell: Tell,
    clock: Clock | None = None,
    hands: Mapping[str, Maker] | None = None,
    targets: Mapping[str, Sequence[Probe]] | None = None,
) -> Composed:
    """Read the files and assemble a controller. Raises EstateError, NotAllowed, StoreError.

    hands: drivers by name, and targets: site -> probes, instead of those of the estate's endpoints.
    """
    clock = clock or SystemClock()
    estate, policy, store = _opened(setting)
    policies, permits, sites = Policies(policy), list[Permitting](), tuple(site.id for site in estate.sites)
    drivers = Drivers(hands_of(estate) | {"lease": lambda: LeaseDriver(permits[0])} | dict(hands or {}))
    tellers = {site: AgentGenerations(*found) for site, found in agents_of(estate).items()}
    seen = SeenEstate(estate, policy, store, drivers, clock)
    lead = MayLead(store, lambda: seen.files, drivers, clock.now_ms).check
    generations = Generations(store, clock, tellers, strict=lambda: policies.asks_generation, compare=lead)
    worker = PlanningWorker(
        setting.estate, setting.as_of, policy, setting.budget_ms, lambda: seen.observation, len(estate.fleet)
    )
    agents, mender, made = dict[str, AgentPermits](), Mender(), list[Controller]()
    checker = Checker(lambda: (seen.estate, seen.digest), lambda: (seen.files, seen.observation))
    journalled: Tell = lambda notice: made[0].tell(notice)  # noqa: E731, PLW0108
    anchors = _anchors_elsewhere(setting, estate)
    people = KnownPeople(store, policies, clock, setting.access or access_beside(setting.estate))
    people.unwitnessed = None if anchors else journalled
    desk = replace(
        _desk(setting, estate, policies, store, drivers, clock, seen, tell, checker, people),
        driver=generations.guarded(restoring_complete(drivers.get, recorded(store))),
        mend=mender.of_store(store, lambda: seen.estate),
        compare=HeldJournals(store, _newest(anchors, generations), clock, setting.site, tell).compare,
    )
    told = replace(desk, tell=journalled)
    permits.append(_permitting(told, policy, estate, agents, seen))
    drawn = sites if setting.drawer and setting.watch else ()
    drawer = Drawer(store, clock, drawn, worker, lambda: seen.digest)
    deadline_s = policy.profile.deadline_ms / 1_000
    targets = probes_of(estate, drivers, deadline_s) if targets is None and setting.watch else targets
    sinks = {site: _sink(agent, generations) for site, agent in anchors.items()}
    signed = signing(store, setting.site, clock, generations)
    parts = Parts(
        site=setting.site,
        sites=sites,
        desk=desk,
        drawer=drawer,
        targets=targets or {},
        control=control_of(estate, setting.site, drivers, deadline_s) if setting.watch else None,
        protections=partial(_protections, seen, policies),
        hangs=seen.commits.hang,
        commits_go_on=seen.commits.go_on,
        commits=seen.commits,
        anchors=_heard(sinks, signed, made),
        chores=(
            *(*seen.chores, permits[0].chore, permits[0].resume),
            *_backups(setting, told, estate, drivers),
            *(PlanJournal(store).chore, _access_journal(desk).chore, Evidence(store).chore),
            HeadChore(store, sinks | signed, clock, journalled, setting.site).chore,
            *_reporting(store, clock, journalled, people, seen, setting.site),
        ),
        leader_ttl_ms=setting.leader_ttl_ms or _ttl_ms(policy),
        generations=generations,
        estate=lambda: seen.digest,
    )
    made.append(Controller(parts))
    seen.states = made[0].states
    ahead = Forethought(store, drawer, checker, drawn)
    closed: list[AgentAnchors | AgentPermits | AgentGenerations] = [*anchors.values(), *tellers.values()]
    return Composed(made[0], store, drivers, worker, seen, closed, agents, mender, ahead)


def _ttl_ms(policy: RunPolicy) -> int:
    return LAB_TTL_MS if policy.profile.name == "lab" else LEADER_TTL_MS


def _reporting(
    store: Store, clock: Clock, tell: Tell, people: KnownPeople, seen: SeenEstate, site: str
) -> tuple[Chore, ...]:
    """What a leader watches and reports."""
    return (
        Releases(store, clock, tell, people.needed, people.prove).chore,
        effects.ClearedMarks(store, clock, tell).chore,
        StoreAlarmChore(lambda: seen.observation, seen.looked_in, clock, tell).chore,
        StrangeEntryChore(store, clock, tell).chore,
        CertificateChore(agents_of(seen.estate), clock, tell, site).chore,
    )


def _access_journal(desk: Desk) -> AccessJournal:
    return AccessJournal(desk.store, desk.clock.now_ms, lambda: desk.policies.now.access_log_ms)


def _backups(setting: Setting, desk: Desk, estate: Estate, drivers: Drivers) -> tuple[Chore, ...]:
    """The backup schedule, for a controller that watches."""
    if not setting.watch:
        return ()
    say = partial(_say, desk, "trouble", setting.site)
    scheduler = scheduler_of(
        lambda: estate, lambda: desk.policies.now, desk.store, drivers, desk.clock, desk.owner, say
    )
    return (scheduler.chore,)


def hands_of(estate: Estate, peer: AgentPeer | None = None) -> dict[str, Maker]:
    """Drivers of each site's agent, such as `postgres@pangyo`, and the one for its units. peer: how to
    connect to agents, if not as the environment says. Raises InvalidInput.
    """
    peer = peer_of() if peer is None else peer
    found: dict[str, Maker] = {process.DRIVER.name: partial(ProcessDriver, peer)}
    for site, (agent, _) in agents_of(estate).items():
        for spec in DRIVERS.values():
            if spec.agent_verbs:
                name = f"{spec.name}@{site}"
                found[name] = partial(RemoteDriver, name, spec.agent_verbs, agent, peer)
    return found


def _permitter(estate: Estate, made: dict[str, AgentPermits], site: str) -> AgentPermits | None:
    if site not in made and (reach := agents_of(estate).get(site)) is not None:
        made[site] = AgentPermits(*reach)
    return made.get(site)


def _desk(
    setting: Setting,
    estate: Estate,
    policies: Policies,
    store: Store,
    drivers: Drivers,
    clock: Clock,
    seen: SeenEstate,
    tell: Tell,
    checker: Checker,
    people: KnownPeople,
) -> Desk:
    owner = str(Owner(setting.site, os.getpid(), os.urandom(4).hex()))
    serving = [site.id for site in estate.sites if site.role == "full"]
    pooled = pooled_of(estate)

    async def bind_new(data: bytes, run: str, incident: str, digest: str) -> Bound:
        return await bind_anew(store, seen, policies.of(run), data, run, incident, digest)

    async def look(sites: Sequence[str]) -> tuple[LeavingSite, ...]:
        return await look_at(seen.estate, drivers, sites, clock.now_ms())

    async def bound(data: bytes, run: str, incident: str, digest: str) -> Bound:
        policy = policies.of(run)
        return await bind_once(store, seen, policy, policies.now, data, run, incident, digest)

    return Desk(
        store=store,
        clock=clock,
        policies=policies,
        owner=owner,
        guards=Guards(store, clock, serving, pooled),
        sets=DataSets(store, owner, clock, LINGER_MS),
        accept=checker.accept,
        bind=bind_new,
        bound=bound,
        driver=drivers.get,
        health=ServiceHealth(estate, drivers),
        tell=tell,
        standing=seen.standing,
        loss=seen.loss,
        effects=partial(_left_behind, store, seen),
        look=look,
        obeyed=seen.obeyed,
        commits_wait=lambda store, sites: commits_wait(seen.files, seen.looked, store, sites),
        check=lambda view, request, now_ms: check_request(
            policies.of(view.spec.run), view, request, people.now, now_ms
        ),
        learn=people.learn,
        gone=people.gone,
        vouched=people.vouched,
        proven=people.proposed,
        boundary=setting.boundary,
        behind=seen.behind,
        unsure=seen.unsure,
    )


async def _left_behind(store: Store, seen: SeenEstate, view: RunView, actions_of: ActionsOf) -> bytes | None:
    """What an ended run moved, as stored. None if it has no plan of an estate."""
    plans: dict[str, Plan] = {}
    for digest in view.plans:
        data = await get_plan(store, digest)
        if stalled_commits.is_protection(data):
            return None
        plans[digest] = await asyncio.to_thread(decoded, data)
    found = await asyncio.to_thread(effects.of_run, view, plans, actions_of, seen.estate)
    return effects.encode(await effects.numbered(store, found))


def pooled_of(estate: Estate) -> dict[str, tuple[str, ...]]:
    """Service -> sites that have an endpoint of it, where it can be reached today."""
    sites: dict[str, set[str]] = {service.id: set() for service in estate.services}
    for end in estate.endpoints:
        if end.subject in sites:
            sites[end.subject].add(end.at)
    return {service: tuple(sorted(found)) for service, found in sites.items()}


class KnownPeople:
    """Who can prove their identity, according to the store and the last readable access file."""

    unwitnessed: Tell | None = None
    """Reports each use of a break-glass credential, if no agent keeps heads of journals."""

    def __init__(self, store: Store, policies: Policies, clock: Clock, access: Path | None) -> None:
        self._store, self._policies, self._clock, self._access = store, policies, clock, access
        self._said = set[str]()
        self._stamp: tuple[int, int] = (-1, -1)
        self._people: Mapping[str, Person] = {}
        self._rooms: dict[str, str] = {}

    @property
    def now(self) -> Provers:
        return Provers(
            self._access is not None, self._people, self._rooms, isinstance(self._store, SealedStore)
        )

    async def learn(self, run: str, request: requests.Request) -> requests.Request:
        """Load what is not yet known about the request's war room and people (`RequestTerms.learn`)."""
        room = request.proof.room
        if room and room not in self._rooms and (key := await room_in(self._store, room)):
            self._rooms[room] = key
        request = vouched(run, request, self._policies.of(run), self.now)
        if request.glass is not None and self.unwitnessed and request.glass.mark not in self._said:
            self._said.add(request.glass.mark)
            words = f"{request.glass.words}: no agent keeps the heads of journals, so if someone restores an "
            words += "older state of the store, this credential can be used again until it expires"
            code = {"code": "glass-unwitnessed"}
            self.unwitnessed(Notice("trouble", self._clock.now_ms(), "", words, code))
        if self._access is None or not (request.signature or request.verb == "approve"):
            return request
        with contextlib.suppress(OSError, EstateError):
            found = self._access.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._people = (await asyncio.to_thread(load_access, self._access)).people
                self._stamp = stamp
        return request

    def needed(self) -> bool:
        """Whether typed names are never accepted."""
        return self._access is not None or bool(self._policies.now.approvers)

    def gone(self, view: RunView) -> list[str]:
        """Approvers whose approval no longer counts."""
        return outlived(view, (self._policies.of(view.spec.run), self._policies.now), self.now)

    async def vouched(self, run: str, request: requests.Request) -> Proven:
        """Check an attestation about an ended run. Raises NotAllowed."""
        return await self.prove(await asked_of_ended(self._store, run, request), request)

    async def proposed(self, request: requests.Request) -> Proven:
        """How a proposer proved their identity. Raises NotAllowed. Without an access file a name is enough,
        because a proposal has no effect before its approval.
        """
        if self._access is None and not request.signature:
            return Proven()
        return await self.prove(Asked(OF_PROPOSAL), request)

    async def prove(self, asked: Asked, request: requests.Request) -> Proven:
        """Prove the person of a request. Raises NotAllowed."""
        request = await self.learn(asked.run, request)
        return prove(asked, request, self._policies.of(asked.run), self.now, self._clock.now_ms())


def check_request(
    policy: RunPolicy,
    view: RunView,
    request: requests.Request,
    known: Provers | None = None,
    now_ms: int = 0,
) -> Proven:
    """How the person of a request proved their identity. Raises NotAllowed. If policy requires four eyes, no
    one approves what they proposed. If policy lists approvers, or people sign in, a typed name is accepted
    only for a pause.
    """
    own = alike(request.who) == alike(view.proposer)
    if request.verb == "approve" and own and not policy.proposer_approves:
        raise NotAllowed(
            "four-eyes",
            f"{request.who} proposed {view.spec.run}, so someone else has to approve it",
            f"ask another person: evac approve {view.spec.run}",
        )
    return prove(asked_of(view, request), request, policy, known or Provers(), now_ms or request.at_ms)


def _sink(agent: AgentAnchors, generations: Generations) -> AnchorSink:
    async def keep(head: Anchor) -> None:
        number = generations.own.number
        await agent.put(head.stream, head.segment, head.records, head.hash, ANCHOR_S, number)

    return keep


def _newest(agents: Mapping[str, AgentAnchors], generations: Generations) -> Mapping[str, Newest]:
    async def newest(agent: AgentAnchors, stream: str) -> Anchor | None:
        found = await agent.heads(stream, ANCHOR_S, generations.own.number)
        if not found:
            return None
        head = max(found, key=lambda one: int(one["segment"]))
        return Anchor(stream, int(head["segment"]), int(head["records"]), str(head["hash"]))

    return {site: partial(newest, agent) for site, agent in agents.items()}


def _heard(
    sinks: Mapping[str, AnchorSink], signed: Mapping[str, AnchorSink], made: Sequence[Controller]
) -> list[AnchorSink]:
    """Wrap the agents so that refusals to keep a head are reported."""

    def say(words: str, data: Mapping[str, Any]) -> None:
        made[0].say("trouble", words, data)

    return [*(heard(site, keep, say) for site, keep in sinks.items()), *signed.values()]


async def _protections(
    seen: SeenEstate,
    policies: Policies,
    lost: Sequence[str],
    roles: Mapping[str, stalled_commits.Roles],
    left: Collection[str],
) -> Mapping[str, bytes]:
    return stalled_commits.plans_for(seen.files, policies.now, lost, roles, left, seen.never_confirm)


async def serve(setting: Setting, tell: Tell, ready: Callable[[Composed], None] = lambda made: None) -> None:
    """Run a controller until SIGTERM or SIGINT."""
    give_way()
    made = await compose(setting, tell)
    await _open_generation(setting, made)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def trouble(words: str, data: Mapping[str, Any]) -> None:
        made.controller.say("trouble", words, data)

    try:
        await made.seen.begin()
        tasks = [
            asyncio.create_task(_until_idle(setting, made.store), name="idle"),
            asyncio.create_task(made.controller.run(), name="controller"),
            asyncio.create_task(enduring("observation", made.seen.follow, trouble), name="seen"),
            asyncio.create_task(enduring("plans judged ahead", made.ahead.run, trouble), name="ahead"),
            asyncio.create_task(stop.wait(), name="stop"),
        ]
        if setting.watch and setting.drawer:
            opening = enduring("planner kept open", made.worker.stay_open, trouble)
            tasks.append(asyncio.create_task(opening, name="planner"))
        ready(made)
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in done:
            task.result()
    finally:
        await made.close()


async def _open_generation(setting: Setting, made: Composed) -> None:
    """Raise NotAllowed for a generation below the store's, Unavailable if the store does not respond."""
    if not setting.generation:
        return
    try:
        await raise_generation(made.store, setting.generation, os.urandom(8).hex(), SystemClock().now_ms())
    except BaseException:
        await made.close()
        raise


async def _until_idle(setting: Setting, store: Store) -> None:
    """Return when a controller that was started for a run has been idle for a while."""
    if setting.idle_s <= 0:
        await asyncio.Event().wait()
    now_ms = SystemClock().now_ms()
    estate, asked = setting.named or (setting.estate, setting.policy)
    policy = "" if asked is None else str(asked.absolute())
    started = detached.Started(os.getpid(), str(estate.absolute()), policy, now_ms)
    with contextlib.suppress(StoreError):
        await detached.remember(store, started)
    await detached.until_idle(store, setting.idle_s)


def notice_line(notice: Notice) -> str:
    """One log line: UTC, kind, text."""
    from evac.views.words import moment

    return f"{moment(notice.at_ms)} {notice.kind:8} {notice.words}"
