"""Protection against account lockout: a limit on refusals for each user and password, and power queries to
many controllers that share a password.

A credential that was never accepted is tried by only a few requests at once; when that many were refused
without a success in between, nothing more is sent with it for a while, then one request at a time. One
controller with a different password is distinguished from a wrong password.

`Places` are a number of slots, each used by one task at a time: started work goes before new work, and new
work is ordered by weight.

`sweep` reads the power state of many servers and changes nothing: one query each, at most one at a time for
each controller. A controller that does not respond is not asked again; unknown states are reported as such.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Final, Literal

from evac.drivers.capabilities import BootsServers, PowerReport
from evac.drivers.port import Action
from evac.model.collector import collect_seldom
from evac.model.errors import ActionError, Permanent
from evac.net.secrets import Secret, resolve

CODE: Final = "credentials-refused"
HERE: Final = "bmc-password"
"""One controller refuses what others accept."""
Verdict = Literal["accepted", "refused", "unknown"]
_AGAIN_S: Final = 300.0
_JUDGED_S: Final = 10.0
_HERE_AT_MOST: Final = 2
_SECRET_KEPT_S: Final = 5.0


class Refused(Permanent):
    """A controller refused user or password; `Credential.judged` says whose fault that is."""


class NothingSent(Permanent):
    """Nothing was sent, because of too many earlier refusals."""


class Credential:
    """One user and password, wherever it is used. most: consecutive refusals, all controllers together."""

    def __init__(self, user: str, secret: Secret, most: int) -> None:
        self.user, self.secret = user, secret
        self._most = most
        self._accepted = False
        self._refused = 0
        self._in_flight = 0
        self._closed = False
        self._closed_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._judging: list[asyncio.Future[None]] = []
        self._here: dict[str, tuple[float, int]] = {}

    def enter_at_once(self) -> bool:
        """Whether a request may start without waiting: nearly all may, once a password was accepted."""
        if self._closed or self._here or self._refused or not self._accepted:
            return False
        self._in_flight += 1
        return True

    async def enter(self, address: str) -> None:
        """Wait until a request may be sent with it. Raises `NothingSent` if none may any more."""
        if self._here:
            self._refuse_again(address)
        if self._closed and asyncio.get_running_loop().time() - self._closed_at > _AGAIN_S:
            self._closed, self._refused = False, self._most - 1  # retried by one at a time
        while not self._closed and not (self._accepted and not self._refused):
            if self._in_flight + self._refused < self._most:
                break
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()  # a task that gives up passes its turn on
                raise
        if self._closed:
            raise NothingSent(
                CODE,
                f"controllers in a row rejected {self.user}; no more logins are tried for five minutes",
                "correct evac's password, then start again",
            )
        self._in_flight += 1

    def leave(self, address: str, verdict: Verdict) -> None:
        """Record the outcome of a request."""
        self._in_flight -= 1
        if verdict == "accepted":
            self._accepted, self._refused = True, 0
        elif verdict == "refused":
            self._refused += 1
            now = asyncio.get_running_loop().time()
            began, count = self._here.get(address, (now, 0))
            self._here[address] = (now, 1) if now - began > _AGAIN_S else (began, count + 1)
            if self._refused >= self._most:
                self._closed, self._closed_at = True, asyncio.get_running_loop().time()
        if self._waiting:
            self._wake()
        if self._judging:
            judging, self._judging = self._judging, []
            for one in judging:
                if not one.done():
                    one.set_result(None)

    async def judged(self, refused: Refused, ends: float) -> Permanent:
        """Classify a refusal once concurrent requests have their results: `HERE` if others are accepted, else
        `CODE`. ends: by the loop's clock; waits ten seconds at most.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(ends, loop.time() + _JUDGED_S)):
                while self._refused and not self._closed and (self._in_flight or self._waiting):
                    turn = loop.create_future()
                    self._judging.append(turn)
                    await turn
        except TimeoutError:
            pass  # decide with what is known now
        return Permanent(self._whose(), refused.message, refused.hint)

    def _whose(self) -> str:
        return HERE if self._accepted and not self._closed else CODE

    def _wake(self) -> None:
        all_may = self._closed or (self._accepted and not self._refused)
        while self._waiting and (all_may or self._in_flight + self._refused < self._most):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                if not all_may:
                    return

    def _refuse_again(self, address: str) -> None:
        """Stop repeated requests to one controller with a wrong password, which would lock its account."""
        found = self._here.get(address)
        if found is None or found[1] < _HERE_AT_MOST:
            return
        if asyncio.get_running_loop().time() - found[0] > _AGAIN_S:
            del self._here[address]
            return
        raise NothingSent(
            self._whose(),
            f"{address} rejected {self.user} {found[1]} times; evac will not try again for a while",
        )


class Credentials:
    """All credentials of a process. One with a changed password counts as new."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read: dict[tuple[str, str], tuple[float, Credential]] = {}
        self._known: dict[bytes, Credential] = {}

    def of(self, user: str, reference: str, most: int) -> Credential:
        """The credential; its password is read again after a few seconds. Raises `Permanent`."""
        now = self._clock()
        kept = self._read.get((user, reference))
        if kept is not None and now - kept[0] < _SECRET_KEPT_S:
            return kept[1]
        secret = resolve(reference)
        mark = hashlib.sha256(f"{user}\0".encode() + secret.reveal_bytes()).digest()
        credential = self._known.setdefault(mark, Credential(user, secret, most))
        self._read[user, reference] = (now, credential)
        return credential


class Places:
    """Slots of one event loop. places: their number."""

    __slots__ = ("_free", "_numbers", "_waiting")

    def __init__(self, places: int) -> None:
        self._free = places
        self._numbers = count()
        self._waiting: list[tuple[bool, int, int, asyncio.Future[None]]] = []

    @property
    def free(self) -> bool:
        """Whether `take` would return at once."""
        return self._free > 0

    async def take(self, goes_on: bool = False, weight: int = 0) -> None:
        """Take a slot. goes_on: before all new tasks, the latest of these first. weight: new tasks with more
        weight go first, equal ones in order of arrival.
        """
        if self._free > 0:
            self._free -= 1
            return
        turn, number = asyncio.get_running_loop().create_future(), next(self._numbers)
        order = (False, 0, -number) if goes_on else (True, -weight, number)
        heappush(self._waiting, (*order, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it was given a slot that it does not use
            raise

    def give(self) -> None:
        """Give the slot to the first waiting task, or back."""
        while self._waiting:
            turn = heappop(self._waiting)[-1]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


ASKERS: Final = 512
ASK_S: Final = 20.0
NOT_ASKED: Final = "not-asked"


async def sweep(asked: Sequence[tuple[BootsServers, Action]], within_s: float) -> list[PowerReport]:
    """One query for each action, in their order. Ends within the time limit; servers not queried by then are
    unknown.
    """
    collect_seldom()
    found = [PowerReport(action.target, "", why=NOT_ASKED) for _, action in asked]
    queue = iter(enumerate(asked))
    try:
        async with asyncio.timeout(within_s), asyncio.TaskGroup() as tasks:
            for _ in range(min(ASKERS, len(asked))):
                tasks.create_task(_ask(queue, found))
    except TimeoutError:
        pass  # the others stay unknown
    return found


async def _ask(queue: Iterable[tuple[int, tuple[BootsServers, Action]]], found: list[PowerReport]) -> None:
    for number, (driver, action) in queue:
        try:
            found[number] = await driver.look(action, ASK_S)
        except NothingSent:
            found[number] = PowerReport(action.target, "", why=NOT_ASKED)
        except ActionError as error:
            found[number] = PowerReport(action.target, "", why=error.code)
