"""Applying a plan: a dry run that queries every system and changes nothing, or a proposal to the leader.

A dry run binds the plan, asks each driver whether its action would work now, and lists what an approval must
cover. That takes seconds, so for a war room `Rehearser` does it on a thread with its own event loop, one plan
at a time. If the journal of a run was lost, steps that the systems show as done are attested, and the rest is
run.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

from evac import estate as estates
from evac.app import runs
from evac.app.accepting import must_hold
from evac.app.default_store import default_store
from evac.app.detached import last_started
from evac.app.lost_store import next_generation
from evac.app.observing import look_at, observe, standing_facts
from evac.app.own_python import OWN_PYTHON
from evac.app.situations import facts_now
from evac.backup.complete import as_kept, restoring_complete
from evac.derive.domains import site_of, topology
from evac.derive.situation import of
from evac.drivers.port import Action, Order
from evac.drivers.registry import Drivers, acts, is_by_person
from evac.engine.lead.leadership import LEADER
from evac.engine.plans.library import digest_of, find_plan, get_plan
from evac.engine.runs import requests
from evac.engine.runs.binding import bind
from evac.engine.runs.dry_run import ASKING_TOKEN, Kept, Known, problems_of
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.proving import Act, asked_of, sign_act
from evac.engine.runs.signatures import read_key
from evac.engine.stores.guards import WHOLE, as_allowed
from evac.estate.codecs import plan as plan_codec
from evac.model.digest import estate_digest
from evac.model.errors import (
    EvacError,
    InvalidInput,
    NotAllowed,
    StalePlan,
    Superseded,
    Unavailable,
)
from evac.model.estate import Estate
from evac.model.observation import MemberSeen, Observation
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.model.situation import Effects, Situation
from evac.model.units import moment_words
from evac.run.envelope import outside
from evac.run.values import RunStep
from evac.steps.registry import kind_of
from evac.store.generation import read_behind, read_generation, read_newer, takes_place_of
from evac.store.opening import open_store
from evac.store.port import Store
from evac.views.documents import DryRun, StepChecked, dry_run_of
from evac.views.situation_view import differences, stale_words

START_S: Final = 90.0
"""How long a detached controller may take to become leader; reading a large estate is slow on a busy machine.
One that exits is not waited for.
"""
IDLE: Final = "20s"
"""How long a controller started for one run stays after its last run."""


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan with the estate it fits, in its current state."""

    plan: Plan
    data: bytes
    digest: str
    estate: Estate
    policy: RunPolicy


async def load(
    plan_path: Path,
    estate_path: Path,
    policy_path: Path | None,
    drivers: Drivers,
    now_ms: int,
    store: Store | None = None,
) -> LoadedPlan:
    """Load a plan by file, or from the store by its digest `sha256:...` or at least twelve characters of it.

    Raises StalePlan if the plan was made from another estate or other roles than the current ones, UnsafePlan
    if the checker refuses it, InvalidInput if no plan or several in the store match.
    """
    plan, data, digest = await _read(plan_path, store)
    return await fit(plan, data, digest, estate_path, policy_path, drivers, now_ms, store=store)


async def _read(path: Path, store: Store | None) -> tuple[Plan, bytes, str]:
    """A plan, its bytes and their digest, from a file or by its digest from the store."""
    if is_digest(path) and store is not None:
        digest = await find_plan(store, str(path))
        data = await get_plan(store, digest)
        plan = plan_codec.decode(data, digest)
    else:
        plan, digest = plan_codec.read(path)
        data = path.read_bytes()
    assert digest_of(data) == digest
    return plan, data, digest


async def fit(
    plan: Plan,
    data: bytes,
    digest: str,
    estate_path: Path,
    policy_path: Path | None,
    drivers: Drivers,
    now_ms: int,
    *,
    store: Store | None = None,
    known: Observation | None = None,
) -> LoadedPlan:
    """Match a plan with the current estate. known: facts beyond the files; None: query the store and the
    systems. Raises StalePlan as `load` does, UnsafePlan if the checker refuses the plan.
    """
    estate = estates.load(estate_path)
    from evac.app.controlling import hands_of, read_policy  # imported late: few commands need a controller

    drivers.know(hands_of(estate))
    policy = read_policy(estate_path, policy_path, estate)
    policy = policy if store is None else as_allowed(policy, store.quorum)
    seen = known or await facts_now(estate, store, drivers, now_ms)
    found = of(estate, seen)
    now = found.estate
    if plan.estate_digest != estate_digest(now):
        _must_not_be_left(plan, found, seen.effects)
        by_files = plan.estate_digest == estate_digest(estate)
        raise StalePlan("plan-stale", *stale_words(differences(found), by_files))
    if not plan.steps and {one.domain for one in found.lost}.issuperset(plan.scenario.domains):
        _must_not_be_left(plan, found, seen.effects)
    must_hold(now, plan, (estate, seen))
    return LoadedPlan(plan, data, digest, now, policy)


def _must_not_be_left(plan: Plan, found: Situation, effects: Effects | None) -> None:
    """Raise NotAllowed if the plan leaves a site that is already marked as left. That says more than that the
    plan is stale, and a plan without steps has nothing left to do. While the run that left the site is open,
    no other run follows.
    """
    ended = {one.run for one in (effects or Effects()).moved}
    for one in found.lost if plan.scenario.kind in ("lose", "evacuate") else ():
        if one.domain not in plan.scenario.domains:
            continue
        by = f" by {one.run}" if one.run else ""
        clear = f"if {one.domain} is healthy: evac site clear {one.domain} --reason WHY"
        if one.run and one.run not in ended:
            hint = f"continue with that run: evac run show {one.run}"
        elif plan.steps:
            hint = f"plan from the current state: evac plan ESTATE --observe; {clear}"
        else:
            restore = f"evac plan ESTATE --restore {one.domain}"
            hint = f"nothing is left to move; once it is back: {restore}; {clear}"
        raise NotAllowed("site-left", f"{one.domain} is {one.state} already{by}", hint)


def is_digest(plan: Path) -> bool:
    """Whether the name is the digest of a plan in the store."""
    return str(plan).startswith("sha256:") and not plan.exists()


async def dry_run(loaded: LoadedPlan, drivers: Drivers, now_ms: int, kept: Kept) -> DryRun:
    """Check each step on the state that the earlier steps leave. kept: facts that the controller stores."""
    bound = bind(loaded.estate, loaded.plan, loaded.policy, run="dry", incident="dry", digest=loaded.digest)
    scenario = loaded.plan.scenario
    sites = [one for one in scenario.domains if scenario.kind == "lose" and "/" not in one]
    seen, leaving = await asyncio.gather(
        observe(loaded.estate, drivers, now_ms), look_at(loaded.estate, drivers, sites, now_ms)
    )
    roles: dict[str, dict[str, str]] = {}
    for member in seen.members:
        roles.setdefault(member.store, {})[member.site] = member.role
    facts = await standing_facts(loaded.estate, loaded.policy, drivers, lambda: now_ms, kept.epochs)
    kept = replace(kept, standing={**kept.standing, **{fact.store: fact for fact in facts}})
    known = Known(roles, kept, loaded.policy, lambda: now_ms, sites)
    found = await problems_of(bound, restoring_complete(drivers.get, as_kept(kept.lacks)), known)
    steps = []
    for step in bound.spec.steps:
        problems, gate, words = found[step.id], step.gate, words_of(bound.actions[step.id])
        if problems and kind_of(step.kind).fences and "attest" in loaded.policy.store(step.target).proofs:
            problems, gate = (), f"{'; '.join(problems)}; or a person who has checked it can attest it"
        if problems and step.optional:
            problems, words = (), (*words, f"skipped if it fails, as it would now: {'; '.join(problems)}")
        steps.append(StepChecked(step.id, words, problems, step.manual, gate))
    needs_approval = outside(loaded.policy.envelope, bound.spec.envelope)
    return dry_run_of(loaded.digest, scenario.title, steps, needs_approval, leaving)


def words_of(actions: Sequence[Action]) -> tuple[str, ...]:
    """Describe each action: what a person must do, or verb, driver, place and the plan's parameters."""
    found = []
    for action in actions:
        if is_by_person(action.driver):
            found.append(f"by hand: {action.parameters.get('instructions', action.verb)}")
            continue
        where = f" at {action.at}" if action.at else ""
        shown = (
            f", {key} {_plain(key, value)}"
            for key, value in action.parameters.items()
            if value not in ("", ()) and (key, value) != ("share", WHOLE)
        )
        found.append(f"{action.verb} by {action.driver}{where}" + "".join(shown))
    return tuple(found)


def _plain(key: str, value: object) -> str:
    """Shares are permille in the journal and per cent for people."""
    if key in ("share", "from_share") and isinstance(value, int):
        return f"{value / 10:g} %"
    if key == "until" and isinstance(value, int):
        return moment_words(value)
    return " ".join(value) if isinstance(value, tuple) else str(value)


async def ensure_controller(
    store: Store, url: str, estate: Path, policy: Path | None, log: Path, generation: int = 0
) -> str:
    """Ensure a leader; for an embedded store without one, start a detached controller.

    Raises Superseded or StoreBehind if the leader of this store must not act, Unavailable if a multi-site
    store has no leader, or if our controller does not start.
    """
    lease = await store.holder(LEADER)
    if lease is not None:
        return lease.owner
    own, newer = await read_generation(store), await read_newer(store)
    if newer is not None and takes_place_of(newer, own) and generation <= newer.number:
        raise Superseded(own.number, newer.number)
    behind = await read_behind(store, own)
    if behind is not None and generation <= own.number:
        raise behind.error
    if store.quorum:
        raise Unavailable("no controller is leading; start one at each site: evac serve")
    await _check_writable(store)
    argv = [
        *OWN_PYTHON,
        "-m",
        "evac",
        "serve",
        str(estate),
        "--site",
        "local",
        "--no-watch",
        "--until-idle",
        IDLE,
        "--store",
        url,
    ]
    if generation:
        argv += ["--generation", str(generation)]
    if policy is not None:
        argv += ["--policy", str(policy)]
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        for _ in range(int(START_S / 0.1)):
            lease = await store.holder(LEADER)
            if lease is not None:
                return lease.owner
            if process.poll() is not None:
                break
            await asyncio.sleep(0.1)
    finally:
        if process.returncode is None:
            process.returncode = 0  # it outlives this command and is not reaped here
    raise Unavailable(f"the controller did not start; see {log}")


async def go_on(store: Store, url: str, log: Path, asked: bool = False) -> None:
    """Restart the controller of an embedded store if it ended while runs wait. asked: something else needs
    it. Raises Unavailable.
    """
    if store.quorum or await store.holder(LEADER) is not None:
        return
    if not asked and not await store.list(OPEN, limit=1):
        return
    started = await last_started(store)
    if started is None or not Path(started.estate).exists():
        return
    await ensure_controller(
        store, url, Path(started.estate), Path(started.policy) if started.policy else None, log
    )


async def _check_writable(store: Store) -> None:
    """Raise Unavailable with the cause: a controller that cannot write would only wait, with it in its
    log.
    """
    name = f"starting-{uuid4().hex}"  # of its own: a lease that someone else holds would prove nothing
    await store.release(await store.acquire(name, f"pid {os.getpid()}", round(START_S * 1_000)))


LOOK_S: Final = 5.0
LOOKS_AT_ONCE: Final = 16
REST_MS: Final = 5_000
"""Search budget for planning the rest; the person who adopts the plan is waiting."""


def adopt(
    plan: Path,
    estate: Path,
    url: str | None,
    incident: str,
    reason: str,
    typed: tuple[str, ...],
    now_ms: int,
    log: Path,
    generation: int,
    abandoned: tuple[str, ...] = (),
    key: Path | None = None,
    who: str = "",
) -> tuple[str, tuple[str, ...]]:
    """Make a run of the plan, with steps that the systems show as done; return it, waiting for approval, and
    those steps.

    If someone promoted a store of the plan by hand, the rest is planned again from the current state.

    generation: of a new store; 0: above any that members of stores have obeyed. key: to sign with. who: owner
    of the key; empty: the user of this process.
    """
    who = who or runs.who_am_i()
    says = who if key else f"evac adopt for {who}"

    async def work() -> tuple[str, tuple[str, ...]]:
        drivers, store = Drivers(), open_store(url or default_store())
        try:
            promoted: tuple[str, ...] = ()
            try:
                loaded = await load(plan, estate, None, drivers, now_ms, store)
            except StalePlan as stale:
                loaded, promoted = await _rest_of(plan, estate, drivers, now_ms, store, stale)
            found = await look(loaded, drivers)
            number = generation or await next_generation(store, loaded.estate, drivers, now_ms)
            await ensure_controller(store, url or default_store(), estate.absolute(), None, log, number)
            proposal = runs.proposal_of(loaded.data, incident, reason, typed, who)
            run = await runs.propose(store, replace(proposal, abandoned=abandoned), now_ms, key=key)
            for i, step in enumerate(found.done):
                await _say(store, run, says, "attest", step, f"observed as done: {reason}", now_ms + i, key)
            for i, step in enumerate(found.needless):
                words = f"its store was observed with its new primary: {reason}"
                await _say(store, run, says, "skip", step, words, now_ms + len(found.done) + i, key)
            return run, (*promoted, *found.done)
        finally:
            await drivers.close()
            await store.close()

    return asyncio.run(work())


async def _rest_of(
    plan: Path, estate: Path, drivers: Drivers, now_ms: int, store: Store, stale: StalePlan
) -> tuple[LoadedPlan, tuple[str, ...]]:
    """Plan the rest again with completed promotions taken as done, so that none of their steps can ever
    start; also return those steps, with the site of each primary. Raises `stale` if there are none.
    """
    from evac.app.planner.plans import make_plan  # imported late: few commands need a planner

    old, _, _ = await _read(plan, store)
    files = estates.load(estate)
    now = of(files, await facts_now(files, store, drivers, now_ms)).estate
    done = promoted(old, files, (await observe(files, drivers, now_ms)).members)
    if not done or old.scenario.moments:
        raise stale
    made = await asyncio.to_thread(make_plan, now, old.scenario, budget_ms=REST_MS)
    return await fit(made.plan, made.data, made.digest, estate, None, drivers, now_ms, store=store), done


def promoted(plan: Plan, estate: Estate, members: Sequence[MemberSeen]) -> tuple[str, ...]:
    """Promotions of a plan that are seen to be done, with the site of each primary. Declarations in the files
    prove nothing here: where the primaries are was lost with the journal. Raises NotAllowed if no primary is
    seen.
    """
    top, seen, asked = topology(estate), dict[str, set[str]](), {member.store for member in members}
    for member in members:
        if member.role == "primary":
            seen.setdefault(member.store, set()).add(member.site)
    steps = [step for step in plan.steps if kind_of(step.kind).makes_primary]
    if unseen := sorted({step.target for step in steps} & asked - seen.keys()):
        words = f"no member of {', '.join(unseen)} answers as primary, so it is unknown what is already done"
        hint = (
            "state in the files which member was the primary, if they do not; plan again without --observe, "
            "and adopt that plan"
        )
        raise NotAllowed("adopt-no-primary", words, hint)
    wanted = {one.store: site_of(top, one.candidate) for one in plan.stores if one.candidate}
    return tuple(
        f"{step.id}: the primary of {step.target} is in {wanted[step.target]}"
        for step in steps
        if seen.get(step.target) == {wanted.get(step.target)}
    )


@dataclass(frozen=True, slots=True)
class Adopted:
    """Which steps of a plan are done. needless: fences of stores whose promotion is done."""

    done: tuple[str, ...]
    needless: tuple[str, ...] = ()


async def look(loaded: LoadedPlan, drivers: Drivers) -> Adopted:
    """Ask the real systems which steps are done."""
    bound = bind(
        loaded.estate, loaded.plan, loaded.policy, run="adopt", incident="adopt", digest=loaded.digest
    )
    gate = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def is_done(step: str) -> bool:
        async with gate:
            found = [await _seen(action, drivers) for action in bound.actions[step]]
        return bool(found) and all(found)

    answers = await asyncio.gather(*(is_done(step.id) for step in bound.spec.steps))
    seen = {step.id for step, done in zip(bound.spec.steps, answers, strict=True) if done}
    return adopted(bound.spec.steps, seen)


def adopted(steps: Sequence[RunStep], seen: Collection[str]) -> Adopted:
    """Select the steps to take as done. A step counts only if all earlier ones do: a service that responds
    proves nothing while its store has no primary, and no user must be sent there.

    A fence is never taken as done, because it is not known by whose order a copy is cut off. If its store
    already has the new primary, the fence is needless.
    """
    moved = {s.target for s in steps if kind_of(s.kind).makes_primary and s.id in seen}
    needless = [s.id for s in steps if kind_of(s.kind).fences and s.target in moved]
    counted, done = set(needless), list[str]()
    left = [s for s in steps if s.id in seen and not kind_of(s.kind).fences]
    while ready := [s for s in left if counted.issuperset(s.after)]:
        done += [s.id for s in ready]
        counted.update(s.id for s in ready)
        left = [s for s in left if s.id not in counted]
    order: dict[str, int] = {s.id: i for i, s in enumerate(steps)}
    return Adopted(tuple(sorted(done, key=order.__getitem__)), tuple(needless))


async def _seen(action: Action, drivers: Drivers) -> bool:
    if not acts(action.driver):
        return False
    order = Order("adopt", action.target, 1, ASKING_TOKEN, 0, "adopt", LOOK_S, "adopt")
    try:
        async with asyncio.timeout(LOOK_S + 1):
            return (await drivers.get(action.driver).observe(action, order)).outcome == "done"
    except (EvacError, TimeoutError):
        return False


async def _say(
    store: Store,
    run: str,
    who: str,
    verb: requests.RequestVerb,
    step: str,
    reason: str,
    at_ms: int,
    key: Path | None,
) -> None:
    told = {"adopted": True}
    request = requests.Request(runs.new_id(at_ms), verb, who, reason, step=step, at_ms=at_ms, evidence=told)
    if key is not None:
        about = asked_of(await runs.view_of(store, run), request)
        act = Act(about.run, request, about.attempt, about.bound, at_ms)
        request = replace(request, signature=sign_act(act, read_key(key)))
    await runs.ask(store, run, request)
    why = "" if await runs.settled(store, run, request.id) else "it did not answer"
    for event in await runs.events_of(store, run):
        if event.kind == "request_refused" and event.data.get("request") == request.id:
            why = str(event.data.get("why") or runs.REFUSED)
    if why:
        words = f"{run} was created, but the leader did not accept the observation of {step}: {why}"
        raise NotAllowed(
            "adopt-not-taken", words, f"cancel it and try again: evac run cancel {run} --reason WHY"
        )


ANSWER_S: Final = 120.0
Answer = TypeVar("Answer")


async def fitted(
    data: bytes,
    digest: str,
    estate: Path,
    policy: Path | None,
    drivers: Drivers,
    now_ms: int,
    known: Observation | None,
) -> LoadedPlan:
    """The plan with the current estate. known: facts beyond the files, if any. Raises StalePlan, UnsafePlan;
    InvalidInput if it is not a plan.
    """
    try:
        plan = plan_codec.decode(data, digest)
    except EvacError as error:
        raise InvalidInput(error.code, error.message, error.hint) from error
    return await fit(plan, data, digest, estate, policy, drivers, now_ms, known=known)


async def rehearse(
    data: bytes,
    digest: str,
    estate: Path,
    policy: Path | None,
    now_ms: int,
    known: Observation | None = None,
    kept: Kept | None = None,
) -> DryRun:
    """The document of a dry run. kept: what the controller stores about stores."""
    drivers = Drivers()
    try:
        loaded = await fitted(data, digest, estate, policy, drivers, now_ms, known)
        return await dry_run(loaded, drivers, now_ms, kept or Kept())
    finally:
        await drivers.close()


async def check_fit(
    data: bytes,
    digest: str,
    estate: Path,
    policy: Path | None,
    now_ms: int,
    known: Observation | None = None,
) -> None:
    """Raise StalePlan if the plan does not fit the current estate, UnsafePlan if the checker refuses it."""
    drivers = Drivers()
    try:
        await fitted(data, digest, estate, policy, drivers, now_ms, known)
    finally:
        await drivers.close()


async def nothing_kept() -> Kept:
    """Used when no controller stores anything."""
    return Kept()


class Rehearser:
    """Dry runs for a war room, with its estate and policy. known: the situation that the leader published.
    kept: facts of stores that it keeps.
    """

    def __init__(
        self,
        estate: Path,
        policy: Path | None = None,
        known: Callable[[], Observation | None] = lambda: None,
        kept: Callable[[], Awaitable[Kept]] = nothing_kept,
    ) -> None:
        self._estate, self._policy, self._known, self._kept = estate, policy, known, kept
        self._turn = asyncio.Lock()

    def _files(self) -> tuple[Path, Path | None]:
        """Files of a single edition, even if the link to it changes while they are read."""
        return self._estate.resolve(), self._policy and self._policy.resolve()

    async def rehearse(self, data: bytes, digest: str, now_ms: int) -> DryRun:
        kept = await self._kept()  # read here, because the other loop must not use the store
        return await self._apart(lambda: rehearse(data, digest, *self._files(), now_ms, self._known(), kept))

    async def check_fit(self, data: bytes, digest: str, now_ms: int) -> None:
        await self._apart(lambda: check_fit(data, digest, *self._files(), now_ms, self._known()))

    async def _apart(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        async def bounded() -> Answer:
            async with asyncio.timeout(ANSWER_S):
                return await work()

        async with self._turn:
            try:
                return await asyncio.to_thread(lambda: asyncio.run(bounded()))
            except TimeoutError as error:
                raise Unavailable(
                    f"the systems in the plan did not answer within {ANSWER_S:.0f} s"
                ) from error
