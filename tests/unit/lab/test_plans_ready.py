"""Which plans of the drawer the lab calls ready: those made of the roles as last seen."""

from __future__ import annotations

import asyncio

import orjson

from evac import __version__
from evac.app.published import KEY, encode
from evac.engine.plans.library import key_of
from evac.model.observation import Observation
from evac.store.port import MemoryStore, Put
from evac_lab.status import plans_ready


def plan(site: str, estate: str) -> Put:
    told = {
        "plan": "sha256:1",
        "estate": estate,
        "at_ms": 1,
        "took_ms": 1,
        "problem": "",
        "judged": __version__,
    }
    return Put(key_of((site,)), orjson.dumps(told))


def test_a_plan_made_before_the_roles_were_written_down_is_ready_where_it_is_of_those_roles() -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.transact((), (plan("pangyo", "sha256:now"), plan("anyang", "sha256:before")))
        assert sorted(await plans_ready(store, ("anyang", "pangyo"))) == ["anyang", "pangyo"]
        await store.transact((), (Put(KEY, encode(Observation(0), "sha256:now", {})),))
        assert sorted(await plans_ready(store, ("anyang", "pangyo"))) == ["pangyo"]

    asyncio.run(story())
