"""A journal against a plain list, under lost messages, crashes, new leaders and many appends at once."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evac.model.errors import Conflict, LeaseLost, Unavailable
from evac.store.anchors import Anchor, verify_chain
from evac.store.journal import Journal, read
from evac.store.port import Compare, Delete, Lease, MemoryStore, Put, Store
from evac.store.sqlite import SqliteStore
from tests.unit.store.lossy import LossyStore

FAULTS = st.lists(st.sampled_from(["question", "answer", "late", ""]), max_size=4)
COUNTS = st.integers(1, 300)


class JournalMachine(RuleBasedStateMachine):
    """certain: what must be there, in order. maybe: one append that may follow it, whole or not at all."""

    def open_store(self) -> Store:
        return MemoryStore()

    def reopen(self, store: Store) -> Store:
        return store

    @initialize()
    def create(self) -> None:
        self.runner = asyncio.Runner()
        self.store = LossyStore(self.open_store())
        self.certain: list[bytes] = []
        self.maybe: list[bytes] = []
        self.anchors: list[Anchor] = []
        self.tokens: list[int] = []
        self.number = 0
        self.lease = self.new_lease()
        self.journal = self.runner.run(Journal.create(self.store, "run-1", self.lease))

    def new_lease(self) -> Lease:
        lease = self.runner.run(self.store.acquire("leader", "me", 3_600_000))
        self.tokens.append(lease.token)
        return lease

    def records(self, count: int) -> list[bytes]:
        self.number += count
        return [b"%d" % number for number in range(self.number - count, self.number)]

    @rule(count=COUNTS, faults=FAULTS, read_faults=st.integers(0, 4))
    @precondition(lambda self: not self.maybe)
    def append(self, count: int, faults: list[str], read_faults: int) -> None:
        self.store.faults, self.store.read_faults = faults, read_faults
        records = self.records(min(count, 256))
        try:
            self.runner.run(self.journal.append(records, self.lease))
        except Unavailable:
            assert self.journal.in_doubt
            self.maybe = records
        else:
            self.certain += records
            self.anchors.append(self.journal.head)
        self.store.faults, self.store.read_faults = [], 0

    @rule(counts=st.lists(COUNTS, min_size=2, max_size=6), faults=st.lists(st.just("answer"), max_size=2))
    @precondition(lambda self: not self.maybe)
    def append_together(self, counts: list[int], faults: list[str]) -> None:
        self.store.faults = faults
        batches = [self.records(count) for count in counts]

        async def together() -> None:
            await asyncio.gather(*(self.journal.append(batch, self.lease) for batch in batches))

        self.runner.run(together())
        self.store.faults = []
        self.certain += [record for batch in batches for record in batch]

    @rule(holds=st.booleans())
    @precondition(lambda self: not self.maybe)
    def append_with_a_compare(self, holds: bool) -> None:
        key, records = "request/1", self.records(1)
        revision = self.runner.run(self.store.transact([], [Put(key, b"pause")]))
        compare = Compare(key, revision if holds else revision - 1)
        try:
            self.runner.run(self.journal.append(records, self.lease, [compare], [Delete(key)]))
        except Conflict:
            assert not holds
        else:
            assert holds
            self.certain += records

    @rule()
    @precondition(lambda self: self.maybe)
    def settle(self) -> None:
        found = list(self.runner.run(self.journal.settle(self.lease)))
        assert found in ([], self.maybe)
        self.certain += found
        self.maybe = []
        self.runner.run(self.store.deliver())

    @rule(from_anchor=st.booleans())
    def crash_and_open_again(self, from_anchor: bool) -> None:
        """The lease of the dead is released, as if its time were over: then nothing of it can arrive."""
        self.runner.run(self.store.release(self.lease))
        self.runner.run(self.store.deliver())
        self.store.inner = self.reopen(self.store.inner)
        self.lease = self.new_lease()
        anchor = self.anchors[-1] if from_anchor and self.anchors else None
        self.journal = self.runner.run(Journal.open(self.store, "run-1", after=anchor))
        self.settled_by_reading()

    @rule()
    @precondition(lambda self: not self.maybe)
    def lose_the_lease(self) -> None:
        self.runner.run(self.store.release(self.lease))
        try:
            self.runner.run(self.journal.append(self.records(1), self.lease))
        except LeaseLost:
            self.lease = self.new_lease()
            return
        raise AssertionError("a lease that is over wrote")

    def settled_by_reading(self) -> None:
        written = self.read()
        assert written in (self.certain, self.certain + self.maybe)
        self.certain, self.maybe = written, []

    def read(self) -> list[bytes]:
        async def everything() -> list[bytes]:
            return [record for s in [s async for s in read(self.store, "run-1")] for record in s.records]

        return self.runner.run(everything())

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "runner"):
            return
        assert self.read() in (self.certain, self.certain + self.maybe)
        assert self.runner.run(verify_chain(self.store, "run-1", self.anchors)) == []
        assert self.tokens == sorted(set(self.tokens))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.store.close())
            self.runner.close()


class SqliteJournalMachine(JournalMachine):
    def open_store(self) -> Store:
        self.folder = Path(tempfile.mkdtemp())
        return SqliteStore(self.folder / "evac.db")

    def reopen(self, store: Store) -> Store:
        self.runner.run(store.close())
        return SqliteStore(self.folder / "evac.db")

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


TestJournalInMemory = JournalMachine.TestCase
TestJournalInMemory.settings = settings(max_examples=80, stateful_step_count=25)
TestJournalInSqlite = SqliteJournalMachine.TestCase
TestJournalInSqlite.settings = settings(max_examples=12, stateful_step_count=15)
