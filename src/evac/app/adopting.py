"""Beginning a run where its journal was lost: what the world shows as done is attested, the rest is run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from evac.app import runs
from evac.app.applying import ASKING_TOKEN, Loaded, ensure_controller, load
from evac.drivers.port import Action, Order
from evac.drivers.registry import Drivers, acts
from evac.engine.runs import requests
from evac.engine.runs.binding import bind
from evac.model.errors import EvacError, NotAllowed
from evac.store.opening import open_store
from evac.store.port import Store

LOOK_S: Final = 5.0
LOOKS_AT_ONCE: Final = 16


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
) -> tuple[str, tuple[str, ...]]:
    """The run that was made, which waits for approval, and the steps that the world shows as done."""

    async def work() -> tuple[str, tuple[str, ...]]:
        drivers, store = Drivers(), open_store(url or runs.default_store())
        try:
            loaded = await load(plan, estate, None, drivers, now_ms)
            done = await look(loaded, drivers)
            await ensure_controller(
                store, url or runs.default_store(), estate.absolute(), None, log, generation
            )
            run = await runs.propose(store, runs.proposal_of(loaded.data, incident, reason, typed), now_ms)
            for number, step in enumerate(done):
                await _attest(store, run, step, f"seen to be done: {reason}", now_ms + number)
            return run, done
        finally:
            await drivers.close()
            await store.close()

    return asyncio.run(work())


async def look(loaded: Loaded, drivers: Drivers) -> tuple[str, ...]:
    """Steps all of whose actions the real systems say are done, in the order of the plan."""
    bound = bind(
        loaded.estate, loaded.plan, loaded.policy, run="adopt", incident="adopt", digest=loaded.digest
    )
    gate = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def is_done(step: str) -> bool:
        async with gate:
            found = [await _seen(action, drivers) for action in bound.actions[step]]
        return bool(found) and all(found)

    answers = await asyncio.gather(*(is_done(step.id) for step in bound.spec.steps))
    return tuple(step.id for step, done in zip(bound.spec.steps, answers, strict=True) if done)


async def _seen(action: Action, drivers: Drivers) -> bool:
    if not acts(action.driver):
        return False
    order = Order("adopt", action.target, 1, ASKING_TOKEN, 0, "adopt", LOOK_S, "adopt")
    try:
        async with asyncio.timeout(LOOK_S + 1):
            return (await drivers.get(action.driver).observe(action, order)).outcome == "done"
    except (EvacError, TimeoutError):
        return False


async def _attest(store: Store, run: str, step: str, reason: str, at_ms: int) -> None:
    request = requests.Request(
        runs.new_id(at_ms),
        "attest",
        f"evac adopt for {runs.who_am_i()}",
        reason,
        step=step,
        at_ms=at_ms,
        evidence={"adopted": True},
    )
    await runs.ask(store, run, request)
    if not await runs.settled(store, run, request.id):
        raise NotAllowed(
            "adopt-not-taken", f"the leader did not take what was seen of {step}", "evac run show"
        )
