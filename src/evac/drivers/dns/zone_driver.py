"""Common parts of drivers that move a zone's names by reading and writing whole record sets.

The highest token is stored in the zone (`_evac-token`), and is written together with the names. Such a server
compares nothing: of two simultaneous leaders, the one with the lower token notices when it reads the zone
again after its change.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Final, Generic, Protocol, TypeVar

from evac.drivers import parameters
from evac.drivers.capabilities import RoutesTraffic
from evac.drivers.dns import records
from evac.drivers.dns.records import Answers, Names, RecordKey
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass

TOKEN_NAME: Final = "_evac-token"
DEFAULT_TTL_S: Final = 60
MOST_TTL_S: Final = 604_800
_PAUSE_S: Final = 0.05
_NAMED: Final = 5


class KnownZone(Protocol):
    """A zone of an endpoint."""

    @property
    def names(self) -> Names:
        """Names that may move."""
        ...


_Zone = TypeVar("_Zone", bound=KnownZone)


@dataclass(frozen=True, slots=True)
class SeenZone:
    """Current content of the zone."""

    answers: Answers
    ttls: dict[RecordKey, int]
    """Of the existing record sets."""
    token: int
    """0 if there is none."""
    blocked: tuple[str, ...] = ()
    """Names with other records than addresses, which must not be replaced by addresses."""


class ZoneDriver(RoutesTraffic, ABC, Generic[_Zone]):
    """Reads a zone, and writes what differs."""

    name: str
    verbs: frozenset[Verb] = frozenset({"shift", "drain", "ready", "verify"})

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            zone = self._zone_of(action)
            seen = await self._see(zone, order.timeout_s)
            records.wanted(zone.names, action, seen.answers)
        except ActionError as error:
            return Checked((error.message,))
        problems = [
            *(f"{words} cannot be replaced by addresses" for words in seen.blocked),
            *(
                f"{words} is in the answer, but not in the estate"
                for words in records.foreign(zone.names, seen.answers)
            ),
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
            zone = self._zone_of(action)
            seen = await self._see(zone, order.timeout_s)
            wanted = records.wanted(zone.names, action, seen.answers)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})
        return Observed("done" if seen.answers == wanted else "absent", _evidence(zone, seen))

    async def _change(self, action: Action, order: Order, towards: Action) -> Evidence:
        """Write once, then read until the zone has the wanted content, or the order's time is over."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + order.timeout_s
        zone = self._zone_of(action)
        seen = await self._see(zone, order.timeout_s)
        if seen.token > order.token:
            raise parameters.stale_token(zone.names.zone, seen.token, order)
        wanted = records.wanted(zone.names, towards, seen.answers)
        if order.dry_run:
            changed = (key for key in wanted if wanted[key] != seen.answers[key])
            shown = ", ".join(f"{key.name} {key.kind}" for key in sorted(changed))
            return {**_evidence(zone, seen), "would_change": shown[:800]}
        if towards.verb == "verify":
            if seen.answers != wanted:
                raise Retryable(
                    "not-as-expected", f"{zone.names.zone} gives a different answer", after_ms=500
                )
            return _evidence(zone, seen)
        if seen.blocked:
            words = f"{seen.blocked[0]} cannot be replaced by addresses"
            raise Permanent("name-in-use", words, "remove it from records, or change it by hand")
        if seen.answers != wanted or seen.token != order.token:
            await self._write(zone, seen, wanted, order.token, ends - loop.time())
        while True:
            try:
                seen = await self._see(zone, max(0.0, ends - loop.time()))
            except Retryable as error:
                raise OutcomeUnknown(f"{self.name}-not-seen", error.message, "check the zone") from error
            if seen.token > order.token:
                raise parameters.stale_token(zone.names.zone, seen.token, order)
            if seen.answers == wanted:
                return _evidence(zone, seen)
            if ends - loop.time() < 2 * _PAUSE_S:
                words = f"{zone.names.zone} still contains something else"
                raise OutcomeUnknown(f"{self.name}-not-seen", words)
            await asyncio.sleep(_PAUSE_S)

    def _zone_of(self, action: Action) -> _Zone:
        if action.verb not in self.verbs:
            raise Permanent("verb-unknown", f"{self.name} cannot {action.verb}")
        names = records.read_names(action.settings, parameters.many(action.parameters, "names"))
        return self._read(action, names)

    @abstractmethod
    def _read(self, action: Action, names: Names) -> _Zone:
        """The zone of an endpoint. Raises `Permanent` for wrong settings."""

    @abstractmethod
    async def _see(self, zone: _Zone, timeout_s: float) -> SeenZone:
        """Read the zone. Raises `Retryable` if the server does not respond, `Permanent` if it refuses
        access.
        """

    @abstractmethod
    async def _write(
        self, zone: _Zone, seen: SeenZone, wanted: Answers, token: int, timeout_s: float
    ) -> None:
        """Write the record sets that differ, and the token. Raises `ActionError`."""


def _evidence(zone: KnownZone, seen: SeenZone) -> dict[str, str | int | bool]:
    shown = [f"{key.name} {'+'.join(sorted(seen.answers[key]))}" for key in sorted(seen.answers)[:_NAMED]]
    return {"zone": zone.names.zone, "answers": ", ".join(shown)[:800], "token": seen.token}
