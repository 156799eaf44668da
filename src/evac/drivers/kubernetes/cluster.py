"""One object of one cluster, read and changed through lightkube with its errors converted; and its Git
reconciler (Argo CD, Flux), paused while evac has changed the number of pods.

The reconciler is paused before the workload is changed, and resumed once the workload again has as many pods
as before the first change: after an undo, or a failback. An annotation of the Application, Kustomization or
HelmRelease itself records what the pause replaced, and for which workloads. An unreachable reconciler cannot
revert anything now and blocks nothing: evidence says that it is not paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
import yaml
from lightkube import AsyncClient, KubeConfig
from lightkube.core import exceptions
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.apps_v1 import Deployment, ReplicaSet, StatefulSet
from lightkube.resources.core_v1 import ResourceQuota
from lightkube.resources.scheduling_v1 import PriorityClass
from lightkube.types import PatchType

from evac.drivers import parameters
from evac.drivers.port import Action, Order, Value
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net import secrets

WORKLOADS: Final = frozenset({"Deployment", "StatefulSet", "ReplicaSet"})
KINDS: Final[Mapping[str, Any]] = {
    "Deployment": Deployment,
    "StatefulSet": StatefulSet,
    "ReplicaSet": ReplicaSet,
    "ResourceQuota": ResourceQuota,
    "PriorityClass": PriorityClass,
    "Application": create_namespaced_resource("argoproj.io", "v1alpha1", "Application", "applications"),
    "Kustomization": create_namespaced_resource(
        "kustomize.toolkit.fluxcd.io", "v1", "Kustomization", "kustomizations"
    ),
    "HelmRelease": create_namespaced_resource("helm.toolkit.fluxcd.io", "v2", "HelmRelease", "helmreleases"),
}
_TRANSPORT: Final[Any] = exceptions.httpx  # type: ignore[attr-defined]
"""The HTTP library that this lightkube uses."""
_NOT_SENT: Final = (_TRANSPORT.ConnectError, _TRANSPORT.ConnectTimeout)
_NO_ANSWER: Final = (TimeoutError, _TRANSPORT.HTTPError, ValueError, TypeError, KeyError, RecursionError)
"""Timeouts, and responses that are not objects: the library parses them."""


Values = Mapping[str, Any]
TOKEN: Final = "evac-fencing-token"
"""Annotation with the highest token that changed an object."""
PAUSED: Final = "evac-paused"
TRIES: Final = 3
ASK_S: Final = 3.0
_PAUSES: Final[Mapping[str, Values]] = {
    "Application": {"spec": {"syncPolicy": {"automated": None}}},
    "Kustomization": {"spec": {"suspend": True}},
    "HelmRelease": {"spec": {"suspend": True}},
}


class Changed(Exception):
    """Someone else changed the object since it was read."""


class KubernetesCluster:
    """One cluster, for one call of the driver."""

    def __init__(self, client: AsyncClient, kind: str, name: str, namespace: str | None) -> None:
        self._client: Any = client
        self.kind, self.name = kind, name
        self._resource = KINDS[kind]
        self._where: dict[str, Any] = {} if kind == "PriorityClass" else {"namespace": namespace}

    async def get(self, timeout_s: float) -> dict[str, Any] | None:
        """The current object; None if there is none. Raises `Retryable`, `Permanent`."""
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._client.get(self._resource, self.name, **self._where)
        except ApiError as error:
            if _code(error) == 404:
                return None
            raise _refusal(error, reading=True) from error
        except _NO_ANSWER as error:
            raise Retryable("kubernetes-no-answer", _words(error)) from error
        return _plain(found)

    async def patch(self, part: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Merge `part` into the object. Raises `Changed`, `Retryable`, `Permanent`, `OutcomeUnknown`."""
        return await self._change(
            lambda: self._client.patch(
                self._resource, self.name, dict(part), patch_type=PatchType.MERGE, **self._where
            ),
            timeout_s,
        )

    async def create(self, values: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Create the object. Raises the errors of `patch`."""
        made = self._resource.from_dict({**values, "metadata": {"name": self.name, **values["metadata"]}})
        return await self._change(lambda: self._client.create(made, **self._where), timeout_s)

    async def delete(self, timeout_s: float) -> None:
        """Delete the object. Raises the errors of `patch`."""
        await self._change(lambda: self._client.delete(self._resource, self.name, **self._where), timeout_s)

    async def _change(self, call: Any, timeout_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                found = await call()
        except ApiError as error:
            if _code(error) == 409:
                raise Changed from error
            raise _refusal(error, reading=False) from error
        except _NOT_SENT as error:
            raise Retryable("kubernetes-unreachable", _words(error)) from error
        except _NO_ANSWER as error:
            raise OutcomeUnknown("kubernetes-no-answer", _words(error), "observe it first") from error
        return {} if found is None else _plain(found)


@asynccontextmanager
async def opened(
    kubeconfig: str, context: str, kind: str, name: str, namespace: str, timeout_s: float
) -> AsyncIterator[KubernetesCluster]:
    """The cluster that `kubeconfig` (a reference) and `context` name. Raises `Permanent`."""
    config = _config(kubeconfig, context)
    client = AsyncClient(config, timeout=_TRANSPORT.Timeout(max(timeout_s, 0.1)), lazy=False, trust_env=False)
    try:
        yield KubernetesCluster(client, kind, name, namespace or None)
    finally:
        await client.close()


def _config(reference: str, context: str) -> Any:
    """Load the configuration. Errors omit their cause, which could reveal part of the file, a secret."""
    secret = secrets.resolve(reference)
    path = reference.removeprefix("file:") if reference.startswith("file:") else None
    try:
        values = yaml.safe_load(secret.reveal())
        return KubeConfig.from_dict(values, fname=path).get(context or None)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        raise Permanent("kubeconfig-unreadable", f"{secret} is not a kubeconfig") from None
    except exceptions.ConfigError:
        raise Permanent("kubeconfig-unreadable", f"{secret} has no context {context or 'set'}") from None


def _plain(found: Any) -> dict[str, Any]:
    values: dict[str, Any] = found.to_dict()
    return values


def _code(error: ApiError) -> int:
    return int(error.response.status_code)


def _refusal(error: ApiError, reading: bool) -> Retryable | Permanent | OutcomeUnknown:
    """The error for an API server response, which says whether to retry."""
    code = _code(error)
    words = f"the API server returned {code}: {str(error.status.message or '')[:200]}"
    if code == 429 or (code >= 500 and reading):
        after = str(error.response.headers.get("Retry-After", "0"))
        return Retryable("kubernetes-busy", words, after_ms=int(after) * 1_000 if after.isdigit() else 0)
    if code >= 500:
        return OutcomeUnknown("kubernetes-failed", words, "observe it first")
    return Permanent("kubernetes-refused", words, "check the permissions of the account, and the object")


def _words(error: BaseException) -> str:
    return f"the API server did not answer: {type(error).__name__}"


def replaced(found: Values, part: Values) -> dict[str, Any]:
    """What `part` would replace, in the same structure: the merge patch that reverts it (None removes a
    key).
    """
    was: dict[str, Any] = {}
    for key, value in part.items():
        now = found.get(key)
        if isinstance(value, Mapping):
            was[key] = replaced(now if isinstance(now, Mapping) else {}, value)
        else:
            was[key] = now
    return was


def notes_of(found: Values) -> Mapping[str, str]:
    """Its annotations."""
    notes: Mapping[str, str] = table(table(found, "metadata"), "annotations")
    return notes


def seen_token(found: Values) -> int:
    """The highest token that changed this object; 0 for none. Raises `Permanent` if it is not a number."""
    words = notes_of(found).get(TOKEN, "0")
    if not words.isdigit():
        raise Permanent("token-unreadable", f"the annotation {TOKEN} contains something that is not a token")
    return int(words)


def table(values: Values, key: str) -> Any:
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def standing_on(found: dict[str, Any], part: Any, notes: dict[str, str]) -> dict[str, Any]:
    """A merge patch that fails if the object has changed since it was read."""
    version = found["metadata"]["resourceVersion"]
    return {**part, "metadata": {"resourceVersion": version, "annotations": notes}}


@dataclass(frozen=True, slots=True)
class Note:
    """What evac recorded when it paused the reconciler."""

    was: Values
    """The merge patch that ends the pause."""
    held: Mapping[str, int]
    """Workload -> its pods before evac changed them."""


@dataclass(frozen=True, slots=True)
class Reconciler:
    """One object of Argo CD or Flux, and the workload that it manages."""

    cluster: KubernetesCluster
    workload: str

    async def problems(self, order: Order) -> tuple[str, ...]:
        """Why it could not be paused; none if it is unreachable. Changes nothing."""
        try:
            found = await self._found(order)
        except Retryable:
            return ()
        except Permanent as error:
            return (error.message,)
        _note(found)
        return ()

    async def pause(self, order: Order, pods: int) -> str:
        """Pause it before a change of the workload, given its current number of pods; return what was done.
        Raises `Permanent`, `OutcomeUnknown`, or `Retryable` if someone else keeps changing it.
        """
        for _ in range(TRIES):
            try:
                found = await self._found(order)
            except Retryable as error:
                return f"not paused: {error.message}"
            note, paused = _note(found), self._is_paused(found)
            if paused and note is None:
                return "paused by someone else"
            if paused and note is not None and self.workload in note.held:
                return "paused"
            part: Values = {} if paused else _PAUSES[self.cluster.kind]
            was = replaced(found, part) if note is None else note.was
            held = {self.workload: pods} | ({} if note is None else dict(note.held))
            if await self._changed(found, part, order, Note(was, held)):
                return "paused"
        raise self._busy()

    async def settle(self, order: Order, pods: int) -> str:
        """After a change of the workload to this many pods: end the pause if that is the original number, and
        no other workload needs it. Raises the errors of `pause`.
        """
        for _ in range(TRIES):
            try:
                found = await self._found(order)
            except Retryable as error:
                return f"not reached, but may be paused: {error.message}"
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
            words = f"no such {self.cluster.kind}: {self.cluster.name}"
            raise Permanent("reconciler-missing", words, "correct the reconciler of the endpoint")
        if (token := seen_token(found)) > order.token:
            raise parameters.stale_token(self.cluster.name, token, order)
        return found

    async def _changed(self, found: dict[str, Any], part: Values, order: Order, note: Note) -> bool:
        """Apply the change. False if someone else changed it since it was read."""
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
    """The reconciler that the setting names, such as `Application/argocd/chat`; None without it."""
    settings: Mapping[str, Value] = action.settings
    words = parameters.text(settings, "reconciler", "")
    if not words or action.verb not in ("scale", "start", "stop"):
        yield None
        return
    kind, _, rest = words.partition("/")
    namespace, _, name = rest.partition("/")
    if kind not in _PAUSES or not namespace or not name:
        hint = "write it as KIND/NAMESPACE/NAME, such as Application/argocd/chat"
        raise Permanent("setting-wrong", f"reconciler: {words[:100]!r} is not valid", hint)
    if parameters.text(settings, "kind") not in WORKLOADS:
        raise Permanent("setting-wrong", "a reconciler can only be paused for workloads", "remove reconciler")
    elsewhere = parameters.text(settings, "reconciler_kubeconfig", "")
    kubeconfig = elsewhere or parameters.text(settings, "kubeconfig")
    context = "" if elsewhere else parameters.text(settings, "context", "")
    parts = [parameters.text(settings, key, "") for key in ("namespace", "kind", "name")]
    async with opened(kubeconfig, context, kind, name, namespace, ASK_S) as cluster:
        yield Reconciler(cluster, "/".join([action.at, *parts]))


def _note(found: Values) -> Note | None:
    """The recorded note. Raises `Permanent` for a note that evac did not write in this form."""
    words = notes_of(found).get(PAUSED)
    if words is None:
        return None
    try:
        values = orjson.loads(words)
        was, held = values["was"], {str(name): int(pods) for name, pods in values["held"].items()}
        if not isinstance(was, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"the annotation {PAUSED} contains something that evac did not write"
        raise Permanent("reconciler-unreadable", message, "resume it by hand and remove it") from None
    return Note(was, held)
