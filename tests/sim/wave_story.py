"""One boot wave in virtual time: the real engine on a simulated floor, leaders that die, and people.

    python -m tests.sim.wave_story --seeds 1000       many, one after the other
    python -m tests.sim.wave_story --seed 17          one, with its trace

The rules of the floor hold at every instant. At the end of a wave everything that can come up is up, and what
the run counts as drawn is no less than what is drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from evac.run import silent_servers
from evac.run.boot_events import SEVERAL_STALLED
from evac.run.patience import deadline_ms
from evac.run.values import ENDED, Event, RunSpec
from evac.run.view import RunView
from evac.store.memory import MemoryStore
from evac.store.port import Put
from evac_lab.virtual_loop import Process, VirtualLoop
from tests.sim.floor import HOPELESS, STEPS_IN_S, Server, WaveBroken
from tests.sim.floor_driver import FloorDriver
from tests.sim.wave_options import Happening, WaveOptions, actions_of, draw, floor_of, spec_of

TTL_MS: Final = 4_000
HORIZON_S: Final = 6_000.0
WALK_S: Final = 15.0
"""How long a person takes to look at a breaker."""
TURNS: Final = 8
"""Deadlines of a boot: so long it takes turns, where only a few did not come up and nobody can say why."""
SEEN_S: Final = 20.0
"""How long it may take until an open breaker is seen; a run that ends before does not know."""


@dataclass(slots=True)
class WaveOutcome:
    """error: empty where nothing broke. up, hopeless: servers; virtual_s: how long the wave took."""

    seed: int
    error: str = ""
    phase: str = ""
    up: int = 0
    floor: int = 0
    virtual_s: float = 0.0
    trips: int = 0
    samples: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


class WaveStory:
    """One site, its floor, whoever leads, and a person."""

    def __init__(self, options: WaveOptions) -> None:
        self.options, self.loop = options, VirtualLoop(options.seed)
        self.floor = floor_of(options, self.loop.in_world, self.loop.fail)
        self.spec: RunSpec = spec_of(options)
        self.actions = actions_of(self.spec)
        self.store = MemoryStore(self.loop.now_ms)
        self.view: RunView | None = None
        self.leader: Process | None = None
        self.excused: set[str] = set()
        self.kinds: dict[str, int] = {}
        self.refused = False
        self._tripped = "", -SEEN_S
        self._seen_at_trip, self._fed = False, set[str]()
        self._kills = list[float]()
        self._led_since, self._terms = 0.0, list[tuple[float, float]]()
        self._asked = 0
        self._in_flight = options.in_flight
        self._dead_s: dict[str, float] = {}
        self._given_up: set[str] = set()
        self._driver: FloorDriver | None = None
        self._watch: DriftWatch | None = None

    def play(self) -> WaveOutcome:
        outcome = WaveOutcome(self.options.seed)
        try:
            asyncio.events._set_running_loop(None)
            self.loop.run_until_complete(self._all())
        except WaveBroken as error:
            outcome.error = str(error)
        except Exception as error:  # a mistake of the engine is a finding as well
            outcome.error = f"{type(error).__name__}: {error}"
        finally:
            self.loop.unwind()
            self.loop.close()
        view = self.view
        outcome.phase = view.phase if view is not None else ""
        outcome.up, outcome.virtual_s = self.floor.up(), self.loop.now
        outcome.floor = len(view.quarantined) if view is not None else 0
        outcome.trips, outcome.samples = self.floor.trips, self.floor.samples
        outcome.kinds, outcome.said = self.kinds, self.floor.said
        return outcome

    async def _all(self) -> None:
        for happening in self.options.happenings:
            self.loop.in_world(happening.at_s, self._happens, happening)
        tasks = [asyncio.ensure_future(self._lead()), asyncio.ensure_future(self._person())]
        async with asyncio.timeout(HORIZON_S):
            await tasks[0]
        tasks[1].cancel()
        self._check_end()

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
            raise WaveBroken(f"{len(missing)} servers could be up and are not: {missing[0]} {words}")
        self._check_floor_list(view)
        for domain, watts in self.floor.steady.items():
            counted = view.limits.used(f"power:{domain}")
            if counted < watts:
                raise WaveBroken(f"{domain} draws {watts} W, and the run counts {counted} W")

    def _check_floor_list(self, view: RunView) -> None:
        """Servers that nobody can bring up from afar are for the people on the floor, for what is wrong."""
        for server in self.floor.servers.values():
            if server.fault not in HOPELESS:
                continue
            i = view.index[f"boot:{server.name}"]
            if i not in view.quarantined:
                raise WaveBroken(f"{server.name} is hopeless, and nobody on the floor is told")
            if i in view.hung and not view.turns.get(i):
                raise WaveBroken(f"{server.name} was left in doubt, and is not looked at again")
            code = view.failures.get(i, ("",))[0]
            told = code in ("server-no-boot", "bmc-silent") or i in view.blind
            if server.fault == "no-boot" and not told:
                raise WaveBroken(f"{server.name} does not boot, and the floor is told {code or 'nothing'}")

    def _excuse_few(self) -> None:
        """Too few to say that their boot server died: they have some turns, where none like them came up
        meanwhile, and the boot server may be dead for longer; else they are broken servers to whoever looks.
        """
        assert self.view is not None
        missing: dict[str, list[str]] = {}
        for name in self.floor.missing(self.excused):
            missing.setdefault(self._boot_server(name), []).append(name)
        for server, dead_s in self._dead_s.items():
            names = missing.get(server, [])
            if len(names) < SEVERAL_STALLED and server not in self._given_up:
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

    def _boot_server(self, name: str) -> str:
        """From where a server had, or awaited, its image last."""
        server = self.floor.servers[name]
        return server.image_from or server.boot_server

    def _turns_s(self, server: str) -> float:
        """How long a boot that takes turns does so at least."""
        step = self.spec.steps[[step.id for step in self.spec.steps].index(f"boot:{server}")]
        return TURNS * deadline_ms(self.spec.patience, step) / 1_000

    def _was_seen_up(self, server: str) -> bool:
        return self.view is not None and self.view.step(f"boot:{server}").phase == "succeeded"

    def _longest_watch(self, since_s: float) -> float:
        """How long one leader led in one piece after that."""
        terms = [*self._terms, (self._led_since, self.loop.now)]
        return max(ended - max(began, since_s) for began, ended in terms)

    def _could_not_know(self, feed: str, at_s: float) -> bool:
        """Whether a feed was dark before anybody had seen it alive, and its leader died meanwhile: its
        breaker cannot be asked, nothing behind it had been seen up, and nothing there had answered whoever
        watches feeds. The next leader cannot tell it from one whose network is not up yet (documentation,
        "How a wave of boots is carried out": what it cannot notice).
        """
        died = any(abs(killed_s - at_s) < SEEN_S for killed_s in self._kills)
        return feed in self.options.unseen and died and not self._seen_at_trip

    async def _lead(self) -> None:
        """One controller after the other, until the run has ended."""
        number = 0
        while self.view is None or self.view.phase not in ENDED:
            number += 1
            self.leader = process = Process(self.loop, f"c{number}")
            task = process.spawn(self._carry_out(process))
            await asyncio.wait([task])
            if process.alive and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _carry_out(self, process: Process) -> None:
        leading = await self._acquire(process)
        self._led_since = self.loop.now
        self._driver = driver = FloorDriver(self.floor, process, self.loop, self.options.dawdles)
        driver.refuses = self.refused
        terms = Terms(
            "run-1",
            lambda step: self.actions[plan_id(step)],
            lambda name: driver,
            leading,
            self.spec.patience,
            "simulation",
        )
        if self.view is None:
            journal, self.view = await create_run(self.store, self.spec, leading, process, {})
        else:
            journal, self.view = await take_over(
                self.store, "run-1", self._spec, leading, process, process.name
            )
        hooks = Hooks(heard=self._heard)
        execution = RunExecution(self.store, journal, self.view, leading, terms, process, hooks=hooks)

        async def tell(drift: Drift) -> None:
            with contextlib.suppress(RunError, Conflict):
                data = {"evidence": dict(drift.evidence), "undone": False}
                await execution.say(Event("drift_seen", 0, drift.step, 0, data))

        self._watch = DriftWatch(lambda name: driver, process, tell, _never)
        peeking = FloorDriver(self.floor, process, self.loop, self.options.dawdles, peeks=True)
        feeds = FeedWatch(execution, terms.actions, lambda name: peeking, leading, self.floor.said.append)
        for step in self.spec.steps:
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
            order = Order("run-1", step, 1, 0, 0, "it drifted", 10.0, f"run-1/{step}/again")
            self._watch.add(step, self.actions[step], order)

    async def _acquire(self, process: Process) -> Leadership:
        while True:
            with contextlib.suppress(LockHeld):
                return await Leadership.acquire(self.store, process.name, TTL_MS, process)
            await asyncio.sleep(0.5)

    async def _spec(self, plan: str) -> RunSpec:
        return self.spec

    def _heard(self, events: Sequence[Event]) -> None:
        view = self.view
        assert view is not None
        if self._in_flight and not {"pending", "ready"} & set(view.phases):
            for happening in self._in_flight:
                self.loop.in_world(happening.at_s, self._happens, happening)
            self._in_flight = ()
        for event in events:
            self.kinds[event.kind] = self.kinds.get(event.kind, 0) + 1
            if event.kind == "limit_changed":
                limit, capacity = event.data["limit"], event.data["capacity"]
                self.floor.set_budget(LimitId.parse(limit).of, capacity, view.limits.used(limit))
            elif event.kind == "step_succeeded":
                self._add(event.step)
            elif event.kind == "boot_server_lost":
                self._given_up.add(event.data["server"])
                self._succeeded_by(event.data["other"])
            elif event.kind == "feeds_seen":
                self._fed.update(event.data["feeds"])
            elif event.kind == "feed_tripped":
                self._fed.discard(event.data["feed"])
            if event.kind in ("feed_tripped", "boot_server_lost", "paused"):
                self.floor.said.append(f"{self.loop.now:8.1f} {event.kind} {dict(event.data)}")

    def _succeeded_by(self, boot_server: str) -> None:
        """A boot server was given up: the first that takes over may die as well."""
        if boot_server and self.options.successor_dies_s >= 0 and len(self._given_up) == 1:
            dies = Happening(self.options.successor_dies_s, "boot-server", boot_server)
            self.loop.in_world(dies.at_s, self._happens, dies)

    # What befalls it.

    def _happens(self, happening: Happening) -> None:
        self.floor.said.append(f"{self.loop.now:8.1f} {happening.what} {happening.name}")
        match happening.what:
            case "kill":
                if self.leader is not None and self.view is not None and self.view.phase not in ENDED:
                    self.leader.kill()
                    self._kills.append(self.loop.now)
                    self._terms.append((self._led_since, self.loop.now))
                    self._led_since = HORIZON_S
            case "switch":
                self.floor.dark_switches.add(happening.name)
                self._excuse(lambda server: server.rack == happening.name)
                self.loop.in_world(happening.for_s, self.floor.dark_switches.discard, happening.name)
            case "network":
                self._network_is_late(happening)
            case "boot-server":
                if happening.for_s:
                    self.floor.only_boot_server = happening.name
                self._dead_s[happening.name] = happening.for_s or STEPS_IN_S
                self.floor.kill_boot_server(happening.name)
                if happening.for_s:
                    self.loop.in_world(happening.for_s, self.floor.mend_boot_server, happening.name)
            case "trip":
                behind = (one for one in self.floor.servers.values() if happening.name in one.feeds)
                self._seen_at_trip = happening.name in self._fed or any(
                    self._was_seen_up(one.name) for one in behind
                )
                self.floor.trip(happening.name, "a fault outside")
                self._tripped = happening.name, self.loop.now
            case "budget":
                self._cut(happening)
            case "refuse":
                self._refuse(True)
                self.loop.in_world(happening.for_s, self._refuse, False)

    def _network_is_late(self, happening: Happening) -> None:
        """Nobody there can be asked until it is up; nothing else is the matter with them."""
        name = happening.name
        for rack in {one.rack for one in self.floor.servers.values() if not name or name in one.feeds}:
            self.floor.dark_switches.add(rack)
            self.loop.in_world(happening.for_s, self.floor.dark_switches.discard, rack)

    def _excuse(self, which: Callable[[Server], bool]) -> None:
        self.excused |= {server.name for server in self.floor.servers.values() if which(server)}

    def _cut(self, happening: Happening) -> None:
        whole = self.floor.budgets[happening.name]
        self.ask(
            "limit", limit=str(LimitId("power", happening.name)), value=str(int(whole * happening.share))
        )
        if happening.for_s:
            self.loop.in_world(happening.for_s, self._give_back, happening.name, whole)

    def _give_back(self, domain: str, whole: int) -> None:
        self.ask("limit", limit=str(LimitId("power", domain)), value=str(whole))

    def _refuse(self, refused: bool) -> None:
        self.refused = refused
        if self._driver is not None:
            self._driver.refuses = refused

    def ask(self, verb: RequestVerb, **more: Any) -> None:
        """A person asks for something; the request is in the store at once."""
        self._asked += 1
        request = Request(f"{self._asked:06d}", verb, "mina", "as seen on the floor", **more)
        put = Put(requests.key_of("run-1", request.id), requests.encode(request))
        self.loop.create_task(self._put(put), context=self.loop.world)

    async def _put(self, put: Put) -> None:
        await self.store.transact((), (put,))

    async def _person(self) -> None:
        """Looks now and then: opens gates of feeds once they may be closed, closes a breaker behind which
        nothing answers, and goes on after refusals.
        """
        while True:
            await asyncio.sleep(WALK_S)
            view = self.view
            if view is None:
                continue
            for i in sorted(set(view.gates) - view.gates_open):
                if view.phases[i] in ("pending", "ready"):
                    self.ask("approve", step=view.steps[i].id)
            for feed in sorted({feed for feeds in silent_servers.waiting(view) for feed in feeds}):
                if not self.floor.closed[feed]:
                    self.floor.close(feed)
            if view.phase == "paused" and view.refusing and not self.refused:
                self.ask("resume")


async def _never(done: Done) -> bool:
    """Nothing is put right without a person."""
    return False


def play(seed: int) -> WaveOutcome:
    return WaveStory(draw(seed)).play()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.wave_story", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="one seed, with its trace")
    asked = parser.parse_args(argv)
    if asked.seed is not None:
        outcome = play(asked.seed)
        print("\n".join(outcome.said))
        print(outcome.kinds)
        print(outcome.error or f"{outcome.phase} after {outcome.virtual_s:.0f} s, {outcome.up} up")
        return 1 if outcome.error else 0
    failed = samples = 0
    for seed in range(asked.first, asked.first + asked.seeds):
        outcome = play(seed)
        samples += outcome.samples
        if outcome.error:
            failed += 1
            print(f"seed {seed}: {outcome.error}", flush=True)
    print(f"{asked.seeds} waves, {samples:,} samples of power: {failed or 'none'} broke a rule")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
