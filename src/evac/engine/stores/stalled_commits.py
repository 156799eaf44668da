"""Stalled commits because a synchronous copy is gone: one small run per store, under its next epoch.

    withdrawn/<store>     {"epoch", "times"}: how often a run that waited for a person was withdrawn since the
                          epoch stands, so that the next time its copy is gone it gets a run of its own

If commits resume by themselves while the run waits for a person (an approval or a failed step), it is
withdrawn: later it would change a healthy store. If an open run is reattaching a copy to a new primary, that
comes first and the copy is checked afterwards: each try is waited for as long as a copy takes that need not
be rebuilt. A copy that could not confirm may be able to later: while commits hang, a failed step is retried
after the longest wait between tries.

The run sets on the primary which member is synchronous from now on, or none, by policy. Its plan is stored as
a separate document, so that a new leader can read it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, get_args

import orjson

from evac.derive.domains import Topology, site_of, topology
from evac.derive.stores import primary_site
from evac.drivers.capabilities import Promotes
from evac.drivers.port import Action
from evac.drivers.registry import offers
from evac.engine.plans.library import digest_of
from evac.engine.runs.binding import Bound
from evac.engine.runs.conductor import Conductor
from evac.engine.runs.desk import Desk
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.proposals import Wanted
from evac.engine.runs.protection import REJOIN_MS
from evac.engine.runs.reading import incident_key
from evac.engine.runs.step_actions import next_copy
from evac.engine.stores.datasets import Epoch
from evac.engine.stores.guards import Permit, check_mode, read_register
from evac.engine.stores.refusals import Refusals, Say
from evac.model.digest import canonical_json
from evac.model.errors import Conflict, Corrupt, RunError, StalePlan
from evac.model.estate import Endpoint, Estate, Store
from evac.model.records import dataclass
from evac.model.run_policy import Envelope, RunPolicy
from evac.model.step_id import StepId
from evac.run.decide import EVAC
from evac.run.values import ENDED, Event, RunPhase, RunSpec, RunStep
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.store.port import Compare, Put

_MARK: Final = b'{"protect":'
AGAIN: Final = "confirms_again"
"""The label of a run that restores protection while commits go on; its value is the store."""
DURATION_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Roles:
    """Roles of a store after its last epoch: the site of its primary, names of synchronous members."""

    holder: str
    synchronous: tuple[str, ...]


def plans_for(
    estate: Estate,
    policy: RunPolicy,
    lost: Collection[str],
    roles: Mapping[str, Roles],
    left: Collection[str] = (),
    unable: Collection[tuple[str, str]] = (),
) -> dict[str, bytes]:
    """Store -> canonical bytes of the plan that protects it after these sites were lost.

    roles: of stores whose roles changed since the estate was written. left: sites whose copies are not
    eligible. unable: stores and sites of copies that are set not to confirm. Covers only stores whose
    primary lives and that had a synchronous copy at a lost site and none elsewhere.
    """
    top = topology(estate)
    found: dict[str, bytes] = {}
    for store in estate.stores:
        now = roles.get(store.id)
        holder = now.holder if now is not None and now.holder else primary_site(top, store)
        names = None if now is None else now.synchronous
        sites = _synchronous_sites(estate, top, store, names) - {holder}
        if holder in lost or not sites or not sites <= set(lost):
            continue
        primary = _endpoint(estate, store.id, holder)
        if primary is not None:
            gone = {*lost, *left, *(at for name, at in unable if name == store.id)}
            found[store.id] = _plan(policy, store, primary, next_copy(estate, top, store, holder, gone))
    return found


def is_protection(data: bytes) -> bool:
    return data.startswith(_MARK)


def bound_of(data: bytes, policy: RunPolicy, *, run: str, incident: str, digest: str) -> Bound:
    """The run of such a plan. Raises `Corrupt` for anything else."""
    try:
        told: dict[str, Any] = orjson.loads(data)["protect"]
        store, driver, at, names = (told[key] for key in ("store", "driver", "at", "synchronous"))
        settings = told["settings"]
        whole = isinstance(names, list) and isinstance(settings, dict)
        if not whole or not all(isinstance(one, str) for one in (store, driver, at, *names)):
            raise ValueError("of another shape")
        action = Action(
            "protect",
            store,
            driver,
            at,
            MappingProxyType(settings),
            MappingProxyType({"candidate": at, "synchronous": tuple(names)}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"cannot read plan {digest[:19]}") from error
    step = RunStep(
        id=StepId("protect", action.target),
        kind="protect",
        target=action.target,
        start_ms=0,
        duration_ms=DURATION_MS,
        data_set=action.target,
        site=action.at,
    )
    again = told.get("again") is True
    wanted = policy.store(action.target).on_sync_loss
    agreed = wanted == "async" or (wanted == "next" and bool(action.parameters["synchronous"]))
    labels = {"scenario": _words(action, again), **({AGAIN: action.target} if again else {})}
    spec = RunSpec(
        run=run,
        incident=incident,
        plan=digest,
        steps=(step,),
        envelope=Envelope(stores=(action.target,)),
        patience=policy.patience,
        pace=policy.pace,
        approvals=0 if agreed else policy.approvals,
        labels=MappingProxyType(labels),
    )
    return Bound(spec, MappingProxyType({step.id: (action,)}))


def _words(action: Action, again: bool) -> str:
    """The request in words, for people who read it in the middle of the night."""
    names = action.parameters["synchronous"]
    if again:
        assert isinstance(names, tuple)
        return f"{action.target}: no replica is known to confirm commits; let {', '.join(names)} confirm them"
    if names:
        assert isinstance(names, tuple)
        return f"{action.target}: commits are blocked; let {', '.join(names)} confirm them"
    return (
        f"{action.target}: commits are blocked and no replica can confirm them; let them continue without one"
    )


def _synchronous_sites(
    estate: Estate, top: Topology, store: Store, names: tuple[str, ...] | None
) -> set[str]:
    """Sites that confirm commits of a store, apart from its primary."""
    if names is None:
        return {site_of(top, member.at) or "" for member in store.members if member.mode == "sync"}
    return {e.at for e in estate.endpoints if e.subject == store.id and e.settings.get("name") in names}


def _endpoint(estate: Estate, store: str, site: str) -> Endpoint | None:
    return next(
        (
            e
            for e in estate.endpoints
            if (e.subject, e.at) == (store, site) and offers(e.driver, e.settings, Promotes)
        ),
        None,
    )


def _plan(policy: RunPolicy, store: Store, primary: Endpoint, following: str) -> bytes:
    """Names the next copy; none if policy says so or there is no other: then a person is asked."""
    wanted = policy.store(store.id).on_sync_loss
    return _encoded(primary, [following] if following and wanted != "async" else [])


def plan_to_confirm(primary: Endpoint, name: str) -> bytes:
    """Canonical bytes of the plan that makes a copy that follows confirm commits that none confirms now."""
    return _encoded(primary, [name], again=True)


def _encoded(primary: Endpoint, names: Sequence[str], **more: bool) -> bytes:
    told = {
        "store": primary.subject,
        "driver": primary.driver,
        "at": primary.at,
        "settings": dict(primary.settings),
        "synchronous": list(names),
        **more,
    }
    return canonical_json({"protect": told})


Protections = Callable[[Sequence[str], Mapping[str, Roles], Collection[str]], Awaitable[Mapping[str, bytes]]]
"""Lost sites, roles changed since the estate was written, and sites whose copies are not eligible -> plans of
stores to protect.
"""

Hangs = Callable[[], Mapping[str, Sequence[str]]]
"""Stores -> sites of synchronous copies that have been behind for too long, even if the sites live."""

WITHDRAWN: Final = "withdrawn/"
ASKING: Final = ("pending", "awaiting_approval", "paused")
_MOVING: Final = ("running",)
NOT_ENDED: Final = frozenset(get_args(RunPhase)) - ENDED
_SEEN_AGAIN_MOST_MS: Final = 10_000
UNDER_WAY: Final = frozenset({"ready", "running", "unknown"})


class _Try(NamedTuple):
    """One try of a step."""

    store: str
    run: str
    step: str
    attempt: int


class Hanging:
    """One term. voters: how many sites vote; lost: which of them are lost now."""

    def __init__(
        self,
        desk: Desk,
        voters: int,
        conductor: Conductor,
        protections: Protections | None,
        lost: Callable[[], Collection[str]],
        say: Say,
    ) -> None:
        self._desk, self._voters, self._conductor = desk, voters, conductor
        self._protections, self._lost, self._say = protections, lost, say
        self._answered: dict[str, int] = {}
        self._failed_ms: dict[str, int] = {}
        self._refusals = Refusals(say)

    async def protect(
        self, site: str, silent: Sequence[str] = (), only: Collection[str] | None = None
    ) -> None:
        """Protects stores that lost their synchronous replica with the site. silent: live sites whose copies
        of the stores `only` do not follow. A store whose epoch cannot be read is reported; the others go on.
        """
        if self._protections is None:
            return
        epochs, unreadable = await self._desk.sets.read_all()
        roles = {e.store: Roles(e.holder, e.synchronous) for e in epochs.values() if e.settled}
        register = await read_register(self._desk.store)
        left = sorted(site for site, mark in register.items() if mark != "active")
        found = await self._protections(sorted({*self._lost(), *silent}), roles, left)
        for store in sorted(found if only is None else {*found} & {*only}):
            what = f"lost its synchronous replica at {site}"
            words = f"{store} {what}"
            if store in unreadable:
                with self._refusals.of(store, f"{store} may have {what}", site):
                    raise unreadable[store]
            elif self._desk.policy.mode == "advise":
                until = "commits are blocked until it is back or a person lets the primary continue alone"
                self._say("loss", site, f"{words}; {until}", {})
            elif (epoch := epochs.get(store, Epoch(store))).settled:
                # else a promotion is under way, and says itself who confirms
                await self._protect_store(site, epoch, found[store], words)

    async def _protect_store(self, site: str, epoch: Epoch, data: bytes, words: str) -> None:
        """The next epoch names the incident, so that two leaders create one run. Every try of its step is an
        epoch: while the first is open, the same is not asked twice.
        """
        await self._conductor.ready()
        if digest_of(data) in {run.view.spec.plan for run in self._conductor.runs_in(NOT_ENDED)}:
            return
        if run := await self.create(epoch, "protect", data, words):
            self._say("loss", site, f"{words}: {run}", {"run": run})

    async def create(self, epoch: Epoch, what: str, data: bytes, words: str, by_people: bool = False) -> str:
        """Create a run that changes who confirms commits, and return its id; empty if this epoch already had
        one. by_people: approved by people, whatever the mode.
        """
        mode = self._desk.policy.mode
        check_mode(mode, self._desk.store.quorum, self._voters)
        times, _ = await self._withdrawn(epoch)
        incident = f"{epoch.store}-{what}-{epoch.number + 1}{f'-{times + 1}' if times else ''}"
        approvals = None if mode == "act" and not by_people else self._desk.policy.approvals
        try:
            return await self._conductor.create(Wanted(incident, data, words, mode, approvals=approvals))
        except Conflict as error:
            if error.key != incident_key(incident):
                raise
            return ""

    async def watch(self, hangs: Hangs, commits_go_on: Callable[[], Collection[str]] | None) -> None:
        """Also covers a replica that died without its site, which hangs every commit too. Once per epoch: a
        decision is not repeated unless it was withdrawn.

        commits_go_on: stores whose commits have waited for no one as long as it takes to call them stalled.
        """
        profile, clock = self._desk.policy.profile, self._desk.clock
        seen_again_ms = min(2 * (profile.suspect_ms + profile.confirm_ms), _SEEN_AGAIN_MOST_MS)
        brought_ms: dict[str, int] = {}
        began_ms: dict[_Try, int] = {}
        while True:
            hanging, under_way = hangs(), self._rejoins()
            began_ms = {one: at_ms for one, at_ms in began_ms.items() if one in under_way}
            for store, sites in hanging.items():
                where = ", ".join(sites)
                with self._refusals.of(store, f"commits of {store} are waiting for {where}", where):
                    await self.try_again(store, self.asking(), f"commits of {store} are still blocked")
                    epoch = await self._desk.sets.read(store)
                    if not epoch.settled or self._answered.get(store) == epoch.number:
                        continue
                    now_ms = clock.monotonic_ms()
                    for one in (one for one in under_way if one.store == store):
                        if now_ms - began_ms.setdefault(one, now_ms) < REJOIN_MS:
                            brought_ms[store] = now_ms
                    if clock.monotonic_ms() - brought_ms.get(store, -seen_again_ms) < seen_again_ms:
                        continue
                    await self.protect(where, sites, (store,))
                    self._answered[store] = epoch.number
            if commits_go_on is not None and (asking := self.asking()):
                for store in sorted(asking.keys() & set(commits_go_on())):
                    words = f"commits of {store} continue automatically"
                    with self._refusals.of(store, words), contextlib.suppress(RunError, StalePlan):
                        await self.withdraw(asking[store], words)
                        self._answered.pop(store, None)
            await asyncio.sleep(profile.period_ms / 1_000)

    def _rejoins(self) -> set[_Try]:
        return {one for run in self._conductor.runs_in(_MOVING) for one in rejoins_in(run.view)}

    def asking(self, again: bool = False) -> dict[str, RunExecution]:
        """Store -> its run that waits for a person. again: runs that restore protection while commits go
        on.
        """
        runs = [run for run in self._conductor.runs_in(ASKING) if _asks(run.view)]
        found = [run for run in runs if bool(run.view.spec.labels.get(AGAIN)) == again]
        return {run.view.steps[0].data_set: run for run in found}

    async def try_again(self, store: str, asking: Mapping[str, RunExecution], why: str) -> None:
        """Retry the failed step of the store's run after the wait. Raises Conflict, Unavailable."""
        execution = asking.get(store)
        if execution is None or not _failed(execution.view):
            self._failed_ms.pop(store, None)
            return
        now_ms = self._desk.clock.monotonic_ms()
        since_ms = self._failed_ms.setdefault(store, now_ms)
        if now_ms - since_ms < execution.view.spec.patience.backoff_most_ms:
            return
        step, data = execution.view.steps[0].id, {"who": EVAC, "reason": why}
        with contextlib.suppress(RunError, StalePlan):  # a person was quicker
            await execution.say(Event("step_retried", 0, step, data=data), fits=_failed)
        self._failed_ms.pop(store, None)

    async def withdraw(self, execution: RunExecution, words: str) -> None:
        """Withdraw the request, unless someone has just agreed. Raises StalePlan then, RunError if it has
        ended, Conflict, Unavailable.
        """
        run, step = execution.view.spec.run, execution.view.steps[0]
        epoch = await self._desk.sets.read(step.data_set)
        times, written = await self._withdrawn(epoch)
        value = orjson.dumps({"epoch": epoch.number, "times": times + 1})
        permit = Permit((written,), (Put(written.key, value),))
        await execution.say(Event("cancelled", 0, data={"who": EVAC, "reason": words}), permit, _asks)
        self._say("run", "", f"{words}; {run} is withdrawn", {"run": run})

    async def _withdrawn(self, epoch: Epoch) -> tuple[int, Compare]:
        """How often one was withdrawn in this epoch, and a compare that this is unchanged."""
        key = WITHDRAWN + epoch.store
        entry = await self._desk.store.get(key)
        if entry is None:
            return 0, Compare(key, 0)
        times = 0
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told: dict[str, int] = orjson.loads(entry.value)
            times = int(told["times"]) if told["epoch"] == epoch.number else 0
        return times, Compare(key, entry.revision)


def _asks(view: RunView) -> bool:
    """Whether its single step waits for a person and nothing it began may still happen."""
    if len(view.steps) != 1 or not kind_of(view.steps[0].kind).protects:
        return False
    return _failed(view) if view.phase == "paused" else view.phase in ASKING


def _failed(view: RunView) -> bool:
    """Whether it paused because its single step failed."""
    return view.pause is not None and view.pause.by == "step" and view.phases[0] == "failed"


def rejoins_in(view: RunView) -> set[_Try]:
    """Tries to make a copy follow its primary under the present epoch of its store. A step that waits for
    others changes nothing yet, and may wait for a person.
    """
    return {
        _Try(step.target, view.spec.run, step.id, view.attempts[i])
        for i, step in enumerate(view.steps)
        if kind_of(step.kind).joins_epoch and view.phases[i] in UNDER_WAY
    }
