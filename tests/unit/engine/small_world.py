"""Three sites in one process: real controllers over one memory store, simulated systems, a network to cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead.controller import Chore, Controller, Parts
from evac.engine.lead.generations import Asker, Generations
from evac.engine.lead.policies import Policies
from evac.engine.lead.watch_journal import Notice
from evac.engine.plans.library import Drawer
from evac.engine.runs.binding import Bound
from evac.engine.runs.desk import Desk, HealthOf
from evac.engine.stores.datasets import DataSets
from evac.engine.stores.guards import Guards
from evac.engine.stores.stalled_commits import bound_of, is_protection
from evac.engine.stores.unconfirmed import SeenCommits
from evac.model.errors import Retryable, Unavailable, UnsafePlan
from evac.model.observation import LeavingSite
from evac.model.run_policy import Envelope, Patience, RunPolicy, StorePolicy, WatchProfile
from evac.run.values import RunSpec, RunStep
from evac.store.anchors import Anchor
from evac.store.port import Change, Compare, Entry, Lease, MemoryStore, Store
from evac.watch.verdict import EvidenceKind, Seen
from evac.watch.witness import Probe
from evac_lab.virtual_loop import VirtualLoop, VirtualProcess
from evac_lab.virtual_loop import run as run_virtually

SITES = ("anyang", "ansan", "pangyo")
QUICK = WatchProfile("quick", 40, 25, 3, 120, 40, 200, 2, 300, 1_000)
COVERED = Envelope(sites=("pangyo", "anyang"), stores=("chat",))


class Systems:
    """All real systems: what was done to which, and who ordered it. stuck: verbs that never end. unseen: verb
    and site of what nobody can see the outcome of. refused: verb -> why it cannot be done now.
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, str, str, int, int]] = []
        self.done: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.stuck: set[str] = set()
        self.unseen: set[tuple[str, str]] = set()
        self.slow: dict[str, float] = {}
        self.refused: dict[str, str] = {}
        self.undone: list[tuple[str, Any]] = []
        self.name = "simulated"
        self.verbs: frozenset[Verb] = frozenset()

    async def check(self, action: Action, order: Order) -> Checked:
        return Checked()

    async def execute(self, action: Action, order: Order) -> Evidence:
        self.log.append((action.verb, action.target, action.at, order.token, order.epoch))
        if action.verb in self.refused:
            raise Retryable("not-ready", self.refused[action.verb])
        if action.verb in self.stuck:
            await asyncio.sleep(3_600)
        await asyncio.sleep(self.slow.get(action.verb, 0))
        self.done[action.verb, action.target] = dict(action.parameters)
        return {"proof": str(action.parameters["proof"])} if "proof" in action.parameters else {}

    async def observe(self, action: Action, order: Order) -> Observed:
        if (action.verb, action.at) in self.unseen:
            return Observed("unclear")
        same = self.done.get((action.verb, action.target)) == dict(action.parameters)
        return Observed("done" if same else "absent")

    async def undo(self, action: Action, order: Order) -> Evidence:
        self.undone.append((action.verb, action.parameters.get("share")))
        return {}

    async def close(self) -> None:
        return None

    def verbs_done(self) -> list[str]:
        return [entry[0] for entry in self.log]


class SiteStore:
    """The store as one site reaches it. When its network is cut, only what is under way is answered."""

    name = "site"

    def __init__(self, shared: Store) -> None:
        self._shared, self.cut, self.quorum = shared, False, shared.quorum
        self.under_way = 0

    def _reach(self) -> Store:
        if self.cut:
            raise Unavailable("the network is gone")
        return self._shared

    async def get(self, key: str) -> Entry | None:
        return await self._reach().get(key)

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        return await self._reach().list(prefix, after, limit)

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        self.under_way += 1
        try:
            return await self._reach().transact(compares, changes, guard)
        finally:
            self.under_way -= 1

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        return await self._reach().acquire(name, owner, ttl_ms)

    async def renew(self, lease: Lease) -> None:
        await self._reach().renew(lease)

    async def release(self, lease: Lease) -> None:
        await self._reach().release(lease)

    async def holder(self, name: str) -> Lease | None:
        return await self._reach().holder(name)

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        async with contextlib.aclosing(self._reach().watch(prefix)) as hints:  # type: ignore[type-var]
            async for _ in hints:
                self._reach()
                yield None

    async def close(self) -> None:
        return None


@dataclass
class World:
    """What a test acts on. Time is virtual, so that no machine is too slow; real where a store is real."""

    policy: RunPolicy
    quorum: bool = True
    leader_ttl_ms: int = 600
    protections: Callable[..., Any] | None = None
    hangs: Callable[[], Any] | None = None
    commits_go_on: Callable[[], Any] | None = None
    commits: SeenCommits | None = None
    health: HealthOf | None = None
    refuses: str = ""
    shares: tuple[int, ...] = ()
    connect: Callable[[str], Store] | None = None
    sites: tuple[str, ...] = SITES
    serving: tuple[str, ...] = ("anyang", "pangyo")
    proof: str = "sync"
    agents: Mapping[str, Asker] = field(default_factory=dict)
    compare: Callable[[], Awaitable[None]] | None = None
    chores: Sequence[Chore] = ()
    systems: Systems = field(default_factory=Systems)
    notices: list[Notice] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)
    unseen: set[str] = field(default_factory=set)
    asked_unseen: int = 0
    asked_after: set[str] = field(default_factory=set)
    """Incidents whose run had ended when someone asked whether an observation covers every ended run."""
    halls: bool = False
    """Where users get in is in hall-2 of a site, with its agent; the rest is in hall-1."""

    def __post_init__(self) -> None:
        self.loop = VirtualLoop(1) if self.connect is None else None
        self.clock: Clock = SystemClock() if self.loop is None else VirtualProcess(self.loop, "all sites")
        self.store: Store = (
            MemoryStore(self.clock.monotonic_ms, quorum=self.quorum)
            if self.connect is None
            else self.connect("tester")
        )
        self.burnt: set[str] = set()
        self.dark: set[str] = set()
        """Halls, or probes as `pangyo/member`, that answer nothing."""
        self.cuts: set[tuple[str, str]] = set()
        self.controllers: dict[str, Controller] = {}
        self.policies: dict[str, Policies] = {}
        self.stores: dict[str, SiteStore] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.planned: list[tuple[str, ...]] = []
        self.started = 0

    def start(self, site: str) -> None:
        self.started += 1
        self.stores[site] = SiteStore(self.store if self.connect is None else self.connect(site))
        self.controllers[site] = Controller(self._parts(site, f"{site}-{self.started}"))
        self.tasks[site] = asyncio.ensure_future(self.controllers[site].run())

    def _parts(self, site: str, owner: str) -> Parts:
        store, clock = self.stores[site], self.clock
        policies = self.policies[site] = Policies(self.policy)
        guards = Guards(store, clock, self.serving, {"web": ("pangyo",)})
        generations = Generations(
            store, clock, self.agents, strict=lambda: policies.asks_generation, compare=self.compare
        )
        desk = Desk(
            store,
            clock,
            policies,
            owner,
            guards,
            DataSets(store, owner, clock),
            self.accept,
            self.bind,
            generations.guarded(lambda name: self.systems),
            self.notices.append,
            drift_period_ms=50,
            health=self.health,
            behind=self.behind,
            unsure=self.unsure,
            look=self.look,
        )
        drawer = Drawer(store, clock, self.sites, self.plan, lambda: f"sha256:{self.primary}", look_ms=50)
        targets = {target: self._probes(site, target) for target in self.sites if target != site}
        return Parts(
            site,
            self.sites,
            desk,
            drawer,
            targets,
            protections=self.protections,
            hangs=self.hangs,
            commits_go_on=self.commits_go_on,
            commits=self.commits,
            anchors=[self._anchor],
            chores=self.chores,
            leader_ttl_ms=self.leader_ttl_ms,
            generations=generations,
        )

    async def accept(self, data: bytes) -> None:
        """As a checker that refuses, where a test wants one."""
        if self.refuses:
            raise UnsafePlan("plan-wrong", self.refuses)

    async def behind(self, sites: Collection[str]) -> bool:
        """Whether nobody has looked yet at a new primary there."""
        if not sites and not await self.store.list("open/"):
            self.asked_after |= {entry.key for entry in await self.store.list("incident/")}
        found = bool(self.unseen & set(sites))
        self.asked_unseen += found
        return found

    def unsure(self, since_ms: int, gone: Collection[str]) -> bool:
        """Whether the last look lacks an answer."""
        return False

    async def look(self, sites: Sequence[str]) -> tuple[LeavingSite, ...]:
        """What a leader sees of sites that a person takes for lost."""
        return tuple(
            LeavingSite(site, "silent")
            if site in self.burnt
            else LeavingSite(site, "answers", 0, ("agent",), ("chat",), 9, 41_000_000)
            for site in sites
        )

    async def _anchor(self, anchor: Anchor) -> None:
        self.anchors.append(anchor)

    def _probes(self, site: str, target: str) -> list[Probe]:
        def probe(kind: EvidenceKind) -> Probe:
            hall = f"{target}/hall-{2 if kind in ('user', 'agent') else 1}" if self.halls else ""

            async def ask() -> Seen:
                if (
                    {hall, f"{target}/{kind}"} & self.dark
                    or target in self.burnt
                    or {(site, target), (target, site), (site, hall)} & self.cuts
                ):
                    await asyncio.sleep(3_600)
                return Seen(kind, "up", 1)

            return Probe(kind, kind, ask, hall)

        more = [probe("data")] if self.halls else []
        return [probe("user"), probe("agent"), probe("member"), *more]

    async def plan(self, lost: tuple[str, ...]) -> bytes:
        self.planned.append(lost)
        sites = {domain.partition("/")[0] for domain in lost}
        to = next((site for site in ("pangyo", *self.serving) if site not in sites), "nowhere")
        return json.dumps({"lost": list(lost), "to": to, "primary": self.primary}).encode()

    def evacuation(self, site: str, to: str) -> bytes:
        """An orderly way out: the old primary is asked to give its role up."""
        told = {"lost": [site], "to": to, "primary": self.primary, "healthy": True}
        return json.dumps(told).encode()

    @property
    def primary(self) -> str:
        """Where the primary of the store was last seen."""
        return str(self.systems.done.get(("promote", "chat"), {}).get("candidate", "pangyo"))

    async def bind(self, data: bytes, run: str, incident: str, digest: str) -> Bound:
        if is_protection(data):
            return bound_of(data, self.policy, run=run, incident=incident, digest=digest)
        told = json.loads(data)
        sites = [domain.partition("/")[0] for domain in told["lost"]]
        new, away, old = told["to"], ",".join(sites), told.get("primary", sites[0])
        actions = {"shift:web": (Action("shift", "web", "simulated", new, {}, {"to": new, "away": away}),)}
        steps = [RunStep("shift:web", "shift", "web", 200, 100, site=new, act=f"{new}<{away}")]
        if old in sites or told["lost"] == ["ansan"]:
            ends = {"old": old, "candidate": new}
            fence = Action("fence", "chat", "simulated", new, {}, {"proof": self.proof} | ends)
            act = f"{old}>{new}" if self.proof == "sync" else old
            if told.get("healthy"):
                fence, act = Action("demote", "chat", "simulated", old, {}, {"proof": "demote"} | ends), old
            actions["fence:chat"] = (fence,)
            actions["promote:chat"] = (Action("promote", "chat", "simulated", new, {}, ends),)
            steps = [
                RunStep("fence:chat", "fence", "chat", 0, 100, data_set="chat", site=fence.at, act=act),
                RunStep(
                    "promote:chat", "promote", "chat", 100, 100, ("fence:chat",), data_set="chat", site=new
                ),
                replace(steps[0], after=("promote:chat",)),
            ]
        if self.shares and told.get("healthy"):
            steps = [*steps[:-1], *self._shares(steps[-1], actions)]
        needs = Envelope(sites=tuple(set(sites) & set(told["lost"])), stores=("chat",))
        if told["lost"] == ["ansan/hall-1"]:
            steps = []  # nothing of ours is there
        spec = RunSpec(
            run,
            incident,
            digest,
            tuple(steps),
            envelope=needs,
            patience=self.policy.patience,
            pace=self.policy.pace,
        )
        return Bound(spec, actions)

    def _shares(self, step: RunStep, actions: dict[str, tuple[Action, ...]]) -> list[RunStep]:
        (action,) = actions[step.id]
        parts: list[RunStep] = []
        for number, share in enumerate(self.shares, 1):
            name = step.id if number == 1 else f"{step.id}:{number}"
            after = (parts[-1].id,) if parts else step.after
            parts.append(replace(step, id=name, after=after, paced=True, safe_undo=True, act=str(share)))
            actions[name] = (replace(action, parameters={**action.parameters, "share": share}),)
        return parts

    def burn(self, site: str) -> None:
        """Everything of the site at one instant: it answers and reaches nothing, and releases nothing."""
        self.burnt.add(site)
        self.stores[site].cut = True
        self.tasks[site].cancel()

    @property
    def leader(self) -> str:
        return next((site for site, one in self.controllers.items() if one.leads), "")

    async def until(self, what: Callable[[], bool], most_s: float = 8.0) -> None:
        try:
            async with asyncio.timeout(most_s):
                while not what():
                    for task in self.tasks.values():
                        if task.done() and not task.cancelled():
                            task.result()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError([notice.words for notice in self.notices]) from None

    async def until_planned(self, most_s: float = 8.0) -> None:
        """A leader, every site seen healthy by everybody, and a full drawer."""
        all_of = len(self.sites) * (len(self.sites) + 1) // 2
        await self.until(lambda: bool(self.leader) and len(self.planned) >= all_of and self._calm(), most_s)

    def _calm(self) -> bool:
        states = [[s.verdict.state for s in c.standings.values()] for c in self.controllers.values()]
        return all(state == ["healthy"] * len(self.sites) for state in states)

    async def ended(self) -> bool:
        return not await self.store.list("open/") and bool(await self.store.list("incident/"))

    def words(self, kind: str) -> list[str]:
        return [notice.words for notice in self.notices if notice.kind == kind]


def policy_of(mode: Any, proofs: Any = ("sync",), **more: Any) -> RunPolicy:
    return RunPolicy(
        mode=mode,
        envelope=COVERED,
        profile=QUICK,
        stores={"chat": StorePolicy("chat", proofs=proofs, on_sync_loss="next")},
        patience=Patience(attempts=3, backoff_ms=20, deadline_least_ms=2_000),
        **more,
    )


def play(story: Callable[[World], Any], world: World, sites: Sequence[str] | None = None) -> None:
    """Runs a story with the controllers of these sites, and ends them all."""

    async def run() -> None:
        for site in world.sites if sites is None else sites:
            world.start(site)
        try:
            await story(world)
        finally:
            for task in world.tasks.values():
                task.cancel()
            results = await asyncio.gather(*world.tasks.values(), return_exceptions=True)
            for site, result in zip(world.tasks, results, strict=True):
                if isinstance(result, Exception):
                    raise AssertionError(f"the controller of {site} failed") from result

    if world.loop is None:
        asyncio.run(run())
    else:
        run_virtually(world.loop, run())
