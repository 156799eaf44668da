"""Restores a site: starts it, archives what only its old primary had, lets it follow, and returns traffic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import orjson

from evac import estate as estates
from evac.app import runs
from evac.app.controlling import hands_of
from evac.app.observed_stores import merged
from evac.app.observing import observe
from evac.app.planner.plans import Question, make_plan, scenario_of
from evac.app.published import KEY, decode
from evac.app.situations import facts_now
from evac.derive import situation
from evac.derive.stores import observed
from evac.drivers.port import Action, Evidence, Order
from evac.drivers.process.client import Lines
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import LEADER
from evac.engine.runs.effects import EffectsReader
from evac.engine.runs.open_runs import OPEN, read_opened
from evac.engine.runs.requests import Request
from evac.engine.runs.step_actions import rejoin_action
from evac.engine.stores.datasets import DataSets
from evac.model.errors import ActionError, EvacError, Retryable
from evac.model.estate import Endpoint, Estate
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.model.run_policy import SUCCEEDED, RunPolicy
from evac.model.step_id import StepId
from evac.run.values import ENDED
from evac.run.view import RunView
from evac.run.waits import waiting
from evac.store.opening import open_store
from evac.store.port import Store
from evac.views.wait_words import words_of
from evac_lab import authorities
from evac_lab import process as processes
from evac_lab.namespaces import network_of
from evac_lab.primaries import redis_master
from evac_lab.site_servers import Ground
from evac_lab.state import (
    PORTS,
    LabError,
    LabFolder,
    LabState,
    Running,
    Starter,
    answers,
    store_url,
    takes_connections,
    wait_for,
)

_REDIS: Final = "redis"
_FIRST: Final = ("etcd", "dns", "haproxy", "agent")
READY_SECONDS: Final = 20.0
_LISTENING: Final = ("etcd", "postgres", "redis", "orders", "dns", "haproxy", "agent")
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored. whole: everything requested."""

    site: str
    started: tuple[str, ...]
    whole: bool
    words: tuple[str, ...] = ()

    def as_text(self) -> str:
        lines = [f"{self.site}: {', '.join(self.started) or 'nothing'} started", *self.words]
        return "\n".join(lines) + "\n"


def start_site(folder: LabFolder, site: str, told: Told = lambda words: None) -> tuple[str, ...]:
    """Starts what a burnt site had, except old primaries; a site that was only cut off needs nothing."""
    with folder.locked():
        state = folder.need()
        state.topology.site(site)
        network_of(folder, state).join(site)
        starter = Starter(folder, state, lambda share, words: told(words))
        pending = [one for one in state.of_site(site) if not one.alive and _may_start(folder, one)]
        early = [one for one in pending if one.role in _FIRST]
        late = [one for one in pending if one.role not in _FIRST]
        for rows in (early, late):
            with ThreadPoolExecutor(max_workers=8) as pool:
                list(pool.map(lambda one: _again(starter, one), rows))
        wait_until_ready(folder, state, site, [one.role for one in pending], told)
        starter.check()
        burnt = {name: at for name, at in starter.state.burnt.items() if name != site}
        starter.change(burnt=burnt, cut=tuple(one for one in starter.state.cut if one != site))
        starter.let_go()
    return tuple(one.role for one in pending)


def wait_until_ready(
    folder: LabFolder, state: LabState, site: str, roles: Sequence[str], told: Told = lambda words: None
) -> None:
    """Waits until every started server takes connections and the agent answers. Raises `LabError` naming the
    one that does not.
    """
    one = state.topology.site(site)
    for role in _LISTENING:
        if role in roles:
            listens = partial(takes_connections, one.host(role), PORTS[role])
            wait_for(listens, READY_SECONDS, f"{role} of {site}")
    if "agent" in roles:
        url = f"{one.url('agent')}/v1/health"
        line = Lines(authorities.operator(folder.certificates)).to(url)
        wait_for(lambda: answers(url, line=line), READY_SECONDS, f"the agent of {site}")
    told(f"{site} answers again")


def _may_start(folder: LabFolder, one: Running) -> bool:
    """A PostgreSQL that was a primary stays down: only evac may let it rejoin, rewound."""
    if one.role not in ("postgres", "receipts"):
        return True
    return (folder.data(one.site, one.role) / "data" / "standby.signal").exists()


def _again(starter: Starter, one: Running) -> None:
    process = one.again()
    if one.role == "dns":
        # Knot does not start while any process has the pid in its old file.
        (starter.folder.data(one.site, "dns") / "run" / "knot.pid").unlink(missing_ok=True)
    if one.role == _REDIS:
        # Without the primary that it followed last.
        plain = one.argv[: one.argv.index("--replicaof")] if "--replicaof" in one.argv else one.argv
        process.argv = (*plain, *_following(starter, one))
    starter.launch(one.site, one.role, process)


def _following(starter: Starter, one: Running) -> tuple[str, ...]:
    """Redis does not record its role: it follows whichever server takes writes now, if another does."""
    ground = Ground(starter.folder, starter.state.topology)
    others = [site.host(_REDIS) for site in ground.topology.others(one.site)]
    master = asyncio.run(redis_master(others, PORTS[_REDIS], ground.secrets.value(_REDIS)))
    return ("--replicaof", f"{master} {PORTS[_REDIS]}") if master else ()


def restore(
    folder: LabFolder, site: str, told: Told = lambda words: None, *, failback: bool = False, reason: str = ""
) -> Restored:
    """Starts the site, then lets evac restore its data. Returns when that has ended."""
    started = start_site(folder, site, told)
    state = folder.need()
    if not any(one.role == "controller" for one in state.processes):
        return Restored(site, started, True, ("no controller is running: its data stays as it is",))
    url = store_url(state.topology, state.topology.others(site)[0].name)
    words: list[str] = []
    whole = True
    if asyncio.run(as_it_was(folder, url, site, partial(_old_primary, folder, site))):
        words.append("no other server was promoted: its PostgreSQL continues as the primary")
        started = (*started, "postgres")
    for question in ("restore", "failback") if failback else ("restore",):
        back = asyncio.run(bring_back(folder, url, site, question, reason, told))
        words += as_words(back)
        whole = whole and back.whole
        if not whole:
            break
    for other in state.topology.sites:
        # Rewound servers run anew: the old primary here and, on the way home, the demoted one.
        if adopt_postgres(folder, other.name) and other.name == site:
            started = (*started, "postgres")
    return Restored(site, started, whole, tuple(words))


def _old_primary(folder: LabFolder, site: str) -> bool:
    """Starts the PostgreSQL that was a primary here, unchanged; False if it is alive or was none."""
    with folder.locked():
        state = folder.need()
        old = next((one for one in state.of_site(site) if one.role == "postgres" and not one.alive), None)
        if old is None or _may_start(folder, old):
            return False
        starter = Starter(folder, state, lambda share, words: None)
        _again(starter, old)
        wait_until_ready(folder, state, site, ["postgres"])
        starter.check()
        starter.let_go()
    return True


def adopt_postgres(folder: LabFolder, site: str) -> bool:
    """Records the PostgreSQL that the site's agent started after a rewind; False if there is none."""
    path = folder.data(site, "postgres") / "data" / "postmaster.pid"
    with folder.locked():
        state = folder.need()
        old = next((one for one in state.of_site(site) if one.role == "postgres"), None)
        try:
            pid = int(path.read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):
            return False
        since = processes.started(pid)
        if old is None or old.alive or not since:
            return False
        folder.write(state.with_process(replace(old, pid=pid, started=since)))
    return True


REJOIN_SECONDS: Final = 60.0
LEADER_SECONDS: Final = 20.0
LEFT_SECONDS: Final = 20.0
RUN_SECONDS: Final = 60.0
START_MS: Final = 10_000
"""Lease on a store while an old primary is started; it is renewed meanwhile."""
PLAN_BUDGET_MS: Final = 1_000
_PAUSE_SECONDS: Final = 0.25
_WHO: Final = "evac lab"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Returned:
    """rejoined: store -> evidence of its member; trouble: failures, one sentence each; run: its id and how it
    ended; idle: why there was nothing to do.
    """

    rejoined: Mapping[str, Evidence]
    trouble: tuple[str, ...]
    run: str = ""
    phase: str = ""
    idle: str = ""

    @property
    def whole(self) -> bool:
        return not self.trouble and (bool(self.idle) or self.phase in SUCCEEDED)


async def bring_back(
    folder: LabFolder, store_url: str, site: str, question: str, reason: str, told: Told
) -> Returned:
    """For `restore`, members rejoin first; then a run of the plan `question` (`restore` or `failback`) is
    executed.
    """
    async with AsyncExitStack() as open_till_the_end:
        store, drivers = open_store(store_url), Drivers()
        open_till_the_end.push_async_callback(store.close)
        open_till_the_end.push_async_callback(drivers.close)
        token = await _leading(store)
        await _until_left(store, site)
        files = estates.load(folder.estate)
        drivers.know(hands_of(files, authorities.operator(folder.certificates)))
        rejoined: Mapping[str, Evidence] = {}
        asked = Question(failback=(site,))
        if question == "restore":
            now = await _observed(files, drivers, store)
            rejoined, trouble = await _rejoin_all(store, now, drivers, site, token, told)
            if trouble:
                return Returned(rejoined, trouble)
            domains = await _left(store, site)
            if not rejoined and not domains:
                return Returned({}, (), idle=f"{site} was not evacuated: there is nothing to restore")
            asked = Question(restore=domains or (site,))
        why_so = reason or f"{site} is back"
        run, phase, why = await _carry_out(store, files, drivers, site, asked, why_so, told)
        return Returned(rejoined, why, run, phase)


async def _leading(store: Store) -> int:
    """The leader's token; waits for an election. Raises `LabError`."""
    deadline = time.monotonic() + LEADER_SECONDS
    while time.monotonic() < deadline:
        lease = await store.holder(LEADER)
        if lease is not None:
            return lease.token
        await asyncio.sleep(_PAUSE_SECONDS)
    raise LabError("lab-no-leader", "no controller is leading", "evac lab status")


async def as_it_was(folder: LabFolder, store_url: str, site: str, start: Callable[[], bool]) -> bool:
    """Calls `start` if evac's epoch says that the primary of the PostgreSQL store is still here and no
    promotion is in progress, under the lease of the store so that none can begin. Returns its result.
    """
    async with AsyncExitStack() as open_till_the_end:
        store = open_store(store_url)
        open_till_the_end.push_async_callback(store.close)
        await _leading(store)
        await _until_left(store, site)
        declared = next(one for one in estates.load(folder.estate).stores if one.engine == "postgresql")
        sets = DataSets(store, f"{_WHO}/{site}", SystemClock())
        async with AsyncExitStack() as started:
            held = await _once_free(lambda: started.enter_async_context(sets.hold(declared.id, START_MS)))
            epoch = await sets.read(declared.id)
            home = declared.primary.at if declared.primary is not None else ""
            if not epoch.settled or (epoch.holder or home) != site:
                return False
            return await held.during(asyncio.to_thread(start))


async def _until_left(store: Store, site: str) -> None:
    """A site that returns during its evacuation is restored after it: until then roles move."""
    deadline = time.monotonic() + LEFT_SECONDS
    while time.monotonic() < deadline:
        found = [
            read_opened(one.key.removeprefix(OPEN), one.value, RunPolicy()) for one in await store.list(OPEN)
        ]
        lost = [run for run in found if run.mark == "lost"]
        of_site = [
            one for one in lost if any(at.partition("/")[0] == site for at in (*one.leaving, *one.halls))
        ]
        views = [await runs.view_of(store, one.spec.run) for one in of_site]
        if not any(view.phase == "running" for view in views):
            return
        await asyncio.sleep(_PAUSE_SECONDS)


async def _left(store: Store, site: str) -> tuple[str, ...]:
    """What a run took out of service: the site, or halls of it. A site that was cut off for a moment was not
    left, and a plan for its return would treat its stores as dark.
    """
    effects = await EffectsReader(store).read(_now_ms())
    return tuple(one.domain for one in effects.lost if one.domain.partition("/")[0] == site)


async def _observed(files: Estate, drivers: Drivers, store: Store) -> Estate:
    """The estate with its stores' present roles. If an old primary still believes that it is one, the
    controllers' last certain observation counts.
    """
    entry = await store.get(KEY)
    before = Observation(0) if entry is None else decode(entry.value)
    seen = await observe(files, drivers, time.time_ns() // 1_000_000)
    return observed(files, merged(before, seen))


async def _rejoin_all(
    store: Store, now: Estate, drivers: Drivers, site: str, token: int, told: Told
) -> tuple[dict[str, Evidence], tuple[str, ...]]:
    rejoined: dict[str, Evidence] = {}
    trouble: list[str] = []
    for data_set in now.stores:
        primary = next((member.at for member in data_set.members if member.mode == "primary"), "")
        ends = {one.at: one for one in now.endpoints if one.subject == data_set.id}
        if primary == site or site not in ends or primary not in ends:
            continue
        action = _rejoin(now, ends[site], ends[primary])
        # The epoch of a data set, as the controllers wrote it; 0 if it never moved.
        entry = await store.get(f"epoch/{data_set.id}")
        epoch = 0 if entry is None else int(orjson.loads(entry.value).get("epoch", 0))
        step, key = str(StepId("rejoin", data_set.id)), f"lab/{site}/{data_set.id}"
        order = Order("lab", step, 1, token, epoch, "the site is back", REJOIN_SECONDS, key)
        try:
            driver = drivers.get(action.driver)
            rejoined[data_set.id] = await _once_free(partial(driver.execute, action, order))
            told(f"{data_set.id} at {site} follows {primary}: {_words(rejoined[data_set.id])}")
        except ActionError as error:
            trouble.append(f"{data_set.id} at {site}: {error.message}")
    return rejoined, tuple(trouble)


async def _once_free(ask: Callable[[], Awaitable[T]]) -> T:
    """Retries while the error asks for it: a site that has just returned is not complete, and role changes
    keep a store's lease slightly longer than their run.
    """
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return await ask()
        except Retryable as error:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(max(_PAUSE_SECONDS, error.after_ms / 1_000))


def _rejoin(now: Estate, member: Endpoint, primary: Endpoint) -> Action:
    """Through the agent if there is something to rewind; rows that only it had are exported too."""
    action = rejoin_action(now, member, primary)
    return replace(action, parameters={**action.parameters, "archive_rows": "*"})


def _words(evidence: Evidence) -> str:
    """What happened to the data that only the member had."""
    alone = evidence.get("diverged_transactions", 0)
    if not alone:
        return "it had no data of its own"
    return f"{alone} transactions that no other server has are kept in {evidence.get('archive')}"


async def _carry_out(
    store: Store, files: Estate, drivers: Drivers, site: str, asked: Question, reason: str, told: Told
) -> tuple[str, str, tuple[str, ...]]:
    """Plans from the leader's knowledge, proposes, approves, and follows the run until it ends or needs a
    person: returns its id, its state, and what it waits for.
    """
    question = "restore" if asked.restore else "failback"

    async def propose() -> str:
        seen = await facts_now(files, store, drivers, _now_ms())
        now = situation.of(files, seen).estate
        made = await asyncio.to_thread(make_plan, now, scenario_of(now, asked), budget_ms=PLAN_BUDGET_MS)
        proposal = runs.proposal_of(made.data, f"{site}-{question}-{_now_ms()}", reason, ())
        return await runs.propose(store, proposal, _now_ms())

    run = await _patiently(propose)
    told(f"run {run}")
    view = await runs.view_of(store, run)
    request = Request(
        runs.new_id(_now_ms()), "approve", _WHO, reason, at_ms=_now_ms(), envelope=view.spec.envelope
    )
    await runs.ask(store, run, request)
    view = await _followed(store, run)
    return (
        run,
        view.phase,
        () if view.phase in ENDED else (f"{run} is {view.phase}", *map(words_of, waiting(view))),
    )


async def _patiently(work: Callable[[], Awaitable[str]]) -> str:
    """Retries while the leader's view of roles is slightly older than ours."""
    for _ in range(20):
        try:
            return await work()
        except EvacError as error:
            if error.code not in ("plan-stale", "store-conflict"):
                raise
            await asyncio.sleep(_PAUSE_SECONDS * 2)
    raise LabError("lab-stale", "the roles of stores do not settle", "evac observe")


async def _followed(store: Store, run: str) -> RunView:
    """Follows it to its end, or until no further step has succeeded for `RUN_SECONDS`. A pause by evac may
    end by itself when what it waits for returns.
    """
    loop, done = asyncio.get_running_loop(), -1
    deadline = loop.time()
    while True:
        view = await runs.view_of(store, run)
        if (now_done := view.phases.count("succeeded")) > done:
            done, deadline = now_done, loop.time() + RUN_SECONDS
        if view.phase in ENDED or loop.time() > deadline:
            return view
        await asyncio.sleep(_PAUSE_SECONDS)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def as_words(returned: Returned) -> Sequence[str]:
    """For people."""
    lines = list(returned.trouble)
    for name, evidence in returned.rejoined.items():
        lines.append(f"{name}: {_words(evidence)}")
    if returned.run:
        lines.append(f"run {returned.run}: {returned.phase}")
    if returned.idle:
        lines.append(returned.idle)
    return lines
