"""The driver of etcd: asks one member whether it is alive."""

from __future__ import annotations

import orjson

from evac.drivers.capabilities import AnswersProbe, ProbeReport
from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.net.http_calls import Prober


class EtcdDriver(AnswersProbe):
    """Members of all sites."""

    name = "etcd"

    def __init__(self) -> None:
        self._prober = Prober()

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """Asks the member alone (`serializable`): one that waits for an election is alive, and a site must
        not look dead because another one is.
        """
        url = text(action.settings, "url").rstrip("/") + "/health?serializable=true"
        _, body = await self._prober.get(url)
        try:
            alive = "health" in orjson.loads(body)
        except (orjson.JSONDecodeError, TypeError):
            alive = False
        return ProbeReport(alive, "" if alive else f"{url}: no health in it")

    async def close(self) -> None:
        await self._prober.close()
