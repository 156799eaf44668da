"""Common parts of store drivers: refusals, dry runs, and errors converted to results.

A driver declares what it can do and does it; this class ensures that a check never raises, that a failed
observation is `unclear`, and that a dry run only checks.

Whether a peer of a data set is reachable is tested with one connection: a lost site never accepts it, and one
that does gets the time of a real response.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Protocol

from evac.drivers.capabilities import (
    AnswersProbe,
    Fences,
    Follows,
    ProbeReport,
    Promotes,
    Protects,
    ProvesSync,
    ReportsRole,
    RoleReport,
)
from evac.drivers.parameters import refuse_proof, text, whole
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.model.errors import ActionError, Busy, Permanent, Retryable

WORDS_MOST = 900
STAYS = "a store that moved stays moved"


class StoreDriver(ABC):
    """One connection for each action. name, verbs: of the port. proofs: fence proofs that it can give; the
    first is the default.
    """

    name: str
    verbs: frozenset[Verb]
    proofs: ClassVar[tuple[str, ...]] = ()

    async def check(self, action: Action, order: Order) -> Checked:
        """Check the system; never raises."""
        try:
            self.refuse_others(action)
            return await self._check(action, order)
        except ActionError as error:
            return Checked((error.message,))

    async def execute(self, action: Action, order: Order) -> Evidence:
        """Run the action. Raises `Retryable`, `Permanent`, `OutcomeUnknown`."""
        self.refuse_others(action)
        if not order.dry_run:
            return await self._execute(action, order)
        checked = await self.check(action, order)
        words = f"would {action.verb} {self._subject(action)}"
        return {**checked.evidence, "dry_run": words, "problems": "; ".join(checked.problems)[:WORDS_MOST]}

    async def observe(self, action: Action, order: Order) -> Observed:
        """Observe the system; `unclear` if it does not respond."""
        try:
            self.refuse_others(action)
            return await self._observe(action, order)
        except ActionError as error:
            return Observed("unclear", {"problem": error.message[:WORDS_MOST]})

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Refuse: an action that moved a store is not undone."""
        raise Permanent("not-undone", f"{action.verb} is not rolled back: {STAYS}")

    async def close(self) -> None:
        """Nothing to close: no connection outlives an action."""
        return

    def refuse_others(self, action: Action) -> None:
        """Raises `Permanent` for verbs and fence proofs of other drivers."""
        if action.verb not in self.verbs:
            raise Permanent("verb-unknown", f"the driver {self.name} cannot {action.verb}")
        refuse_proof(action, self.proofs)

    @abstractmethod
    async def _check(self, action: Action, order: Order) -> Checked: ...

    @abstractmethod
    async def _execute(self, action: Action, order: Order) -> Evidence: ...

    @abstractmethod
    async def _observe(self, action: Action, order: Order) -> Observed: ...

    @abstractmethod
    def _subject(self, action: Action) -> str:
        """The target of the verb, in words."""


class Facts(Protocol):
    """State of a server as a driver reads it."""

    def report(self) -> RoleReport: ...


class DatabaseDriver(
    StoreDriver, ReportsRole, Promotes, Fences, ProvesSync, Follows, Protects, AnswersProbe, ABC
):
    """A store driver with the capabilities `OF_A_DATABASE`, whose server tells all that is asked of it at
    once. refused: the code of a server that rejects our password.
    """

    verbs = frozenset[Verb]({"fence", "unfence", "promote", "demote", "protect", "rejoin", "verify"})
    proofs = ("sync",)
    refused: ClassVar[str]

    @abstractmethod
    async def facts(self, action: Action, timeout_s: float) -> Facts:
        """State of an endpoint's server, for probes and plans. Raises `Retryable`, `Permanent`."""

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        return (await self.facts(action, timeout_s)).report()

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """A server that refuses our password, or has no connection for us, is alive."""
        try:
            await self.facts(action, timeout_s)
        except Permanent as error:
            if error.code != self.refused:
                raise
        except Busy:
            return ProbeReport(True)
        except ActionError:
            return ProbeReport(False, f"{self._subject(action)}: no answer")
        return ProbeReport(True)


CONNECT_MS = 250
ANSWER_MS = 1_000
OTHER_PROOFS: Final = ("lease", "network", "power", "attest", "demote", "none")
"""For the parameter `proof` of a promotion: proved by something else. none: policy requires no fence."""
STANDING_MOST_MS: Final = 600_000
"""A dead primary cannot be prechecked again, so the fact is as old as the loss: detection, confirmation and
approval all pass before the fence.
"""
ANOTHER_PRIMARY: Final = "another-primary"
"""The code of a promotion that only waits for another primary to give up its role."""


async def takes_connections(host: str, port: int, wait_s: float = CONNECT_MS / 1_000) -> bool:
    """Whether a connection can be made; it says nothing about what listens there."""
    try:
        async with asyncio.timeout(wait_s):
            _, writer = await asyncio.open_connection(host, port)
    except (TimeoutError, OSError):
        return False
    writer.transport.abort()
    return True


def another_primary(address: str) -> Retryable:
    return Retryable(
        ANOTHER_PRIMARY,
        f"{address} answers as a primary that accepts writes",
        "demote or fence it first",
        after_ms=100,
    )


def only_others(addresses: Sequence[str], problems: Sequence[str]) -> ActionError | None:
    """The error of a promotion that only other primaries block; None if there is more to it."""
    return another_primary(addresses[0]) if addresses and not problems else None


def standing_problems(action: Action, name: str) -> list[str]:
    """Problems of the standing fact that the candidate must confirm every commit of the old primary.

    name: of the candidate's endpoint. Parameters: `standing` is the name for which `precheck_sync` held,
    `standing_age_ms` how long ago, `standing_most_ms` the maximum accepted age.
    """
    standing = text(action.parameters, "standing", "")
    age = whole(action.parameters, "standing_age_ms", 2**53)
    most = whole(action.parameters, "standing_most_ms", STANDING_MOST_MS)
    if not standing:
        return ["no precheck has shown that every commit needs this replica"]
    if not name:
        return ["the candidate's endpoint has no name, so the prechecked fact cannot be matched"]
    if standing != name:
        return [f"the prechecked replica is {standing}, not {name}"]
    if age > most:
        old, oldest = f"{age / 60_000:.1f} min", f"{most / 60_000:g} min"
        return [f"the precheck is {old} old; it is valid for at most {oldest}"]
    return []


def place_problems(candidate: str, sites: Mapping[str, str], may_be_lost: str) -> list[str]:
    """Why the site of a candidate makes it no fence for a site that may be lost."""
    site = sites.get(candidate, "")
    if not site:
        return [f"the site of {candidate} is not known"]
    if may_be_lost and site == may_be_lost:
        return [f"{candidate} is in {may_be_lost}, the site that may be lost"]
    return []
