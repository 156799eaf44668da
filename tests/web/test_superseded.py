"""A war room of a store whose time is over says so everywhere: page, API, readiness, figures."""

from __future__ import annotations

import asyncio

import httpx2

from evac.model.generation import token_in
from evac.office.office import Office
from evac.office.status_summary import status
from evac.store.generation import Newer, raise_generation, write_newer
from evac.store.port import MemoryStore
from evac.views.status_document import status_text
from tests.web.rooms import play


def test_a_store_that_a_newer_generation_ended_is_not_ready_and_says_why() -> None:
    store = MemoryStore()

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.get("/readyz")).status_code == 200
        assert b"evac_superseded 0.0" in (await client.get("/metrics")).content
        await write_newer(store, Newer(1, "laptop", "ansan", 5))
        await office.look()
        office.refresh()
        ready = await client.get("/readyz")
        assert (ready.status_code, "generation 1" in ready.json()["detail"]) == (503, True)
        told = (await client.get("/v1/situation")).json()
        assert told["generation"] == 0
        assert told["newer"] == {"generation": 1, "by": "ansan", "at_ms": 5}
        page = (await client.get("/now")).text
        assert (
            "Generation 1 was opened elsewhere (reported by ansan), so evac takes no action from here."
            in page
        )
        assert b"evac_superseded 1.0" in (await client.get("/metrics")).content
        words = status_text(await status(store), 100, False)
        assert "0, but 1 was opened elsewhere: controllers of this store no longer act" in words

    play(story, store)


def test_a_store_of_a_later_generation_shows_its_term_within_it() -> None:
    store = MemoryStore()

    async def prepared() -> None:
        await raise_generation(store, 2, "laptop", 5)
        store._revision = token_in(2, 6)  # as a store that was filled from a bundle begins
        await store.acquire("leader", "bundle/1/2", 600_000)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert "term 7 of generation 2" in (await client.get("/now")).text
        assert (await client.get("/v1/situation")).json()["leader"]["term"] == token_in(2, 7)
        assert b"evac_generation 2.0" in (await client.get("/metrics")).content

    asyncio.run(prepared())
    play(story, store)
