"""The plan of a run under way, mended for servers that do not come up. Pure work, done beside the loop."""

from __future__ import annotations

import asyncio
import copyreg
import io
import pickle
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from evac.app.side_process import Apart
from evac.derive.planning_instance import derive
from evac.engine.boots.feed_watch import Mend, Trouble
from evac.engine.plans.library import get_plan
from evac.estate.codecs import plan as plan_codec
from evac.model.digest import estate_digest
from evac.model.errors import EvacError, PlanError, StalePlan
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.plan import Plan
from evac.model.policy import Policy
from evac.planning.repair import repair
from evac.steps.registry import kind_of
from evac.store.port import Store

NICENESS: Final = 5


def mended(estate: Estate, data: bytes, trouble: Trouble) -> bytes | None:
    """The mended plan, of the estate as it stands now; None where no replica finds another place. Raises
    InvalidInput for what is no plan, UnknownDomain and StalePlan where the estate is another one by now and
    does not have what the plan is about.
    """
    plan = plan_codec.decode(data, own=True)
    instance = derive(estate, plan.scenario, Policy(plan.waivers, plan.tier_weights), plan.tick_ms)
    _check_names(plan, instance)
    found = repair(instance, plan, trouble.failed, trouble.begun)
    if not found.moved:
        return None
    return plan_codec.encode(replace(found.plan, estate_digest=estate_digest(estate)))


def _check_names(plan: Plan, instance: Instance) -> None:
    """Raises StalePlan. A run keeps its plan when the estate changes."""
    services, pools = set(instance.services.id), {pool.id for pool in instance.pools}
    for step in plan.steps:
        kind = kind_of(step.kind)
        if (kind.replicas > 0 or kind.frees_room) and step.target not in services:
            raise _stale(f"service {step.target}")
        if kind.replicas > 0 and step.pool not in pools:
            raise _stale(f"pool {step.pool}")


def _stale(what: str) -> StalePlan:
    return StalePlan(
        "plan-stale", f"the estate was changed and has no {what} any more", "the run goes on by its plan"
    )


class Mender:
    """Mends plans in a process of its own: on a large site that takes a core for many seconds, which a leader
    must not miss. Started when it is first needed.
    """

    def __init__(self) -> None:
        self._apart = Apart(NICENESS)

    async def mend(self, estate: Estate, data: bytes, trouble: Trouble) -> bytes | None:
        """See `mended`. Raises PlanError where the process died."""
        packed = await asyncio.to_thread(_packed, estate)
        try:
            done = await self._apart.ask(_mended_apart, packed, data, trouble)
        except BrokenProcessPool as error:
            raise PlanError("mend-failed", "the process that mends plans died", "the run goes on") from error
        if isinstance(done, tuple):
            code, message, hint = done
            raise PlanError(code, message, hint)
        return done

    def of_store(self, store: Store, estate: Callable[[], Estate]) -> Mend:
        """Plans that lie in a store. estate: as it is seen now."""

        async def mend(digest: str, trouble: Trouble) -> bytes | None:
            return await self.mend(estate(), await get_plan(store, digest), trouble)

        return mend

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._apart.close()


def _mended_apart(packed: bytes, data: bytes, trouble: Trouble) -> bytes | tuple[str, str, str] | None:
    try:
        return mended(pickle.loads(packed), data, trouble)
    except EvacError as error:
        return error.code, error.message, error.hint


def _packed(estate: Estate) -> bytes:
    """An estate on its way to a process that this one started; read-only mappings travel as what they hold,
    and where facts stand in files is left behind."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table | {MappingProxyType: _thawed}
    pickler.dump(replace(estate, places=MappingProxyType({})))
    return stream.getvalue()


def _thawed(mapping: MappingProxyType[Any, Any]) -> tuple[Callable[..., Any], tuple[dict[Any, Any]]]:
    return _frozen, (dict(mapping),)


def _frozen(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)
