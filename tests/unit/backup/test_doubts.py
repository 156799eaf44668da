"""Backups that are incomplete, or whose end no one saw, count for nothing as long as they exist."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evac.backup.evidence import KNOWN, RECALLED, Evidence
from evac.backup.jobs import Task, Worker
from evac.backup.known import (
    BEFORE_ALL,
    DOUBTS_KEPT,
    INCOMPLETE_KEPT,
    MADE_KEPT,
    SKEW_S,
    Begun,
    Known,
    after,
    after_listing,
    begin,
    begun_copy,
)
from evac.derive.backups import verdicts
from evac.derive.domains import topology
from evac.drivers.capabilities import CopyReport
from evac.drivers.lacking import lacking_of, parameters_of
from evac.drivers.registry import Drivers
from evac.model.backup import (
    BackupEvent,
    BackupFacts,
    CopySeen,
    Incomplete,
)
from evac.model.backup_policy import BackupPolicy
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.store.port import Delete, MemoryStore
from evac.views.backup_view import backups_document, kept_words
from tests.unit.backup.world import Repository, World, endpoint, estate_of, task, world_of
from tests.unit.virtual_time import LoopClock, run_virtually


def test_no_incomplete_backup_is_forgotten_while_it_may_exist() -> None:
    """The oldest beyond the limit are remembered by their time, and with them what began at the same time."""
    count = INCOMPLETE_KEPT + 2 * DOUBTS_KEPT
    older = tuple(Incomplete("near", f"o{at}") for at in range(5))
    kept = tuple(Incomplete("near", f"c{at}", at * 3_600) for at in range(1, INCOMPLETE_KEPT - 4))
    known = Known("wiki", incomplete=(*older, *kept))
    events = [
        BackupEvent("taken", at * 3_600_000, "wiki", "near", outcome="failed", snapshot=f"c{at}")
        for at in range(INCOMPLETE_KEPT - 4, count + 1)
    ]
    for event in events:
        known = after(known, event)
    known = after(known, events[-1])
    assert (len(known.incomplete), len(known.doubts)) == (INCOMPLETE_KEPT, DOUBTS_KEPT)
    near, far = known.lacking("near"), known.lacking("far")
    for at in range(1, count + 1):
        assert near(f"c{at}", "", at * 3_600)
        assert far(f"k{at}", f"c{at}", at * 3_600)
        assert not far(f"c{at}", "", at * 3_600)
    assert all(near(f"o{at}", "", 5) for at in range(5)), "an older version did not record when they began"
    assert not near("new", "", (count + 1) * 3_600)


class Killed(Exception):
    """The process ended at once."""


class CutStore:
    """A store whose client is killed at its write of a given number, before or after it is done. After that
    no call of it succeeds.
    """

    def __init__(self, inner: MemoryStore, cut: int, is_done: bool) -> None:
        self.inner, self.cut, self.is_done = inner, cut, is_done
        self.writes, self.is_dead = 0, False

    def __getattr__(self, name: str) -> Any:
        if self.is_dead:
            raise Killed
        return getattr(self.inner, name)

    async def transact(self, *given: Any, **named: Any) -> Any:
        if self.is_dead:
            raise Killed
        self.writes += 1
        if self.writes == self.cut:
            if self.is_done:
                await self.inner.transact(*given, **named)
            self.is_dead = True
            raise Killed
        return await self.inner.transact(*given, **named)


async def _killed(world: World, folder: Path, cut: int, is_done: bool, job: Task) -> int:
    """Do a job with a process that is killed at a write; return how many writes there were."""
    store: Any = CutStore(world.store, cut, is_done)
    drivers = Drivers({"vault": lambda: world.vault})
    worker = Worker(store, Evidence(store), drivers, LoopClock(), folder, "two")
    with contextlib.suppress(Killed):
        await worker.do(job)
    await asyncio.sleep(61)  # its lock ends
    return int(store.writes)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "its tool goes on"])
@pytest.mark.parametrize("missing", [(), ("/srv/missing",)], ids=["complete", "incomplete"])
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_wherever_evac_is_killed_only_a_backup_recorded_as_complete_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_done: bool, missing: tuple[str, ...], late: bool
) -> None:
    async def story(cut: int) -> bool:
        world = world_of(monkeypatch, tmp_path, {"r-wiki": Repository()})
        repository = world.repositories["r-wiki"]
        await world.worker.do(task("take"))
        repository.missing, began_s = missing, int(asyncio.get_running_loop().time())
        writes = await _killed(world, tmp_path, cut, is_done, task("take"))
        await world.worker.do(task("list"))
        if late and is_done and len(repository.copies) == 1:
            repository.copies.append(CopyReport("c1", began_s, repository.size))
        await world.worker.do(task("list"))
        ends = [one for one in await world.evidence.history("wiki", 99) if one.snapshot == "c1"]
        whole = {"c0"} | {one.snapshot for one in ends if (one.kind, one.outcome) == ("taken", "done")}
        seen = (await world.evidence.known("wiki")).seen("r-wiki")
        assert seen is not None
        assert seen.count == len(whole)
        assert seen.taken_at_ms == max(one.taken_at for one in repository.copies if one.id in whole) * 1_000
        tested = await world.worker.do(task("restore-test"))
        assert tested.snapshot == max(whole)
        repository.missing = ()
        await asyncio.sleep(1)
        event = await world.worker.do(task("take"))
        seen = (await world.evidence.known("wiki")).seen("r-wiki")
        assert seen is not None
        assert (event.outcome, seen.count) == ("done", len(whole) + 1), "a doubt ends with the next backup"
        assert seen.taken_at_ms == repository.copies[-1].taken_at * 1_000
        for _ in range(MADE_KEPT + 1):
            await world.worker.do(task("take"))
        seen = (await world.evidence.known("wiki")).seen("r-wiki")
        assert seen is not None
        assert seen.count == len(whole) + MADE_KEPT + 2
        return writes < cut

    cut = 1
    while not run_virtually(story(cut), 10_000):
        cut += 1
    assert cut >= 4, "before the tool starts, the record, the listing"


COPY = task("copy", "far", origin=endpoint("near"))


@pytest.mark.parametrize("late", [False, True], ids=["at once", "its tool goes on"])
@pytest.mark.parametrize("missing", [(), ("the tree of c1",)], ids=["complete", "incomplete"])
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_wherever_evac_is_killed_only_a_copy_recorded_as_complete_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_done: bool, missing: tuple[str, ...], late: bool
) -> None:
    """A copy states the time of its original, so only its original tells which copy is in doubt."""

    async def story(cut: int) -> bool:
        world = world_of(monkeypatch, tmp_path, {"near": Repository(), "far": Repository()})
        near, far = world.repositories["near"], world.repositories["far"]

        async def counted() -> int:
            await world.worker.do(replace(COPY, job="list"))
            seen = (await world.evidence.known("wiki")).seen("far")
            assert seen is not None
            return seen.count

        for _ in range(MADE_KEPT + 2):
            await world.worker.do(task("take", "near"))
            await world.worker.do(COPY)
        await world.worker.do(task("take", "near"))
        before, far.missing = await counted(), missing
        assert before == MADE_KEPT + 2
        writes = await _killed(world, tmp_path, cut, is_done, COPY)
        await counted()
        if late and is_done and len(far.copies) == before:
            far.copies.append(replace(near.copies[-1], id=f"k{before}", original=near.copies[-1].id))
        ends = await world.evidence.history("wiki", 999)
        done = {
            one.snapshot for one in ends if (one.kind, one.copy, one.outcome) == ("copied", "far", "done")
        }
        assert await counted() == len(done), "what was copied whole before still counts"
        tested = await world.worker.do(task("restore-test", "far"))
        assert tested.snapshot == max(done, key=lambda one: int(one[1:]))
        again = await world.worker.do(COPY)
        assert (again.outcome, await counted()) == (
            ("failed", before) if missing else ("done", before + 1)
        ), "a doubt ends once its copy is found whole"
        far.missing = ()
        await world.worker.do(task("take", "near"))
        assert (await world.worker.do(COPY)).outcome == "done"
        assert await counted() == before + (1 if missing else 2)
        return writes < cut

    cut = 1
    while not run_virtually(story(cut), 10_000):
        cut += 1
    assert cut >= 4, "before the tool starts, the record, the listing"


def test_a_copy_of_a_copy_in_doubt_is_incomplete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It states the first original, which is whole; what it was copied from may not be."""

    async def story() -> None:
        world = world_of(
            monkeypatch, tmp_path, {one: Repository() for one in ("near", "far", "third", "near2")}
        )
        await world.worker.do(task("take", "near"))
        (taken,) = world.repositories["near"].copies
        begun = begun_copy(Known("wiki"), "far", LoopClock().now_ms(), taken, ())
        await world.evidence.begin("wiki", begun)
        copied = replace(world.repositories["near"].copies[0], id="k0", original="c0")
        world.repositories["far"].copies.append(copied)
        third = await world.worker.do(task("copy", "third", origin=endpoint("far")))
        assert (third.outcome, third.code) == ("failed", "backup-incomplete")
        assert third.detail == "not in the backup: what k0 lacks"
        known = await world.evidence.known("wiki")
        assert [(one.copy, one.count) for one in known.copies] == [("near", 1), ("third", 0)]
        straight = await world.worker.do(task("copy", "near2", origin=endpoint("near")))
        assert straight.outcome == "done"

    run_virtually(story(), 10_000)


def test_doubts_of_copies_are_one_for_each_original_and_never_dropped() -> None:
    """Beyond the limit they are times, like those of backups."""
    known = Known("wiki")
    sources = [CopyReport(f"c{at}", at * 10_000, original=f"o{at}") for at in range(2 * DOUBTS_KEPT)]
    for number, source in enumerate(sources):
        for more in range(3):
            known = begin(known, begun_copy(known, "far", number * 10_000_000 + more, source, ()))
    assert len(known.doubts) == DOUBTS_KEPT
    far = known.lacking("far")
    assert all(far(f"k{one.id}", one.original, one.taken_at) for one in sources)
    assert not known.lacking("near")("c1", "", 10_000)
    shown = lacking_of(parameters_of(far))
    assert all(shown(f"k{one.id}", one.id, one.taken_at) for one in sources)
    assert not shown("kx", "x", sources[-1].taken_at), "another original of the same time"


def test_a_backup_whose_tool_did_not_answer_in_time_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may have been taken, and no one saw whether it is complete."""

    async def story() -> None:
        world = world_of(monkeypatch, tmp_path, {"r-wiki": Repository([CopyReport("c0", 1, 5)])})
        await asyncio.sleep(1_000)

        async def take(action: object, timeout_s: float) -> None:
            now_s = int(asyncio.get_running_loop().time())
            world.repositories["r-wiki"].copies.append(CopyReport("late", now_s, 5))
            raise OutcomeUnknown("backup-unknown", "it did not end in time")

        monkeypatch.setattr(world.vault, "take", take)
        event = await world.worker.do(task("take"))
        known = await world.evidence.known("wiki")
        assert (event.outcome, known.copies[0].count, known.copies[0].taken_at_ms) == ("unknown", 1, 1_000)
        assert known.copies[0].unusable == 1
        (verdict,) = verdicts(topology(estate_of(BackupPolicy())), BackupFacts(known.copies), 2_000_000)
        (row,) = backups_document("t", (verdict,), BackupFacts(known.copies), 2_000_000).data_sets
        assert kept_words(row.copies[0]).endswith(
            "; 1 more failed, is incomplete or is not known to be complete"
        )

    run_virtually(story(), 10_000)


@pytest.mark.parametrize("error", [Permanent("backup-refused", "no"), Retryable("backup-silent", "no")])
def test_what_a_failed_tool_left_behind_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: ActionError
) -> None:
    """It failed and named no backup, but its repository lists one."""

    async def story() -> None:
        world = world_of(monkeypatch, tmp_path, {"r-wiki": Repository()})
        await world.worker.do(task("take"))
        await asyncio.sleep(1_000)
        began_s = int(asyncio.get_running_loop().time())

        async def fails(action: object, timeout_s: float) -> None:
            world.repositories["r-wiki"].copies.append(CopyReport("partial", began_s, 5))
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(world.vault, "take", fails)
            event = await world.worker.do(task("take"))
        known = await world.evidence.known("wiki")
        assert (event.outcome, event.snapshot) == ("failed", "")
        assert known.lacking("r-wiki")("partial", "", began_s)
        assert known.lacking("far")("k1", "partial", began_s), "a copy of it"
        assert (known.copies[0].count, known.copies[0].unusable) == (1, 1)
        again = await world.worker.do(task("take"))
        known = await world.evidence.known("wiki")
        assert (again.outcome, known.copies[0].count) == ("done", 2), "a complete one of that time counts"
        assert known.lacking("r-wiki")("partial", "", began_s)

    run_virtually(story(), 10_000)


@given(st.lists(st.sampled_from(["done", "failed", "unknown"]), max_size=8), st.booleans())
def test_only_what_ended_well_counts_of_what_was_taken(ends: list[Any], named: bool) -> None:
    known = Known("wiki")
    for number, outcome in enumerate(ends):
        at_ms = (number + 1) * 10_000_000
        known = begin(known, Begun("near", at_ms))
        name = f"c{number}" if named or outcome == "done" else ""
        event = BackupEvent("taken", at_ms + 5_000, "wiki", "near", outcome=outcome, snapshot=name)
        known = after(known, replace(event, taken_at_ms=at_ms + 1_000))
    lacks = known.lacking("near")
    for number, outcome in enumerate(ends):
        assert lacks(f"c{number}", "", (number + 1) * 10_000 + 1) == (outcome != "done")


def test_a_copy_of_a_backup_in_doubt_is_in_doubt() -> None:
    known = after(Known("wiki"), BackupEvent("taken", 9_000, "wiki", "near", snapshot="c0"))
    known = begin(known, Begun("near", 10_000_000))
    far = known.lacking("far")
    assert far("k1", "c1", 10_001)
    assert not far("k0", "c0", 10_001), "its original is known to be complete"
    assert not far("c1", "", 10_001), "it was taken there"
    assert not known.lacking("near")("before", "", 10_000 - SKEW_S - 1)
    assert known.lacking("near")("c1", "", 20_000)
    known = begin(known, Begun("near", 11_000_000))
    assert known.lacking("near")("c1", "", 10_001)
    assert not known.lacking("near")("c0", "", 10_001)


def test_the_oldest_doubts_are_joined_and_never_dropped() -> None:
    known = Known("wiki")
    for at in range(1, 2 * DOUBTS_KEPT):
        known = begin(known, Begun("near", at * 10_000_000))
        assert len(known.doubts) <= DOUBTS_KEPT
    near = known.lacking("near")
    assert all(near("c", "", one * 10_000) for one in range(1, 2 * DOUBTS_KEPT))


def _taken(known: Known, end: str, name: str, at_s: int) -> Known:
    """A backup that began, and ended 50 s later unless evac was killed."""
    known = begin(known, Begun("near", at_s * 1_000))
    if end == "killed":
        return known
    outcome: Any = "failed" if end == "named" else end
    event = BackupEvent("taken", (at_s + 50) * 1_000, "wiki", "near", outcome=outcome)
    named = replace(event, snapshot=name, taken_at_ms=at_s * 1_000 + 1_000)
    return after(known, named if end in ("done", "named") else event)


@given(
    st.lists(
        st.tuples(st.sampled_from(["done", "failed", "unknown", "named", "killed"]), st.integers(60, 7_200)),
        max_size=40,
    )
)
def test_what_was_recorded_as_complete_counts_and_nothing_else_does(history: list[tuple[str, int]]) -> None:
    known, at_s, taken = Known("wiki"), 10_000, []
    for number, (end, pause_s) in enumerate(history):
        at_s += pause_s
        known = _taken(known, end, f"c{number}", at_s)
        taken.append((f"c{number}", at_s + 1, end))
        near, far = known.lacking("near"), known.lacking("far")
        for name, began_s, ended in taken:
            assert near(name, "", began_s) == (ended != "done")
            assert far(f"k{name}", name, began_s) == (ended != "done")


def test_a_failure_a_day_leaves_the_backups_of_every_other_hour() -> None:
    known, days = Known("wiki"), 130
    hours = range(1, days * 24 + 1)
    for hour in hours:
        known = _taken(known, "failed" if hour % 24 == 0 else "done", f"c{hour}", hour * 3_600)
    near = known.lacking("near")
    lacking = [hour for hour in hours if near(f"c{hour}", "", hour * 3_600 + 1)]
    assert lacking == [hour for hour in hours if hour % 24 == 0]


def test_beyond_the_limit_the_closest_doubts_are_joined_once_each_id() -> None:
    """Between those that overlap was nothing else, so every other complete backup still counts."""
    known, at_s = Known("wiki"), 10_000
    whole, failed = [], []
    for number in range(DOUBTS_KEPT + 50):
        known = _taken(known, "failed", "", at_s)
        failed.append(at_s + 1)
        at_s += 300 if number >= DOUBTS_KEPT - 50 else 7_200
        if number < DOUBTS_KEPT - 50:
            known = _taken(known, "done", f"c{number}", at_s - 3_600)
            whole.append((f"c{number}", at_s - 3_599))
    known = _taken(known, "done", "last", at_s)
    whole.append(("last", at_s + 1))
    near = known.lacking("near")
    assert len(known.doubts) == DOUBTS_KEPT
    assert not any(near(name, "", began_s) for name, began_s in whole)
    assert all(near("partial", "", began_s) for began_s in failed)
    assert all(len(one.whole) == len(set(one.whole)) for one in known.doubts)


def test_incomplete_backups_of_older_versions_are_recalled_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They recorded the event, and not that its backup counts for nothing."""

    async def story() -> None:
        world = world_of(monkeypatch, tmp_path, {"r-wiki": Repository([CopyReport("c0", 1, 5)])})
        lease = await world.store.acquire("leader", "one", 60_000)
        older = Evidence(world.store, 0.0)
        for at, snapshot in ((5, "c1"), (6, "c2")):
            world.repositories["r-wiki"].copies.append(CopyReport(snapshot, at, 5))
            event = BackupEvent("taken", at, "wiki", "r-wiki", outcome="failed", snapshot=snapshot)
            await older.add(event)
            await world.store.transact((), (Delete(f"{KNOWN}wiki"), Delete(RECALLED)))
            if at == 5:
                await older.chore(lease)
                await world.store.transact((), (Delete(f"{KNOWN}wiki"), Delete(RECALLED)))
        await world.worker.do(task("list"))
        known = await world.evidence.known("wiki")
        assert {one.snapshot for one in known.incomplete} == {"c1", "c2"}
        assert known.copies[0].taken_at_ms == 1_000
        assert await world.store.get(RECALLED) is not None

    run_virtually(story())


class Repositories:
    """Two repositories of a data set, what was ever incomplete, and what is known of it. At each place may be
    another repository for a time.
    """

    def __init__(self) -> None:
        self.known, self.now_ms = Known("wiki"), 0
        self.there: dict[str, dict[str, str]] = {"near": {}, "far": {}}
        self.away: set[str] = set()
        self.lacking: set[str] = set()

    def take(self, whole: bool) -> None:
        name = f"c{self.now_ms}"
        self.there["near"][name] = ""
        outcome: Any = "done" if whole else "failed"
        event = BackupEvent("taken", self.now_ms, "wiki", "near", outcome=outcome, snapshot=name)
        self.known = after(self.known, event)
        self.lacking |= set() if whole else {name}

    def copy_by_hand(self) -> None:
        for name in self.there["near"]:
            if name not in self.there["far"].values():
                self.there["far"][f"k{name}"] = name

    def list(self, copy: str) -> None:
        self.now_ms += 1
        is_away = copy in self.away
        seen = CopySeen("wiki", copy, self.now_ms, None, repository="another" if is_away else copy)
        self.known = after(self.known, BackupEvent("listed", self.now_ms, "wiki", copy, seen=seen))
        self.known = after_listing(self.known, copy, {} if is_away else self.there[copy])

    def list_empty(self, copy: str) -> None:
        """For example of a disk that is not mounted."""
        for _ in range(2):
            self.now_ms += 1
            seen = CopySeen("wiki", copy, self.now_ms, None)
            self.known = after(self.known, BackupEvent("listed", self.now_ms, "wiki", copy, seen=seen))
            self.known = after_listing(self.known, copy, {})

    def judge(self) -> None:
        for copy, ids in self.there.items():
            lacks = self.known.lacking(copy)
            for name, original in ids.items():
                assert lacks(name, original, 0) == bool({name, original} & self.lacking), (copy, name)


WHERE = ("list", "prune", "another repository at", "it is there again at", "empty listing twice of")
ACTS = st.sampled_from(
    ["take", "fail", "copy", *(f"{what} {copy}" for what in WHERE for copy in ("near", "far"))]
)


@given(st.lists(ACTS, max_size=25))
@example(["fail", "list near", "list far", *("empty listing twice of near", "list far") * 2])
@example(["fail", "list near", "another repository at near", *("list near", "list far") * 3])
def test_what_is_incomplete_is_known_as_long_as_it_or_a_copy_exists(acts: list[str]) -> None:
    """Also of copies that someone else made, whatever the tools delete, and whatever else was listed."""
    world = Repositories()
    world.list("near")
    world.list("far")
    for act in acts:
        world.now_ms += 1
        what, _, copy = act.rpartition(" ")
        if what == "list":
            world.list(copy)
        elif what == "prune":
            world.there[copy].clear()
        elif what == "another repository at":
            world.away.add(copy)
        elif what == "it is there again at":
            world.away.discard(copy)
        elif what == "empty listing twice of":
            world.list_empty(copy)
        elif act == "copy":
            world.copy_by_hand()
        else:
            world.take(act == "take")
        world.judge()


@pytest.mark.parametrize("code", sorted(BEFORE_ALL))
def test_a_job_that_wrote_nothing_leaves_no_doubt(code: str) -> None:
    event = BackupEvent("taken", 20_000_000, "wiki", "near", outcome="failed", code=code)
    known = after(begin(Known("wiki"), Begun("near", 10_000_000)), event)
    assert not known.lacking("near")("of-another-program", "", 10_001)
    for unlike in (replace(event, code="backup-refused"), replace(event, outcome="unknown")):
        other = after(begin(Known("wiki"), Begun("near", 10_000_000)), unlike)
        assert other.lacking("near")("of-another-program", "", 10_001)


@pytest.mark.parametrize(
    "error",
    [
        Permanent("backup-target-full", "no space left on device"),
        Retryable("backup-unreachable", "no answer"),
        OutcomeUnknown("outcome-unknown", "it did not finish in time"),
    ],
)
@pytest.mark.parametrize("has_original", [True, False])
def test_a_copy_that_fails_puts_no_copy_in_doubt_that_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ActionError, has_original: bool
) -> None:
    """Even one that evac did not make: whoever set up the repositories copied it by hand."""

    async def story() -> None:
        world = world_of(monkeypatch, tmp_path, {one: Repository() for one in ("near", "far")})
        near, far = world.repositories["near"], world.repositories["far"]
        await world.worker.do(task("take", "near"))
        if has_original:
            far.copies.append(replace(near.copies[0], id="k0", original="c0"))
            await world.worker.do(task("list", "far"))
        far.uncopied = error
        made, *more = await world.worker.events_of(task("copy", "far", origin=endpoint("near")))
        assert (made.outcome != "done", more) == (True, [])
        known = await world.evidence.known("wiki")
        assert known.seen("far").count == has_original  # type: ignore[union-attr]
        assert known.alarms == ()
        # What appears with the failed copy is not known to be complete.
        far.copies.append(replace(near.copies[0], id="k1", original="c0"))
        await world.worker.do(task("list", "far"))
        known = await world.evidence.known("wiki")
        assert (known.seen("far").count, known.seen("far").unusable) == (has_original, 1)  # type: ignore[union-attr]
        # Nor does a second failure make it complete, because it was there before that.
        await world.worker.events_of(task("copy", "far", origin=endpoint("near")))
        known = await world.evidence.known("wiki")
        assert (known.seen("far").count, known.seen("far").unusable) == (has_original, 1)  # type: ignore[union-attr]

    run_virtually(story())
