"""Logins in the store: they outlive a room, end in every room, and nothing in the store opens one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import orjson
import pytest
from starlette.requests import HTTPConnection
from starlette.types import Message

from evac.model.access import Sessions
from evac.model.errors import Unavailable
from evac.store.port import Delete, MemoryStore, Put
from evac.web.access.guarding import SignedOut, while_signed_in
from evac.web.access.keeping import CONFIRM_MS, LOOKS_A_SECOND, PREFIX, SEEN_MS, csrf_of
from evac.web.access.people import People
from tests.web.logins import HTML, HandClock, people, sign_in, token_of
from tests.web.rooms import BASE, office_of, room_of

COOKIE = "evac_session"


class Silent(MemoryStore):
    """A store that does not answer for logins while it is told to."""

    silent, slow, asked = False, False, 0

    async def get(self, key: str) -> object:  # type: ignore[override]
        if key.startswith(PREFIX):
            self.asked += 1
            if self.slow:
                await asyncio.sleep(0.05)
            if self.silent:
                raise Unavailable("away")
        return await super().get(key)

    async def transact(self, compares: object, changes: object, guard: object = None) -> int:  # type: ignore[override]
        if self.silent:
            raise Unavailable("away")
        return await super().transact(compares, changes, guard)  # type: ignore[arg-type]


class Rooms:
    """Rooms on one store, each with access of its own, as after a restart or behind one name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.clock = folder, Silent(), HandClock()

    def access(self, **more: object) -> People:
        return people(self.folder, self.clock, **more)  # type: ignore[arg-type]

    def client(self, access: People, value: str = "", address: str = "127.0.0.1") -> httpx2.AsyncClient:
        office = office_of(self.store)
        transport = httpx2.ASGITransport(room_of(office, access), client=(address, 123))
        cookies = {COOKIE: value} if value else {}
        return httpx2.AsyncClient(transport=transport, base_url=BASE, cookies=cookies)

    async def kept(self) -> list[dict[str, object]]:
        rows = [orjson.loads(entry.value) for entry in await self.store.list(PREFIX)]
        return [row for row in rows if isinstance(row, dict)]


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    return Rooms(tmp_path)


def tell(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


async def name_of(client: httpx2.AsyncClient) -> str:
    """Who is signed in; empty for nobody."""
    told = await client.get("/v1/me")
    return str(told.json()["name"]) if told.status_code == 200 else ""


@asynccontextmanager
async def begun(rooms: Rooms, access: People | None = None) -> AsyncIterator[tuple[httpx2.AsyncClient, str]]:
    """(a browser that signed in, its cookie)."""
    async with rooms.client(access or rooms.access()) as client:
        assert (await sign_in(client)).status_code == 303
        yield client, str(client.cookies[COOKIE])


def test_a_login_outlives_the_process_of_its_room_with_its_token(rooms: Rooms) -> None:
    async def story() -> None:
        async with begun(rooms) as (first, value), rooms.client(rooms.access(), value) as after:
            token = await token_of(first)
            assert await name_of(after) == "kim"
            assert await token_of(after) == token
            begin = {"reason": "smoke"}
            assert (await after.post("/v1/hold", json=begin)).status_code == 403
            held = await after.post("/v1/hold", json=begin, headers={"x-csrf-token": token})
            assert (held.status_code, held.json()["who"]) == (201, "kim")

    tell(story)


def test_nothing_in_the_store_opens_a_room(rooms: Rooms) -> None:
    async def story() -> None:
        async with begun(rooms) as (_, value):
            rows = await rooms.store.list("")
            assert len(await rooms.kept()) == 1
            for entry in rows:
                assert value not in entry.key + entry.value.decode("latin-1")
                assert csrf_of(value) not in entry.value.decode("latin-1")

    tell(story)


def test_a_login_that_ends_in_one_room_ends_in_all(rooms: Rooms) -> None:
    async def story() -> None:
        async with begun(rooms) as (one, value), rooms.client(rooms.access(), value) as other:
            assert await name_of(other) == "kim"
            token = await token_of(other)
            (entry,) = await rooms.store.list(PREFIX)
            assert (await other.post("/sign-out", data={"csrf": token}, headers=HTML)).status_code == 303
            assert await rooms.kept() == []
            rooms.clock.ms += CONFIRM_MS
            assert await name_of(one) == ""
            await rooms.store.transact((), (Put(entry.key, entry.value),))
            rooms.clock.ms += CONFIRM_MS
            assert [await name_of(who) for who in (one, other)] == ["", ""], "someone put it back"
            await rooms.store.transact((), (Delete(entry.key),))
            async with rooms.client(rooms.access(), value) as third:
                assert await name_of(third) == ""

    tell(story)


def test_an_answer_that_goes_on_ends_with_a_login_that_was_ended_in_another_room(rooms: Rooms) -> None:
    async def story() -> None:
        here = rooms.access()
        async with begun(rooms, here) as (_, value), rooms.client(rooms.access(), value) as other:
            asked = {"type": "http", "path": "/v1/events", "method": "GET", "client": ("127.0.0.1", 1)}
            actor = await here.who(
                HTTPConnection({**asked, "headers": [(b"cookie", f"{COOKIE}={value}".encode())]})
            )
            assert actor is not None
            assert actor.alive is not None
            told: list[Message] = []

            async def send(message: Message) -> None:
                told.append(message)

            stream = while_signed_in(actor, send)
            part = {"type": "http.response.body", "body": b": alive", "more_body": True}
            await stream(part)
            rooms.store.silent = True
            rooms.clock.ms += CONFIRM_MS
            await stream(part)  # a store that is away ends nothing
            rooms.store.silent = False
            sent = {"csrf": await token_of(other)}
            assert (await other.post("/sign-out", data=sent, headers=HTML)).status_code == 303
            rooms.store.asked = 0
            for _ in range(3):
                await stream(part)
            assert rooms.store.asked == 0, "the store is asked now and then"
            rooms.clock.ms += CONFIRM_MS
            with pytest.raises(SignedOut):
                await stream(part)
            assert told[-1] == {"type": "http.response.body", "body": b"", "more_body": False}

    tell(story)


def test_its_bounds_hold_across_rooms(rooms: Rooms) -> None:
    rules = Sessions(idle_ms=600_000, whole_ms=3_600_000)

    async def story() -> None:
        async with begun(rooms, rooms.access(sessions=rules)) as (one, value):
            for _ in range(5):
                rooms.clock.ms += SEEN_MS
                assert await name_of(one) == "kim"
            rooms.clock.ms += rules.idle_ms - SEEN_MS
            async with rooms.client(rooms.access(sessions=rules), value) as used:
                assert await name_of(used) == "kim", "it was used a moment ago, in another room"
            rooms.clock.ms += rules.idle_ms
            async with rooms.client(rooms.access(sessions=rules), value) as idle:
                assert await name_of(idle) == ""
        async with begun(rooms, rooms.access(sessions=rules)) as (two, value):
            for _ in range(8):
                rooms.clock.ms += rules.idle_ms - 1
                last = await name_of(two)
            assert last == "", "whatever is asked, it ends"
            async with rooms.client(rooms.access(sessions=rules), value) as after:
                assert await name_of(after) == ""

    tell(story)


def test_it_rests_on_the_access_file_of_now_and_on_a_whole_record(rooms: Rooms) -> None:
    async def story() -> None:
        changed = rooms.access()
        kim = replace(changed.rules.people["kim"], password="env:OTHER")
        changed.rules = replace(changed.rules, people={**changed.rules.people, "kim": kim})
        async with begun(rooms) as (_, value), rooms.client(changed, value) as other:
            assert await name_of(other) == "", "the password is different"
        (entry,) = [one for one in await rooms.store.list(PREFIX) if b"kim" in one.value]
        told = orjson.loads(entry.value)
        for wrong in (
            b"{",
            b"[]",
            b"{}",
            orjson.dumps({**told, "role": "god"}),
            orjson.dumps({**told, "until_ms": "x"}),
            orjson.dumps({**told, "until_ms": 1}),
            orjson.dumps({**told, "proof": "machine"}),
            orjson.dumps({**told, "name": "vi"}),
        ):
            await rooms.store.transact((), (Put(entry.key, wrong),))
            async with rooms.client(rooms.access(), value) as other:
                assert await name_of(other) == "", wrong
        far = orjson.dumps(
            {**told, "until_ms": told["until_ms"] + 10**12, "seen_ms": told["seen_ms"] + 10**12}
        )
        await rooms.store.transact((), (Put(entry.key, far),))
        access = rooms.access()
        async with rooms.client(access, value) as other:
            assert await name_of(other) == "kim"
            found = access.book.peek(value)
            assert found is not None
            assert found.until_ms - rooms.clock.monotonic_ms() <= Sessions().whole_ms

    tell(story)


def test_a_store_that_is_away_signs_nobody_out_and_nobody_in(rooms: Rooms) -> None:
    async def story() -> None:
        async with begun(rooms) as (first, value):
            rooms.store.silent = True
            rooms.clock.ms += SEEN_MS
            assert await name_of(first) == "kim"
            async with rooms.client(rooms.access(), value) as other:
                assert await name_of(other) == ""
            async with begun(rooms) as (second, _):
                assert await name_of(second) == "kim", "known to its room alone"
                rooms.store.silent = False
                rooms.clock.ms += CONFIRM_MS
                assert await name_of(second) == "kim"
            rooms.store.silent = True
            assert (
                await first.post("/sign-out", data={"csrf": csrf_of(value)}, headers=HTML)
            ).status_code == 303
            rooms.store.silent = False
            first.cookies.set(COOKIE, value)
            rooms.clock.ms += CONFIRM_MS
            assert await name_of(first) == "", "what the store still has of it is believed no more"
            assert await rooms.kept() == [], "and goes, once it answers"

    tell(story)


def test_requests_that_come_together_after_a_restart_are_all_signed_in(rooms: Rooms) -> None:
    async def story() -> None:
        async with begun(rooms) as (_, value), rooms.client(rooms.access(), value) as after:
            rooms.store.asked, rooms.store.slow = 0, True
            first = asyncio.create_task(name_of(after))
            others = [asyncio.create_task(name_of(after)) for _ in range(7)]
            await asyncio.sleep(0.01)
            first.cancel()  # its browser goes away, and takes nothing from the others
            assert await asyncio.gather(*others) == ["kim"] * 7
            assert rooms.store.asked == 1, "one look is enough for all of them"

    tell(story)


def test_cookies_that_are_made_up_keep_nobody_from_the_store(rooms: Rooms) -> None:
    async def story() -> None:
        access = rooms.access()
        async with (
            begun(rooms) as (_, value),
            rooms.client(access, address="10.0.0.1") as stranger,
            rooms.client(access, value, address="10.0.0.1") as beside,
            rooms.client(access, value, address="10.0.0.2") as elsewhere,
        ):
            rooms.store.asked = 0
            for number in range(LOOKS_A_SECOND * 3):
                stranger.cookies.set(COOKIE, f"{number:043d}")
                assert await name_of(stranger) == ""
            assert rooms.store.asked == LOOKS_A_SECOND
            told = await beside.get("/v1/me")
            assert (told.status_code, told.json()["code"]) == (429, "too-many-logins"), "not signed out"
            assert told.headers["retry-after"] == "1"
            assert (await beside.get("/sign-in", headers=HTML)).status_code == 200
            assert await name_of(elsewhere) == "kim", "it is counted by address"
            stranger.cookies.set(COOKIE, "../../etc/passwd")
            assert await name_of(stranger) == ""

    tell(story)


def test_whoever_was_told_to_try_again_is_signed_in_a_moment_later(rooms: Rooms) -> None:
    async def story() -> None:
        async with begun(rooms) as (_, value), rooms.client(rooms.access()) as browser:
            for number in range(LOOKS_A_SECOND):
                browser.cookies.set(COOKIE, f"{number:043d}")
                assert (await browser.get("/v1/me")).status_code == 401
            browser.cookies.set(COOKIE, value)
            assert (await browser.get("/v1/me")).status_code == 429
            rooms.clock.ms += 1_000
            assert await name_of(browser) == "kim"

    tell(story)


def test_a_login_by_break_glass_is_kept_nowhere(rooms: Rooms) -> None:
    async def story() -> None:
        access = rooms.access()
        async with rooms.client(access):
            await access.sign_in(
                "kim", "viewer", "break-glass", "127.0.0.1", most_ms=60_000, text="evac-glass-1.x"
            )
            assert await rooms.kept() == []

    tell(story)
