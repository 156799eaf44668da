"""What evac itself says of a fire: who leads, which run it made, and when each milestone was journalled.

Reads evac's store, as any other reader does. A lab without controllers has none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson

from evac.engine.plans import library
from evac.engine.runs.live_actions import PREFIX as STANDING
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import SITES_KEY
from evac.model.errors import EvacError, Unavailable
from evac.model.step_id import StepId
from evac.run.decide import EVAC
from evac.run.values import ENDED
from evac.store.journal import head_of, read
from evac.store.opening import open_store
from evac.store.port import Entry, Store
from evac_lab.topology import SITES, Topology

LEADER: Final = "leader"
ASK_SECONDS: Final = 3.0
LEFT_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 0.25
_RUN_PREFIX: Final = "incident/"
_WATCH_STREAM: Final = "watch"
_STEP_MILESTONES: Final = {
    "fence": "fenced",
    "promote": "promoted",
    "protect": "promoted",
    "shift": "shifted",
}
"""Kind of step -> milestone. Another synchronous replica is to a hanging primary what a promotion is to a
lost one: from then on writes go through.
"""
_FIRST: Final = ("detected", "decided")
"""Milestones of which the first one counts, where several runs answer one fire."""
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run. seconds: milestone -> seconds since the fire. phase: of the run, "" while it goes on."""

    run: str
    phase: str
    seconds: Mapping[str, float]


def store_url(topology: Topology, first: str = "") -> str:
    """The store of the lab's controllers, the member of site `first` first."""
    return f"etcd:{','.join(topology.etcd_urls(first))}"


def ask(topology: Topology, question: Callable[[Store], Awaitable[Answer]], first: str = "") -> Answer:
    """Opens the store, asks, closes it."""

    async def asked() -> Answer:
        store = open_store(store_url(topology, first))
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(asked())


def leader_site(topology: Topology, first: str = "") -> str:
    """Site of the controller that leads; "" where none does or the store does not answer."""

    async def question(store: Store) -> str:
        lease = await store.holder(LEADER)
        return site_in(lease.owner) if lease is not None else ""

    try:
        return ask(topology, question, first)
    except EvacError:
        return ""


@dataclass(frozen=True, slots=True)
class Watchers:
    """What evac's controllers say of themselves. leader: site of the one that leads, "" where none does.
    ready: sites for whose loss a plan lies in the drawer; problems: site -> why none could be made.
    open_runs: those that have not ended. proven: stores of which a synchronous copy is proven to hold
    every commit; a promotion of another one waits for a person.
    """

    leader: str
    ready: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    open_runs: tuple[str, ...] = ()
    proven: tuple[str, ...] = ()


def watchers(topology: Topology, first: str = "", within_s: float = ASK_SECONDS) -> Watchers | None:
    """None where the store does not answer in time."""

    sites = tuple(site.name for site in topology.sites)

    async def question(store: Store) -> Watchers:
        async with asyncio.timeout(within_s):
            lease, plans, runs, proofs = await asyncio.gather(
                store.holder(LEADER), plans_ready(store, sites), store.list(OPEN), store.list(STANDING)
            )
        return Watchers(
            site_in(lease.owner) if lease is not None else "",
            tuple(site for site, ready in plans.items() if ready.plan),
            {site: ready.problem for site, ready in plans.items() if not ready.plan},
            tuple(entry.key.removeprefix(OPEN) for entry in runs),
            tuple(entry.key.removeprefix(STANDING) for entry in proofs),
        )

    try:
        return ask(topology, question, first)
    except (EvacError, TimeoutError):
        return None


def left_sites(topology: Topology, first: str = "", within_s: float = LEFT_SECONDS) -> tuple[str, ...]:
    """Sites that evac took out of service and nobody brought back; none where the store does not answer in
    time, which may be electing, as a member of it has just come back.
    """

    async def question(store: Store) -> tuple[str, ...]:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    entry = await store.get(SITES_KEY)
                    break
                except Unavailable:
                    await asyncio.sleep(_AGAIN_SECONDS)
        register = {} if entry is None else orjson.loads(entry.value)
        return tuple(site for site, mark in register.items() if mark != "active")

    try:
        return ask(topology, question, first)
    except (EvacError, TimeoutError):
        return ()


async def plans_ready(store: Store, sites: Sequence[str]) -> dict[str, library.Ready]:
    """What lies in the drawer for the loss of each single site; what was made of other roles than those last
    seen is made anew and does not count.
    """
    from evac.app.observed_stores import KEY, digest_in

    keys = [KEY, *(library.key_of((site,)) for site in sites)]
    observed, *entries = await asyncio.gather(*(store.get(key) for key in keys))
    digest = "" if observed is None else digest_in(observed.value)
    found = [library.decode(entry) for entry in entries if entry is not None]
    return {ready.lost[0]: ready for ready in found if ready is not None and digest in ("", ready.estate)}


def site_in(owner: str) -> str:
    """The site that the name of a lease holder begins with."""
    return next((site for site in SITES if owner == site or owner.startswith(f"{site}/")), "")


@dataclass(frozen=True, slots=True)
class Before:
    """What the store held before a fire, and nobody need read again. runs: of all incidents; watched:
    segments of the journal of watching.
    """

    runs: frozenset[str] = frozenset()
    watched: int = 0


def before_fire(topology: Topology, first: str = "") -> Before:
    """Nothing where the store does not answer: then all is read."""

    async def question(store: Store) -> Before:
        head, entries = await asyncio.gather(head_of(store, _WATCH_STREAM), store.list(_RUN_PREFIX))
        return Before(frozenset(map(_run_in, entries)), 0 if head is None else head.segment)

    try:
        return ask(topology, question, first)
    except EvacError:
        return Before()


def _run_in(entry: Entry) -> str:
    return str(orjson.loads(entry.value).get("run", ""))


def run_of_fire(
    topology: Topology,
    site: str,
    burnt_at: float,
    first: str,
    ahead: Mapping[str, float],
    before: Before = Before(),
) -> RunFacts | None:
    """What the runs that were made after the fire have done; None while there is none.

    A loss may make two: one that evacuates, and one for each store that only lost its synchronous replica.
    ahead: site -> by how many seconds its clock was made to jump; what its leader wrote is put right by that.
    """

    async def question(store: Store) -> RunFacts | None:
        watched = [row async for row in _records(store, _WATCH_STREAM, before.watched)]
        lease = await store.holder(LEADER)
        shift_ms = round(1_000 * ahead.get(site_in(lease.owner) if lease is not None else "", 0.0))
        watched = moved(watched, shift_ms)
        runs: list[RunFacts] = []
        for entry in await store.list(_RUN_PREFIX):
            run = _run_in(entry)
            if run in before.runs:
                continue
            events = moved([row async for row in _records(store, run)] if run else [], shift_ms)
            if events and events[0][1] >= burnt_at * 1_000 and not is_withdrawn(events):
                runs.append(facts(run, events, watched, site, burnt_at))
        return together(runs)

    try:
        return ask(topology, question, first)
    except EvacError:
        return None


def moved(rows: Sequence[Sequence[Any]], shift_ms: int) -> list[Sequence[Any]]:
    """Records as a true clock would have dated them: [kind, at_ms, ...] of one that was so far ahead."""
    return [[kind, int(at_ms) - shift_ms, *rest] for kind, at_ms, *rest in rows]


def is_withdrawn(events: Sequence[Sequence[Any]]) -> bool:
    """Whether evac itself took a run back that asked a person: commits that hung went on by themselves."""
    return any(
        kind == "cancelled" and bool(rest) and isinstance(rest[-1], dict) and rest[-1].get("who") == EVAC
        for kind, _, *rest in events
    )


def together(runs: Sequence[RunFacts]) -> RunFacts | None:
    """Several runs as one: it has ended when all have, as badly as the worst. The first that was seen and
    decided counts, and of what was done the last.
    """
    if not runs:
        return None
    seconds: dict[str, float] = {}
    for one in runs:
        for name, at in one.seconds.items():
            which = min if name in _FIRST else max
            seconds[name] = which(at, seconds.get(name, at))
    phases = [one.phase for one in runs]
    bad = [phase for phase in phases if phase and not phase.startswith("succeeded")]
    phase = "" if "" in phases else (bad or phases)[0]
    if not phase:
        seconds.pop("ended", None)
    return RunFacts(", ".join(one.run for one in runs), phase, seconds)


async def _records(store: Store, stream: str, after: int = 0) -> Any:
    async for segment in read(store, stream, after):
        for record in segment.records:
            yield orjson.loads(record)


def facts(
    run: str, events: Sequence[Sequence[Any]], watched: Sequence[Sequence[Any]], site: str, burnt_at: float
) -> RunFacts:
    """Milestones of a run. An event is [kind, at_ms, step, attempt, data]; a milestone of steps is reached
    when the last step of its kind has succeeded.
    """
    seconds: dict[str, float] = {}
    phase = ""
    for kind, at_ms, *rest in events:
        at = round(at_ms / 1_000 - burnt_at, 3)
        if kind == "run_created":
            seconds.setdefault("decided", at)
        elif kind == "step_succeeded" and (name := _STEP_MILESTONES.get(StepId.parse(str(rest[0])).kind)):
            seconds[name] = at
        elif kind == "run_ended":
            phase = _phase(rest)
            seconds["ended"] = at
    lost = [at_ms for at_ms in _lost_at(watched, site) if at_ms >= burnt_at * 1_000]
    if lost:
        seconds["detected"] = round(min(lost) / 1_000 - burnt_at, 3)
    return RunFacts(run, phase, seconds)


def _phase(rest: Sequence[Any]) -> str:
    data = rest[-1]
    found = str(data.get("phase", "") if isinstance(data, dict) else data[0])
    return found if found in ENDED else "failed"


def _lost_at(watched: Sequence[Sequence[Any]], site: str) -> list[int]:
    """When verdicts said of the site that it is lost. A record is [kind, at_ms, site, words, data]."""
    return [
        int(at_ms)
        for kind, at_ms, about, _, data in watched
        if kind == "verdict" and about == site and data.get("state") == "lost"
    ]
