"""Reads of the API: whole pages, tags, problems; nothing foreign gets in, and nothing inner gets out."""

from __future__ import annotations

import httpx2
import pytest

from evac.office.office import Office
from tests.web.rooms import play

LISTS = ("domains", "services", "stores", "findings", "audit/losses", "plans", "runs", "notices")


def test_every_list_has_a_shape_a_tag_and_answers_304() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for name in LISTS:
            first = await client.get(f"/v1/{name}")
            assert first.status_code == 200, name
            assert set(first.json()) >= {"items", "total", "next"}
            again = await client.get(f"/v1/{name}", headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")

    play(story)


def test_a_cursor_walks_over_every_row_once() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        seen, after = [], ""
        while after is not None:
            page = (await client.get("/v1/audit/losses", params={"after": after, "limit": 3})).json()
            seen += [row["domain"] for row in page["items"]]
            after = page["next"]
        assert office.facts is not None
        assert seen == [loss.domain for loss in office.facts.losses]
        wrong = await client.get("/v1/audit/losses", params={"after": "nowhere"})
        assert (wrong.status_code, wrong.json()["code"]) == (404, "cursor-unknown")

    play(story)


def test_the_losses_say_what_the_audit_says() -> None:
    from evac.audit import audit
    from evac.estate import load
    from tests.web.rooms import ESTATE

    rows = {row.domain: row for row in audit(load(ESTATE)).rows}

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        shown = (await client.get("/v1/audit/losses", params={"limit": 1000})).json()["items"]
        assert {row["domain"] for row in shown} == set(rows)
        for row in shown:
            known = rows[row["domain"]]
            assert (row["verdict"], row["down"], row["never_back"]) == (known.verdict, known.down, known.lost)

    play(story)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/nothing", 404, "not-found"),
        ("/v1/services/nobody", 404, "not-found"),
        ("/v1/runs/nobody", 404, "run-unknown"),
        ("/v1/runs/nobody/events", 404, "run-unknown"),
        ("/v1/plans/sha256:" + "0" * 64, 404, "plan-unknown"),
        ("/v1/plans/x", 422, "request-invalid"),
        ("/v1/services?limit=0", 422, "request-invalid"),
        ("/v1/hold", 404, "no-hold"),
        ("/v1/stream?after=-1", 422, "request-invalid"),
    ],
)
def test_what_is_not_there_is_a_problem_with_a_code(path: str, status: int, code: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        found = await client.get(path)
        assert (found.status_code, found.json()["code"]) == (status, code)
        assert found.headers["content-type"] == "application/problem+json"
        assert found.json()["request"] == found.headers["x-request-id"]

    play(story)


def test_every_answer_carries_the_headers_that_keep_pages_apart() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for path in ("/now", "/v1/situation", "/v1/nothing", "/static/evac.css"):
            headers = (await client.get(path)).headers
            assert "script-src 'self'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"

    play(story)


def test_a_foreign_host_and_a_page_of_another_site_are_refused() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for headers, code in (
            *(
                ({"Host": host}, "host-unknown")
                for host in ("evil.example", "127.0.0.1@evil.example", "127.0.0.1:8400@evil.example")
            ),
            *(({"Host": host}, "host-unknown") for host in ("127.0.0.1:8400:1", "[127.0.0.1", "127.0.0.1:x")),
            ({"Origin": "http://evil.example"}, "cross-site"),
            ({"Sec-Fetch-Site": "cross-site"}, "cross-site"),
        ):
            found = await client.post("/v1/hold", json={"reason": "mine"}, headers=headers)
            assert found.json()["code"] == code
        assert await office.standing_hold() is None

    play(story)


def test_a_body_beyond_its_bound_is_refused_with_and_without_a_length() -> None:
    async def pieces() -> object:
        for _ in range(20):
            yield b"x" * 100

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        whole = await client.post("/v1/what-if", content=b"x" * 2_000)
        assert (whole.status_code, whole.json()["code"]) == (413, "body-too-large")
        parts = await client.post("/v1/what-if", content=pieces())  # type: ignore[arg-type]
        assert (parts.status_code, parts.json()["code"]) == (413, "body-too-large")

    play(story, body_most=1_000)


@pytest.mark.parametrize(
    ("body", "media", "status", "said"),
    [
        (b"[" * 100_000, "application/json", 400, "nested too deeply, or not UTF-8"),
        (b'{"domains": ["\xff"]}', "application/json", 400, "nested too deeply, or not UTF-8"),
        (b'{"domains": ', "application/json", 422, "body: invalid JSON at character 12: Expecting value"),
        (
            b'{"domains": ["a"]}',
            "text/plain",
            422,
            "body: not a JSON object; send a JSON object with",
        ),
        (b"3", "application/json", 422, "body: not a JSON object; send a JSON object"),
        (b"", "application/json", 422, "body: Field required"),
    ],
)
def test_a_body_that_is_none_is_told_what_to_send(body: bytes, media: str, status: int, said: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        found = await client.post("/v1/what-if", content=body, headers={"Content-Type": media})
        told = found.json()
        assert (found.status_code, told["code"], told["kind"]) == (status, "request-invalid", "invalid-input")
        assert said in told["detail"]
        assert told["hint"]

    play(story)


def test_what_nobody_foresaw_is_told_by_its_number_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        monkeypatch.setattr(office, "runs", lambda: 1 / 0)
        found = await client.get("/v1/runs", headers={"X-Request-ID": "seen-by-me"})
        assert (found.status_code, found.json()["code"]) == (500, "internal")
        assert found.json()["request"] == "seen-by-me"
        assert "division" not in found.text
        asked = {"X-Request-ID": "seen-by-kim", "Accept": "text/html,*/*;q=0.8"}
        page = await client.get("/runs", headers=asked)
        assert (page.status_code, page.headers["content-type"][:9]) == (500, "text/html")
        assert "Something went wrong" in page.text
        assert page.text.count("seen-by-kim") == 2, "in the hint, and in the foot of the page"
        assert "division" not in page.text
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
            "request seen-by-me failed",
            "request seen-by-kim failed",
        ]

    play(story)


def test_readiness_says_why_not() -> None:
    import asyncio

    from tests.web.rooms import BASE, office_of, room_of

    async def run() -> None:
        office = office_of()
        transport = httpx2.ASGITransport(room_of(office))
        async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
            early = await client.get("/readyz")
            assert (early.status_code, early.json()["code"]) == (503, "not-ready")
            assert (await client.get("/v1/services")).status_code == 503
            assert (await client.get("/healthz")).json() == {"alive": True}
            await office.look()
            await office.reckon()
            assert (await client.get("/readyz")).json()["ready"] is True
            assert b"evac_ready 1.0" in (await client.get("/metrics")).content
        await office.close()

    asyncio.run(run())
