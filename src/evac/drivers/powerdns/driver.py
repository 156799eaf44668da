"""Driver for PowerDNS: moves names between sites through the API of one authoritative server."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import orjson

from evac.drivers import parameters
from evac.drivers.capabilities import ReportsTraffic
from evac.drivers.dns import records
from evac.drivers.dns.records import Answers, Names
from evac.drivers.dns.zone_driver import DEFAULT_TTL_S, MOST_TTL_S, TOKEN_NAME, SeenZone, ZoneDriver
from evac.drivers.port import Action
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net.http_calls import Answer, Caller, NotAnswered, NotReached
from evac.net.secrets import Secret, resolve


@dataclass(frozen=True, slots=True)
class _ApiZone:
    """One zone of one server, and its names that may move."""

    url: str
    key: Secret
    names: Names
    ttl: int

    @property
    def token_name(self) -> str:
        return f"{TOKEN_NAME}.{self.names.zone}"


class PowerDnsDriver(ZoneDriver[_ApiZone], ReportsTraffic):
    """Changes the record sets of a zone."""

    name = "powerdns"

    def __init__(self) -> None:
        self._caller = Caller()

    async def close(self) -> None:
        await self._caller.close()

    async def report_traffic(self, action: Action, timeout_s: float) -> tuple[str, ...] | None:
        zone = self._zone_of(action)
        seen = await self._see(zone, timeout_s)
        return records.sent_to(zone.names, seen.answers)

    def _read(self, action: Action, names: Names) -> _ApiZone:
        settings = action.settings
        base = parameters.text(settings, "url").rstrip("/")
        server = quote(parameters.text(settings, "server_id", "localhost"), safe="")
        return _ApiZone(
            f"{base}/api/v1/servers/{server}/zones/{quote(names.zone, safe='')}",
            resolve(parameters.text(settings, "key")),
            names,
            parameters.whole(settings, "ttl", DEFAULT_TTL_S, MOST_TTL_S),
        )

    async def _see(self, zone: _ApiZone, timeout_s: float) -> SeenZone:
        """Query only the relevant names: a zone may be large."""
        asked = sorted({key.name for key in zone.names.records} | {zone.token_name})
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                told = [await self._call(zone, "GET", timeout_s, of=name) for name in asked]
        except (NotReached, NotAnswered, TimeoutError) as error:
            words = str(error) or f"{zone.url} did not answer within {timeout_s:.1f} s"
            raise Retryable("powerdns-unreachable", words, after_ms=200) from error
        try:
            sets = {
                (one["name"].lower(), one["type"]): one
                for answer in told
                for one in answer.values()["rrsets"]
            }
            found = {key: sets.get((key.name, key.kind)) for key in zone.names.records}
            answers = {key: _addresses(one) for key, one in found.items()}
            ttls = {key: int(one["ttl"]) for key, one in found.items() if one is not None}
            token = sets.get((zone.token_name, "TXT"), {"records": [{"content": "0"}]})
            return SeenZone(answers, ttls, int(token["records"][0]["content"].strip('"')))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Retryable("powerdns-unreadable", f"{zone.url} returned no zone", after_ms=500) from error

    async def _write(
        self, zone: _ApiZone, seen: SeenZone, wanted: Answers, token: int, timeout_s: float
    ) -> None:
        sets = [
            _rrset(key.name, key.kind, seen.ttls.get(key, zone.ttl), sorted(addresses))
            for key, addresses in sorted(wanted.items())
            if addresses != seen.answers[key]
        ]
        if token != seen.token:
            sets.append(_rrset(zone.token_name, "TXT", zone.ttl, [f'"{token}"']))
        try:
            await self._call(zone, "PATCH", timeout_s, orjson.dumps({"rrsets": sets}))
        except NotReached as error:
            raise Retryable("powerdns-unreachable", str(error), after_ms=200) from error
        except NotAnswered as error:
            raise OutcomeUnknown("powerdns-silent", str(error), "look at the zone") from error

    async def _call(
        self, zone: _ApiZone, method: str, timeout_s: float, body: bytes = b"", of: str = ""
    ) -> Answer:
        headers = {"X-API-Key": zone.key.reveal(), "Content-Type": "application/json"}
        url = f"{zone.url}?rrset_name={quote(of, safe='')}" if of else zone.url
        answer = await self._caller.call(
            method, url, body=body, headers=headers, timeout_s=max(0.0, timeout_s)
        )
        if answer.status in (200, 204):
            return answer
        why = str(answer.values().get("error", ""))[:200]
        message = f"{zone.names.zone}: the API answers {answer.status}{f': {why}' if why else ''}"
        if answer.status < 500:
            raise Permanent("powerdns-refused", message, "check url, key and zone of the endpoint")
        raise (Retryable if method == "GET" else OutcomeUnknown)("powerdns-trouble", message)


def _addresses(rrset: dict[str, Any] | None) -> frozenset[str]:
    rows = [] if rrset is None else rrset["records"]
    return frozenset(row["content"] for row in rows if not row.get("disabled"))


def _rrset(name: str, kind: str, ttl: int, contents: list[str]) -> dict[str, Any]:
    rows = [{"content": one, "disabled": False} for one in contents]
    change = {"changetype": "REPLACE", "ttl": ttl, "records": rows} if rows else {"changetype": "DELETE"}
    return {"name": name, "type": kind, **change}
