"""A store with a run under way, as controllers leave it: the loss of a site, slower than planned."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import orjson

from evac import __version__
from evac.app.planner.plans import Made, make_plan
from evac.engine.plans.library import key_of, put_plan
from evac.engine.runs.binding import Bound, put_bound
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import encode_all
from evac.estate import load
from evac.model.run_policy import Envelope
from evac.model.scenario import lose
from evac.office.office import Office
from evac.run.data_loss import Loss, labels_of
from evac.run.values import Event, Left, RunSpec, RunStep
from evac.run.view import RunView
from evac.store.journal import Journal
from evac.store.opening import open_store
from evac.store.port import Put, Store
from tests.unit.run.world import World
from tests.web.rooms import ESTATE

RUN = "fire-1-north"
LOST = "north"
BY_HAND, BROKEN = "shift:vpn", "verify:sso:base"


@lru_cache(maxsize=1)
def made() -> Made:
    """The plan for the loss of the site."""
    return make_plan(load(ESTATE), lose(LOST), budget_ms=500)


def loss_at(now_ms: int) -> Loss:
    """What the promotion of a store could lose, as it was known when the run was made."""
    return Loss("carts", "north", "south", 18_600, "seen", now_ms - 17_000, 1_600, now_ms, "1:a:2:0")


LEFT = (Left("reports", "down", 2_000), Left("ads", "shed", 0))
"""What the plan does not bring back."""


def spec_of(digest: str, approvals: int = 0, loss: Loss | None = None) -> RunSpec:
    """loss: of a store whose promotion needs an approval of its own; then no step is done by hand."""
    gates = (
        {}
        if loss is None
        else {f"promote:{loss.store}": f"promoting {loss.store} may lose its newest writes"}
    )
    steps = tuple(
        RunStep(
            s.id,
            s.kind,
            s.target,
            s.start_ms,
            s.end_ms - s.start_ms,
            s.after,
            gate=gates.get(s.id, ""),
            data_set=s.target if s.id in gates else "",
            manual=s.id == BY_HAND and loss is None,
            safe_undo=s.kind in ("shed", "shift", "start"),
        )
        for s in made().plan.steps
    )
    title = made().plan.scenario.title
    return RunSpec(
        RUN,
        "fire-1",
        digest,
        steps,
        envelope=Envelope((LOST,), ("carts",), 500, 10),
        approvals=approvals,
        leaves=LEFT,
        labels={"scenario": title, **({} if loss is None else labels_of({loss.store: loss}))},
    )


def events_of(spec: RunSpec, now_ms: int, ran_ms: int, bad: str, slow: float = 1.6) -> list[Event]:
    """The journal of a run that began some time ago. bad: a step that fails for good."""
    lengths = {s.id: round(s.duration_ms * slow) for s in spec.steps}
    world = World(
        spec,
        lambda step, attempt: "refuse" if step == bad else "ok",
        lambda step: lengths[step],
        now_ms=now_ms - ran_ms,
    )
    world.begin()
    while world.step() and world.now_ms < now_ms:
        pass
    first = {"plan": spec.plan, "incident": "fire-1", "scenario": spec.labels["scenario"], "run": RUN}
    return [world.events[0]._replace(data=first), *(e for e in world.events[1:] if e.at_ms <= now_ms)]


async def burn(
    store: Store,
    now_ms: int,
    ran_ms: int = 600_000,
    approvals: int = 0,
    bad: str = BROKEN,
    loss: Loss | None = None,
    ended: bool = False,
) -> str:
    """Writes plan, drawer and an open run; the digest of the plan. ended: nothing waits for a person, and the
    run has ended.
    """
    digest = await put_plan(store, made().data)
    spec = spec_of(digest, approvals, loss)
    if ended:
        spec = replace(spec, steps=tuple(replace(s, gate="", data_set="", manual=False) for s in spec.steps))
    lease = await store.acquire("leader", "south/1/a", 600_000)
    await put_bound(store, Bound(spec, {}), lease)
    told = encode_all(events_of(spec, now_ms, ran_ms, bad))
    await Journal.create(store, RUN, lease, records=told)
    drawn = {
        "plan": digest,
        "estate": made().plan.estate_digest,
        "at_ms": now_ms - 3_600_000,
        "took_ms": 900,
        "problem": "",
        "judged": __version__,
    }
    none = {"plan": "", "estate": "", "at_ms": now_ms - 60_000, "took_ms": 5, "problem": "no site is left"}
    opened = {
        "incident": "fire-1",
        "plan": digest,
        "approvals": approvals,
        "ends": {},
        "leaving": [LOST],
        "mark": "lost",
    }
    puts = {
        "incident/fire-1": {"run": RUN, "plan": digest},
        **({} if ended else {OPEN + RUN: opened}),
        key_of((LOST,)): drawn,
        key_of((LOST, "south")): none,
    }
    await store.transact((), tuple(Put(key, orjson.dumps(value)) for key, value in puts.items()), lease)
    return digest


async def followed(office: Office) -> RunView:
    """The run, once it is among those that the room lists: reading it takes as long as it takes."""
    await office.look()
    view = await office.register.view(RUN)
    while not office.runs():
        await asyncio.sleep(0.01)
    office.refresh()
    return view


def burn_at(
    url: str, now_ms: int, ran_ms: int = 600_000, approvals: int = 0, loss: Loss | None = None
) -> str:
    async def work() -> str:
        store = open_store(url)
        try:
            return await burn(store, now_ms, ran_ms, approvals, loss=loss)
        finally:
            await store.close()

    with ThreadPoolExecutor(1) as apart:  # a driver of browsers has a loop of its own in this thread
        return apart.submit(lambda: asyncio.run(work())).result()
