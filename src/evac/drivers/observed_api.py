"""HTTP API of a read-only system: JSON, basic authentication, and a uniform meaning of failures."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import orjson

from evac.drivers.capabilities import ReportsRole, RoleReport
from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.model.errors import Permanent, Retryable
from evac.model.records import dataclass
from evac.net import secrets
from evac.net.http_calls import Caller, NotAnswered, NotReached


@dataclass(frozen=True, slots=True)
class ObservedApi:
    """An API client, and the terms for its errors."""

    caller: Caller
    code: str
    """Prefix of error codes."""
    what: str
    """Name of the API."""
    rights: str
    """Permissions that its user needs."""

    async def ask(self, action: Action, url: str, path: str, timeout_s: float) -> Any:
        """The document; None for a path that does not exist. Raises `Retryable`, `Permanent`."""
        headers = {}
        if "user" in action.settings:
            password = secrets.resolve(text(action.settings, "password")).reveal()
            signed = b64encode(f"{text(action.settings, 'user')}:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {signed}"
        try:
            answer = await self.caller.call(
                "GET", f"{url.rstrip('/')}/{path}", headers=headers, timeout_s=max(0.0, timeout_s)
            )
        except (NotReached, NotAnswered) as error:
            raise Retryable(f"{self.code}-unreachable", str(error), after_ms=200) from error
        if answer.status == 404:
            return None
        if answer.status in (401, 403):
            words = f"{url} refuses this user: {answer.status}"
            raise Permanent(f"{self.code}-refused", words, f"check the user and the password; {self.rights}")
        if answer.status != 200:
            raise Retryable(f"{self.code}-trouble", f"{url} answers {answer.status}", after_ms=500)
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError as error:
            raise self.unreadable(url) from error

    def objects(self, found: Any, url: str) -> list[Mapping[str, Any]]:
        """A list of objects. Raises `Retryable` for anything else."""
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self.unreadable(url)
        return found

    def unreadable(self, url: str) -> Retryable:
        return Retryable(f"{self.code}-unreadable", f"{url} does not answer like a {self.what}", after_ms=500)


class ObservingDriver(ReportsRole):
    """Queries such an API for the role of a copy, and changes nothing. Each endpoint is one copy."""

    name: str
    what: str
    rights: str

    def __init__(self) -> None:
        self._caller = Caller()
        self._api = ObservedApi(self._caller, self.name, self.what, self.rights)

    async def close(self) -> None:
        await self._caller.close()

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                return await self._report(action, timeout_s)
        except TimeoutError as error:
            words = (
                f"the {self.what} at {text(action.settings, 'url')} did not answer within {timeout_s:.1f} s"
            )
            raise Retryable(f"{self.name}-unreachable", words, after_ms=200) from error

    @abstractmethod
    async def _report(self, action: Action, timeout_s: float) -> RoleReport: ...
