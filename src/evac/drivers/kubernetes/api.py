"""Reads and changes objects of one cluster through lightkube. Turns its errors into ours; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import yaml
from lightkube import AsyncClient, KubeConfig
from lightkube.core import exceptions
from lightkube.core.exceptions import ApiError
from lightkube.resources.apps_v1 import Deployment, ReplicaSet, StatefulSet
from lightkube.resources.core_v1 import ResourceQuota
from lightkube.resources.scheduling_v1 import PriorityClass
from lightkube.types import PatchType

from evac.drivers import parameters
from evac.drivers.port import Value
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.net import secrets

KINDS: Final[Mapping[str, Any]] = {
    "Deployment": Deployment,
    "StatefulSet": StatefulSet,
    "ReplicaSet": ReplicaSet,
    "ResourceQuota": ResourceQuota,
    "PriorityClass": PriorityClass,
}
_TRANSPORT: Final[Any] = exceptions.httpx  # type: ignore[attr-defined]
"""The HTTP library that this lightkube was built on."""
_NOT_SENT: Final = (_TRANSPORT.ConnectError, _TRANSPORT.ConnectTimeout)


class Changed(Exception):
    """The object was changed by somebody else since it was read."""


class Cluster:
    """One cluster, for one call of the driver."""

    def __init__(self, client: AsyncClient, kind: str, name: str, namespace: str | None) -> None:
        self._client: Any = client
        self.kind, self.name = kind, name
        self._resource = KINDS[kind]
        self._where: dict[str, Any] = {} if kind == "PriorityClass" else {"namespace": namespace}

    async def get(self, timeout_s: float) -> dict[str, Any] | None:
        """The object as it is now; None where there is none. Raises `Retryable`, `Permanent`."""
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._client.get(self._resource, self.name, **self._where)
        except ApiError as error:
            if _code(error) == 404:
                return None
            raise _refusal(error, reading=True) from error
        except (TimeoutError, _TRANSPORT.HTTPError, ValueError) as error:
            raise Retryable("kubernetes-no-answer", _words(error)) from error
        return _plain(found)

    async def patch(self, part: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Merges `part` into the object. Raises `Changed`, `Retryable`, `Permanent`, `OutcomeUnknown`."""
        return await self._change(
            lambda: self._client.patch(
                self._resource, self.name, dict(part), patch_type=PatchType.MERGE, **self._where
            ),
            timeout_s,
        )

    async def create(self, values: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Makes the object. Raises what `patch` raises."""
        made = self._resource.from_dict({**values, "metadata": {"name": self.name, **values["metadata"]}})
        return await self._change(lambda: self._client.create(made, **self._where), timeout_s)

    async def delete(self, timeout_s: float) -> None:
        """Removes the object. Raises what `patch` raises."""
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
        except (TimeoutError, _TRANSPORT.HTTPError, ValueError) as error:
            raise OutcomeUnknown("kubernetes-no-answer", _words(error), "observe it first") from error
        return {} if found is None else _plain(found)


@asynccontextmanager
async def opened(settings: Mapping[str, Value], timeout_s: float) -> AsyncIterator[Cluster]:
    """The cluster that `kubeconfig` (a reference) and `context` name. Raises `Permanent`."""
    kind, name = parameters.text(settings, "kind"), parameters.text(settings, "name")
    if kind not in KINDS:
        raise Permanent("setting-wrong", f"kind must be one of {', '.join(sorted(KINDS))}")
    config = _config(parameters.text(settings, "kubeconfig"), parameters.text(settings, "context", ""))
    client = AsyncClient(config, timeout=_TRANSPORT.Timeout(max(timeout_s, 0.1)), lazy=False, trust_env=False)
    try:
        yield Cluster(client, kind, name, parameters.text(settings, "namespace", "") or None)
    finally:
        await client.close()


def _config(reference: str, context: str) -> Any:
    """The cause of an error is left out: it could show a part of the file, and that is a secret."""
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
    """What the API server's answer means for the next try."""
    code = _code(error)
    words = f"the API server answers {code}: {str(error.status.message or '')[:200]}"
    if code == 429 or (code >= 500 and reading):
        after = str(error.response.headers.get("Retry-After", "0"))
        return Retryable("kubernetes-busy", words, after_ms=int(after) * 1_000 if after.isdigit() else 0)
    if code >= 500:
        return OutcomeUnknown("kubernetes-failed", words, "observe it first")
    return Permanent("kubernetes-refused", words, "check what the account may do, and the object")


def _words(error: BaseException) -> str:
    return f"the API server gave no answer: {type(error).__name__}"
