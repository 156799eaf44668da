"""Asking the real systems about a plan, before it is carried out: does it fit, and would each step work now?

Both read the estate and ask systems of many kinds, which takes seconds; `Rehearser` does it for a war room on
a thread with a loop of its own, one plan at a time, so that no page waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from evac.app.applying import Loaded, dry_run, fit
from evac.drivers.registry import Drivers
from evac.estate.codecs import plan as plan_codec
from evac.model.errors import EvacError, InvalidInput, Unavailable
from evac.model.observation import Observation
from evac.views.documents import DryRun, StepChecked, dry_run_of

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
) -> Loaded:
    """The plan with the estate as it is now. known: what is known beside the files, if anyone knows. Raises
    StalePlan, UnsafePlan; InvalidInput for what is no plan.
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
) -> DryRun:
    """The document of a dry run."""
    drivers = Drivers()
    try:
        loaded = await fitted(data, digest, estate, policy, drivers, now_ms, known)
        found = await dry_run(loaded, drivers)
    finally:
        await drivers.close()
    steps = [StepChecked(s.id, tuple(s.words), tuple(s.problems), s.manual, s.gate) for s in found.steps]
    return dry_run_of(loaded.digest, loaded.plan.scenario.title, steps, found.needs_approval)


async def check_fit(
    data: bytes,
    digest: str,
    estate: Path,
    policy: Path | None,
    now_ms: int,
    known: Observation | None = None,
) -> None:
    """Raises StalePlan where the plan does not fit the estate and the roles of now, UnsafePlan where the
    checker refuses it.
    """
    drivers = Drivers()
    try:
        await fitted(data, digest, estate, policy, drivers, now_ms, known)
    finally:
        await drivers.close()


class Rehearser:
    """One for a war room, of its estate and policy. known: what the leader published of the situation."""

    def __init__(
        self,
        estate: Path,
        policy: Path | None = None,
        known: Callable[[], Observation | None] = lambda: None,
    ) -> None:
        self._estate, self._policy, self._known = estate, policy, known
        self._turn = asyncio.Lock()

    def _files(self) -> tuple[Path, Path | None]:
        """Of one edition, should a link to it be moved while they are read."""
        return self._estate.resolve(), self._policy and self._policy.resolve()

    async def rehearse(self, data: bytes, digest: str, now_ms: int) -> DryRun:
        return await self._apart(lambda: rehearse(data, digest, *self._files(), now_ms, self._known()))

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
                raise Unavailable(f"the systems of the plan did not answer in {ANSWER_S:.0f} s") from error
