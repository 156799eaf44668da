"""A bound run comes back from the store as it was; what is not whole is refused."""

import asyncio
from pathlib import Path

import pytest

from evac.engine.runs.binding import PART_BYTES, decode_bound, encode_bound, get_bound, put_bound
from evac.model.errors import Conflict, Corrupt
from evac.store.port import Compare, Delete, MemoryStore, Put
from tests.unit.engine.messenger import bound, estate


def test_it_comes_back_the_same(tmp_path: Path) -> None:
    one = bound(estate(tmp_path))
    again = decode_bound(encode_bound(one))
    assert again.spec == one.spec
    assert dict(again.actions) == dict(one.actions)
    assert encode_bound(again) == encode_bound(one)


def test_through_the_store_in_parts_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evac.engine.runs.binding.PART_BYTES", 300)
    one = bound(estate(tmp_path))
    assert len(encode_bound(one)) > 3 * 300
    assert PART_BYTES > 300

    async def story() -> None:
        store = MemoryStore()
        await put_bound(store, one, None)
        await put_bound(store, one, None)
        found = await get_bound(store, "r1", one.spec.plan)
        assert encode_bound(found) == encode_bound(one)
        key = (await store.list("bound/r1/"))[1].key
        await store.transact((), (Delete(key),))
        with pytest.raises(Corrupt):
            await get_bound(store, "r1", one.spec.plan)
        with pytest.raises(Corrupt):
            await get_bound(store, "r2", one.spec.plan)

    asyncio.run(story())


def test_what_lies_there_is_written_over_while_its_compares_hold(tmp_path: Path) -> None:
    async def story() -> None:
        store = MemoryStore()
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        first = await put_bound(store, bound(estate(tmp_path / "a")), None)
        other = bound(estate(tmp_path / "b", ""))
        await store.transact((), (Put("incident/i", b"made"),))
        with pytest.raises(Conflict):
            await put_bound(store, other, None, (Compare("incident/i", 0),))
        assert (await get_bound(store, "r1", first.spec.plan, first.digest)).spec == first.spec
        second = await put_bound(store, other, None)
        assert second.digest != first.digest
        with pytest.raises(Corrupt, match="changed in the store"):
            await get_bound(store, "r1", first.spec.plan, first.digest)

    asyncio.run(story())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "pace": 3}'])
def test_what_was_not_written_by_evac_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_bound(data)
