"""One entry that nobody here wrote, or that was spoiled, hides nothing else of the store."""

from __future__ import annotations

import asyncio

import pytest

from evac.app import incidents
from evac.engine.clock import SystemClock
from evac.engine.runs.effects import EffectsReader
from evac.office import status_summary
from evac.run.values import CORRUPT
from evac.store.port import MemoryStore, Put, all_entries
from evac.views.status_document import status_text
from tests.web.burning import RUN, burn
from tests.web.rooms import office_of

VALUES = (
    b"",
    b"x",
    b"[]",
    b"{}",
    b"null",
    b'"run"',
    b"\xff\x00",
    b'{"at_ms":"x","run":3,"who":[],"plan":4,"lost":5,"leaving":7}',
    b'{"run":"../../x","at_ms":null,"north":5}',
)
PLACES = (
    *("drawer", "plan-kept", "plan", "sighting", "epoch", "withdrawn", "permit", "votes", "challenge"),
    *("signed", "seen", "room", "effects", "cleared", "open", "proposal", "answer", "request", "vouched"),
    *("standing", "release", "incident", "note", "status-export", "asked", "session", "journal", "bound"),
)
"""Below which evac keeps entries by name."""


@pytest.mark.parametrize("value", VALUES)
def test_the_status_the_incidents_and_the_room_are_read_beside_it(value: bytes) -> None:
    async def work() -> None:
        store = MemoryStore()
        await burn(store, SystemClock().now_ms())
        places = [f"{place}/{name}" for place in PLACES for name in ("strange", "strange/1/2")]
        await store.transact((), tuple(Put(key, value) for key in places))
        told = await status_summary.status(store)
        assert RUN in {row.run for row in told.runs}
        assert RUN in status_text(told, 100, False)
        assert "fire-1" in {about.incident for _, about in await incidents.all_of(store, 1)}
        await EffectsReader(store).read(1)
        office = office_of(store)
        try:
            await office.look()
            assert (await office.register.view(RUN)).events > 0
        finally:
            await office.close()

    asyncio.run(work())


@pytest.mark.parametrize("value", VALUES)
def test_a_spoiled_entry_of_its_own_is_named_and_holds(value: bytes) -> None:
    """A hold that cannot be read holds; marks that cannot be read are not none."""

    async def work() -> None:
        store = MemoryStore()
        await burn(store, SystemClock().now_ms())
        await store.transact((), (Put("hold", value), Put("sites", value), Put("incident/fire-1", value)))
        told = await status_summary.status(store)
        assert told.hold is not None
        shown = status_text(told, 100, False)
        assert "evac hold --release" in shown
        assert "cannot be read" in shown
        assert bool(told.unread) is not value.startswith(b"{")
        lines = await incidents.runs.list_runs(store)
        assert [(row.run, row.state) for row in lines] == [("fire-1", CORRUPT)]

    asyncio.run(work())


def test_every_place_of_the_store_is_tried() -> None:
    """What a run leaves in the store is among the places above."""

    async def work() -> None:
        store = MemoryStore()
        await burn(store, SystemClock().now_ms())
        assert {entry.key.partition("/")[0] for entry in await all_entries(store, "")} <= set(PLACES)

    asyncio.run(work())
