"""The plan journal: each plan put into the library, and each failure to make one.

A chore of the leader, in the stream `plans`. A record is a JSON array [at_ms, scenario, plan, estate,
problem]: the digest of the plan, that of the estate it was made from, and why there is none. It is written
when the library differs from the scenario's last record: nothing is written twice, and the next leader writes
what its predecessor did not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import orjson

from evac.engine.plans import library
from evac.model.errors import Corrupt
from evac.model.records import dataclass
from evac.store.journal import Journal, records_after
from evac.store.port import Lease, Store, all_entries

STREAM: Final = "plans"
LOOK_S: Final = 5.0
BACK: Final = 20_000
"""Records that a new leader reads to find the last one of each scenario."""
BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """One entry in the journal of the plan library."""

    number: int
    """Its place in the journal, from 1."""
    at_ms: int
    scenario: str
    plan: str
    """Digest; empty if no plan could be made."""
    estate: str
    problem: str


class PlanJournal:
    """One per controller. `chore` runs while it leads."""

    def __init__(self, store: Store, look_s: float = LOOK_S) -> None:
        self._store, self._look_s = store, look_s
        self._guard: Lease | None = None
        self._journal: Journal | None = None
        self._last: dict[str, tuple[str, str]] = {}

    async def chore(self, guard: Lease) -> None:
        """One pass; whatever fails, the next one starts again. Raises LeaseLost, Unavailable."""
        try:
            if self._guard != guard or self._journal is None:
                await self._open(guard)
            await self._write(guard)
        except BaseException:
            self._journal = None
            raise
        await asyncio.sleep(self._look_s)

    async def _open(self, guard: Lease) -> None:
        self._journal = await Journal.at_end(self._store, STREAM, guard)
        self._last = {}
        begin = max(0, self._journal.head.records - BACK)
        for row in await plan_records(self._store, begin, BACK):
            self._last[row.scenario] = (row.plan, row.problem)
        self._guard = guard

    async def _write(self, guard: Lease) -> None:
        assert self._journal is not None
        ready = [library.decode(entry) for entry in await all_entries(self._store, library.PREFIX)]
        news = []
        for one in ready:
            if one is not None:
                scenario, told = "+".join(one.lost), (one.plan, one.problem)
                if self._last.get(scenario) != told:
                    record = orjson.dumps((one.at_ms, scenario, one.plan, one.estate, one.problem))
                    news.append((scenario, told, record))
        for i in range(0, len(news), BATCH):
            some = news[i : i + BATCH]
            await self._journal.append([record for _, _, record in some], guard)
            self._last |= {scenario: told for scenario, told, _ in some}


async def plan_records(store: Store, after: int, limit: int) -> Sequence[PlanRecord]:
    """Records after a number. Raises Corrupt, Unavailable."""
    found = []
    async for number, record in records_after(store, STREAM, after, limit, proven=False):
        try:
            at_ms, scenario, plan, estate, problem = orjson.loads(record)
            found.append(PlanRecord(number, int(at_ms), str(scenario), str(plan), str(estate), str(problem)))
        except (ValueError, TypeError) as error:
            raise Corrupt("cannot read a record of the plan journal") from error
    return found
