"""The HTTP API of a system that is only observed: JSON, basic authentication, one meaning of each failure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.model.errors import Permanent, Retryable
from evac.net import secrets
from evac.net.http_calls import Caller, NotAnswered, NotReached


@dataclass(frozen=True, slots=True)
class ObservedApi:
    """code: what the codes of its errors begin with; what: of which system; rights: what its user needs."""

    caller: Caller
    code: str
    what: str
    rights: str

    async def ask(self, action: Action, url: str, path: str, timeout_s: float) -> Any:
        """The document; None for a path that is not there. Raises `Retryable`, `Permanent`."""
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
            raise Permanent(f"{self.code}-refused", words, f"check user and password; {self.rights}")
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
        return Retryable(f"{self.code}-unreadable", f"{url} answers like no {self.what}", after_ms=500)
