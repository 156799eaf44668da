"""The driver of Kubernetes: scales workloads, moves quotas, sets priorities, sees that pods are ready.

The object itself keeps the highest token (an annotation), and every change stands on the version that was
read: an older leader, or anybody at the same instant, changes nothing unseen.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from lightkube.utils.quantity import parse_quantity

from evac.drivers import parameters
from evac.drivers.capabilities import RunsUnits, Verifies
from evac.drivers.kubernetes.api import (
    BEFORE,
    PRIORITY,
    TOKEN,
    Changed,
    Cluster,
    Wanted,
    evidence,
    fits,
    is_ready,
    notes_of,
    opened,
    replaced,
    seen_token,
    wanted_of,
)
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable

VERBS: Final[frozenset[Verb]] = frozenset({"scale", "start", "stop", "run", "verify"})
TRIES_OF_A_CHANGE: Final = 3
_PAUSE_S: Final = 0.2


class KubernetesDriver(RunsUnits, Verifies):
    """Changes one object of one cluster."""

    name = "kubernetes"
    verbs = VERBS

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            wanted = wanted_of(action, parameters.text(action.settings, "kind"))
            async with opened(action.settings, order.timeout_s) as cluster:
                found = await cluster.get(order.timeout_s)
                return Checked(_problems(cluster, found, wanted, order), _evidence(cluster, found))
        except ActionError as error:
            return Checked((error.message,))

    async def execute(self, action: Action, order: Order) -> Evidence:
        wanted = wanted_of(action, parameters.text(action.settings, "kind"))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.timeout_s
        async with opened(action.settings, order.timeout_s) as cluster:
            if order.dry_run:
                found = _there(cluster, await cluster.get(order.timeout_s), wanted)
                return _evidence(cluster, found) | {"would_set": orjson.dumps(wanted.part).decode()[:800]}
            if action.verb != "verify":
                await _until_written(cluster, wanted, order, deadline)
            return await _until_ready(cluster, wanted, deadline, looked_only=action.verb == "verify")

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            wanted = wanted_of(action, parameters.text(action.settings, "kind"))
            async with opened(action.settings, order.timeout_s) as cluster:
                found = await cluster.get(order.timeout_s)
                evidence = _evidence(cluster, found)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})
        if found is None:
            return Observed("absent" if cluster.kind == PRIORITY else "unclear", evidence)
        if not fits(found, wanted.part, parse_quantity):
            return Observed("absent", evidence)
        if is_ready(found, wanted):
            return Observed("done", evidence)
        return Observed("absent" if action.verb == "verify" else "unclear", evidence)

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Puts back what the annotation of this very step holds. Raises `Permanent` where there is none."""
        if action.verb == "verify":
            raise Permanent("undo-nothing", "verify changes nothing that could be taken back")
        wanted = wanted_of(action, parameters.text(action.settings, "kind"))
        deadline = asyncio.get_running_loop().time() + order.timeout_s
        async with opened(action.settings, order.timeout_s) as cluster:
            for _ in range(TRIES_OF_A_CHANGE):
                try:
                    return await _put_back(cluster, wanted, order, deadline)
                except Changed:
                    continue
        raise _busy(cluster)

    async def close(self) -> None:
        """Nothing is kept open between calls."""


def _problems(
    cluster: Cluster, found: dict[str, Any] | None, wanted: Wanted, order: Order
) -> tuple[str, ...]:
    if found is None:
        return () if cluster.kind == PRIORITY else (f"there is no {cluster.kind} {cluster.name}",)
    problems = []
    token = seen_token(found)
    if token > order.token:
        problems.append(parameters.stale_token(cluster.name, token, order).message)
    if cluster.kind == PRIORITY and not fits(found, wanted.part, parse_quantity):
        problems.append(f"the class {cluster.name} has the value {found.get('value')}, and it cannot change")
    return tuple(problems)


def _there(cluster: Cluster, found: dict[str, Any] | None, wanted: Wanted) -> dict[str, Any]:
    """The object, or for a class that shall be made, nothing yet."""
    if found is None and cluster.kind != PRIORITY:
        raise Permanent("kubernetes-no-object", f"there is no {cluster.kind} {cluster.name}")
    return found or {}


async def _until_written(cluster: Cluster, wanted: Wanted, order: Order, deadline: float) -> None:
    for _ in range(TRIES_OF_A_CHANGE):
        try:
            return await _write(cluster, wanted, order, deadline)
        except Changed:
            continue
    raise _busy(cluster)


def _busy(cluster: Cluster) -> Retryable:
    words = f"{cluster.name} is being changed by somebody else"
    return Retryable("kubernetes-changed", words, after_ms=500)


async def _write(cluster: Cluster, wanted: Wanted, order: Order, deadline: float) -> None:
    """One change, with what it replaces, if the object is not as wanted yet."""
    found = _there(cluster, await cluster.get(_left(deadline)), wanted)
    if found and (token := seen_token(found)) > order.token:
        raise parameters.stale_token(cluster.name, token, order)
    problems = _problems(cluster, found or None, wanted, order)
    if problems:
        raise Permanent("kubernetes-refused", problems[0])
    notes = {TOKEN: str(order.token)}
    if not found:
        notes[BEFORE] = _note(order, None)
        await cluster.create({**wanted.part, "metadata": {"annotations": notes}}, _left(deadline))
        return
    right = fits(found, wanted.part, parse_quantity)
    if right and seen_token(found) == order.token:
        return
    if not right and _kept(found, order) is None:
        notes[BEFORE] = _note(order, replaced(found, wanted.part))
    await cluster.patch(_standing_on(found, {} if right else wanted.part, notes), _left(deadline))


async def _put_back(cluster: Cluster, wanted: Wanted, order: Order, deadline: float) -> Evidence:
    found = await cluster.get(_left(deadline))
    if found is None:
        _there(cluster, found, wanted)
        return _evidence(cluster, found)
    if seen_token(found) > order.token:
        raise parameters.stale_token(cluster.name, seen_token(found), order)
    kept = _kept(found, order)
    if kept is None:
        raise Permanent("undo-unknown", f"{cluster.name} does not say what it was before {order.key}")
    was = kept["was"]
    if was is None:
        await cluster.delete(_left(deadline))
        return _evidence(cluster, None)
    if replaced(found, was) != was:
        found = await cluster.patch(_standing_on(found, was, {TOKEN: str(order.token)}), _left(deadline))
    return _evidence(cluster, found)


async def _until_ready(cluster: Cluster, wanted: Wanted, deadline: float, looked_only: bool) -> Evidence:
    """Looks until the cluster has done it. Raises `OutcomeUnknown`, or `Retryable` where nothing was done."""
    while True:
        try:
            found = await cluster.get(_left(deadline))
        except Retryable as error:
            if looked_only:
                raise
            raise OutcomeUnknown(error.code, error.message, "observe it first") from error
        right = found is not None and fits(found, wanted.part, parse_quantity)
        if found is not None and right and is_ready(found, wanted):
            return _evidence(cluster, found)
        if _left(deadline) < 2 * _PAUSE_S:
            words = f"{cluster.kind} {cluster.name} is not as wanted: {_evidence(cluster, found)}"
            if looked_only:
                raise Retryable("not-as-expected", words, after_ms=1_000)
            raise OutcomeUnknown("kubernetes-not-ready", words, "observe it first")
        await asyncio.sleep(_PAUSE_S)


def _left(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _standing_on(found: dict[str, Any], part: Any, notes: dict[str, str]) -> dict[str, Any]:
    """A merge patch that is refused when the object is no longer the one that was read."""
    version = found["metadata"]["resourceVersion"]
    return {**part, "metadata": {"resourceVersion": version, "annotations": notes}}


def _note(order: Order, was: Any) -> str:
    return orjson.dumps({"key": order.key, "was": was}).decode()


def _kept(found: dict[str, Any], order: Order) -> dict[str, Any] | None:
    """What this very step replaced, if it did; another step's note is not ours to take back."""
    try:
        note = orjson.loads(notes_of(found).get(BEFORE, "null"))
    except orjson.JSONDecodeError:
        return None
    return note if isinstance(note, dict) and note.get("key") == order.key and "was" in note else None


def _evidence(cluster: Cluster, found: dict[str, Any] | None) -> dict[str, str | int | bool]:
    if not found:
        return {"object": f"{cluster.kind}/{cluster.name}", "exists": False}
    return evidence(cluster.kind, cluster.name, found)
