"""What hostile clients send: huge headers, cookies and tokens that are none, two hosts, forms of rubbish."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.websockets import WebSocket

from evac.office.office import Office
from tests.web.logins import HTML, TOKEN, people
from tests.web.rooms import office_of, play, room_of


def jwt(header: dict[str, str], claims: dict[str, object], signature: str = "") -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}.{signature}"


BEARERS = (
    "",
    "x",
    "Bearer",
    "Bearer ",
    f"Basic {base64.b64encode(b'kim:open sesame now').decode()}",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    "Bearer evac_",
    "Bearer " + "evac_" + "t" * 5_000,
    "Bearer " + jwt({"alg": "none"}, {"sub": "kim", "exp": 9_999_999_999}),
    "Bearer " + jwt({"alg": "HS256"}, {"sub": "kim", "exp": 9_999_999_999}, "c2ln"),
    "Bearer \x01\x02",
    f"bearer\t{TOKEN}",
    f"Bearer {TOKEN},{TOKEN}",
)


@pytest.mark.parametrize("given", BEARERS)
def test_a_token_that_is_none_is_refused(tmp_path: Path, given: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for path in ("/v1/situation", "/now", "/v1/nothing"):
            told = await client.get(path, headers={"authorization": given.encode("latin-1")})  # type: ignore[dict-item]
            assert told.status_code == 401
            assert told.headers["www-authenticate"] == "Bearer"
            assert "open sesame now" not in told.text

    play(story, access=people(tmp_path))


COOKIES = (
    "evac_session=",
    "evac_session",
    "evac_session=" + "a" * 42,
    "evac_session=" + "a" * 43,
    "evac_session=" + "a" * 20_000,
    "evac_session=\x01\xff",
    "=;=;==;;;",
    "evac_session=a; evac_session=b",
    'evac_session="' + "\\101" * 43 + '"',
    "a=b; " * 3_000,
    "__Host-evac_session=" + "a" * 43,
)


@pytest.mark.parametrize("cookie", COOKIES)
def test_a_cookie_that_is_none_is_no_login_and_no_error(tmp_path: Path, cookie: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        told = await client.get("/v1/situation", headers={"cookie": cookie.encode("latin-1")})  # type: ignore[dict-item]
        assert (told.status_code, told.json()["code"]) == (401, "not-authenticated")
        page = await client.get("/now", headers={**HTML, "cookie": cookie.encode("latin-1")})  # type: ignore[dict-item]
        assert page.status_code == 303

    play(story, access=people(tmp_path))


def test_headers_beyond_their_bound_and_two_hosts_are_refused(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        huge = await client.get("/healthz", headers={"cookie": "a" * 40_000})
        assert (huge.status_code, huge.json()["code"]) == (431, "header-too-large")
        hosts = [("host", "127.0.0.1:8400"), ("host", "evil.example")]
        assert (await client.get("/healthz", headers=hosts)).status_code in (400, 421)
        hosts.reverse()
        told = await client.get("/healthz", headers=hosts)
        assert (told.status_code, told.json()["code"]) == (400, "host-twice")

    play(story, access=people(tmp_path))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\xff\xfe=\xff", "application/x-www-form-urlencoded"),
        (b"a=1&" * 1_000, "application/x-www-form-urlencoded"),
        (b"name=kim&password=x", "text/plain"),
        (b"", "application/x-www-form-urlencoded"),
        (
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nkim\r\n--x--',
            "multipart/form-data; boundary=x",
        ),
        (b"name=" + b"k" * 300_000 + b"&password=" + b"p" * 300_000, "application/x-www-form-urlencoded"),
    ],
)
def test_a_form_of_rubbish_is_refused(tmp_path: Path, body: bytes, kind: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        told = await client.post("/sign-in", content=body, headers={**HTML, "content-type": kind})
        assert told.status_code in (403, 422)

    play(story, access=people(tmp_path))


@pytest.mark.parametrize(
    "following",
    ["//evil.example", "https://evil.example", "/\\evil.example", "/v1/hold", "/sign-in", "x", "/a\r\nb"],
)
def test_nobody_is_sent_elsewhere_after_signing_in(tmp_path: Path, following: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        page = await client.get("/sign-in", params={"next": following}, headers=HTML)
        assert 'name="next" value="/now"' in page.text

    play(story, access=people(tmp_path))


def test_origins_that_are_none_are_foreign_and_names_have_no_case(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for origin in (
            "http://[",
            "null",
            "http://127.0.0.1:8401",
            "//",
            "http://127.0.0.1:8400.evil.example",
        ):
            told = await client.post("/v1/hold", json={"reason": "x"}, headers={"origin": origin})
            assert (told.status_code, told.json()["code"]) == (403, "cross-site")
        assert (await client.get("/healthz", headers={"host": "LOCALHOST:8400"})).status_code == 200

    play(story, access=people(tmp_path))


def test_there_is_no_way_in_through_a_socket(tmp_path: Path) -> None:
    """None of the checks of requests would be made; the application is not even asked."""
    app, said = room_of(office_of(), people(tmp_path)), []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    @app.websocket("/v1/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()

    headers = [(b"host", b"127.0.0.1:8400")]
    scope = {
        "type": "websocket",
        "path": "/v1/socket",
        "headers": headers,
        "query_string": b"",
        "scheme": "ws",
    }
    asyncio.run(app(scope, receive, send))
    assert said == [{"type": "websocket.close", "code": 1008}]


def test_strangers_are_not_told_what_is_wrong_with_the_estate(tmp_path: Path) -> None:
    """Whoever restarts the process needs to know that it is not ready, and no more."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        office.facts, office._problem = None, "the service payroll names a site that there is not"
        told = await client.get("/readyz")
        assert (told.status_code, told.json()["code"]) == (503, "not-ready")
        assert "payroll" not in told.text
        by = {"authorization": f"Bearer {TOKEN}"}
        assert "payroll" in (await client.get("/readyz", headers=by)).text

    play(story, access=people(tmp_path))
