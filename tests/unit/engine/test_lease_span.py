"""A lease that is lost again and again is asked for longer, and shorter again when that is not needed."""

from __future__ import annotations

import asyncio

import pytest

from evac.engine.lead.controller import LeaseSpan
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.open_runs import OPEN
from evac.model.errors import LeaseLost, Unavailable
from evac.store.port import Delete, Entry, Lease, MemoryStore, Put
from evac_lab.virtual_loop import VirtualLoop, run
from tests.unit.virtual_time import LOOP_MS, LoopClock, run_virtually


def test_one_loss_changes_nothing_and_losses_in_a_row_double_it_up_to_four_times() -> None:
    span, asked = LeaseSpan(2_000), []
    for at_ms in (0, 40_000, 80_000, 85_000, 90_000, 95_000, 100_000):
        span.lost(at_ms)
        asked.append(span.ms)
    assert asked == [2_000, 2_000, 2_000, 4_000, 8_000, 8_000, 8_000]


class BusyStore(MemoryStore):
    """listed: how often it was asked for runs; silent: how many of the first times get no answer."""

    listed = silent = 0

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        self.listed += 1
        if self.listed <= self.silent:
            raise Unavailable("silent")
        return await super().list(prefix, after, limit)


def test_a_long_one_ends_when_it_was_kept_for_a_while_and_no_run_is_open() -> None:
    async def story() -> None:
        store, span = BusyStore(LOOP_MS), LeaseSpan(2_000)
        store.silent = 2
        for at_ms in (0, 1):
            span.lost(at_ms)
        leadership = await Leadership.acquire(store, "a", span.ms, LoopClock())
        await store.transact((), (Put(f"{OPEN}run", b""),))
        minding = asyncio.create_task(span.mind(leadership, store, 0.01))
        while store.listed < 5:
            await asyncio.sleep(0.01)
        assert not minding.done(), "a run is open"
        assert span.ms == 4_000
        await store.transact((), (Delete(f"{OPEN}run"),))
        with pytest.raises(LeaseLost):
            await minding
        assert (span.ms, leadership.given_up) == (2_000, False)
        await leadership.release()

    run_virtually(story())


def test_the_shortest_is_never_taken_anew() -> None:
    async def story() -> None:
        store, span = BusyStore(LOOP_MS), LeaseSpan(2_000)
        leadership = await Leadership.acquire(store, "a", span.ms, LoopClock())
        await span.mind(leadership, store, 0.01)
        assert store.listed == 0
        await leadership.release()

    run_virtually(story())


class SlowStore(MemoryStore):
    """Whatever concerns a lease takes as long as a machine that is short of processors takes for it."""

    slow_s = 0.0

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        await asyncio.sleep(self.slow_s)
        return await super().acquire(name, owner, ttl_ms)

    async def renew(self, lease: Lease) -> None:
        await asyncio.sleep(self.slow_s)
        await super().renew(lease)


class OfLoop:
    """The time of a loop, which stands still while somebody else has the processor."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.now_ms = self.monotonic_ms = loop.now_ms


def test_a_lease_is_kept_where_its_store_takes_nearly_half_of_it_to_answer() -> None:
    loop = VirtualLoop(1, later_permille=0)
    clock = OfLoop(loop)

    async def story() -> None:
        store, told = SlowStore(clock.monotonic_ms), []
        store.slow_s = 0.3
        leadership = await Leadership.acquire(store, "a", 900, clock, lambda: told.append("lost"))
        await asyncio.sleep(30.0)
        assert (told, leadership.holding) == ([], True)
        await leadership.release()

    run(loop, story())
