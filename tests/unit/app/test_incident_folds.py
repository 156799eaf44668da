"""A run of an incident that is read on says the same, after each record, as one that is read anew."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from evac.app import incidents
from evac.app.incidents import KEPT, Folds, RunFold
from evac.engine.runs.binding import Bound, put_bound
from evac.engine.runs.reading import decode_all, encode_all
from evac.incident.incident import summary
from evac.incident.timeline import timeline
from evac.model.errors import Corrupt, RunError
from evac.run.values import Event
from evac.store.anchors import prefix_of
from evac.store.port import Delete, MemoryStore, Put
from tests.unit.app.test_incidents import burnt
from tests.unit.incident.stories import T0


async def alike(store: MemoryStore, folds: Folds) -> int:
    """How many entries there are, both ways."""
    fresh = await incidents.dossier(store, "fire-1", T0)
    found = await incidents.dossier(store, "fire-1", T0, None, folds.of)
    assert found == fresh
    about = folds.summary_of(found)
    assert about == summary(fresh)
    entries = timeline(found, about, {"run-1": folds.of("run-1", "fire-1").telling})
    assert entries == timeline(fresh)
    return len(entries)


def test_what_is_read_on_says_the_same_as_what_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[int]()

    def counted(records: Sequence[bytes]) -> list[Event]:
        read.append(len(records))
        return decode_all(records)

    async def story() -> None:
        store, folds = MemoryStore(), Folds()
        journal, rest, lease = await burnt(store, 1)
        grown = [await alike(store, folds)]
        for record in rest:
            await journal.append([record], lease)
            monkeypatch.setattr(incidents, "decode_all", counted)
            await folds.of("run-1", "fire-1").read_on(store)
            monkeypatch.setattr(incidents, "decode_all", decode_all)
            grown.append(await alike(store, folds))
        assert read == [1] * len(rest), "each record is read once"
        assert grown == sorted(grown)

    asyncio.run(story())


def test_another_plan_in_the_middle_is_told_by_its_own_steps() -> None:
    async def story() -> None:
        store, folds = MemoryStore(), Folds()
        journal, rest, lease = await burnt(store, 4)
        await alike(store, folds)
        first = folds.of("run-1", "fire-1").record.spec
        await put_bound(store, Bound(replace(first, plan="sha256:2"), {}), lease)
        data: dict[str, Any] = {"plan": "sha256:2", "why": "ansan is lost", "lost": ["ansan"]}
        data |= {"approvals": 0, "names": []}
        await journal.append(encode_all([Event("plan_replaced", T0 + 1, data=data)]), lease)
        await alike(store, folds)
        assert [one.plan for one in folds.of("run-1", "fire-1").record.others] == ["sha256:2"]
        await journal.append(rest[:1], lease)
        await alike(store, folds)

    asyncio.run(story())


def test_a_journal_that_is_another_one_by_now_is_read_from_its_start() -> None:
    async def story() -> None:
        store = MemoryStore()
        _, rest, _ = await burnt(store, 3)
        fold = RunFold("run-1", "fire-1")
        await fold.read_on(store)
        other = MemoryStore()
        await burnt(other, len(rest) + 3)
        for entry in await other.list(prefix_of("run-1")):
            await store.transact((), (Put(entry.key, entry.value),))
        await fold.read_on(store)
        assert len(fold.record.events) == len(rest) + 3
        keys = [entry.key for entry in await store.list(prefix_of("run-1"))]
        await store.transact((), [Delete(key) for key in keys])
        with pytest.raises((Corrupt, RunError)):
            await fold.read_on(store)

    asyncio.run(story())


def test_only_a_few_are_kept() -> None:
    folds = Folds()
    first = folds.of("run-0", "i")
    assert folds.of("run-0", "i") is first
    for number in range(KEPT):
        folds.of(f"run-{number + 1}", "i")
    assert folds.of("run-0", "i") is not first
