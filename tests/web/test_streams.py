"""Streams: what is missed is read from the journal, ids are its numbers, and the slow are let go."""

from __future__ import annotations

import asyncio

import pytest

from evac.engine.lead.watch_journal import STREAM, Notice, encode
from evac.office.office import TOPIC_WATCH, Office
from evac.office.values import WAITING_MOST, Hub, News, TooManyViewers
from evac.store.journal import Journal
from evac.store.port import MemoryStore
from evac.web.room import event_message, stream_answer
from tests.web.rooms import office_of


async def _journal(store: MemoryStore, count: int) -> Journal:
    journal = await Journal.create(store, STREAM, None)
    await journal.append([encode(Notice("run", 1, "", f"notice {n + 1}")) for n in range(count)], None)
    return journal


def _ids(text: str) -> list[int]:
    return [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]


def test_a_viewer_that_was_cut_off_gets_what_it_missed_and_what_comes_next() -> None:
    async def run() -> None:
        store = MemoryStore()
        journal = await _journal(store, 5)
        office: Office = office_of(store)
        following = asyncio.create_task(office.run())
        try:
            while office.situation.notice < 5:
                await asyncio.sleep(0.05)

            async def backlog(after: int, limit: int) -> list[tuple[int, str, object]]:
                return [(n.number, "notice", n) for n in await office.notices(after, limit)]

            def say(news: News) -> bytes:
                return event_message("notice", news.value, news.number)

            answer = stream_answer(office.hub, (TOPIC_WATCH,), backlog, 2, say, 60.0)
            text = ""
            body = answer.body_iterator
            async with asyncio.timeout(60):
                async for piece in body:
                    text += bytes(piece).decode()  # type: ignore[arg-type]
                    if _ids(text) == [3, 4, 5]:
                        await journal.append([encode(Notice("run", 1, "", "notice 6"))], None)
                    if 6 in _ids(text):
                        break
            assert _ids(text) == [3, 4, 5, 6]
            assert "notice 6" in text
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await office.close()

    asyncio.run(run())


def test_viewers_are_bounded_and_one_that_is_too_slow_is_let_go() -> None:
    async def run() -> None:
        hub = Hub(most=1)
        with hub.viewer("a") as slow:
            with pytest.raises(TooManyViewers):
                hub.check_room()
            for number in range(WAITING_MOST + 1):
                hub.tell(News("a", "event", number, None))
            assert [one async for one in slow.news(0.01)] == []
        assert hub.viewers == 0

    asyncio.run(run())


def test_a_quiet_stream_shows_that_it_is_alive() -> None:
    async def run() -> None:
        hub = Hub()

        async def backlog(after: int, limit: int) -> list[tuple[int, str, object]]:
            return []

        answer = stream_answer(hub, ("a",), backlog, 0, lambda news: b"", 0.01)
        pieces = []
        async for piece in answer.body_iterator:
            pieces.append(piece)
            if len(pieces) == 3:
                hub.close()
        assert pieces[1:] == [b": alive\n\n"] * 2

    asyncio.run(run())
