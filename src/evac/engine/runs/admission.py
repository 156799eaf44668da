"""What stands between a decision and the start of a delicate step: guards, leases and epochs of data sets.

The engine asks; whoever composes it (guards of forbidden states, data sets) answers. Most steps concern
nobody and go the short way.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeVar

from evac.engine.stores.guards import Permit
from evac.run.values import Event, RunStep

T = TypeVar("T")
Doing = Literal["start", "observe", "undo"]


class Admitted(Protocol):
    """One delicate step, admitted. epoch: of its data set; permit: rides with the event of its start."""

    epoch: int
    permit: Permit

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """The work, under whatever must be held meanwhile. Raises `LeaseLost` when that is lost."""
        ...

    async def conclude(self, event: Event) -> Permit:
        """What rides with the event of the result. Raises `NotAllowed` when the result cannot stand."""
        ...


class Admission(Protocol):
    """Raises from `enter`: `Retryable` (not now), `NotAllowed` (a person must change something first)."""

    def concerns(self, step: RunStep) -> bool:
        """Whether this step needs to be admitted. Quick: it is asked for every step."""
        ...

    def enter(
        self, run: str, step: RunStep, attempt: int, doing: Doing
    ) -> AbstractAsyncContextManager[Admitted]: ...


class FreeAdmission:
    """Concerns no step."""

    def concerns(self, step: RunStep) -> bool:
        return False

    def enter(
        self, run: str, step: RunStep, attempt: int, doing: Doing
    ) -> AbstractAsyncContextManager[Admitted]:
        raise AssertionError("no step needs to be admitted")
