"""The last answers of all systems of an estate, collected like `evac doctor` does.

A check takes as long as the systems take, at most `ANSWER_S`, on a thread with its own event loop: no page
waits for it. One check runs at a time; the previous result stays until the next one is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from evac.app.controlling import hands_of
from evac.app.doctor import Systems, examine_files
from evac.engine.clock import Clock
from evac.model.errors import EvacError
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.net.internal_errors import internal
from evac.views.doctor_view import Diagnosis

ANSWER_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class DoctorSeen:
    """The last doctor check, and the one that is running now."""

    began_ms: int = 0
    """When the running check began; 0: none is running."""
    asked_by: str = ""
    """Who requested the last check that began."""
    found: Diagnosis | None = None
    """The last complete result."""
    code: str = ""
    """Why the last check gave no result, for programs; empty if it gave one."""
    problem: str = ""
    hint: str = ""
    number: int = 0
    """Grows with every change."""


class Examines(Protocol):
    """Asks every system. Raises EvacError."""

    async def __call__(self, now_ms: int) -> Diagnosis: ...


class Examiner:
    """Asks the systems of the current estate, with their last observed roles, outside the event loop."""

    def __init__(
        self,
        estate: Path,
        policy: Path | None,
        known: Callable[[], Observation | None],
        systems: Systems = hands_of,
    ) -> None:
        self._estate, self._policy, self._known, self._systems = estate, policy, known, systems

    async def __call__(self, now_ms: int) -> Diagnosis:
        # Keep to one edition, even if a link to it moves during the read.
        estate, policy = self._estate.resolve(), self._policy and self._policy.resolve()
        known = self._known()
        started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Diagnosis]]] = []

        async def bounded() -> Diagnosis:
            work = asyncio.ensure_future(examine_files(estate, policy, now_ms, known, self._systems))
            started.append((asyncio.get_running_loop(), work))
            async with asyncio.timeout(ANSWER_S):
                return await work

        try:
            return await asyncio.to_thread(lambda: asyncio.run(bounded()))
        except TimeoutError as error:
            silent = f"not all systems answered in {ANSWER_S:.0f} s"
            raise EvacError("systems-silent", silent, "ask again, or run: evac doctor ESTATE") from error
        finally:
            for loop, work in started:  # the room ends: its thread must not outlive it
                if not loop.is_closed():
                    loop.call_soon_threadsafe(work.cancel)


class DoctorDesk:
    """One per war room. examine: None in a room that reaches no systems."""

    def __init__(self, clock: Clock, examine: Examines | None) -> None:
        self._clock, self._examine = clock, examine
        self._task: asyncio.Task[None] | None = None
        self.seen = DoctorSeen()

    def begin(self, asked_by: str) -> bool:
        """Starts a check; False if one is running. Raises EvacError."""
        if self._examine is None:
            raise EvacError("no-systems", "this war room cannot reach any systems", "run: evac doctor ESTATE")
        if self._task is not None and not self._task.done():
            return False
        self._know(began_ms=self._clock.now_ms(), asked_by=asked_by)
        self._task = asyncio.create_task(self._ask(self._examine), name="doctor")
        return True

    async def _ask(self, examine: Examines) -> None:
        try:
            found = await examine(self.seen.began_ms)
        except EvacError as error:
            self._know(began_ms=0, code=error.code, problem=error.message, hint=error.hint)
        except Exception as error:
            failed = internal(error)
            self._know(began_ms=0, code=failed.code, problem=failed.message, hint=failed.hint)
        else:
            self._know(began_ms=0, found=found, code="", problem="", hint="")

    def _know(self, **changes: object) -> None:
        self.seen = replace(self.seen, number=self.seen.number + 1, **changes)  # type: ignore[arg-type]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
