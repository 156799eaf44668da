"""The planner in a process of its own: it takes a whole core, and a controller must not miss a heartbeat.

The worker loads the estate once from its files; what travels are roles and plan bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from datetime import date
from pathlib import Path
from typing import Final

from evac.app.apart import Apart
from evac.model.errors import EvacError, InvalidInput, PlanError
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.run_policy import RunPolicy

BUDGET_MS: Final = 5_000
_loaded: dict[str, Estate] = {}


def waivers_of(policy: RunPolicy) -> tuple[str, ...]:
    """Stores that may be promoted beyond their rpo: the run asks a person, unless policy allows it."""
    return tuple(sorted(s.store for s in policy.stores.values() if s.async_promotion != "never"))


def _load(path: str, as_of: date | None) -> Estate:
    if path not in _loaded:
        from evac import estate as estates

        _loaded[path] = estates.load(path, as_of)
    return _loaded[path]


def _plan(
    path: str,
    as_of: date | None,
    observation: Observation,
    lost: tuple[str, ...],
    waivers: tuple[str, ...],
    ms: int,
) -> bytes | tuple[str, str, str]:
    """In the worker: plan bytes, or code, message and hint of why there are none."""
    from evac.app.plans import make_plan
    from evac.model.observation import observed
    from evac.model.scenario import lose

    try:
        seen = observed(_load(path, as_of), observation)
        return make_plan(seen, lose(*lost), budget_ms=ms, waivers=waivers).data
    except EvacError as error:
        return error.code, error.message, error.hint


class PlanningWorker:
    """One worker process, started when it is first needed, and again if it dies."""

    def __init__(self, path: Path, as_of: date | None, policy: RunPolicy, budget_ms: int = BUDGET_MS) -> None:
        self._path, self._as_of, self._budget_ms = str(path), as_of, budget_ms
        self._waivers = waivers_of(policy)
        self._apart = Apart()

    async def plan(self, observation: Observation, lost: Sequence[str]) -> bytes:
        """Canonical plan bytes for a loss. Raises PlanError; InvalidInput with the planner's own words."""
        arguments = (self._path, self._as_of, observation, tuple(lost), self._waivers, self._budget_ms)
        try:
            found = await self._apart.ask(_plan, *arguments)
        except BrokenProcessPool as error:
            raise PlanError("planner-died", "the planning process ended", "it is started again") from error
        if isinstance(found, bytes):
            return found
        code, message, hint = found
        raise InvalidInput(code, message, hint)

    def close(self) -> None:
        self._apart.close()
