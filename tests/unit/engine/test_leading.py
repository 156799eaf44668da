"""Leadership: renewed in time, given up in good time, and noticed by a process that was stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evac.engine.lead.leadership import Leadership, begin
from evac.model.errors import LeaseLost, LockHeld, Unavailable
from evac.store.port import Lease, MemoryStore
from tests.unit.virtual_time import LOOP_MS, LoopClock, run_virtually


class HandClock:
    """Time moves when it is told to."""

    def __init__(self) -> None:
        self.ms = 1_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms


class MuteStore(MemoryStore):
    """mute: renewals get no answer."""

    mute = False
    renewals = 0

    async def renew(self, lease: Lease) -> None:
        self.renewals += 1
        if self.mute:
            raise Unavailable("silent")
        await super().renew(lease)


def test_it_acts_for_less_than_the_lease_and_not_a_moment_longer() -> None:
    async def story() -> None:
        clock, told = HandClock(), []
        store = MuteStore(lambda: clock.ms)
        leading = await Leadership.acquire(store, "a", 1_000, clock, lambda: told.append("lost"))
        clock.ms += 749
        leading.check()
        clock.ms += 1
        with pytest.raises(LeaseLost):
            leading.check()
        assert told == ["lost"]
        clock.ms -= 500
        with pytest.raises(LeaseLost):
            leading.check()
        with pytest.raises(LockHeld):
            await store.acquire("leader", "b", 1_000)
        await leading.release()
        assert (await store.acquire("leader", "b", 1_000)).token > leading.token

    run_virtually(story())


def test_it_renews_as_long_as_it_is_answered_and_gives_up_before_the_lease_ends() -> None:
    async def story() -> None:
        store, told = MuteStore(LOOP_MS), []
        leading = await Leadership.acquire(store, "a", 400, LoopClock(), lambda: told.append(1))
        await asyncio.sleep(0.9)
        leading.check()
        assert store.renewals >= 4
        store.mute = True
        await asyncio.sleep(0.35)
        assert told == [1]
        assert not leading.holding
        await leading.release()

    run_virtually(story())


def test_what_the_store_said_when_renewals_failed_is_kept_to_the_end() -> None:
    """The last try before the lease ends has hardly any time and is cut off: it says nothing of its own."""

    class Slow(MuteStore):
        async def renew(self, lease: Lease) -> None:
            if self.mute:
                await asyncio.sleep(0.08)
            await super().renew(lease)

    async def story() -> None:
        store = Slow(LOOP_MS)
        leading = await Leadership.acquire(store, "a", 400, LoopClock())
        store.mute = True
        await asyncio.sleep(0.35)
        assert leading.given_up
        assert leading.trouble == ("silent",)
        await leading.release()

    run_virtually(story())


def test_a_lease_taken_away_is_noticed_at_the_next_renewal() -> None:
    async def story() -> None:
        store, told = MemoryStore(LOOP_MS), []
        leading = await Leadership.acquire(store, "a", 300, LoopClock(), lambda: told.append(1))
        await store.release(leading.lease)
        await asyncio.sleep(0.2)
        assert told == [1]
        with pytest.raises(LeaseLost):
            leading.check()
        await leading.release()

    run_virtually(story())


STOPPED = """
import asyncio, sys
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.model.errors import LeaseLost
from evac.store.port import MemoryStore

async def main():
    leading = await Leadership.acquire(MemoryStore(), "a", 600, SystemClock())
    print("leads", flush=True)
    while True:
        try:
            leading.check()
        except LeaseLost:
            print("stopped", flush=True)
            return
        print("effect", flush=True)
        await asyncio.sleep(0.02)

asyncio.run(main())
"""


def test_a_process_that_was_stopped_does_nothing_more(tmp_path: Path) -> None:
    """SIGSTOP for longer than the lease: the very next effect is refused."""
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "leads\n"
        for _ in range(3):
            assert process.stdout.readline() == "effect\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.1)
        os.set_blocking(process.stdout.fileno(), False)
        while process.stdout.readline():
            pass
        time.sleep(0.8)
        os.set_blocking(process.stdout.fileno(), True)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == "stopped\n"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_term_that_is_ending_takes_no_other_task_and_says_so_as_a_lost_lease() -> None:
    """Whatever else it raised would end the controller, and not only its term."""
    begun: list[str] = []

    async def work(name: str) -> None:
        begun.append(name)

    async def asks(tasks: asyncio.TaskGroup, ending: asyncio.Event) -> None:
        await ending.wait()
        await asyncio.sleep(0)
        begin(tasks, work("late"))

    async def ends(ending: asyncio.Event) -> None:
        ending.set()
        raise Unavailable("the store is away")

    async def story() -> None:
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as outer:

            async def term() -> None:
                async with asyncio.TaskGroup() as inner:
                    begin(inner, work("in time"))
                    outer.create_task(asks(inner, ending))
                    begin(inner, ends(ending))

            outer.create_task(term())

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(story())
    lost, rest = raised.value.split(LeaseLost)
    assert lost is not None
    assert rest is not None
    assert rest.split(Unavailable)[1] is None
    assert begun == ["in time"]
