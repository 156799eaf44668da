"""Driver for etcd: probes whether one member is alive."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

import orjson

from evac.drivers.capabilities import AnswersProbe, ProbeReport
from evac.drivers.parameters import text
from evac.drivers.port import Action, Value
from evac.model.errors import InvalidInput, Permanent
from evac.net.http_calls import Prober
from evac.net.secrets import path_of
from evac.net.tls import RenewedClient, TlsFiles


class EtcdDriver(AnswersProbe):
    """Probes members of all sites."""

    name = "etcd"

    def __init__(self) -> None:
        self._prober = Prober()
        self._lines: dict[TlsFiles, RenewedClient] = {}

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """Query this member only (`serializable`): a member waiting for an election is alive, and a site must
        not look dead because another one is.
        """
        url = text(action.settings, "url").rstrip("/") + "/health?serializable=true"
        line = self._context(action.settings) if url.startswith("https:") else None
        _, body = await self._prober.get(url, line)
        try:
            alive = "health" in orjson.loads(body)
        except (orjson.JSONDecodeError, TypeError):
            alive = False
        return ProbeReport(alive, "" if alive else f"{url}: the response has no health")

    def _context(self, settings: Mapping[str, Value]) -> ssl.SSLContext:
        """The TLS context. Raises Permanent if no usable files were ever found."""
        paths = (path_of(text(settings, name, "")) for name in ("ca", "cert", "key"))
        files = TlsFiles(*(Path(one) if one else None for one in paths))
        try:
            return self._lines.setdefault(files, RenewedClient(files)).now()
        except InvalidInput as error:
            raise Permanent(error.code, error.message, error.hint) from error

    async def close(self) -> None:
        await self._prober.close()
