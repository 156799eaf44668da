"""A bound run comes back from the store as it was; what is not whole is refused. The next leader binds it the
same.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from evac import estate as estates
from evac.engine.runs.binding import PART_BYTES, bind, decode_bound, encode_bound, get_bound, put_bound
from evac.model.digest import estate_digest
from evac.model.errors import Conflict, Corrupt
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.store.port import Compare, Delete, MemoryStore, Put
from tests.unit.engine.messenger import DATABASES, ESTATE, LAX, TRAFFIC, bound, estate


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


@pytest.mark.parametrize("lost", ["pangyo", "anyang", "ansan"])
@pytest.mark.parametrize("runs", ["pangyo-units: 2", "pangyo-units: 2, anyang-units: 1", "ansan-units: 1"])
def test_estates_with_one_digest_bind_a_plan_to_the_same_actions(
    tmp_path: Path, runs: str, lost: str
) -> None:
    """The next leader binds the plan of an open run again, from its files. After a failback it may not know
    that users are sent home, and refused to take over the run of the second fire (`bound-differs`).
    """
    doors = "".join(
        f"  door-{site}: "
        f"{{for: messenger, at: {site}, driver: http, settings: {{url: 'http://127.0.0.{n}/'}}}}\n"
        for n, site in enumerate(("pangyo", "anyang", "ansan"), 1)
    )
    text = (ESTATE + DATABASES + TRAFFIC + doors).replace("pangyo-units: 2, anyang-units: 1", runs)
    (tmp_path / "estate.yaml").write_text(text)
    files = estates.load(tmp_path)
    homes = tuple(site for site in ("anyang", "ansan", "pangyo") if f"{site}-units" in runs)
    came_home = replace(files, home=files.replicas, traffic={"messenger": tuple(sorted(homes))})
    assert estate_digest(came_home) == estate_digest(files)
    made = plan(came_home, lose(lost))
    first, again = (
        bind(of, made, LAX, run="r1", incident="i1", digest="sha256:0") for of in (came_home, files)
    )
    assert first.actions == again.actions
