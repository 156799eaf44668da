"""When certificates end, for Prometheus: read off their files at each scrape.

The certificate of a room, taken anew when its files change: nobody is cut off, and nothing starts anew.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evac.app.certificates import end_of
from evac.drivers.process.client import stamp_of
from evac.model.access import Tls
from evac.model.errors import EvacError
from evac.net.tls import Renewed, TlsFiles
from evac.web.access.opening import context_of

LOOK_S: Final = 5.0
_LOG: Final = logging.getLogger("evac.access")


class RoomCertificate:
    """Raises InvalidInput for files that cannot be used, NotAllowed for a key that others can read."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        client_ca = Path(tls.client_ca) if tls.client_ca else None
        self._files = TlsFiles(client_ca, Path(tls.cert), Path(tls.key))
        self._stamp = stamp_of(self._files)
        self._renewed = Renewed(context_of(tls))

    @property
    def context(self) -> ssl.SSLContext:
        return self._renewed.context

    async def follow(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Takes files that changed; of those that cannot be used the log tells, and the old ones go on."""
        stamp = stamp_of(self._files)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._renewed.take(context_of(self._tls))
        except EvacError as error:
            _LOG.error("the new certificate is not taken: %s [%s]", error.message, error.code)
        else:
            _LOG.info("the certificate was read again")


class Certificates(Collector):
    """files: what a certificate is for -> its file."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)

    def collect(self) -> Iterator[Metric]:
        found = GaugeMetricFamily(
            "evac_certificate_ends_timestamp_seconds",
            "When a certificate ends; 0 where it cannot be read.",
            labels=("certificate",),
        )
        for name, path in sorted(self._files.items()):
            found.add_metric((name,), end_of(path) / 1_000)
        yield found
