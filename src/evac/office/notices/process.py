"""The process next to a controller that creates alerts and updates and sends them while that controller
leads.

`evac serve` starts it as `python -m evac.office.notices.process` if there is a notices file. It is a separate
process because it audits and because sending can be slow: neither may cost a leader its lease. It acts only
while the controller that started it leads, under a lease of its own that guards everything it writes, and
exits with it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

from evac.app.estates.copies import edition_of
from evac.app.side_process import Leads, end_of, led_by_parent, until_ended
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead.leadership import LEADER, Leadership
from evac.estate.codecs.notices import load_notices
from evac.model.errors import Conflict, Corrupt, EvacError, LeaseLost, LockHeld, StoreError, Unavailable
from evac.notices import values as boxes
from evac.notices.rule import tell
from evac.notices.values import Channel
from evac.office.notices.looking import Looker, NoticeReckoner
from evac.office.notices.overview import LEASE, Ledger, new_messages
from evac.office.notices.sending import Sending, check_ways, sending_of
from evac.office.notices.subscribers import Mail
from evac.store.generation import read_generation
from evac.store.opening import open_store
from evac.store.port import Owner, Store

LOOK_S: Final = 1.0
INVITE_AGAIN_S: Final = 30.0
AGAIN_S: Final = 1.0
IDLE_S: Final = 0.25
FILE_S: Final = 2.0
TTL_MS: Final = 10_000
Say = Callable[[str], None]


class Teller:
    """Sends messages for as long as it may. `leads`: whether its controller leads now."""

    def __init__(
        self,
        store: Store,
        channels: Mapping[str, Channel],
        sendings: Mapping[str, Sending],
        looker: Looker,
        clock: Clock,
        owner: str,
        leads: Leads,
        say: Say,
        make_id: Callable[[], str] | None = None,
        ttl_ms: int = TTL_MS,
    ) -> None:
        self._store, self._channels, self._sendings = store, channels, sendings
        self._looker, self._clock, self._owner, self._leads, self._say = looker, clock, owner, leads, say
        self._make_id = make_id or (lambda: f"evac_{secrets.token_hex(16)}")
        self._ttl_ms = ttl_ms
        self._problems: dict[str, str] = {}
        self._skipped: set[str] = set()

    async def run(self) -> None:
        """Runs until cancelled. Starts over after store errors."""
        while True:
            try:
                if await self._leads():
                    await self._term()
            except (Unavailable, Conflict, LeaseLost, LockHeld):
                pass
            except Corrupt as error:
                self._say(f"alerts cannot be sent: {error.message}")
                await asyncio.sleep(30 * AGAIN_S)
            await asyncio.sleep(AGAIN_S)

    async def _term(self) -> None:
        """One term of sending. Raises LockHeld while the process of another controller still has
        the lease.
        """
        generation = (await read_generation(self._store)).number
        leadership = await Leadership.acquire(
            self._store, self._owner, self._ttl_ms, self._clock, name=LEASE, generation=generation
        )
        try:
            ledger = await Ledger.open(self._store, leadership.lease, self._clock, self._channels)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._mind(leadership), name="lease")
                tasks.create_task(self._look(ledger, leadership), name="look")
                for name, sending in self._sendings.items():
                    tasks.create_task(self._send(ledger, leadership, name), name=f"channel {name}")
                    if isinstance(sending, Mail):
                        tasks.create_task(self._invite(leadership, name, sending), name=f"asked {name}")
        except BaseExceptionGroup as group:
            raise _reason(group) from group
        finally:
            await leadership.release()

    async def _mind(self, leadership: Leadership) -> None:
        await leadership.over()
        raise LeaseLost(LEASE)

    async def _look(self, ledger: Ledger, leadership: Leadership) -> None:
        """Looks, and saves new messages; ends the term when its controller no longer leads."""
        while True:
            if not await self._leads():
                raise LeaseLost(LEADER)
            state, known = await self._looker.look(ledger.state)
            leadership.check()
            memory, drafts = tell(ledger.state.memory, known, self._clock.now_ms())
            await ledger.keep(replace(state, memory=memory), new_messages(drafts, self._make_id))
            await asyncio.sleep(LOOK_S)

    async def _send(self, ledger: Ledger, leadership: Leadership, name: str) -> None:
        """One channel: one message at a time, the oldest that is due."""
        while True:
            await ledger.tidy(name)
            one = boxes.due(ledger.boxes[name], self._clock.now_ms())
            if one is None:
                await asyncio.sleep(IDLE_S)
                continue
            try:
                message = await ledger.message(one.number)
            except Corrupt as error:  # someone changed it in the store; the others must still come
                await ledger.given_up(name, one, error.message)
                continue
            leadership.check()
            outcome = await self._sendings[name].send(message)
            if not outcome.problem:
                await ledger.delivered(name, one)
            elif outcome.hopeless:
                await ledger.given_up(name, one, outcome.problem)
            else:
                await ledger.failed(name, one, outcome.problem, outcome.after_ms, outcome.whole)
            self._note(name, outcome.problem)

    async def _invite(self, leadership: Leadership, name: str, mail: Mail) -> None:
        """Sends the confirmation mails that people asked for."""
        while True:
            leadership.check()
            problem = await mail.invite()
            self._note(f"{name}, confirmations", problem)
            for key in sorted(mail.unreadable - self._skipped):
                self._say(f"{key} in the store cannot be read and is skipped")
            self._skipped |= mail.unreadable
            await asyncio.sleep(INVITE_AGAIN_S if problem else LOOK_S)

    def _note(self, name: str, problem: str) -> None:
        """Logged once, and once more when it works again."""
        before = self._problems.get(name, "")
        if problem and problem != before:
            self._say(f"the channel {name} does not work: {problem}; evac will retry")
        elif before and not problem:
            self._say(f"the channel {name} works again")
        self._problems[name] = problem


def _reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Why a term ended, if the store says so; otherwise the whole group, for unforeseen errors."""
    found = leaves(group)
    if any(not isinstance(error, StoreError) for error in found):
        return group
    return next((error for error in found if isinstance(error, Corrupt)), found[0])


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """All errors of a group."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def changed(path: Path, say: Say, look_s: float = FILE_S) -> None:
    """Returns once the notices file has usable new content. An unusable file is reported once, and the
    previous content stays in use.
    """
    read = bad = _stamp(path)
    while True:
        await asyncio.sleep(look_s)
        now = _stamp(path)
        if now in (read, bad):
            continue
        try:
            check_ways(load_notices(path).channels)
        except EvacError as error:
            bad = now
            say(
                f"{path.name} was not accepted: {error.message}; to see where: evac notices check {path.name}"
            )
        else:
            say(f"{path.name} changed and was reloaded")
            return


def _stamp(path: Path) -> tuple[int, int, int]:
    """Distinguishes versions of a file; zeros if it cannot be read."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino


async def tell_people(
    estate: Path, store: str, notices: Path, site: str, as_of: date | None, ttl_ms: int = TTL_MS
) -> None:
    """Runs until SIGTERM, SIGINT, the end of the parent, or a changed notices file, after which it is
    restarted. Raises EstateError, InvalidInput, StoreError.
    """
    rules = load_notices(notices)
    check_ways(rules.channels)
    opened, clock = open_store(store), SystemClock()

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    looker = Looker(opened, NoticeReckoner(estate, as_of), clock, lambda: edition_of(estate))
    sendings = {
        name: sending_of(channel, rules.room, page=rules.page, store=opened)
        for name, channel in rules.channels.items()
    }
    leads = led_by_parent(opened, site, os.getppid())
    owner = str(Owner(site, os.getpid(), secrets.token_hex(4)))
    teller = Teller(opened, rules.channels, sendings, looker, clock, owner, leads, say, ttl_ms=ttl_ms)
    try:
        await until_ended(teller.run(), looker.run(), changed(notices, say))
    finally:
        for sending in sendings.values():
            await sending.close()
        await looker.close()
        await opened.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evac.office.notices.process")
    parser.add_argument("estate", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--notices", type=Path, required=True)
    parser.add_argument("--site", required=True)
    parser.add_argument("--as-of", type=date.fromisoformat)
    parser.add_argument("--lease-ms", type=int, default=TTL_MS)
    told = parser.parse_args(arguments)
    return end_of(
        lambda: tell_people(told.estate, told.store, told.notices, told.site, told.as_of, told.lease_ms)
    )


if __name__ == "__main__":
    sys.exit(main())
