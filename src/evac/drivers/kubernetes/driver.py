"""Driver for Kubernetes: scales workloads, moves quotas, sets priorities, checks that pods are ready.

The object itself stores the highest token (an annotation), and every change requires the version that was
read: an older leader, or a concurrent change, cannot go unnoticed.

`Wanted` is the part of an object that an action determines, in the object's own structure: it is the merge
patch, and what it replaces is stored in an annotation, so that undo restores exactly that. Objects are read
and changed through lightkube, with its errors converted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

import orjson
from lightkube.utils.quantity import parse_quantity

from evac.drivers import parameters
from evac.drivers import parameters as given
from evac.drivers.capabilities import ReportsReplicas, RunsUnits, Verifies
from evac.drivers.kubernetes import cluster as clusters
from evac.drivers.kubernetes.cluster import (
    TOKEN,
    WORKLOADS,
    Changed,
    KubernetesCluster,
    Reconciler,
    Values,
    notes_of,
    reconciler_of,
    replaced,
    seen_token,
    standing_on,
    table,
)
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Value, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass

QUOTA: Final = "ResourceQuota"
PRIORITY: Final = "PriorityClass"
BEFORE: Final = "evac-before"
"""Like the token, an annotation without a prefix, private to its user."""

Quantity = Callable[[str], Decimal | None]


NO_MATTER: Final = -1
AS_IT_SAYS: Final = -2
"""All pods that the object requests, at least one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """part: wanted content of the object. ready: pods that must then be ready, or NO_MATTER, or
    AS_IT_SAYS.
    """

    part: Values
    ready: int = NO_MATTER
    or_more: bool = False
    """For a start: several of one service run at the same time, and none of them stops what another
    started.
    """

    def fits(self, found: Values) -> bool:
        """Whether the object already has this content."""
        if self.or_more and int(table(found, "spec").get("replicas") or 0) >= self.ready:
            return True
        return fits(found, self.part, parse_quantity)


def wanted_of(action: Action, kind: str) -> Wanted:
    """The meaning of an action for its kind of object. Raises `Permanent` if it has none."""
    parameters = action.parameters
    if kind in WORKLOADS and action.verb in ("scale", "start", "stop"):
        count = 0 if action.verb == "stop" else given.whole(parameters, "replicas", most=REPLICAS_MOST)
        return Wanted({"spec": {"replicas": count}}, count, or_more=action.verb == "start")
    if kind in WORKLOADS and action.verb == "verify":
        expect = parameters.get("expect")
        return Wanted(
            {}, AS_IT_SAYS if expect is None else given.whole(parameters, "expect", most=REPLICAS_MOST)
        )
    if kind in WORKLOADS and action.verb == "run" and "priority_class" in parameters:
        name = given.text(parameters, "priority_class")
        return Wanted({"spec": {"template": {"spec": {"priorityClassName": name}}}})
    if kind == QUOTA and action.verb in ("scale", "verify"):
        return Wanted({"spec": {"hard": _pairs(given.many(parameters, "hard"))}})
    if kind == PRIORITY and action.verb in ("run", "verify"):
        return Wanted({"value": given.whole(parameters, "value", most=1_000_000_000)})
    raise Permanent("verb-unknown", f"kubernetes cannot {action.verb} a {kind}")


def fits(found: Values, part: Values, quantity: Quantity) -> bool:
    """Whether `found` contains all of `part`; equivalent amounts are equal (1000m is 1)."""
    for key, value in part.items():
        now = found.get(key)
        if isinstance(value, Mapping):
            if not fits(now if isinstance(now, Mapping) else {}, value, quantity):
                return False
        elif now != value and not _same_amount(now, value, quantity):
            return False
    return True


def is_ready(found: Values, wanted: Wanted) -> bool:
    """Whether the cluster has reached the requested state: all wanted pods are ready, and there are no extra
    ones.
    """
    if wanted.ready == NO_MATTER:
        return True
    status, least = table(found, "status"), wanted.ready
    if least == AS_IT_SAYS:
        least = max(1, int(table(found, "spec").get("replicas") or 1))
    if wanted.part and int(status.get("observedGeneration") or 0) < int(
        table(found, "metadata").get("generation") or 0
    ):
        return False
    ready, there = int(status.get("readyReplicas") or 0), int(status.get("replicas") or 0)
    return ready >= least and (not wanted.part or wanted.or_more or there == least)


def evidence(kind: str, name: str, found: Values) -> dict[str, str | int | bool]:
    """The few numbers that describe an object's current state."""
    status, spec = table(found, "status"), table(found, "spec")
    said: dict[str, str | int | bool] = {"object": f"{kind}/{name}"}
    for key, value in (
        ("replicas", spec.get("replicas")),
        ("ready", status.get("readyReplicas")),
        ("value", found.get("value")),
        ("version", table(found, "metadata").get("resourceVersion")),
    ):
        if isinstance(value, int | str):
            said[key] = value
    if isinstance(spec.get("hard"), Mapping):
        said["hard"] = ", ".join(f"{key}={value}" for key, value in sorted(spec["hard"].items()))[:400]
    return said


def _pairs(entries: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        key, separator, value = entry.partition("=")
        if not (key and separator and value):
            raise Permanent("setting-wrong", f"hard: {entry!r} is not resource=amount")
        found[key.strip()] = value.strip()
    if not found:
        raise Permanent("setting-missing", "hard is not set", "write resource=amount for each limit")
    return found


def _same_amount(one: Any, other: Any, quantity: Quantity) -> bool:
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    try:
        return quantity(one) == quantity(other)
    except ValueError:
        return False


KINDS: Final = (*sorted(WORKLOADS), QUOTA, PRIORITY)


@asynccontextmanager
async def opened(settings: Mapping[str, Value], timeout_s: float) -> AsyncIterator[KubernetesCluster]:
    """The object of an endpoint. Raises `Permanent`."""
    kind, name = parameters.text(settings, "kind"), parameters.text(settings, "name")
    if kind not in KINDS:
        raise Permanent("setting-wrong", f"kind must be one of {', '.join(sorted(KINDS))}")
    kubeconfig, context = parameters.text(settings, "kubeconfig"), parameters.text(settings, "context", "")
    namespace = parameters.text(settings, "namespace", "")
    async with clusters.opened(kubeconfig, context, kind, name, namespace, timeout_s) as cluster:
        yield cluster


VERBS: Final[frozenset[Verb]] = frozenset({"scale", "start", "stop", "run", "verify"})
REPLICAS_MOST: Final = 100_000
TRIES_OF_A_CHANGE: Final = 3
KEPT_MOST: Final = 16
"""Steps that the annotation of one object records; the latest ones."""
_PAUSE_S: Final = 0.2


class KubernetesDriver(RunsUnits, ReportsReplicas, Verifies):
    """Changes one object of one cluster."""

    name = "kubernetes"
    verbs = VERBS

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            wanted = wanted_of(action, parameters.text(action.settings, "kind"))
            async with (
                opened(action.settings, order.timeout_s) as cluster,
                reconciler_of(action, order) as reconciler,
            ):
                found = await cluster.get(order.timeout_s)
                problems = _problems(cluster, found, wanted, order)
                if reconciler is not None and not problems:
                    problems = await reconciler.problems(order)
                return Checked(problems, _evidence(cluster, found))
        except ActionError as error:
            return Checked((error.message,))

    async def execute(self, action: Action, order: Order) -> Evidence:
        wanted = wanted_of(action, parameters.text(action.settings, "kind"))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.timeout_s
        async with (
            opened(action.settings, order.timeout_s) as cluster,
            reconciler_of(action, order) as reconciler,
        ):
            if order.dry_run:
                found = _there(cluster, await cluster.get(order.timeout_s), wanted)
                would = {"would_set": orjson.dumps(wanted.part).decode()[:800]}
                if reconciler is not None:
                    would["would_pause"] = f"{reconciler.cluster.kind} {reconciler.cluster.name}"
                return _evidence(cluster, found) | would
            before = "as it was"
            if reconciler is not None:
                before = await _paused(cluster, reconciler, wanted, order, deadline)
            if action.verb != "verify":
                await _until_written(cluster, wanted, order, deadline)
            evidence = await _until_ready(cluster, wanted, deadline, looked_only=action.verb == "verify")
            if reconciler is None:
                return evidence
            after = await reconciler.settle(order, int(evidence.get("replicas", 0)))
            return {**evidence, "reconciler": before if after == "as it was" else after}

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
        if not wanted.fits(found):
            return Observed("absent", evidence)
        if is_ready(found, wanted):
            return Observed("done", evidence)
        return Observed("absent" if action.verb == "verify" else "unclear", evidence)

    async def report_replicas(self, action: Action, timeout_s: float, token: int) -> int | None:
        """As the object requests them. None for objects that run nothing."""
        if parameters.text(action.settings, "kind") not in WORKLOADS:
            return None
        async with opened(action.settings, timeout_s) as cluster:
            found = await cluster.get(timeout_s)
        if found is None:
            raise Permanent("kubernetes-no-object", f"there is no {cluster.kind} {cluster.name}")
        count = table(found, "spec").get("replicas", 1)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= REPLICAS_MOST:
            raise OutcomeUnknown(
                "kubernetes-unreadable", f"{cluster.name} does not say how many replicas run"
            )
        return count

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Restore what the annotation contains for this same step, except what later starts need. Raises
        `Permanent` if it contains nothing, or another step has changed the object since.
        """
        if action.verb == "verify":
            raise Permanent("undo-nothing", "verify changes nothing that can be rolled back")
        wanted = wanted_of(action, parameters.text(action.settings, "kind"))
        deadline = asyncio.get_running_loop().time() + order.timeout_s
        async with (
            opened(action.settings, order.timeout_s) as cluster,
            reconciler_of(action, order) as reconciler,
        ):
            for _ in range(TRIES_OF_A_CHANGE):
                try:
                    evidence = await _put_back(cluster, wanted, order, deadline)
                except Changed:
                    continue
                if reconciler is None:
                    return evidence
                settled = await reconciler.settle(order, int(evidence.get("replicas", 0)))
                return {**evidence, "reconciler": settled}
        raise _busy(cluster)

    async def close(self) -> None:
        """Nothing to close: no connection outlives a call."""


def _problems(
    cluster: KubernetesCluster, found: dict[str, Any] | None, wanted: Wanted, order: Order
) -> tuple[str, ...]:
    if found is None:
        return () if cluster.kind == PRIORITY else (f"there is no {cluster.kind} {cluster.name}",)
    problems = []
    token = seen_token(found)
    if token > order.token:
        problems.append(parameters.stale_token(cluster.name, token, order).message)
    if cluster.kind == PRIORITY and not wanted.fits(found):
        problems.append(
            f"the class {cluster.name} has the value {found.get('value')}, which cannot be changed"
        )
    return tuple(problems)


def _there(cluster: KubernetesCluster, found: dict[str, Any] | None, wanted: Wanted) -> dict[str, Any]:
    """The object; nothing for a class that is yet to be created."""
    if found is None and cluster.kind != PRIORITY:
        raise Permanent("kubernetes-no-object", f"there is no {cluster.kind} {cluster.name}")
    return found or {}


async def _paused(
    cluster: KubernetesCluster, reconciler: Reconciler, wanted: Wanted, order: Order, deadline: float
) -> str:
    """Pause whatever would revert the change, unless there is no change to make."""
    found = _there(cluster, await cluster.get(_left(deadline)), wanted)
    if wanted.fits(found):
        return "as it was"
    if (token := seen_token(found)) > order.token:
        raise parameters.stale_token(cluster.name, token, order)
    return await reconciler.pause(order, int(table(found, "spec").get("replicas") or 0))


async def _until_written(cluster: KubernetesCluster, wanted: Wanted, order: Order, deadline: float) -> None:
    for _ in range(TRIES_OF_A_CHANGE):
        try:
            return await _write(cluster, wanted, order, deadline)
        except Changed:
            continue
    raise _busy(cluster)


def _busy(cluster: KubernetesCluster) -> Retryable:
    words = f"{cluster.name} is being changed by someone else"
    return Retryable("kubernetes-changed", words, after_ms=500)


async def _write(cluster: KubernetesCluster, wanted: Wanted, order: Order, deadline: float) -> None:
    """One change, recording what it replaces, unless the object is already as wanted."""
    found = _there(cluster, await cluster.get(_left(deadline)), wanted)
    if found and (token := seen_token(found)) > order.token:
        raise parameters.stale_token(cluster.name, token, order)
    problems = _problems(cluster, found or None, wanted, order)
    if problems:
        raise Permanent("kubernetes-refused", problems[0])
    notes = {TOKEN: str(order.token)}
    if not found:
        notes[BEFORE] = _written([_Kept(order.key, None)])
        await cluster.create({**wanted.part, "metadata": {"annotations": notes}}, _left(deadline))
        return
    right, kept = wanted.fits(found), _kept(found)
    is_kept = any(one.key == order.key and not one.undone for one in kept)
    if right and is_kept and seen_token(found) == order.token:
        return
    if not is_kept:
        others = [one for one in kept if one.key != order.key]
        start = wanted.ready if wanted.or_more else None
        notes[BEFORE] = _written([*others, _Kept(order.key, replaced(found, wanted.part), start)])
    await cluster.patch(standing_on(found, {} if right else wanted.part, notes), _left(deadline))


async def _put_back(cluster: KubernetesCluster, wanted: Wanted, order: Order, deadline: float) -> Evidence:
    found = await cluster.get(_left(deadline))
    if found is None:
        _there(cluster, found, wanted)
        return _evidence(cluster, found)
    if seen_token(found) > order.token:
        raise parameters.stale_token(cluster.name, seen_token(found), order)
    kept = _kept(found)
    mine = next((one for one in kept if one.key == order.key), None)
    if mine is None:
        raise Permanent("undo-unknown", f"{cluster.name} has no record of its state before {order.key}")
    if mine.undone:
        return _evidence(cluster, found)
    was, left = _without(mine, kept, found, cluster.name)
    if was is None:
        await cluster.delete(_left(deadline))
        return _evidence(cluster, None)
    notes = {TOKEN: str(order.token), BEFORE: _written(left)}
    part = {} if replaced(found, was) == was else was
    return _evidence(cluster, await cluster.patch(standing_on(found, part, notes), _left(deadline)))


async def _until_ready(
    cluster: KubernetesCluster, wanted: Wanted, deadline: float, looked_only: bool
) -> Evidence:
    """Wait until the cluster has done it. Raises `OutcomeUnknown`, or `Retryable` if nothing was changed."""
    while True:
        try:
            found = await cluster.get(_left(deadline))
        except Retryable as error:
            if looked_only:
                raise
            raise OutcomeUnknown(error.code, error.message, "observe it first") from error
        right = found is not None and wanted.fits(found)
        if found is not None and right and is_ready(found, wanted):
            return _evidence(cluster, found)
        if _left(deadline) < 2 * _PAUSE_S:
            words = (
                f"{cluster.kind} {cluster.name} is not in the requested state: {_evidence(cluster, found)}"
            )
            if looked_only:
                raise Retryable("not-as-expected", words, after_ms=1_000)
            raise OutcomeUnknown("kubernetes-not-ready", words, "observe it first")
        await asyncio.sleep(_PAUSE_S)


def _left(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())


@dataclass(frozen=True, slots=True)
class _Kept:
    """What one step replaced, in the annotation of its object; steps in the order of their changes."""

    key: str
    was: dict[str, Any] | None
    """The merge patch that reverts the step; None if it created the object."""
    start: int | None = None
    """For a start: at least this many pods."""
    undone: bool = False

    @property
    def pods(self) -> int:
        """Pods before the step; below 0 if it replaced no number of pods."""
        found = table(self.was or {}, "spec").get("replicas")
        return found if isinstance(found, int) else -1


def _written(kept: list[_Kept]) -> str:
    return orjson.dumps(kept[-KEPT_MOST:]).decode()


def _kept(found: dict[str, Any]) -> list[_Kept]:
    """The steps that the annotation records; none if evac did not write it. An annotation of an older evac
    is a single step.
    """
    try:
        read = orjson.loads(notes_of(found).get(BEFORE, "[]"))
        return [_read_step(one) for one in (read if isinstance(read, list) else [read])]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _read_step(values: Any) -> _Kept:
    """Raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` for anything else."""
    was, start = values["was"], values.get("start")
    if not (was is None or isinstance(was, dict)):
        raise TypeError
    return _Kept(str(values["key"]), was, None if start is None else int(start), values.get("undone") is True)


def _without(
    mine: _Kept, kept: list[_Kept], found: dict[str, Any], name: str
) -> tuple[dict[str, Any] | None, list[_Kept]]:
    """The patch that undoes this step and leaves what later starts requested, and the record after it. After
    a step that set an exact number, starts that found enough pods are passed over. Raises `Permanent` if
    anything else has changed the object since, which an undo would revert.
    """
    place = kept.index(mine)
    later = [one for one in kept[place + 1 :] if not one.undone]
    left = [*kept[:place], replace(mine, undone=True)]
    if not later:
        return mine.was, left + kept[place + 1 :]
    exact, pods = mine.start is None, mine.pods
    now = later[0].pods if exact else max(pods, mine.start or 0)
    starts = pods >= 0
    for one in later:
        asked = one.start or 0
        starts = starts and one.start is not None and one.pods == now and not (exact and asked > now)
        left.append(replace(one, was={"spec": {"replicas": pods}}))
        now, pods = max(now, asked), pods if exact else max(pods, asked)
    if not starts or table(found, "spec").get("replicas") != now:
        message = f"{name}: another step has changed it since"
        raise Permanent("undo-moved-on", message, "undo that step first")
    return {"spec": {"replicas": pods}}, left


def _evidence(cluster: KubernetesCluster, found: dict[str, Any] | None) -> dict[str, str | int | bool]:
    if not found:
        return {"object": f"{cluster.kind}/{cluster.name}", "exists": False}
    return evidence(cluster.kind, cluster.name, found)
