"""The reckoning of the war room: loads the estate, audits it, answers what-if, in a process of its own.

An audit takes a whole core for seconds, and a page must not wait for it. What travels are roles of stores and
frozen facts; the estate itself stays in the worker.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from evac.app.estates.copies import edition_of
from evac.app.side_process import Apart
from evac.engine.lead.policies import digest_of
from evac.model.errors import EvacError, InvalidInput, Unavailable
from evac.model.observation import Observation
from evac.model.run_policy import Mode, RunPolicy, WatchProfile
from evac.office.facts import EstateFacts
from evac.office.what_if import WhatIf

DOMAINS_MOST: Final = 64
"""Of one what-if."""
ANSWER_S: Final = 120.0
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the war room needs of the policy. approvers: names of those who may approve; empty: not said.
    digest: of the whole policy.
    """

    mode: Mode
    profile: WatchProfile
    approvers: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Reckoned:
    """The facts of an estate, and the rules that its policy sets."""

    facts: EstateFacts
    rules: Rules


def rules_of(policy: RunPolicy) -> Rules:
    approvers = tuple(sorted(one.name for one in policy.approvers))
    return Rules(policy.mode, policy.profile, approvers, digest_of(policy))


class Reckoner(Protocol):
    """What the office asks. Raises EvacError in the words of whoever found the problem."""

    async def reckon(self, observation: Observation) -> Reckoned: ...

    async def what_if(self, observation: Observation, domains: Sequence[str]) -> WhatIf: ...

    def close(self) -> None: ...


class Worker:
    """A reckoner in a process of its own (apart), or in a thread."""

    def __init__(
        self, path: Path, as_of: date | None = None, policy: Path | None = None, *, apart: bool = True
    ) -> None:
        self._where = (str(path), as_of, None if policy is None else str(policy))
        self._apart = Apart() if apart else None

    async def reckon(self, observation: Observation) -> Reckoned:
        return await self._ask(_reckon, observation)

    async def what_if(self, observation: Observation, domains: Sequence[str]) -> WhatIf:
        wanted = tuple(sorted(set(domains)))
        if not 0 < len(wanted) <= DOMAINS_MOST:
            raise InvalidInput(
                "what-if-domains",
                f"a question names 1 to {DOMAINS_MOST} fault domains, not {len(wanted)}",
                "GET /v1/domains lists them",
            )
        return await self._ask(_what_if, observation, wanted)

    async def _ask(self, work: Callable[..., Answer | tuple[str, str, str]], *more: Any) -> Answer:
        ask = asyncio.to_thread if self._apart is None else self._apart.ask
        try:
            path, as_of, policy = self._where
            async with asyncio.timeout(ANSWER_S):
                found = await ask(work, edition_of(path), as_of, policy and edition_of(policy), *more)
        except BrokenProcessPool as error:
            raise Unavailable("the process that reckons ended; it is started again") from error
        except TimeoutError as error:
            raise Unavailable(f"no answer of the reckoning in {ANSWER_S:.0f} s") from error
        if isinstance(found, tuple):
            raise InvalidInput(*found)
        return found

    def close(self) -> None:
        if self._apart is not None:
            self._apart.close()


class _Books:
    """In the worker: the estate, its policy, and the last audit."""

    def __init__(self, path: str, as_of: date | None, policy: str | None) -> None:
        from evac import estate as estates
        from evac.app.controlling import read_policy
        from evac.model.digest import estate_digest

        self.estate = estates.load(path, as_of)
        self.policy = read_policy(Path(path), None if policy is None else Path(policy), self.estate)
        self.digest = estate_digest(self.estate)
        self.report: Any = None

    def audited(self, observation: Observation) -> Any:
        from evac.audit import audit
        from evac.derive import situation
        from evac.model.digest import estate_digest

        seen = situation.of(self.estate, observation).estate
        digest = self.digest if seen is self.estate else estate_digest(seen)
        if self.report is None or self.report.digest != digest:
            self.report = audit(seen, digest=digest)
        return self.report


_books: dict[tuple[str, date | None, str | None], _Books] = {}
_turn = threading.Lock()


def _books_of(path: str, as_of: date | None, policy: str | None) -> _Books:
    """One estate a process: another one takes its place."""
    key = (path, as_of, policy)
    if key not in _books:
        made = _Books(path, as_of, policy)
        _books.clear()
        _books[key] = made
    return _books[key]


def _reckon(
    path: str, as_of: date | None, policy: str | None, observation: Observation
) -> Reckoned | tuple[str, str, str]:
    from evac.office.facts import facts_of

    try:
        with _turn:
            books = _books_of(path, as_of, policy)
            return Reckoned(facts_of(books.audited(observation), books.digest), rules_of(books.policy))
    except EvacError as error:
        return error.code, error.message, error.hint


def _what_if(
    path: str, as_of: date | None, policy: str | None, observation: Observation, wanted: tuple[str, ...]
) -> WhatIf | tuple[str, str, str]:
    from evac.office.what_if import what_if_of

    try:
        with _turn:
            report = _books_of(path, as_of, policy).audited(observation)
            return what_if_of(report, wanted)
    except EvacError as error:
        return error.code, error.message, error.hint
