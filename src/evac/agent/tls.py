"""Whom an agent lets speak to it: TLS with certificates of both sides, read again when their files change.

A connection without a certificate, or with one of a strange authority or one that has ended, does not get
through the handshake. One of another name is refused before an order is read, with a code of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from evac.drivers.process.client import is_here, stamp_of
from evac.model.errors import EvacError
from evac.net.tls import Renewed, TlsFiles, ends_ms, server_context

LOOK_S: Final = 5.0
SOON_MS: Final = 30 * 86_400_000
"""So long before the end of its own certificate an agent says so."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = logging.getLogger("evac.agent")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """cert, key: references `file:/path` of the agent's own; ca: of who signs those of controllers and
    witnesses. names: of theirs that are let in, as DNS names, addresses or URIs; empty: all that it signed.
    """

    cert: str
    key: str
    ca: str
    names: tuple[str, ...] = ()

    @property
    def problems(self) -> Sequence[str]:
        """One sentence for each reference that is none."""
        named = {"cert": self.cert, "key": self.key, "ca": self.ca}
        return [
            f"{name} of [tls] is no file:/path" for name, one in named.items() if not one.startswith(_FILE)
        ]

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(_path(self.ca), _path(self.cert), _path(self.key))


_FILE: Final = "file:/"


def _path(reference: str) -> Path:
    return Path(reference.removeprefix("file:"))


def check_plain(host: str, tls: TlsConfig | None, allowed: bool) -> str:
    """Why an agent may not listen there; empty where it may."""
    if tls is not None or allowed or is_here(host):
        return ""
    return f"{host} can be reached by others, and there is no [tls]; or say allow_plain = true"


class Door:
    """Of one agent. context: what it listens with. Raises InvalidInput for files that cannot be used."""

    def __init__(self, tls: TlsConfig, wall_ms: Callable[[], int]) -> None:
        self._tls, self._wall_ms = tls, wall_ms
        self._stamp = stamp_of(tls.files)
        self._renewed = Renewed(server_context(tls.files))
        self.context = self._renewed.context
        self.ends_ms, self.problem = ends_ms(tls.files.cert), ""
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look(), name="certificates")

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        told = False
        while True:
            self.read_again()
            soon = self.ends_ms - self._wall_ms() < SOON_MS
            if soon and not told:
                _log.warning(
                    "the certificate of this agent ends in %s", _left(self.ends_ms - self._wall_ms())
                )
            told = soon
            await asyncio.sleep(LOOK_S)

    def read_again(self, always: bool = False) -> None:
        """Takes the files where they changed; those that cannot be used are told, and the old ones go on."""
        stamp = stamp_of(self._tls.files)
        if stamp == self._stamp and not always:
            return
        self._stamp = stamp
        try:
            self._renewed.take(server_context(self._tls.files))
            self.ends_ms, self.problem = ends_ms(self._tls.files.cert), ""
        except EvacError as error:
            self.problem = f"{error.message} [{error.code}]"
            _log.error("new certificates are not taken: %s", self.problem)
        else:
            _log.info("certificates were read again")

    def report(self) -> dict[str, Any]:
        return {"ends_ms": self.ends_ms, "problem": self.problem}

    @property
    def middleware(self) -> Any:
        """Refuses whoever shows no certificate, or one of a name that is not let in."""

        @web.middleware
        async def checked(request: web.Request, handler: _Handler) -> web.StreamResponse:
            code = self._refused(request)
            if code:
                _log.warning("%s was refused: %s", request.remote, code)
                return web.json_response({"error": {"code": code}}, status=403)
            return await handler(request)

        return checked

    def _refused(self, request: web.Request) -> str:
        line = request.transport
        shown: Mapping[str, Any] | None = None if line is None else line.get_extra_info("peercert")
        if not shown:  # of a context that was taken before certificates were required
            return "tls-client-missing"
        if self._tls.names and not set(names_in(shown)) & set(self._tls.names):
            return "tls-client-name"
        return ""


def names_in(certificate: Mapping[str, Any]) -> Sequence[str]:
    """Its alternative names; what its subject is called counts only where it has none (RFC 6125, 6.4.4)."""
    found = [str(value) for _, value in certificate.get("subjectAltName", ())]
    if found:
        return found
    parts = (part for row in certificate.get("subject", ()) for part in row)
    return [str(value) for key, value in parts if key == "commonName"]


def _left(left_ms: int) -> str:
    return f"{left_ms // 86_400_000} days" if left_ms > 0 else "the past"
