"""The journal of access: chained, bounded, in the words of a SIEM; and what an aborted request leaves."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from evac.app.access_log import access_log
from evac.cli.access_command import cef_line, json_line
from evac.engine.lead.access_chapters import stream_at
from evac.engine.lead.access_journal import SEEN, AccessJournal, access_records
from evac.engine.runs.reading import encode_all
from evac.model.access import AccessRecord
from evac.office.office import Office
from evac.run.values import Event
from evac.store.journal import Journal, head_of
from evac.store.port import MemoryStore, Put
from evac.web.access.keeping import ProofShown
from evac.web.access.recording import Recording
from tests.web.logins import HTML, TOKEN, HandClock, people, sign_in, token_of
from tests.web.rooms import office_of, play, primed, room_of
from tests.web.test_incidents import with_fire


def test_who_signed_in_and_who_was_refused_is_journalled_by_the_leader(tmp_path: Path) -> None:
    access, store = people(tmp_path), MemoryStore()

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for _ in range(3):
            await sign_in(client, password="wrong")
        await sign_in(client)
        await client.post("/v1/hold", json={"reason": "smoke"}, headers={"x-csrf-token": "false"})
        token = await token_of(client)
        await client.post("/sign-out", data={"csrf": token}, headers=HTML)
        access.clock.ms += 11_000  # type: ignore[attr-defined]
        await access.seen.write(store)
        guard = await store.acquire("leader", "here", 60_000)
        journal = AccessJournal(store, access.clock.now_ms, look_s=0)
        await journal.chore(guard)
        await journal.chore(guard)
        assert await store.list(SEEN) == []
        head = await head_of(store, stream_at(access.clock.now_ms()))
        assert head is not None
        assert head.records >= 4
        found = await access_records(store)
        kinds = [(one.kind, one.who, one.count) for one in found]
        assert ("sign-in-refused", "kim", 1) in kinds
        assert ("sign-in-refused", "kim", 2) in kinds, "two more alike are one record"
        assert ("sign-in", "kim", 1) in kinds
        assert ("refused", "kim", 1) in kinds
        assert ("sign-out", "kim", 1) in kinds

    play(story, store, access)


def test_each_change_is_recorded_once_with_its_proof(tmp_path: Path) -> None:
    """In the words of its route, or by its path: none is forgotten where a route is added."""
    access = people(tmp_path)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        await sign_in(client)
        headers = {"x-csrf-token": await token_of(client)}
        note = {"kind": "note", "text": "smoke"}
        for method, path, body, what in (
            ("POST", "/v1/hold", {"reason": "smoke"}, "hold everything"),
            ("DELETE", "/v1/hold?reason=over", None, "release the hold"),
            ("POST", "/v1/incidents/fire-1/notes", note, "note of fire-1"),
            ("POST", "/v1/incidents", {"incident": "fire-7", "text": "smoke"}, "POST /v1/incidents"),
        ):
            access.seen._waiting.clear()
            told = await client.request(method, path, json=body, headers=headers)
            assert told.status_code < 300, f"{path}: {told.text}"
            rows = [one for one in access.seen._waiting if one.kind == "asked"]
            assert [(one.who, one.what, one.proof) for one in rows] == [("kim", what, "password")]
        access.seen._waiting.clear()
        await client.get("/v1/me")
        assert not access.seen._waiting

    play(story, access=access)


def test_a_login_with_a_second_factor_is_told_from_one_without(tmp_path: Path) -> None:
    access, store = people(tmp_path), MemoryStore()

    async def story() -> list[str]:
        for acr in ("totp", ""):
            await access.sign_in("kim", "approver", "password", "here", shown=ProofShown(acr))
        await access.seen.write(store)
        return [one.proof for one in await access_records(store)]

    assert asyncio.run(story()) == ["password totp", "password"]


def test_a_million_tries_are_few_records() -> None:
    clock, store = HandClock(), MemoryStore()
    seen = Recording(clock)
    for _ in range(20_000):
        seen.refused("sign-in-refused", "192.0.2.7", "sign-in-wrong", "kim", "password")
    clock.ms += 10_000
    asyncio.run(seen.write(store))
    found = asyncio.run(access_records(store))
    assert [one.count for one in found] == [1, 19_999]
    for i in range(20_000):
        seen.saw("asked", who=str(i))
    asyncio.run(seen.write(store))
    found = asyncio.run(access_records(store))
    assert [one.count for one in found if one.code == "log-full"] == [10_000]


def test_a_jump_of_the_clock_is_a_record_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Two(HandClock):
        ahead = 0

        def now_ms(self) -> int:
            return self.ms + self.ahead

    clock, store = Two(), MemoryStore()
    seen = Recording(clock)
    clock.ms += 60_000
    asyncio.run(seen.write(store))
    assert asyncio.run(access_records(store)) == []
    clock.ahead = -3_600_000
    with caplog.at_level(logging.WARNING, "evac.access"):
        asyncio.run(seen.write(store))
    assert [one.kind for one in asyncio.run(access_records(store))] == ["clock-jump"]
    assert "jumped by -3600.0 s" in caplog.text


def test_records_are_lines_that_nobody_breaks() -> None:
    one = AccessRecord(1_800_000_000_000, "refused", "ki|m=\n", "oidc (gold)", "::1", what="a\\b=c\nd")
    assert orjson.loads(json_line(one))["who"] == "ki|m=\n"
    line = cef_line(one)
    assert line.count("\n") == 1
    assert line.startswith("CEF:0|evac|evac|")
    assert "suser=ki|m\\= " in line
    assert "msg=a\\\\b\\=c d" in line


def test_an_aborted_request_is_no_mistake_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        office = await primed(office_of())
        app = room_of(office, people(tmp_path))
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        for path in ("/sign-in", "/sign-in/break-glass", "/sign-in/oidc/logout"):
            scope = {
                "type": "http",
                "method": "POST",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "headers": [(b"host", b"127.0.0.1:8400"), (b"content-length", b"100")],
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 8400),
                "scheme": "http",
                "http_version": "1.1",
            }
            await app(scope, receive, send)
        await office.close()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(run())
    assert "Traceback" not in caplog.text
    assert not [row for row in caplog.records if row.levelno >= logging.ERROR]


def test_one_person_follows_so_much_and_no_more(tmp_path: Path) -> None:
    from dataclasses import replace

    from evac.model.access import AccessLimits

    access = people(tmp_path, limits=replace(AccessLimits(), streams=2))
    bearer = {"authorization": f"Bearer {TOKEN}"}

    async def run() -> None:
        office = await primed(office_of())
        app = room_of(office, access)
        codes: list[int] = []
        begun = asyncio.Event()

        async def follow() -> None:
            async def receive() -> dict[str, Any]:
                await asyncio.sleep(60)
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    codes.append(message["status"])
                    begun.set()

            path = "/v1/stream"
            headers = [(name.encode(), value.encode()) for name, value in bearer.items()]
            scope = {
                "type": "http",
                "method": "GET",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "headers": [(b"host", b"127.0.0.1:8400"), *headers],
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 8400),
                "scheme": "http",
                "http_version": "1.1",
            }
            await app(scope, receive, send)

        tasks = []
        for _ in range(3):
            begun.clear()
            tasks.append(asyncio.create_task(follow()))
            await asyncio.wait_for(begun.wait(), 20)
        assert codes == [200, 200, 429]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        begun.clear()
        again = asyncio.create_task(follow())
        await asyncio.wait_for(begun.wait(), 20)
        assert codes[-1] == 200
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        await office.close()

    asyncio.run(run())


def test_acts_of_people_in_runs_are_in_the_log_with_their_proof() -> None:
    async def story() -> None:
        store = MemoryStore()
        proof = {"kind": "oidc", "acr": "gold", "at_ms": 5, "mark": "m"}
        events = (
            Event("run_created", 1, data={"run": "r", "incident": "fire", "plan": "sha256:1"}),
            Event("approved", 2, data={"who": "kim", "reason": "smoke", "proof": proof}),
            Event("step_attested", 3, "fence:db", 1, {"who": "lee", "reason": "dark"}),
            Event("run_ended", 4, data={"phase": "succeeded", "why": ""}),
        )
        await Journal.create(store, "r", None, records=encode_all(events))
        await store.transact((), (Put("incident/fire", orjson.dumps({"run": "r", "plan": "sha256:1"})),))
        found = [(one.kind, one.who, one.proof, one.what, one.run) for one in (await access_log(store)).items]
        assert found == [
            ("approved", "kim", "oidc (gold)", "smoke", "r"),
            ("step-attested", "lee", "", "fence:db: dark", "r"),
        ]
        assert [one.at_ms for one in (await access_log(store, 3)).items] == [3]
        await store.transact((), (Put("journal/r/000000000002", b"spoilt"),))
        damaged = await access_log(store)
        assert len(damaged.items) == 2
        assert [one.split(":")[0] for one in damaged.problems] == ["r"]

    asyncio.run(story())
