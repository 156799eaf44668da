"""The driver of PowerDNS: moves names between sites through the API of one authoritative server.

The highest token is kept in the zone (`_evac-token`), and is written together with the names. The API
compares nothing: of two leaders in the same instant, the one with the lower token notices when it reads the
zone again after its change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson

from evac.drivers import parameters
from evac.drivers.capabilities import RoutesTraffic
from evac.drivers.dns import records
from evac.drivers.dns.records import Answers, Names, RecordKey
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net.http_calls import Answer, Caller, NotAnswered, NotReached
from evac.net.secrets import Secret, resolve

TOKEN_NAME: Final = "_evac-token"
DEFAULT_TTL_S: Final = 60
_PAUSE_S: Final = 0.05
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class _Zone:
    """One zone of one server, and the names in it that may move."""

    url: str
    key: Secret
    names: Names
    ttl: int

    @property
    def token_name(self) -> str:
        return f"{TOKEN_NAME}.{self.names.zone}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the zone holds now. ttls: of the record sets that are there; token: 0 where there is none."""

    answers: Answers
    ttls: dict[RecordKey, int]
    token: int


class PowerDnsDriver(RoutesTraffic):
    """Changes the record sets of a zone."""

    name = "powerdns"
    verbs: frozenset[Verb] = frozenset({"shift", "drain", "ready", "verify"})

    def __init__(self) -> None:
        self._caller = Caller()

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            zone = self._read(action)
            seen = await self._see(zone, order.timeout_s)
            records.wanted(zone.names, action, seen.answers)
        except ActionError as error:
            return Checked((error.message,))
        problems = [
            f"{words} is answered, which the estate does not know"
            for words in records.foreign(zone.names, seen.answers)
        ]
        if seen.token > order.token:
            problems.append(str(parameters.stale_token(zone.names.zone, seen.token, order)))
        return Checked(tuple(problems[:_NAMED]), _evidence(zone, seen))

    async def execute(self, action: Action, order: Order) -> Evidence:
        return await self._change(action, order, action)

    async def undo(self, action: Action, order: Order) -> Evidence:
        return await self._change(action, order, parameters.reversed_traffic(action))

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            zone = self._read(action)
            seen = await self._see(zone, order.timeout_s)
            wanted = records.wanted(zone.names, action, seen.answers)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})
        return Observed("done" if seen.answers == wanted else "absent", _evidence(zone, seen))

    async def close(self) -> None:
        await self._caller.close()

    async def _change(self, action: Action, order: Order, towards: Action) -> Evidence:
        """Writes once, then reads until the zone holds what is wanted, or the order's time is over."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + order.timeout_s
        zone = self._read(action)
        seen = await self._see(zone, order.timeout_s)
        if seen.token > order.token:
            raise parameters.stale_token(zone.names.zone, seen.token, order)
        wanted = records.wanted(zone.names, towards, seen.answers)
        if order.dry_run:
            return {
                **_evidence(zone, seen),
                "would_change": _shown(key for key in wanted if wanted[key] != seen.answers[key]),
            }
        if towards.verb == "verify":
            if seen.answers != wanted:
                raise Retryable("not-as-expected", f"{zone.names.zone} answers something else", after_ms=500)
            return _evidence(zone, seen)
        if seen.answers != wanted or seen.token != order.token:
            await self._write(zone, seen, wanted, order.token, ends - loop.time())
        while True:
            try:
                seen = await self._see(zone, max(0.0, ends - loop.time()))
            except Retryable as error:
                raise OutcomeUnknown("powerdns-not-seen", error.message, "look at the zone") from error
            if seen.token > order.token:
                raise parameters.stale_token(zone.names.zone, seen.token, order)
            if seen.answers == wanted:
                return _evidence(zone, seen)
            if ends - loop.time() < 2 * _PAUSE_S:
                raise OutcomeUnknown("powerdns-not-seen", f"{zone.names.zone} holds something else still")
            await asyncio.sleep(_PAUSE_S)

    def _read(self, action: Action) -> _Zone:
        if action.verb not in self.verbs:
            raise Permanent("verb-unknown", f"powerdns cannot {action.verb}")
        settings = action.settings
        names = records.read_names(settings, parameters.many(action.parameters, "names"))
        base = parameters.text(settings, "url").rstrip("/")
        server = quote(parameters.text(settings, "server_id", "localhost"), safe="")
        return _Zone(
            f"{base}/api/v1/servers/{server}/zones/{quote(names.zone, safe='')}",
            resolve(parameters.text(settings, "key")),
            names,
            parameters.whole(settings, "ttl", DEFAULT_TTL_S, 604_800),
        )

    async def _see(self, zone: _Zone, timeout_s: float) -> _Seen:
        """Only the names that matter are asked for: a zone may be large."""
        asked = sorted({key.name for key in zone.names.records} | {zone.token_name})
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                told = [await self._call(zone, "GET", timeout_s, of=name) for name in asked]
        except (NotReached, NotAnswered, TimeoutError) as error:
            words = str(error) or f"{zone.url} did not answer in {timeout_s:.1f} s"
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
            return _Seen(answers, ttls, int(token["records"][0]["content"].strip('"')))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Retryable("powerdns-unreadable", f"{zone.url} answers no zone", after_ms=500) from error

    async def _write(self, zone: _Zone, seen: _Seen, wanted: Answers, token: int, timeout_s: float) -> None:
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
        self, zone: _Zone, method: str, timeout_s: float, body: bytes = b"", of: str = ""
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


def _shown(keys: Iterable[RecordKey]) -> str:
    return ", ".join(f"{key.name} {key.kind}" for key in sorted(keys))[:800]


def _evidence(zone: _Zone, seen: _Seen) -> dict[str, str | int | bool]:
    shown = [f"{key.name} {'+'.join(sorted(seen.answers[key]))}" for key in sorted(seen.answers)[:_NAMED]]
    return {"zone": zone.names.zone, "answers": ", ".join(shown)[:800], "token": seen.token}
