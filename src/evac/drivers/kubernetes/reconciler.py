"""What keeps a workload as it is in Git (Argo CD, Flux), paused while evac has changed how many pods it has.

It is paused before the workload is changed, and continues once the workload has again as many pods as before
the first change: after an undo, or a failback. What a pause replaced, and for which workloads, is in an
annotation of the Application, Kustomization or HelmRelease itself.

One that cannot be reached cannot undo anything now, and holds nothing up: evidence says that it is not
paused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from evac.drivers import parameters
from evac.drivers.kubernetes.cluster import (
    TOKEN,
    WORKLOADS,
    Changed,
    KubernetesCluster,
    Values,
    notes_of,
    opened,
    replaced,
    seen_token,
    standing_on,
    table,
)
from evac.drivers.port import Action, Order, Value
from evac.model.errors import Permanent, Retryable

PAUSED: Final = "evac-paused"
TRIES: Final = 3
ASK_S: Final = 3.0
_PAUSES: Final[Mapping[str, Values]] = {
    "Application": {"spec": {"syncPolicy": {"automated": None}}},
    "Kustomization": {"spec": {"suspend": True}},
    "HelmRelease": {"spec": {"suspend": True}},
}


@dataclass(frozen=True, slots=True)
class Note:
    """What evac wrote down when it paused."""

    was: Values
    """The merge patch that ends the pause."""
    held: Mapping[str, int]
    """Workload -> its pods before evac changed them."""


@dataclass(frozen=True, slots=True)
class Reconciler:
    """One object of Argo CD or Flux, and the workload that it keeps."""

    cluster: KubernetesCluster
    workload: str

    async def problems(self, order: Order) -> tuple[str, ...]:
        """Why it could not be paused; none where it cannot be reached. Changes nothing."""
        try:
            found = await self._found(order)
        except Retryable:
            return ()
        except Permanent as error:
            return (error.message,)
        _note(found)
        return ()

    async def pause(self, order: Order, pods: int) -> str:
        """Before the workload is changed, which has so many pods now; says what was done. Raises `Permanent`,
        `OutcomeUnknown`, or `Retryable` where somebody else changes it all the time.
        """
        for _ in range(TRIES):
            try:
                found = await self._found(order)
            except Retryable as error:
                return f"not paused: {error.message}"
            note, paused = _note(found), self._is_paused(found)
            if paused and note is None:
                return "paused by somebody else"
            if paused and note is not None and self.workload in note.held:
                return "paused"
            part: Values = {} if paused else _PAUSES[self.cluster.kind]
            was = replaced(found, part) if note is None else note.was
            held = {self.workload: pods} | ({} if note is None else dict(note.held))
            if await self._changed(found, part, order, Note(was, held)):
                return "paused"
        raise self._busy()

    async def settle(self, order: Order, pods: int) -> str:
        """After the workload was changed to so many pods: ends the pause if those are the pods of before, and
        no other workload needs it. Raises what `pause` raises.
        """
        for _ in range(TRIES):
            try:
                found = await self._found(order)
            except Retryable as error:
                return f"not reached, and may be paused: {error.message}"
            note = _note(found)
            if note is None or self.workload not in note.held:
                return "as it was"
            if note.held[self.workload] != pods:
                return "paused"
            left = {name: count for name, count in note.held.items() if name != self.workload}
            if await self._changed(found, {} if left else note.was, order, Note(note.was, left)):
                return "paused for other workloads" if left else "resumed"
        raise self._busy()

    async def _found(self, order: Order) -> dict[str, Any]:
        found = await self.cluster.get(min(ASK_S, order.timeout_s))
        if found is None:
            words = f"there is no {self.cluster.kind} {self.cluster.name}"
            raise Permanent("reconciler-missing", words, "correct the reconciler of the endpoint")
        if (token := seen_token(found)) > order.token:
            raise parameters.stale_token(self.cluster.name, token, order)
        return found

    async def _changed(self, found: dict[str, Any], part: Values, order: Order, note: Note) -> bool:
        """False where somebody else changed it since it was read."""
        words = orjson.dumps({"was": note.was, "held": note.held}).decode() if note.held else None
        notes: dict[str, Any] = {TOKEN: str(order.token), PAUSED: words}
        try:
            await self.cluster.patch(standing_on(found, part, notes), order.timeout_s)
        except Changed:
            return False
        return True

    def _is_paused(self, found: Values) -> bool:
        spec = table(found, "spec")
        if self.cluster.kind != "Application":
            return spec.get("suspend") is True
        automated = table(spec, "syncPolicy").get("automated")
        return not isinstance(automated, Mapping) or automated.get("enabled") is False

    def _busy(self) -> Retryable:
        words = f"{self.cluster.kind} {self.cluster.name} is being changed by someone else"
        return Retryable("kubernetes-changed", words, after_ms=500)


@asynccontextmanager
async def reconciler_of(action: Action, order: Order) -> AsyncIterator[Reconciler | None]:
    """The one that `reconciler` names, such as `Application/argocd/chat`; None without it."""
    settings: Mapping[str, Value] = action.settings
    words = parameters.text(settings, "reconciler", "")
    if not words or action.verb not in ("scale", "start", "stop"):
        yield None
        return
    kind, _, rest = words.partition("/")
    namespace, _, name = rest.partition("/")
    if kind not in _PAUSES or not namespace or not name:
        hint = "write it as KIND/NAMESPACE/NAME, such as Application/argocd/chat"
        raise Permanent("setting-wrong", f"reconciler: {words[:100]!r} is none", hint)
    if parameters.text(settings, "kind") not in WORKLOADS:
        raise Permanent("setting-wrong", "a reconciler is paused for workloads only", "remove reconciler")
    elsewhere = parameters.text(settings, "reconciler_kubeconfig", "")
    kubeconfig = elsewhere or parameters.text(settings, "kubeconfig")
    context = "" if elsewhere else parameters.text(settings, "context", "")
    parts = [parameters.text(settings, key, "") for key in ("namespace", "kind", "name")]
    async with opened(kubeconfig, context, kind, name, namespace, ASK_S) as cluster:
        yield Reconciler(cluster, "/".join([action.at, *parts]))


def _note(found: Values) -> Note | None:
    """Raises `Permanent` for a note that evac did not write so."""
    words = notes_of(found).get(PAUSED)
    if words is None:
        return None
    try:
        values = orjson.loads(words)
        was, held = values["was"], {str(name): int(pods) for name, pods in values["held"].items()}
        if not isinstance(was, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"the annotation {PAUSED} holds something that evac did not write"
        raise Permanent("reconciler-unreadable", message, "resume it by hand and remove it") from None
    return Note(was, held)
