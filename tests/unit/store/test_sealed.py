"""A store that authenticates what it keeps: strangers write nothing that is believed, and stop nobody."""

from __future__ import annotations

import asyncio
import base64
import re
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from evac.cli import console
from evac.cli.main import run
from evac.engine.lead.watch_journal import Notice, decode, encode
from evac.model.errors import Corrupt, StoreError
from evac.net.secrets import Secret
from evac.store import opening
from evac.store.anchors import key_of
from evac.store.journal import Journal, records_after
from evac.store.opening import Seal, SealedStore, open_store, seal_all, seal_of
from evac.store.port import Compare, MemoryStore, Put, Store

OURS, NEXT, THEIRS = (Secret(letter * 40, f"file:/{letter}") for letter in "abc")


def test_only_what_our_key_sealed_under_that_name_is_believed() -> None:
    async def story() -> None:
        inner = MemoryStore()
        ours, theirs = SealedStore(inner, Seal((OURS,))), SealedStore(inner, Seal((THEIRS,)))
        await ours.transact([], [Put("open/r1", b"approvals: 2")])
        real = await inner.get("open/r1")
        assert real is not None
        assert (await ours.get("open/r1")).value == b"approvals: 2"  # type: ignore[union-attr]
        await inner.transact([], [Put("open/plain", b"approvals: 0"), Put("open/r2", real.value)])
        await inner.transact([], [Put("open/short", b""), Put("open/bit", real.value[:-1] + b"0")])
        await theirs.transact([], [Put("open/theirs", b"approvals: 0")])
        assert [one.key for one in await ours.list("open/")] == ["open/r1"]
        assert set(ours.unsealed) == {"open/plain", "open/r2", "open/short", "open/bit", "open/theirs"}
        for key in ours.unsealed:
            with pytest.raises(Corrupt, match="not written with a key of this installation"):
                await ours.get(key)

    asyncio.run(story())


@pytest.mark.parametrize("good", [0, 3, 40])
def test_entries_of_strangers_hide_none_of_ours(good: int) -> None:
    async def story() -> None:
        inner = MemoryStore()
        ours = SealedStore(inner, Seal((OURS,)))
        for number in range(50):
            await inner.transact([], [Put(f"request/{number:03d}a", b"planted")])
        for number in range(good):
            await ours.transact([], [Put(f"request/{number:03d}b", b"asked")])
        for limit in (1, 7, 1_000):
            found, after = [], ""
            while page := await ours.list("request/", after, limit):
                found += [one.key for one in page]
                after = page[-1].key
            assert found == [f"request/{number:03d}b" for number in range(good)]

    asyncio.run(story())


def test_a_flood_of_strange_entries_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SKIPPED_MOST", 20)

    async def story() -> None:
        inner = MemoryStore()
        for number in range(100):
            await inner.transact([], [Put(f"request/{number:03d}", b"planted")])
        with pytest.raises(StoreError, match="were not written with our key"):
            await SealedStore(inner, Seal((OURS,))).list("request/", limit=10)

    asyncio.run(story())


def test_a_key_is_replaced_without_a_gap() -> None:
    async def story() -> None:
        inner = MemoryStore()
        old, both, new = (SealedStore(inner, Seal(keys)) for keys in ((OURS,), (NEXT, OURS), (NEXT,)))
        await old.transact([], [Put("a", b"1"), Put("b", b"2")])
        await inner.transact([], [Put("planted", b"x")])
        assert [one.value for one in await both.list("")] == [b"1", b"2"]
        assert await new.list("") == []
        for sealed_now, good in ((2, 0), (0, 2)):
            found = await seal_all(inner, Seal((NEXT, OURS)), trust_unsealed=False)
            assert (found.sealed, found.good, found.left) == (sealed_now, good, ("planted",))
        assert [one.value for one in await new.list("")] == [b"1", b"2"]
        assert (await seal_all(inner, Seal((NEXT,)), trust_unsealed=True)).left == ()
        assert (await new.get("planted")).value == b"x"  # type: ignore[union-attr]

    asyncio.run(story())


def test_the_steps_of_the_page_leave_no_two_controllers_that_do_not_read_each_other() -> None:
    """While controllers restart one at a time, some are a step behind."""
    page = (Path(__file__).parents[3] / "docs/how-to/lock-the-store.md").read_text()
    steps = re.findall(r"^\d\. Write `seal=([^`]+)`", page, re.MULTILINE)
    keys = {"file:OLD": OURS, "file:NEW": NEXT}
    seals = [Seal((OURS,)), *(Seal(tuple(keys[one] for one in step.split(","))) for step in steps)]
    assert seals[-1] == Seal((NEXT,))
    for before, after in pairwise(seals):
        assert after.open("a", before.close("a", b"1")) == b"1"
        assert before.open("a", after.close("a", b"1")) == b"1"


@pytest.mark.parametrize(
    ("references", "words"),
    [("", "1 to 4 keys"), ("file:/no/such/key", "a key of the store's seal"), ("env:SHORT", "fewer than 32")],
)
def test_keys_that_cannot_seal_are_refused(
    monkeypatch: pytest.MonkeyPatch, references: str, words: str
) -> None:
    monkeypatch.setenv("SHORT", "x" * 31)
    with pytest.raises(StoreError, match=words) as caught:
        seal_of(references)
    assert caught.value.code == "store-seal"
    assert "x" * 31 not in str(caught.value)


def test_an_embedded_store_is_sealed_and_sealed_again_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONE", "1" * 40)
    monkeypatch.setenv("TWO", "2" * 40)
    plain = f"sqlite:{tmp_path / 'evac.sqlite'}"

    async def put(url: str, key: str) -> None:
        store = open_store(url)
        await store.transact([Compare(key, 0)], [Put(key, b"value")])
        await store.close()

    async def keys(url: str) -> list[str]:
        store = open_store(url)
        try:
            return [one.key for one in await store.list("")]
        finally:
            await store.close()

    asyncio.run(put(plain, "before"))
    assert run(["store", "seal", "--store", plain]) == console.FAILED
    assert "has no seal" in capsys.readouterr().err
    first = f"{plain}?seal=env:ONE"
    assert run(["store", "seal", "--store", first]) == console.FINDINGS
    assert "before" in capsys.readouterr().err
    assert asyncio.run(keys(first)) == []
    assert run(["store", "seal", "--store", first, "--trust-unsealed"]) == console.DONE
    assert "entries sealed: 1; already sealed: 0" in capsys.readouterr().err
    assert asyncio.run(keys(first)) == ["before"]
    assert run(["store", "seal", "--store", f"{plain}?seal=env:TWO,env:ONE", "--quiet"]) == console.DONE
    assert asyncio.run(keys(f"{plain}?seal=env:TWO")) == ["before"]
    assert asyncio.run(keys(first)) == []


def test_a_journal_is_repaired_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looking changes nothing, nothing is repaired without a copy, and no copy is written over."""
    monkeypatch.setenv("ONE", "1" * 40)
    url, copy = f"sqlite:{tmp_path / 'evac.sqlite'}?seal=env:ONE", tmp_path / "copy"

    async def spoil() -> dict[str, bytes]:
        inner, _ = opening.open_unsealed(url)
        store = open_store(url)
        for stream in ("watch", "fire"):
            journal = await Journal.create(store, stream, None)
            for number in range(3):
                await journal.append([encode(Notice("run", number, "", "x"))], None)
        await inner.transact([], [Put(key_of(stream, 2), b"junk") for stream in ("watch", "fire")])
        await store.close()
        return await entries_of(inner)

    async def entries_of(inner: Store) -> dict[str, bytes]:
        found = {one.key: one.value for one in await inner.list("")}
        await inner.close()
        return found

    spoiled = asyncio.run(spoil())
    base = ["store", "repair", "watch", "--store", url]
    execute = [*base, "--execute", "--copy", str(copy), "--reason", "ticket 1"]
    assert run(base) == 3
    assert "segments changed or missing: 1 (2)" in capsys.readouterr().err
    assert run([*base, "--execute"]) == 2
    assert run(["store", "repair", "fire", *execute[3:]]) != 0
    assert "fire is not a journal that can be repaired" in capsys.readouterr().err
    copy.write_text("kept")
    assert run(execute) == 2
    assert copy.read_text() == "kept"
    copy.unlink()
    assert asyncio.run(entries_of(opening.open_unsealed(url)[0])) == spoiled
    assert run(execute) == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    rows = [orjson.loads(line) for line in copy.read_bytes().splitlines()]
    assert {key: base64.b64decode(value) for key, _, value in rows} == {
        key: value for key, value in spoiled.items() if key.startswith("journal/watch/")
    }
    assert run(base) == 0

    async def told() -> list[str]:
        store = open_store(url)
        found = [decode(record).words async for _, record in records_after(store, "watch", 0)]
        await store.close()
        return found

    words = asyncio.run(told())
    assert "this record was changed or deleted in the store" in words
    assert words[-1].endswith("repaired the journal watch (records lost: 1 or more): ticket 1")
