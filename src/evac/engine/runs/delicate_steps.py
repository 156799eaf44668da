"""A delicate step, from its admission to its result: what it needs is held as long as it takes.

It goes alone, in a task of its own: its start and its result are written with what the admission lets ride
along, so that between a check and its event nothing can slip in.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol, cast

from evac.engine.runs.admitting import Admission, Admitted, Doing
from evac.engine.runs.performing import Outcome, Try
from evac.engine.stores.guards import Permit
from evac.model.errors import (
    Conflict,
    EvacError,
    LeaseLost,
    NotAllowed,
    Retryable,
    RunError,
    Unavailable,
)
from evac.run.patience import NO_MORE, deadline_ms
from evac.run.values import Event, RunStep
from evac.run.view import RunView

OTHERWISE_AGAIN_MS: Final = 5_000
CONFLICT_AGAIN_MS: Final = 200
CONCLUDE_TRIES: Final = 5


class Bench(Protocol):
    """Where a delicate step is carried out."""

    view: RunView

    async def ask(
        self,
        kind: str,
        step: RunStep,
        attempt: int,
        data: dict[str, Any],
        permit: Permit,
        under_way: bool = False,
    ) -> None: ...

    def try_of(self, doing: str, i: int, epoch: int) -> Try: ...

    async def perform(self, doing: str, one: Try) -> Outcome: ...

    def landed(self, step: str) -> None: ...


async def carry_out(bench: Bench, admission: Admission, kind: str, step: RunStep, attempt: int) -> None:
    """The whole way of one effect. What keeps it from beginning is written as a wait."""
    doing = cast(Doing, kind)
    begun = False
    try:
        async with admission.enter(bench.view.spec.run, step, attempt, doing) as admitted:
            await _begin(bench, admitted, doing, step, attempt)
            begun = True
            if not step.manual or doing != "start":
                await _go(bench, admitted, doing, step, attempt)
    except EvacError as error:
        if begun or isinstance(error, LeaseLost):
            raise
        await _wait(bench, doing, step, attempt, error)
    finally:
        bench.landed(step.id)


async def _begin(bench: Bench, admitted: Admitted, doing: Doing, step: RunStep, attempt: int) -> None:
    if doing == "start":
        limit_ms = deadline_ms(bench.view.spec.patience, step)
        data = {"token": bench.view.token, "epoch": admitted.epoch, "deadline_ms": limit_ms}
        await bench.ask("step_started", step, attempt, data, admitted.permit)
    elif doing == "undo":
        told = {"token": bench.view.token, "who": bench.view.cancel_who, "reason": "taken back"}
        await bench.ask("undo_started", step, attempt, told, admitted.permit)


async def _go(bench: Bench, admitted: Admitted, doing: Doing, step: RunStep, attempt: int) -> None:
    one = bench.try_of(doing, bench.view.number(step.id), admitted.epoch)
    try:
        kind, data = await admitted.during(bench.perform(doing, one))
    except LeaseLost as error:
        kind, data = "step_unknown", {"message": error.message}
        if doing == "observe":
            kind, data = "step_observed", {"outcome": "unclear", "evidence": {"why": error.message}}
    await _finish(bench, admitted, doing, step, attempt, (kind, data))


async def _finish(
    bench: Bench, admitted: Admitted, doing: Doing, step: RunStep, attempt: int, outcome: Outcome
) -> None:
    """Writes the result with what rides along. What was done is never called a failure because the store did
    not answer: it is asked again for as long as we lead.
    """
    tries_left = CONCLUDE_TRIES
    while True:
        kind, data = outcome
        try:
            permit = await _conclude(bench, admitted, step, attempt, kind, data)
        except Unavailable:
            await asyncio.sleep(CONFLICT_AGAIN_MS / 1_000)
            continue
        except NotAllowed as error:
            outcome, permit = _cannot_stand(doing, error), Permit()
            kind, data = outcome
        try:
            await bench.ask(kind, step, attempt, data, permit, under_way=True)
            return
        except Conflict:
            tries_left -= 1
            if not tries_left:
                raise
        except RunError:
            return  # people decided meanwhile, and that stands


async def _conclude(
    bench: Bench, admitted: Admitted, step: RunStep, attempt: int, kind: str, data: dict[str, Any]
) -> Permit:
    return await admitted.conclude(Event(kind, bench.view.last_ms, step.id, attempt, data))


def _cannot_stand(doing: Doing, error: EvacError) -> Outcome:
    """The world gave a result that policy does not take: a fence by a proof that is not good enough."""
    if doing == "observe":
        return "step_observed", {"outcome": "unclear", "evidence": {"why": error.message}}
    if doing == "undo":
        return "undo_failed", {"code": error.code, "message": error.message, "again_ms": NO_MORE}
    return "step_failed", {"code": error.code, "message": error.message, "again_ms": NO_MORE}


async def _wait(bench: Bench, doing: Doing, step: RunStep, attempt: int, error: EvacError) -> None:
    """Not now: said in the journal where the state has a place for it. What a guard refuses is a failure that
    asks a person, said once.
    """
    again_ms = OTHERWISE_AGAIN_MS
    if isinstance(error, Retryable):
        again_ms = max(error.after_ms, CONFLICT_AGAIN_MS)
    elif isinstance(error, Conflict | Unavailable):
        again_ms = CONFLICT_AGAIN_MS
    try:
        if isinstance(error, NotAllowed) and doing != "observe":
            await _give_up(bench, doing, step, attempt, error)
        elif doing == "start":
            data: dict[str, Any] = {"why": error.message, "again_ms": again_ms}
            await bench.ask("step_waits", step, attempt, data, Permit())
        elif doing == "observe":
            data = {"outcome": "unclear", "evidence": {"why": error.message}}
            await bench.ask("step_observed", step, attempt, data, Permit(), under_way=True)
        else:
            await asyncio.sleep(again_ms / 1_000)
    except (RunError, Conflict):
        return  # people decided meanwhile, or a hold came in between


async def _give_up(bench: Bench, doing: Doing, step: RunStep, attempt: int, error: EvacError) -> None:
    """Refused for good, so that the run asks a person, or ends, instead of waiting for ever."""
    data = {"code": error.code, "message": error.message, "again_ms": NO_MORE}
    if doing == "undo":
        told = {"token": bench.view.token, "who": bench.view.cancel_who, "reason": "taken back"}
        await bench.ask("undo_started", step, attempt, told, Permit())
        await bench.ask("undo_failed", step, attempt, data, Permit(), under_way=True)
    else:
        await bench.ask("step_failed", step, attempt - 1, data, Permit())
