"""The log of access by months: what is kept, what is deleted, and that the chain says it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from evac.app import runs
from evac.app.access_log import archive, check_archive
from evac.cli import console
from evac.cli.main import run as command
from evac.engine.lead import access_chapters as chapters
from evac.engine.lead.access_journal import AccessJournal, access_records, batch_of
from evac.model.access import AccessRecord
from evac.model.errors import InvalidInput
from evac.store.anchors import Anchor
from evac.store.journal import head_of
from evac.store.opening import open_store
from evac.store.port import Change, Delete, Lease, Put

DAY_MS = 86_400_000
BEGIN_MS = int(datetime(2026, 1, 15, tzinfo=UTC).timestamp() * 1_000)


class World:
    """Half a year of a log, a record a day, kept for so many days."""

    def __init__(self, days: int = 180, keep_days: int = 0, url: str = "memory:") -> None:
        self.store, self.now_ms, self.keep_days = open_store(url), BEGIN_MS, keep_days
        self.journal = AccessJournal(self.store, lambda: self.now_ms, lambda: self.keep_days * DAY_MS, 0)
        self.heads: list[Anchor] = []
        self.days = days

    async def live(self) -> World:
        guard = await self.store.acquire("leader", "here", 10**12)
        for day in range(self.days):
            await self.day(guard, day)
        return self

    async def day(self, guard: Lease, day: int) -> None:
        one = AccessRecord(self.now_ms, "sign-in", f"kim-{day}")
        await self.store.transact((), (batch_of([one], self.now_ms),))
        await self.journal.chore(guard)
        head = await head_of(self.store, await chapters.newest_of(self.store))
        assert head is not None
        self.heads.append(head)
        self.now_ms += DAY_MS

    async def problems(self, heads: list[Anchor] | None = None) -> list[str]:
        return (await chapters.verify_chapters(self.store, heads or []))[1]

    async def there(self) -> list[str]:
        found = await chapters.chapters_of(self.store)
        return [one.stream for one in found if one.deleted is None]


def played(story: Callable[[World], Awaitable[None]], **more: int) -> None:
    async def run() -> None:
        await story(await World(**more).live())

    asyncio.run(run())


def test_each_month_is_a_chapter_that_names_the_one_before() -> None:
    async def story(world: World) -> None:
        assert await world.there() == [f"access-2026-{month:02d}" for month in range(1, 8)]
        assert await world.problems(world.heads) == []
        who = [one.who for one in await access_records(world.store) if one.kind == "sign-in"]
        assert who == [f"kim-{day}" for day in range(180)]

    played(story)


def test_what_policy_does_not_keep_is_deleted_and_the_chain_says_so() -> None:
    async def story(world: World) -> None:
        assert await world.there() == ["access-2026-05", "access-2026-06", "access-2026-07"]
        assert await world.store.list("journal/access-2026-04/") == []
        there = set(await world.there())
        assert await world.problems([one for one in world.heads if one.stream in there]) == []
        found = await access_records(world.store)
        oldest = min(one.at_ms for one in found)
        assert 60 * DAY_MS <= world.now_ms - oldest <= 92 * DAY_MS + DAY_MS
        deleted = [one.what for one in found if one.kind == "log-deleted"]
        named = [words.split(":")[0] for words in deleted]
        assert named == [f"deleted access-2026-0{month}" for month in (2, 3, 4)], (
            "the record of January is gone, too"
        )

    played(story, keep_days=60)


def test_deletions_of_months_that_are_still_told_stay_in_the_log() -> None:
    async def story(world: World) -> None:
        world.keep_days = 40
        world.journal._kept_ms = 0
        guard = world.journal._guard
        assert guard is not None
        await world.day(guard, 180)
        words = [one.what for one in await access_records(world.store) if one.kind == "log-deleted"]
        assert len(words) == 5
        assert await world.there() == ["access-2026-06", "access-2026-07"]
        assert await world.problems() == []

    played(story)


@pytest.mark.parametrize("gone", ["first", "middle", "last", "segment", "index"])
def test_what_anyone_else_deletes_shows(gone: str) -> None:
    async def story(world: World) -> None:
        assert await world.problems(world.heads) == []
        there = await world.there()
        stream = {"first": there[0], "last": there[-1]}.get(gone, there[3])
        doomed = [one.key for one in await world.store.list(f"journal/{stream}/")]
        if gone == "segment":
            doomed = doomed[2:3]
        if gone != "segment":
            doomed.append(f"access-log/{stream}")
        if gone == "index":
            doomed = doomed[-1:]
        for key in doomed:
            await world.store.transact((), (Delete(key),))
        found = await world.problems(world.heads)
        assert found
        assert all(stream in one for one in found)

    played(story)


def test_a_month_that_was_written_again_shows() -> None:
    async def story(world: World) -> None:
        other = await World(days=180).live()
        stream = "access-2026-03"
        for entry in await other.store.list(f"journal/{stream}/"):
            value = entry.value.replace(b"kim-", b"sam-")
            await world.store.transact((), (Put(entry.key, value),))
        assert any(f"{stream} does not end where" in one for one in await world.problems())

    played(story)


def test_a_store_with_one_journal_goes_on_in_chapters() -> None:
    async def run() -> None:
        from evac.store.journal import Journal

        world = World(days=3)
        guard = await world.store.acquire("leader", "here", 10**12)
        old = b'{"at_ms": 1, "kind": "sign-in", "who": "old"}'
        await Journal.create(world.store, "access", guard, records=(old,))
        for day in range(3):
            await world.day(guard, day)
        assert await world.there() == ["access", "access-2026-01"]
        assert await world.problems() == []
        proof = await runs.verify(world.store, "access", [])
        assert (proof.records, proof.problems) == (5, ())
        assert proof.chapters[:2] == ("access", "access-2026-01")
        assert (await access_records(world.store))[0].who == "old"

    asyncio.run(run())


def test_an_archive_grows_outlives_the_store_and_proves_itself(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        guard = world.journal._guard
        assert guard is not None
        folder = tmp_path / "log"
        first = await archive(world.store, folder)
        assert [one.problems for one in first] == [()] * 7
        world.keep_days = 40
        world.journal._kept_ms = 0
        for day in range(180, 220):
            await world.day(guard, day)
        again = await archive(world.store, folder)
        assert len(again) == 8
        assert not any(one.problems for one in again)
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())

        march = folder / "access-2026-03.jsonl"
        honest = march.read_bytes()
        for changed, words in (
            (honest.replace(b"kim-60", b"sam-60"), "does not"),
            (b"".join(honest.splitlines(keepends=True)[:-1]), "ends at a different record than"),
            (honest[: len(honest) // 2], "unreadable"),
        ):
            march.write_bytes(changed)
            assert words in " ".join(word for one in check_archive(folder) for word in one.problems)
        march.unlink()
        assert "missing: the file for access-2026-03" in check_archive(folder)[2].problems[0]
        august = folder / "access-2026-08.jsonl"
        august.write_bytes(august.read_bytes().replace(b"kim-", b"sam-"))
        with pytest.raises(InvalidInput, match="is not the beginning of"):
            await archive(world.store, folder)

    played(story)


def _spoil(way: str, keys: list[str]) -> list[Change]:
    """What someone who can write to the store does to a month. keys: of its segments, and of its entry."""
    *segments, index = keys
    middle = segments[len(segments) // 2]
    return {
        "overwritten": [Put(middle, b"x" * 400)],
        "deleted": [Delete(middle)],
        "end": [Put(segments[-1], b"x" * 400)],
        "all": [Put(key, b"x" * 400) for key in segments],
        "entry": [Put(index, b"x" * 400)],
        "newest entry": [Put(index, b"x" * 400)],
    }[way]


LOST = {"overwritten": 1, "deleted": 1, "end": 1, "all": 32, "entry": 0, "newest entry": 0}
"""Way -> how many of the 32 records of August are not exported any more: a segment has one."""


@pytest.fixture(scope="module", params=["", "?seal=env:EVAC_LOG_SEAL"], ids=["plain", "sealed"])
def fourteen_months(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """A store with the log of fourteen months, and what its URL says of a seal."""
    file = tmp_path_factory.mktemp("log") / "log.sqlite"

    async def lived() -> None:
        world = await World(days=410, url=f"sqlite:{file}{request.param}").live()
        assert world.journal._guard is not None
        await world.store.release(world.journal._guard)
        await world.store.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAC_LOG_SEAL", "s" * 32)
        asyncio.run(lived())
        yield file, request.param


@pytest.mark.parametrize("way", LOST)
def test_a_damaged_month_hides_no_other_and_is_told_with_its_place(
    way: str, fourteen_months: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The eighth of fourteen months is damaged; then retention comes to it, and goes on beyond it."""
    file = tmp_path / "log.sqlite"
    shutil.copyfile(fourteen_months[0], file)
    url = f"sqlite:{file}{fourteen_months[1]}"
    doomed = "access-2027-02" if way == "newest entry" else "access-2026-08"

    def exported(output: str) -> tuple[int, list[str], str]:
        code = command(["access", "log", "--store", url, "--output", output])
        out, words = capsys.readouterr()
        return code, out.splitlines(), words

    async def spoil() -> None:
        raw = open_store(f"sqlite:{file}")
        keys = [one.key for one in await raw.list(f"journal/{doomed}/")] + [f"access-log/{doomed}"]
        await raw.transact((), _spoil(way, keys))
        await raw.close()

    async def to_the_end() -> list[str]:
        world = World(keep_days=100, url=url)
        world.now_ms += 410 * DAY_MS
        await world.day(await world.store.acquire("leader", "here", 10**12), 410)
        there = await world.there()
        await world.store.close()
        return there

    whole = {output: exported(output) for output in ("jsonl", "cef")}
    assert [(one[0], len(one[1]), one[2]) for one in whole.values()] == [(0, 410 + 13, "")] * 2
    asyncio.run(spoil())
    for output, (_, before, _) in whole.items():
        code, lines, words = exported(output)
        assert (code, set(lines) - set(before)) == (console.FAILED, set())
        assert len(before) - len(lines) == LOST[way]
        assert all(int(orjson.loads(one)["at"][5:7]) == 8 for one in {*before} - {*lines} if output != "cef")
        assert any(one.startswith("error: ") and doomed in one for one in words.splitlines()), words
    code = command(["access", "archive", str(tmp_path / "log"), "--store", url, "--quiet"])
    assert code == (console.FAILED if LOST[way] else console.DONE)
    assert (doomed in capsys.readouterr().err) == (LOST[way] > 0)
    assert len(list((tmp_path / "log").iterdir())) == (13 if way == "all" else 14)
    there, kept = asyncio.run(to_the_end()), [f"access-{month}" for month in ("2026-11", "2026-12")]
    kept = [doomed, *kept] if way == "all" else kept  # nothing is left of it whose deletion could be recorded
    assert there[: len(kept)] == kept


def test_months_are_named_by_the_calendar() -> None:
    assert chapters.stream_at(BEGIN_MS) == "access-2026-01"
    assert chapters.streams_since("access-2025-11", BEGIN_MS) == ["access-2025-12", "access-2026-01"]
    assert chapters.streams_since("access-2026-01", BEGIN_MS) == []
    assert len(chapters.streams_since("", BEGIN_MS)) == chapters.MONTHS_ASKED


FEBRUARY, APRIL = "access-2026-02", "access-2026-04"
"""The second of four months, and the last."""
DAMAGES = ["first", "middle", "last", "index", "spoilt", "whole"]


@pytest.mark.parametrize(
    ("month", "damage"),
    [*((month, damage) for month in (FEBRUARY, APRIL) for damage in DAMAGES), (FEBRUARY, "erased")],
)
def test_a_repair_is_in_the_log_once_and_the_log_is_sound_again(
    month: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy has what was there. What is damaged afterwards is damage again."""
    url = f"sqlite:{tmp_path / 'evac.sqlite'}"
    log = ["access", "log", "--store", url]

    async def change(numbers: slice, *, index: bool = False, deleted: bool = False) -> None:
        store = open_store(url)
        keys = [one.key for one in await store.list(f"journal/{month}/")][numbers]
        for key in [*keys, *([f"{chapters.INDEX}{month}"] if index else [])]:
            change = Delete(key) if deleted or key.startswith(chapters.INDEX) else Put(key, b"spoilt")
            await store.transact((), (change,))
        await store.close()

    all_of, none = slice(None), slice(0)
    damages = {
        "first": change(slice(1)),
        "middle": change(slice(5, 6)),
        "last": change(slice(-1, None)),
        "index": change(none, index=True),
        "spoilt": change(all_of),
        "whole": change(all_of, deleted=True),
        "erased": change(all_of, index=True, deleted=True),
    }

    async def live() -> None:
        world = await World(days=100, url=url).live()
        await world.store.close()

    asyncio.run(live())
    assert command(log) == console.DONE
    before = capsys.readouterr().out.splitlines()
    asyncio.run(damages.pop(damage))
    for other in damages.values():
        other.close()
    assert command(log) == console.FAILED
    copy = tmp_path / "copy"
    repair = ["store", "repair", month, "--store", url, "--execute", "--copy", str(copy), "--reason", "4711"]
    assert command(repair) == console.DONE
    assert copy.exists()
    capsys.readouterr()
    assert command(log) == console.DONE, capsys.readouterr().err
    after = capsys.readouterr().out.splitlines()
    (repaired,) = [orjson.loads(one) for one in after if '"log-repaired"' in one]
    assert month in repaired["what"]
    assert "4711" in repaired["what"]
    of_month = [one for one in before if orjson.loads(one)["at"].startswith(month[7:])]
    lost = {"index": 0, "spoilt": len(of_month), "whole": len(of_month), "erased": len(of_month)}
    assert len(of_month) > 20
    assert len(set(before) - set(after)) == lost.get(damage, 1)
    assert command([*repair[:-5], "--quiet"]) == console.DONE, "there is nothing left to repair"
    asyncio.run(change(slice(1)))
    assert command(log) == console.FAILED
