"""Requests to runs that have ended: a person says where the primary of a store is that a run left in doubt.

    request/<run>/<id>            what is asked of a run that nobody carries out any more
    vouched/<store>/<epoch>       who said what, and why: written with the epoch, in one transaction
    answer/<id>                   what became of the request, in words

While a promotion is in doubt no other one of its store can begin; only somebody who looked can end that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice, Tell
from evac.engine.runs import requests
from evac.engine.runs.proposals import refused
from evac.engine.stores import datasets
from evac.engine.stores.datasets import DataSets, Epoch
from evac.engine.stores.guards import Permit
from evac.model.errors import Conflict, LeaseLost, NotAllowed, RunError, Unavailable
from evac.model.step_id import StepId, plan_id
from evac.net.internal_errors import foreseen
from evac.store.port import Compare, Delete, Entry, Lease, Put, Store

REQUESTS: Final = "request/"
ANSWER: Final = "answer/"
VOUCHED: Final = "vouched/"
AGAIN_S: Final = 0.5


class Vouching:
    """Answers requests to ended runs while we lead. open_prefix: of the keys of runs that have not ended."""

    def __init__(
        self, store: Store, sets: DataSets, clock: Clock, guard: Lease, tell: Tell, open_prefix: str
    ) -> None:
        self._store, self._sets, self._clock = store, sets, clock
        self._guard, self._tell, self._open_prefix = guard, tell, open_prefix

    async def run(self) -> None:
        """Until cancelled. Raises `LeaseLost`."""
        while True:
            with contextlib.suppress(Unavailable):
                async for _ in self._store.watch(REQUESTS):
                    await self.turn()
            await asyncio.sleep(AGAIN_S)

    async def turn(self) -> None:
        """Answers what stands now, of runs that have ended."""
        for entry in await self._store.list(REQUESTS):
            run = entry.key.removeprefix(REQUESTS).rpartition("/")[0]
            if await self._store.get(self._open_prefix + run) is None:
                await self._answer(run, entry)

    async def _answer(self, run: str, entry: Entry) -> None:
        """The request is gone, and its answer there, in one transaction with what it changes."""
        about: dict[str, Any] = {"run": run}
        try:
            request = requests.decode(entry.key, entry.value)
            permit, words = await self._vouch(run, request)
            if request.glass is not None:
                about["break_glass"] = request.glass.to_data()
            answer = {"done": words}
        except (LeaseLost, Unavailable):
            raise
        except Exception as error:
            permit, words, answer = Permit(), "", refused(foreseen(error, entry.key, self._trouble))
        key = ANSWER + entry.key.rpartition("/")[2]
        with contextlib.suppress(Conflict):  # read again at the next change
            await self._store.transact(
                (Compare(entry.key, entry.revision), *permit.compares),
                (Delete(entry.key), Put(key, orjson.dumps(answer)), *permit.changes),
                self._guard,
            )
            if words:
                self._tell(Notice("run", self._clock.now_ms(), "", words, about))

    def _trouble(self, words: str, data: Mapping[str, Any]) -> None:
        self._tell(Notice("trouble", self._clock.now_ms(), "", words, data))

    async def _vouch(self, run: str, request: requests.Request) -> tuple[Permit, str]:
        """Raises RunError, NotAllowed for what cannot be."""
        if request.verb != "attest":
            raise RunError("run-over", f"{run} has ended", f"see: evac run show {run}")
        epoch = await self._in_doubt(run, plan_id(request.step))
        primary = _primary(epoch, request)
        after, permit = datasets.vouch(epoch, primary)
        words = f"{request.who} vouches: the primary of {epoch.store} is at {primary} ({request.full_reason})"
        record = {
            "who": request.who,
            "reason": request.full_reason,
            "at_ms": self._clock.now_ms(),
            "run": run,
            "step": request.step,
            "primary": primary,
            "candidate": epoch.candidate,
            "epoch": after.number,
            "evidence": dict(request.evidence),
        }
        kept = Put(f"{VOUCHED}{epoch.store}/{epoch.number:06d}", orjson.dumps(record))
        return permit | Permit((), (kept,)), words

    async def _in_doubt(self, run: str, step: str) -> Epoch:
        for epoch in (await self._sets.read_all()).values():
            if epoch.run == run and not epoch.settled and step == step_of(epoch):
                return epoch
        raise RunError("run-over", f"{run} has ended, and it left nothing of {step or 'it'} in doubt")


def step_of(epoch: Epoch) -> str:
    """The id in its plan of the step whose outcome is in doubt."""
    return str(StepId(epoch.purpose, epoch.store))


def how_to_vouch(epoch: Epoch) -> str:
    """The command that ends the doubt."""
    sites = " or ".join(sorted({epoch.candidate, epoch.holder} - {""}))
    return (
        f"look where the primary of {epoch.store} is ({sites}), then say "
        f"evac run attest {epoch.run} {step_of(epoch)} --seen primary=SITE --reason WHY"
    )


def _primary(epoch: Epoch, request: requests.Request) -> str:
    """Where the primary is, as the person says. Raises NotAllowed where that says too little."""
    if epoch.candidate in datasets.names_in(str(request.evidence.get("fenced", ""))):
        return epoch.holder
    named = str(request.evidence.get("primary", ""))
    if named not in (epoch.candidate, epoch.holder) or not named:
        raise NotAllowed("primary-unsaid", how_to_vouch(epoch))
    return named
