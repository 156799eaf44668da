"""Stories of boot waves: the real engine on the floor of a dark site, leaders that die, and a person.

The rules of the floor hold at every instant. At the end of a wave everything that can come up is up, and what
the run counts as drawn is no less than what is drawn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from evac.drivers.port import Order
from evac.engine.boots.feed_watch import FeedWatch
from evac.engine.lead.leadership import Leadership
from evac.engine.runs import requests
from evac.engine.runs.drift import Done, Drift, DriftWatch
from evac.engine.runs.execution import Hooks, RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run, take_over
from evac.engine.runs.requests import Request, RequestVerb
from evac.model.errors import Conflict, LeaseLost, LockHeld, RunError
from evac.model.step_id import LimitId, StepId, plan_id
from evac.run.boots import silent_servers
from evac.run.boots.events import SEVERAL_STALLED
from evac.run.patience import deadline_ms
from evac.run.values import ENDED, Event, RunSpec
from evac.run.view import RunView
from evac.store.port import Put
from evac_lab.virtual_loop import VirtualProcess
from tests.sim.drivers import makers
from tests.sim.faulty_store import Weather
from tests.sim.floor import HOPELESS, STEPS_IN_S, Server
from tests.sim.plans import HERE, wave
from tests.sim.story import Act, Outcome, Story
from tests.sim.wave_options import WaveOptions, draw
from tests.sim.world import Broken, Faults

RUN: Final = "run-1"
TTL_MS: Final = 4_000
HORIZON_S: Final = 6_000.0
WALK_S: Final = 15.0
"""How long a person takes to look at a breaker."""
TURNS: Final = 8
"""Deadlines of a boot: so long it takes turns, where only a few did not come up and nobody can say why."""
SEEN_S: Final = 20.0
"""How long it may take until an open breaker is seen; a run that ends before does not know."""


class WaveStory(Story):
    """One site whose servers are booted by controllers that lead one after the other, and a person.

    Their store is on one machine and answers at once: what can go wrong with it is the subject of fires.
    """

    def __init__(self, options: WaveOptions, tracing: bool = False) -> None:
        super().__init__(options, Weather(lazy=True), Faults(), tracing)
        self.floor = self.world.add_floor(
            HERE,
            [replace(server) for server in options.servers],
            halls=options.halls,
            budgets=dict(options.budgets),
            inrush=options.inrush,
            dawdles=options.dawdles,
        )
        self.bound = wave(options, RUN)
        self.view: RunView | None = None
        self.leader: VirtualProcess | None = None
        self.excused: set[str] = set()
        self._tripped = "", -SEEN_S
        self._seen_at_trip, self._fed = False, set[str]()
        self._kills = list[float]()
        self._led_since, self._terms = 0.0, list[tuple[float, float]]()
        self._asked = 0
        self._in_flight = options.in_flight
        self._dead_s: dict[str, float] = {}
        self._given_up: set[str] = set()
        self._watch: DriftWatch | None = None

    async def tell(self) -> None:
        self.befall(self.options.acts)
        tasks = [asyncio.ensure_future(self._lead()), asyncio.ensure_future(self._person())]
        async with asyncio.timeout(HORIZON_S):
            await tasks[0]
        tasks[1].cancel()
        self._check_end()

    def report(self, outcome: Outcome) -> None:
        floor, view = self.floor, self.view
        outcome.up, outcome.trips, outcome.samples = floor.up(), floor.trips, floor.samples
        if view is not None:
            outcome.ends, outcome.hands_on = {RUN: view.phase}, len(view.boots.quarantined)

    # What must be true at the end.

    def _check_end(self) -> None:
        view = self.view
        assert view is not None
        feed, at_s = self._tripped
        if self._longest_watch(at_s) < SEEN_S or self._could_not_know(feed, at_s):
            self._excuse(lambda server: feed in server.feeds)
        self._excuse_few()
        missing = self.floor.missing(self.excused)
        if missing:
            step = view.step(f"boot:{missing[0]}")
            words = f"{step.phase} after {step.attempts} tries {step.failure} {step.why}"
            raise Broken(f"{len(missing)} servers could be up and are not: {missing[0]} {words}")
        self._check_hands_on_list(view)
        for domain, watts in self.floor.steady.items():
            counted = view.limits.used(f"power:{domain}")
            if counted < watts:
                raise Broken(f"{domain} draws {watts} W, and the run counts {counted} W")

    def _check_hands_on_list(self, view: RunView) -> None:
        """Servers that nobody can bring up from afar are on the hands-on list, with what is wrong."""
        for server in self.floor.servers.values():
            if server.fault not in HOPELESS:
                continue
            i = view.index[f"boot:{server.name}"]
            if i not in view.boots.quarantined:
                raise Broken(f"{server.name} is hopeless, and is not on the hands-on list")
            if i in view.boots.hung and not view.boots.turns.get(i):
                raise Broken(f"{server.name} was left in doubt, and is not looked at again")
            code = view.failures.get(i, ("",))[0]
            named = code in ("server-no-boot", "bmc-silent") or i in view.boots.blind
            if server.fault == "no-boot" and not named:
                raise Broken(f"{server.name} does not boot, and the hands-on list says {code or 'nothing'}")

    def _excuse_few(self) -> None:
        """Too few to say that their boot server died: they have some turns, where none like them came up
        meanwhile, and the boot server may be dead for longer; else they look like broken servers.
        """
        missing: dict[str, list[str]] = {}
        for name in self.floor.missing(self.excused):
            server = self.floor.servers[name]
            missing.setdefault(server.image_from or server.boot_server, []).append(name)
        for boot_server, dead_s in self._dead_s.items():
            names = missing.get(boot_server, [])
            if len(names) < SEVERAL_STALLED and boot_server not in self._given_up:
                self.excused |= {
                    name for name in names if self._looks_broken(name) or dead_s > self._turns_s(name)
                }

    def _looks_broken(self, server: str) -> bool:
        """Whether another one came up that began while this one was tried, from the same boot server as far
        as the run knows.
        """
        view = self.view
        assert view is not None
        i = view.index[f"boot:{server}"]
        return view.failures.get(i, ("",))[0] == "server-no-boot" and any(
            view.started[i] < view.started[j] < view.ended[i]
            for j in (view.index[f"boot:{name}"] for name in self.floor.servers)
            if view.phases[j] == "succeeded" and view.booted_from(j) == view.booted_from(i)
        )

    def _turns_s(self, server: str) -> float:
        """How long a boot that takes turns does so at least."""
        spec = self.bound.spec
        step = next(step for step in spec.steps if step.id == f"boot:{server}")
        return TURNS * deadline_ms(spec.patience, step) / 1_000

    def _longest_watch(self, since_s: float) -> float:
        """How long one leader led in one piece after that."""
        terms = [*self._terms, (self._led_since, self.loop.now)]
        return max(ended - max(began, since_s) for began, ended in terms)

    def _could_not_know(self, feed: str, at_s: float) -> bool:
        """Whether a feed was dark before anybody had seen it alive, and its leader died meanwhile: its
        breaker cannot be asked, nothing behind it had been seen up, and nothing there had answered the watch
        of feeds. The next leader cannot tell it from one whose network is not up yet (documentation, "How a
        wave of boots is carried out": what it cannot notice).
        """
        died = any(abs(killed_s - at_s) < SEEN_S for killed_s in self._kills)
        return feed in self.options.unseen and died and not self._seen_at_trip

    # Leaders.

    async def _lead(self) -> None:
        """One controller after the other, until the run has ended."""
        number = 0
        while self.view is None or self.view.phase not in ENDED:
            number += 1
            self.leader = process = VirtualProcess(self.loop, f"c{number}", self.world.sites[0])
            task = process.spawn(self._carry_out(process))
            await asyncio.wait([task])
            if process.alive and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _carry_out(self, process: VirtualProcess) -> None:
        store = self.world.cluster
        leading = await self._acquire(process)
        self._led_since = self.loop.now
        driver, spec = makers(self.world, process)["redfish"](), self.bound.spec
        terms = Terms(
            RUN,
            lambda step: self.bound.actions[plan_id(step)],
            lambda name: driver,
            leading,
            spec.patience,
            "simulation",
        )
        if self.view is None:
            journal, self.view = await create_run(store, spec, leading, process, {})
        else:
            journal, self.view = await take_over(store, RUN, self._spec, leading, process, process.name)
        execution = RunExecution(
            store, journal, self.view, leading, terms, process, hooks=Hooks(heard=self._heard)
        )

        async def tell(drift: Drift) -> None:
            with contextlib.suppress(RunError, Conflict):
                data = {"evidence": dict(drift.evidence), "undone": False}
                await execution.say(Event("drift_seen", 0, drift.step, 0, data))

        self._watch = DriftWatch(lambda name: driver, process, tell, _never)
        feeds = FeedWatch(execution, terms.actions, lambda name: driver, leading, self.world.say)
        for step in spec.steps:
            if self.view.phases[self.view.index[step.id]] == "succeeded":
                self._add(step.id)
        watching = [asyncio.ensure_future(one.run()) for one in (self._watch, feeds)]
        with contextlib.suppress(LeaseLost, Conflict):
            await execution.run()
        for task in watching:
            task.cancel()
        self.view = execution.view
        await leading.release()

    def _add(self, step: str) -> None:
        """Breakers that can be asked are looked at on and on."""
        id = StepId.parse(step)
        unseen = id.target in self.options.unseen
        if id.kind == "power" and self._watch is not None and not unseen:
            order = Order(RUN, step, 1, 0, 0, "it drifted", 10.0, f"{RUN}/{step}/again")
            self._watch.add(step, self.bound.actions[step], order)

    async def _acquire(self, process: VirtualProcess) -> Leadership:
        while True:
            with contextlib.suppress(LockHeld):
                return await Leadership.acquire(self.world.cluster, process.name, TTL_MS, process)
            await asyncio.sleep(0.5)

    async def _spec(self, plan: str, said: Mapping[str, Any]) -> RunSpec:
        return self.bound.spec

    def _heard(self, events: Sequence[Event]) -> None:
        view = self.view
        assert view is not None
        if self._in_flight and not {"pending", "ready"} & set(view.phases):
            self.befall(self._in_flight)
            self._in_flight = ()
        for event in events:
            self.kinds[event.kind] += 1
            match event.kind:
                case "limit_changed":
                    limit, capacity = event.data["limit"], event.data["capacity"]
                    self.floor.set_budget(LimitId.parse(limit).of, capacity, view.limits.used(limit))
                case "step_succeeded":
                    self._add(event.step)
                case "boot_server_lost":
                    self._given_up.add(event.data["server"])
                    self._succeeded_by(event.data["other"])
                case "feeds_seen":
                    self._fed.update(event.data["feeds"])
                case "feed_tripped":
                    self._fed.discard(event.data["feed"])
            if event.kind in ("feed_tripped", "boot_server_lost", "paused"):
                self.world.say(f"{event.kind} {dict(event.data)}")

    def _succeeded_by(self, boot_server: str) -> None:
        """A boot server was given up: the first that takes over may die as well."""
        if boot_server and self.options.successor_dies_s >= 0 and len(self._given_up) == 1:
            self.befall([Act(self.options.successor_dies_s, "boot-server", boot_server)])

    # What befalls it.

    def act(self, act: Act) -> None:
        self.world.say(f"{act.what} {act.name}")
        floor, later = self.floor, self.loop.in_world
        match act.what:
            case "kill":
                if self.leader is not None and self.view is not None and self.view.phase not in ENDED:
                    self.leader.kill()
                    self._kills.append(self.loop.now)
                    self._terms.append((self._led_since, self.loop.now))
                    self._led_since = HORIZON_S
            case "switch":
                floor.dark_switches.add(act.name)
                self._excuse(lambda server: server.rack == act.name)
                later(act.for_s, floor.dark_switches.discard, act.name)
            case "network":  # nobody there can be asked until it is up; nothing else is wrong with them
                for rack in {
                    one.rack for one in floor.servers.values() if not act.name or act.name in one.feeds
                }:
                    floor.dark_switches.add(rack)
                    later(act.for_s, floor.dark_switches.discard, rack)
            case "boot-server":
                if act.for_s:
                    floor.only_boot_server = act.name
                self._dead_s[act.name] = act.for_s or STEPS_IN_S
                floor.kill_boot_server(act.name)
                if act.for_s:
                    later(act.for_s, floor.mend_boot_server, act.name)
            case "trip":
                behind = (name for name, one in floor.servers.items() if act.name in one.feeds)
                self._seen_at_trip = act.name in self._fed or any(map(self._was_seen_up, behind))
                floor.trip(act.name, "a fault outside")
                self._tripped = act.name, self.loop.now
            case "budget":
                whole = floor.budgets[act.name]
                self._set_budget(act.name, int(whole * act.share))
                if act.for_s:
                    later(act.for_s, self._set_budget, act.name, whole)
            case "refuse":
                floor.refuses = True
                later(act.for_s, setattr, floor, "refuses", False)

    def _was_seen_up(self, server: str) -> bool:
        return self.view is not None and self.view.step(f"boot:{server}").phase == "succeeded"

    def _excuse(self, which: Callable[[Server], bool]) -> None:
        self.excused |= {server.name for server in self.floor.servers.values() if which(server)}

    # A person.

    def _set_budget(self, domain: str, watts: int) -> None:
        self.ask("limit", limit=str(LimitId("power", domain)), value=str(watts))

    def ask(self, verb: RequestVerb, **more: Any) -> None:
        """Asks for something; the request is in the store a moment later."""
        self._asked += 1
        request = Request(f"{self._asked:06d}", verb, "mina", "as seen on the floor", **more)
        put = Put(requests.key_of(RUN, request.id), requests.encode(request))
        self.loop.create_task(self._put(put), context=self.loop.world)

    async def _put(self, put: Put) -> None:
        await self.world.cluster.transact((), (put,))

    async def _person(self) -> None:
        """Looks now and then: approves feeds once they may be closed, closes a breaker behind which nothing
        answers, and goes on after refusals.
        """
        while True:
            await asyncio.sleep(WALK_S)
            view = self.view
            if view is None:
                continue
            for i in sorted(set(view.boots.gates) - view.gates_open):
                if view.phases[i] in ("pending", "ready"):
                    self.ask("approve", step=view.steps[i].id)
            for feed in sorted({feed for feeds in silent_servers.waiting(view) for feed in feeds}):
                if not self.floor.closed[feed]:
                    self.floor.close(feed)
            if view.phase == "paused" and view.boots.refusing and not self.floor.refuses:
                self.ask("resume")


async def _never(done: Done) -> bool:
    """Nothing is put right without a person."""
    return False


def play(seed: int, *, tracing: bool = False) -> Outcome:
    """The wave of a seed."""
    return WaveStory(draw(seed), tracing).play()
