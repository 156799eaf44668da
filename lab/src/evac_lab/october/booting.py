"""The cold start of the story: the engine boots every server through its BMC, over real Redfish requests.

Plan, limits, journal and driver are the production ones; only what is not a server (a starting service, a
person switching a breaker that evac cannot reach) takes a random time. Time runs `speed` times as fast.
"""

from __future__ import annotations

import asyncio
import json
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import IO, Any, Final, cast

import numpy as np

from evac.app.planner.plans import Made, Mender
from evac.drivers.manual import NoopDriver
from evac.drivers.port import Action, Driver, Evidence, Order, Value
from evac.drivers.registry import create
from evac.engine.boots.feed_watch import FeedWatch, Mending, Trouble, take_over_plan
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.binding import Bound, bind
from evac.engine.runs.execution import Hooks, RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run
from evac.estate.codecs import plan as plan_codec
from evac.model.estate import Endpoint, Estate
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.run_policy import Patience, RunPolicy
from evac.model.step_id import StepId, plan_id
from evac.run.values import Event, RunPhase, RunSpec, RunStep
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.store.port import MemoryStore, Store
from evac.store.sqlite import SqliteStore
from evac_lab.fleet.ground import CIRCUITS_ADDRESS, address_of
from evac_lab.process import ServerFailed
from evac_lab.virtual_loop import VirtualLoop, VirtualProcess, run

LEASE_MS: Final = 600_000
"""Nobody else leads here, and a machine that does all of this at once may renew slowly."""
JOURNAL: Final = "journal.sqlite"
POINTS: Final = 400
ANSWER_S: Final = 1
"""Request timeout here: many times as long on the story's clock."""
MEND_MS: Final = 60_000
"""How long the run holds what was to start on a server that does not come up."""
TURN_S: Final = 0.000_2
_TIMED: Final = (Action("run", "step", "timed"),)


@dataclass(slots=True)
class Heard:
    """What the journal reports of the boots, as it is written. up: (milliseconds here, servers up)."""

    up: list[tuple[int, int]] = field(default_factory=list)
    degraded: int = 0
    count: int = 0

    def hear(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind == "step_succeeded" and StepId.parse(event.step).kind == "boot":
                self.count += 1
                self.degraded += event.data.get("evidence", {}).get("state") == "degraded"
                self.up.append((event.at_ms, self.count))


@dataclass(frozen=True, slots=True)
class Booted:
    """How the wave went, in story time since power returned. up: (milliseconds, servers up). plan: as finally
    executed, repaired for servers that did not come up.
    """

    played: Played
    servers: int
    came_up: int
    degraded: int
    wave_ms: int
    up: tuple[tuple[int, int], ...]
    plan: Plan


def with_addresses(estate: Estate, site: str) -> Estate:
    """The estate with a site's servers at the addresses of a simulated fleet, each with a serial."""
    fleet = estate.fleet
    row = next(n for n, one in enumerate(estate.sites) if one.id == site)
    here = np.flatnonzero(fleet.site == row)
    address = fleet.bmc_address.astype("S24")
    address[here] = [address_of(n).encode() for n in range(len(here))]
    serial = fleet.serial.astype(f"S{max(12, fleet.serial.dtype.itemsize)}")
    bare = here[serial[here] == b""]
    serial[bare] = [f"SN{n:08d}".encode() for n in bare.tolist()]
    return replace(estate, fleet=replace(fleet, bmc_address=address, serial=serial))


def with_endpoints(estate: Estate, site: str, fleet: ServedFleet) -> Estate:
    """The estate with its BMCs and breakers reachable by the driver."""
    settings: dict[str, str] = {
        "scheme": "http",
        "port": str(fleet.port),
        "user": fleet.user,
        "password": fleet.password,
        "answer_s": str(ANSWER_S),
    }
    found = [Endpoint(f"bmc-{site}", site, site, "redfish", MappingProxyType(dict(settings)))]
    for domain in fleet.ask("power")["domains"]:
        if "circuit" in domain:
            more = {**settings, "address": CIRCUITS_ADDRESS, "circuit": str(domain["circuit"])}
            name = f"circuit-{domain['id'].replace('/', '-')}"
            found.append(Endpoint(name, str(domain["id"]), site, "redfish", MappingProxyType(more)))
    return replace(estate, endpoints=(*estate.endpoints, *found))


def boot(estate: Estate, made: Made, fleet_folder: Path, seed: int, speed: int) -> Booted:
    """Executes a restore against a running fleet, on an embedded store in a folder."""
    heard, bound = Heard(), bound_plan(estate, made.plan, made.digest)
    wave = _Wave(estate, made, seed, speed, heard)
    for old in fleet_folder.glob(f"{JOURNAL}*"):
        old.unlink()
    with _short_turns():
        view = asyncio.run(wave.carry_out(bound, fleet_folder / JOURNAL))
    outcome = played(view)
    steps = {name: (a * speed, b * speed) for name, (a, b) in outcome.steps.items()}
    boots = [i for i, step in enumerate(view.steps) if kind_of(step.kind).boots]
    ended = [view.ended[i] - view.started_ms for i in boots if view.phases[i] == "succeeded"]
    return Booted(
        Played(outcome.phase, steps, outcome.ended_ms * speed),
        len(wave.asked),
        heard.count,
        heard.degraded,
        max(ended, default=0) * speed,
        _thinned(heard.up, view.started_ms, speed),
        wave.plan,
    )


@contextmanager
def _short_turns() -> Iterator[None]:
    """Shortens thread switches: a thread that reads a repaired plan delays the loop after each network call,
    by default for five milliseconds, which thousands of requests could not afford.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Wave:
    """One run against the fleet, its plan repaired when servers do not come up. asked: all servers to
    boot.
    """

    def __init__(self, estate: Estate, made: Made, seed: int, speed: int, heard: Heard) -> None:
        self.estate, self.speed, self.heard = estate, speed, heard
        self.asked = frozenset(step.target for step in made.plan.steps if kind_of(step.kind).boots)
        self.plan, self._data = made.plan, made.data
        self._actions: dict[str, Mapping[str, tuple[Action, ...]]] = {}
        self._timed = TimedDriver(seed, speed)
        self._redfish: Driver = create("redfish")
        self._mender = Mender()

    async def carry_out(self, bound: Bound, store_file: Path) -> RunView:
        fast, clock = self._fast(bound), SystemClock()
        self._know(bound, fast)
        store = SqliteStore(store_file)
        try:
            leading = await Leadership.acquire(store, "evac", LEASE_MS, clock)
            journal, view = await create_run(store, fast.spec, leading, clock, {"reason": RUN})
            terms = Terms(RUN, self._actions_of(view), self._driver, leading, fast.spec.patience, RUN)
            execution = RunExecution(
                store, journal, view, leading, terms, clock, hooks=Hooks(heard=self.heard.hear)
            )
            beside = (
                Mending(execution, self._mend, self._take(execution), _quiet),
                FeedWatch(execution, terms.actions, self._driver, leading, _quiet),
            )
            tasks = [asyncio.create_task(one.run()) for one in beside]
            try:
                await execution.run()
            finally:
                for task in tasks:
                    task.cancel()
                await leading.release()
            return execution.view
        finally:
            self._mender.close()
            await self._redfish.close()
            await store.close()

    def _fast(self, bound: Bound) -> Bound:
        """The run at the story's speed."""
        spec = replace(bound.spec, mend_ms=MEND_MS)
        return _real_boots(faster(Bound(spec, bound.actions), self.speed), self.speed)

    def _know(self, bound: Bound, fast: Bound) -> None:
        """Remembers the actions of a plan's steps."""
        self._actions[bound.spec.plan] = fast.actions
        self._timed.know(bound.spec)

    def _actions_of(self, view: RunView) -> Callable[[str], tuple[Action, ...]]:
        def found(step: str) -> tuple[Action, ...]:
            plan, name = view.origin_of(step)
            return self._actions[plan][name]

        return found

    def _driver(self, name: str) -> Driver:
        return self._redfish if name == "redfish" else self._timed

    async def _mend(self, plan: str, trouble: Trouble) -> bytes | None:
        return await self._mender.mend(self.estate, self._data, trouble)

    def _take(self, execution: RunExecution) -> Callable[[bytes, Trouble], Awaitable[None]]:
        async def take(data: bytes, trouble: Trouble) -> None:
            plan, bound, fast = await asyncio.to_thread(self._read, data)
            self._data, self.plan = data, plan
            self._know(bound, fast)
            await take_over_plan(execution, fast, trouble)

        return take

    def _read(self, data: bytes) -> tuple[Plan, Bound, Bound]:
        """A repaired plan, its run, and the same at the story's speed."""
        plan = plan_codec.decode(data, own=True)
        bound = bound_plan(self.estate, plan, plan_codec.plan_digest(data))
        return plan, bound, self._fast(bound)


def _quiet(words: str) -> None:
    """Ignored: the story reports it at its end."""


def _thinned(up: list[tuple[int, int]], began: int, speed: int) -> tuple[tuple[int, int], ...]:
    """Thinned to the points that a chart shows, always including the last."""
    step = max(1, len(up) // POINTS)
    kept = [*up[::step], *up[-1:]]
    return ((0, 0), *(((at - began) * speed, count) for at, count in kept))


def _real_boots(bound: Bound, speed: int) -> Bound:
    """Boots and breakers go through the driver; everything else runs by the clock, without asking anyone."""
    steps = []
    actions: dict[str, tuple[Action, ...]] = {}
    for step in bound.spec.steps:
        real = bool(bound.actions[step.id]) and all(a.driver == "redfish" for a in bound.actions[step.id])
        steps.append(replace(step, manual=False, gate=""))
        actions[step.id] = tuple(_quick(a, speed) for a in bound.actions[step.id]) if real else _TIMED
    return Bound(replace(bound.spec, steps=tuple(steps)), MappingProxyType(actions))


def _quick(action: Action, speed: int) -> Action:
    told: dict[str, Value] = dict(action.parameters)
    if "boot_ms" in told:
        told["boot_ms"] = int(told["boot_ms"]) // speed  # type: ignore[arg-type]
    return replace(action, parameters=MappingProxyType(told))


READY_S: Final = 120.0
STOP_S: Final = 10.0
_ANSWER_S: Final = 30.0
_ANSWER_BYTES: Final = 32_000_000
_LINE_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class ServedFleet:
    """How to reach a running fleet. password: a reference. admin: its URL, on loopback."""

    port: int
    user: str
    password: str
    admin: str

    def ask(self, path: str) -> Mapping[str, Any]:
        """The admin interface's answer. Raises OSError, ValueError."""
        with urllib.request.urlopen(f"{self.admin}/{path}", timeout=_ANSWER_S) as answer:
            return cast(Mapping[str, Any], json.loads(answer.read(_ANSWER_BYTES)))

    def limit(self, domain: str, watts: int) -> None:
        """Sets what utility or cooling provide to a site, hall, feed or rack now. Raises OSError."""
        body = json.dumps({"power_watts": watts}).encode()
        request = urllib.request.Request(f"{self.admin}/budget/{domain}", body, method="PUT")
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
            answer.read(_LINE_BYTES)


@contextmanager
def serving(estate: Path, site: str, folder: Path, seed: int, speed: int) -> Iterator[ServedFleet]:
    """A fleet of a site's servers, without power, for the duration of the block. Raises ServerFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [
        sys.executable,
        "-m",
        "evac",
        "lab",
        "fleet",
        "--estate",
        str(estate),
        "--site",
        site,
        "--seed",
        str(seed),
        "--speed",
        str(speed),
        "--latency",
        "0",
        "--at-start",
        "open",
        "--quiet",
        "--port",
        "0",
        "--admin-port",
        "0",
        "--folder",
        str(folder),
    ]
    with (folder / "fleet.log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            yield _ready(process.stdout, folder / "fleet.log")
        finally:
            _end(process)


def _ready(out: IO[bytes], log: Path) -> ServedFleet:
    """Waits for the ready line, which is the first."""
    until = time.monotonic() + READY_S
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
        left = until - time.monotonic()
        if left <= 0 or not select.select([out], [], [], left)[0]:
            raise ServerFailed("fleet-silent", f"the fleet is not ready after {READY_S:g} s", f"see {log}")
        part = out.read1(4_096)  # type: ignore[attr-defined]
        if not part:
            words = log.read_text("utf-8", "replace").strip().splitlines()
            raise ServerFailed(
                "fleet-failed", f"the fleet ended: {words[-1] if words else 'no words'}", f"see {log}"
            )
        line += part
    about = json.loads(line)
    return ServedFleet(int(about["port"]), str(about["user"]), str(about["password"]), str(about["admin"]))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


REQUESTS_MS = 3_000
"""Added to a deadline: a request takes as long as it takes, however fast the story runs."""
MEND_LEAST_MS = 3_000
MEND_STEP_US = 300
"""Minimum wait for a repaired plan, plus an allowance per step: repairs take real time too, and leave the run
little of two cores meanwhile.
"""


def faster(bound: Bound, speed: int) -> Bound:
    """The same run with all durations, holds and windows divided by `speed`."""
    return Bound(faster_spec(bound.spec, speed), bound.actions)


def faster_spec(spec: RunSpec, speed: int) -> RunSpec:
    patience = replace(
        spec.patience,
        deadline_least_ms=REQUESTS_MS,
        backoff_ms=max(1, spec.patience.backoff_ms // speed),
        backoff_most_ms=max(1, spec.patience.backoff_most_ms // speed),
    )
    return replace(
        spec,
        steps=tuple(_step(step, speed) for step in spec.steps),
        limits=tuple(replace(limit, window_ms=_shorter(limit.window_ms, speed)) for limit in spec.limits),
        patience=patience,
        horizon_ms=0,
        monitor_ms=spec.monitor_ms // speed,
        mend_ms=max(_mend_least_ms(spec), spec.mend_ms // speed) if spec.mend_ms else 0,
    )


def _mend_least_ms(spec: RunSpec) -> int:
    return MEND_LEAST_MS + len(spec.steps) * MEND_STEP_US // 1_000


def _step(step: RunStep, speed: int) -> RunStep:
    return replace(
        step,
        start_ms=step.start_ms // speed,
        duration_ms=_shorter(step.duration_ms, speed),
        lag_ms=_shorter(step.lag_ms, speed),
        deadline_ms=step.deadline_ms // speed + REQUESTS_MS if step.deadline_ms else 0,
        uses=tuple((name, units, _shorter(hold, speed)) for name, units, hold in step.uses),
    )


def _shorter(milliseconds: int, speed: int) -> int:
    """Rounded up, so that no hold vanishes; zero and `kept for good` stay unchanged."""
    return -(-milliseconds // speed) if milliseconds > 0 else milliseconds


SLOWEST_PERMILLE: Final = 1_300
FASTEST_PERMILLE: Final = 900
RUN: Final = "october"
_ACTION: Final = (Action("run", "step", "timed"),)


@dataclass(frozen=True, slots=True)
class Played:
    """How a run ended. steps: id -> (began, ended) in milliseconds since the run began, for successful
    ones.
    """

    phase: RunPhase
    steps: Mapping[str, tuple[int, int]]
    ended_ms: int


class TimedDriver(NoopDriver):
    """Every step takes its predicted duration times a random factor; `speed` divides it for runs in real
    time.
    """

    name = "timed"

    def __init__(self, seed: int, speed: int = 1) -> None:
        super().__init__()
        self._seed, self._speed = seed, speed
        self._takes: dict[str, int] = {}

    def know(self, spec: RunSpec) -> None:
        """Remembers the predicted durations of a plan's steps."""
        self._takes.update((step.id, step.duration_ms) for step in spec.steps)

    async def execute(self, action: Action, order: Order) -> Evidence:
        draw = Random(f"{self._seed} {order.step}").randint(FASTEST_PERMILLE, SLOWEST_PERMILLE)
        takes_ms = self._takes[plan_id(order.step)] * draw
        await asyncio.sleep(takes_ms / 1_000_000 / self._speed)
        return await super().execute(action, order)


def bound_plan(estate: Estate, plan: Plan, digest: str) -> Bound:
    """The run of a plan without approvals: the story approves it beforehand."""
    policy = replace(RunPolicy(), approvals=0, patience=Patience(attempts=2, deadline_factor=8))
    return bind(estate, plan, policy, run=RUN, incident="october-2022", digest=digest)


def timed(bound: Bound) -> Bound:
    """The same steps, dependencies and limits, with every step done by the simulated driver and none by a
    person.
    """
    steps = tuple(replace(step, manual=False, gate="") for step in bound.spec.steps)
    return Bound(replace(bound.spec, steps=steps), dict.fromkeys((s.id for s in steps), _ACTION))


def play(bound: Bound, seed: int) -> Played:
    """Executes a bound run in virtual time."""
    loop = VirtualLoop(seed)
    process = VirtualProcess(loop, "evac")
    driver = TimedDriver(seed)
    driver.know(bound.spec)
    return run(loop, _carry_out(loop, process, bound, driver))


async def _carry_out(loop: VirtualLoop, clock: VirtualProcess, bound: Bound, driver: TimedDriver) -> Played:
    store = MemoryStore(loop.now_ms)
    leading = await Leadership.acquire(store, "evac", LEASE_MS, clock)
    terms = Terms(
        bound.spec.run, lambda step: _ACTION, lambda name: driver, leading, bound.spec.patience, RUN
    )
    view = await execute(store, bound, leading, clock, terms)
    await leading.release()
    return played(view)


async def execute(store: Store, bound: Bound, leading: Leadership, clock: Clock, terms: Terms) -> RunView:
    """Creates the run and executes it to its end."""
    journal, view = await create_run(store, bound.spec, leading, clock, {"reason": "october 2022"})
    execution = RunExecution(store, journal, view, leading, terms, clock)
    await execution.run()
    return execution.view


def played(view: RunView) -> Played:
    """Start and end of each successful step, in milliseconds since the run started."""
    began = view.started_ms
    steps: dict[str, tuple[int, int]] = {
        step.id: (view.started[i] - began, view.ended[i] - began)
        for i, step in enumerate(view.steps)
        if view.phases[i] == "succeeded"
    }
    return Played(view.phase, steps, view.last_ms - began)
