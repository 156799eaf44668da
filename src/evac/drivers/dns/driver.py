"""Driver for DNS: moves names between sites on one authoritative server, and verifies before it reports done.

One endpoint is one server: an evacuation writes to every server itself and never waits for a zone transfer.
The highest token is stored in the zone (`_evac-token`), and every update depends on it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from evac.drivers import parameters
from evac.drivers.capabilities import ReportsTraffic, RoutesTraffic
from evac.drivers.dns import records, wire
from evac.drivers.dns.records import Answers, Names, RecordKey
from evac.drivers.dns.wire import Found, Key, NoDnsAnswer, Rewrite, Server, TokenMark
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net import secrets

VERBS: Final[frozenset[Verb]] = frozenset({"shift", "drain", "ready", "verify"})
TOKEN_NAME: Final = "_evac-token"
DEFAULT_TTL_S: Final = 60
TRIES_OF_A_CHANGE: Final = 3
_PAUSE_S: Final = 0.05
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class _DnsJob:
    """A parsed action: where, with which key, which names, and which other servers must agree."""

    server: Server
    key: Key
    names: Names
    others: tuple[Server, ...]
    ttl: int

    @property
    def keys(self) -> tuple[RecordKey, ...]:
        return tuple(sorted(self.names.records))

    @property
    def token_name(self) -> str:
        return f"{TOKEN_NAME}.{self.names.zone}"


class DnsDriver(RoutesTraffic, ReportsTraffic):
    """Sends signed updates to one authoritative server."""

    name = "dns"
    verbs = VERBS

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            job = _read(action)
            found, token = await _see(job, order.timeout_s)
            records.wanted(job.names, action, wire.values(found))
        except (ActionError, NoDnsAnswer) as error:
            return Checked((str(error),))
        problems = [
            f"{words} is in the answer, but not in the estate"
            for words in records.foreign(job.names, wire.values(found))
        ]
        if token > order.token:
            problems.append(str(parameters.stale_token(job.names.zone, token, order)))
        return Checked(tuple(problems[:_NAMED]), {"server": str(job.server), "names": len(found)})

    async def execute(self, action: Action, order: Order) -> Evidence:
        return await self._change(action, order, action)

    async def undo(self, action: Action, order: Order) -> Evidence:
        return await self._change(action, order, parameters.reversed_traffic(action))

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            job = _read(action)
            found, token = await _see(job, order.timeout_s)
            wanted = records.wanted(job.names, action, wire.values(found))
        except (ActionError, NoDnsAnswer) as error:
            return Observed("unclear", {"why": str(error)[:200]})
        evidence = _evidence(job, found, token)
        if wire.values(found) != wanted:
            return Observed("absent", evidence)
        behind = await _behind(job, wanted, order.timeout_s)
        return Observed("unclear", evidence | {"behind": behind}) if behind else Observed("done", evidence)

    async def report_traffic(self, action: Action, timeout_s: float) -> tuple[str, ...] | None:
        job = _read(action)
        try:
            found = await wire.ask(job.server, job.keys, timeout_s)
        except NoDnsAnswer as error:
            raise Retryable("dns-unreachable", str(error)) from error
        return records.sent_to(job.names, wire.values(found))

    async def close(self) -> None:
        """Nothing to close: no connection outlives a call."""

    async def _change(self, action: Action, order: Order, towards: Action) -> Evidence:
        """Write until the server returns the wanted records, or the order's time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.timeout_s
        job = _read(action)
        for _ in range(TRIES_OF_A_CHANGE):
            try:
                found, token = await _see(job, deadline - loop.time())
            except NoDnsAnswer as error:
                raise Retryable("dns-unreachable", str(error)) from error
            if token > order.token:
                raise parameters.stale_token(job.names.zone, token, order)
            wanted = records.wanted(job.names, towards, wire.values(found))
            if order.dry_run:
                changes = [key for key in job.keys if found[key].values != wanted[key]]
                shown = [f"{key.name} {'+'.join(sorted(wanted[key]))}" for key in changes[:_NAMED]]
                return {
                    "server": str(job.server),
                    "would_change": len(changes),
                    "would_answer": ", ".join(shown)[:800],
                }
            if towards.verb == "verify":
                return await _expected(job, wanted, deadline)
            try:
                await _write(
                    job, found, wanted, TokenMark(job.token_name, _mark(token), order.token), deadline
                )
            except Retryable as error:
                if error.code != "dns-changed":
                    raise
                continue
            return await _verified(job, wanted, deadline)
        raise Retryable("dns-changed", f"{job.names.zone} is being changed by someone else", after_ms=500)


def _read(action: Action) -> _DnsJob:
    settings = action.settings
    if action.verb not in VERBS:
        raise Permanent("verb-unknown", f"dns cannot {action.verb}")
    server = Server(parameters.text(settings, "server"), parameters.whole(settings, "port", 53, 65_535))
    key = Key(
        parameters.text(settings, "key_name"),
        parameters.text(settings, "key_algorithm", "hmac-sha256").lower().rstrip("."),
        secrets.resolve(parameters.text(settings, "key_secret")),
    )
    names = records.read_names(settings, parameters.many(action.parameters, "names"))
    others = tuple(_other(words) for words in parameters.many(settings, "verify"))
    return _DnsJob(server, key, names, others, parameters.whole(settings, "ttl", DEFAULT_TTL_S, 604_800))


def _other(words: str) -> Server:
    host, _, port = words.rpartition(":")
    if not host or not port.isdigit():
        raise Permanent("setting-wrong", f"verify: {words!r} is not address:port")
    return Server(host.strip("[]"), int(port))


async def _see(job: _DnsJob, timeout_s: float) -> tuple[dict[RecordKey, Found], int]:
    """The server's current records, and the highest token its zone has seen (0 for none)."""
    found, texts = await wire.ask_with_texts(job.server, job.keys, job.token_name, timeout_s)
    if len(texts) > 1 or (texts and not texts[0].isdigit()):
        raise NoDnsAnswer(f"{job.token_name} contains something that is not a token")
    return found, int(texts[0]) if texts else 0


def _mark(token: int) -> tuple[str, ...]:
    return (str(token),) if token else ()


async def _write(
    job: _DnsJob, found: dict[RecordKey, Found], wanted: Answers, mark: TokenMark, deadline: float
) -> None:
    """One update if everything fits in one; correct records are left alone."""
    loop = asyncio.get_running_loop()
    rewrites = [
        Rewrite(key, found[key], wanted[key], found[key].ttl if found[key].ttl >= 0 else job.ttl)
        for key in job.keys
        if found[key].values != wanted[key]
    ]
    if not rewrites and mark.before == _mark(mark.token):
        return
    for first in range(0, max(1, len(rewrites)), wire.NAMES_AN_UPDATE):
        part = rewrites[first : first + wire.NAMES_AN_UPDATE]
        left = max(0.0, deadline - loop.time())
        await wire.send_update(job.server, job.names.zone, job.key, mark, part, left)
        mark = TokenMark(mark.name, _mark(mark.token), mark.token)


async def _verified(job: _DnsJob, wanted: Answers, deadline: float) -> Evidence:
    """Query until this server, and all others that must agree, return the wanted records."""
    loop = asyncio.get_running_loop()
    behind = ""
    while True:
        try:
            found, token = await _see(job, deadline - loop.time())
        except NoDnsAnswer as error:
            # The time may have ended between two reads: the last result says more than a timeout.
            words = _differs(behind) if behind else str(error)
            raise OutcomeUnknown("dns-not-seen", words, "check the server's answer") from error
        right = wire.values(found) == wanted
        behind = await _behind(job, wanted, deadline - loop.time()) if right else str(job.server)
        if not behind:
            return _evidence(job, found, token)
        if deadline - loop.time() < 2 * _PAUSE_S:
            raise OutcomeUnknown("dns-not-seen", _differs(behind), "check the server's answer")
        await asyncio.sleep(_PAUSE_S)


def _differs(server: str) -> str:
    return f"{server} still gives a different answer"


async def _expected(job: _DnsJob, wanted: Answers, deadline: float) -> Evidence:
    """As `_verified`, for an action that only reads: nothing was changed, whatever was seen."""
    try:
        return await _verified(job, wanted, deadline)
    except OutcomeUnknown as error:
        raise Retryable("not-as-expected", error.message, after_ms=500) from error


async def _behind(job: _DnsJob, wanted: Answers, timeout_s: float) -> str:
    """The first other server that does not return the wanted records; empty if all do."""

    async def one(server: Server) -> bool:
        try:
            return wire.values(await wire.ask(server, job.keys, max(0.0, timeout_s))) == wanted
        except NoDnsAnswer:
            return False

    right = await asyncio.gather(*(one(server) for server in job.others))
    return next((str(server) for server, good in zip(job.others, right, strict=True) if not good), "")


def _evidence(job: _DnsJob, found: dict[RecordKey, Found], token: int) -> dict[str, str | int | bool]:
    shown = [f"{key.name} {'+'.join(sorted(found[key].values))}" for key in job.keys[:_NAMED]]
    return {
        "server": str(job.server),
        "names": len(found),
        "answers": ", ".join(shown)[:800],
        "token": token,
        "asked": 1 + len(job.others),
    }
