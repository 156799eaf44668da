"""Notices about runs where one of them cannot be read: of the others, people hear as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from evac.engine.runs.open_runs import OPEN
from evac.notices.rule import tell
from evac.notices.values import State
from evac.office import runs
from evac.office.notices.looking import Looker
from evac.store.anchors import key_of
from evac.store.port import Delete, MemoryStore, Put, Store
from tests.unit.office.test_notices_telling import NOW_MS, Hand, Told
from tests.web.burning import BROKEN, RUN, burn

TRIES = 400
BAD = "fire-2-north"


class Watch:
    """Looks as a teller does, and keeps what was told."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock, self.state = store, Hand(), State()
        self.said: list[str] = []
        self.begin()

    def begin(self) -> None:
        """As after a start of the process."""
        self.looker = Looker(self.store, Told(), self.clock)

    async def look(self) -> dict[str, str]:
        """Key -> words of concerns about runs."""
        state, known = await self.looker.look(self.state)
        self.clock.ms += 1_000
        memory, drafts = tell(self.state.memory, known, self.clock.now_ms())
        self.state = replace(state, memory=memory)
        self.said += [one.words for one in drafts if one.kind == "run"]
        return {one.key: one.words for one in known.holds.get("run", ())}

    async def until(self, there: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        for _ in range(TRIES):
            found = await self.look()
            if there(found):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(found)


def test_a_run_that_cannot_be_read_silences_no_other_and_is_told_itself() -> None:
    async def story() -> None:
        store = MemoryStore()
        await burn(store, NOW_MS)
        await store.transact((), (Put(OPEN + BAD, b"{}"), Put(key_of(BAD, 1), b"no segment")))
        watch = Watch(store)
        unread = f"run/{BAD}/unread"
        found = await watch.until(lambda keys: unread in keys and len(keys) > 1)
        assert found[unread].startswith(f"{BAD}: its journal cannot be read")
        waits = {key for key in found if key.startswith(f"run/{RUN}/")}
        assert any(BROKEN in found[key] for key in waits)
        await watch.until(lambda _: len(watch.said) >= len(found))
        await watch.looker.close()

        watch.said.clear()
        (first,) = await store.list(key_of(RUN, 1))
        await store.transact((), (Put(first.key, b"no segment"),))
        watch.begin()
        found = await watch.until(lambda keys: f"run/{RUN}/unread" in keys)
        assert waits < found.keys(), "what was known stands, though nobody can look"
        await watch.look()
        assert not [words for words in watch.said if words.startswith("Resolved")]

        await store.transact((), (Put(first.key, first.value), Delete(OPEN + BAD)))
        await watch.until(lambda keys: keys.keys() == waits)
        await watch.looker.close()

    asyncio.run(story())


def test_runs_beyond_those_that_are_followed_are_told_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "OPEN_MOST", 1)

    async def story() -> None:
        store = MemoryStore()
        await burn(store, NOW_MS)
        await store.transact((), tuple(Put(f"{OPEN}{RUN}-{number}", b"{}") for number in range(3)))
        watch = Watch(store)
        found = await watch.until(lambda keys: any(key.startswith(f"run/{RUN}/") for key in keys))
        assert found["run/beyond/unread"].startswith("3 open runs are not watched")
        await watch.looker.close()

    asyncio.run(story())
