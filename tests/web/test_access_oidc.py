"""Signing in at an identity provider: only what it signed, for this client, this browser and this login."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import httpx2
import pytest
import pytest_socket
from joserfc import jwk, jwt

from evac.engine.clock import SystemClock
from evac.model.access import AccessRules, Person, Provider
from evac.model.errors import NotAllowed
from evac.office.office import Office
from evac.web.access.oidc import person_of
from evac.web.access.people import People
from tests.web.identity_provider import CLIENT, SECRET, IdentityProvider
from tests.web.logins import HTML
from tests.web.rooms import BASE, play

ROLES = {"sre": "operator", "leads": "approver"}
Story = Callable[[httpx2.AsyncClient, IdentityProvider, People], Awaitable[None]]


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


def tell(folder: Path, story: Story, people: dict[str, Person] | None = None, **more: Any) -> None:
    """Tells a story to a room with a provider beside it."""
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    named = {"name_claim": "email", **more}
    rules = AccessRules(people=people or {}, address=BASE)
    access = People(rules, SystemClock(), secure=False)

    async def whole(client: httpx2.AsyncClient, office: Office) -> None:
        async with IdentityProvider() as provider:
            made = Provider(provider.issuer, CLIENT, f"file:{secret}", roles=ROLES, **named)  # type: ignore[arg-type]
            access.rules = replace(rules, provider=made)
            await story(client, provider, access)

    play(whole, access=access)


async def to_provider(client: httpx2.AsyncClient, following: str = "/runs") -> str:
    """The address that the browser is sent to."""
    begun = await client.get("/sign-in/oidc", params={"next": following}, headers=HTML)
    assert begun.status_code == 303, begun.text
    assert "samesite=lax" in begun.headers["set-cookie"].lower()
    return begun.headers["location"]


async def at_provider(address: str) -> dict[str, str]:
    """What the provider sends the browser back with."""
    async with aiohttp.ClientSession() as session, session.get(address, allow_redirects=False) as answer:
        back = answer.headers["location"]
    assert back.startswith(f"{BASE}/sign-in/oidc/back?")
    return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}


async def back(client: httpx2.AsyncClient, query: dict[str, str]) -> httpx2.Response:
    return await client.get(
        "/sign-in/oidc/back", params=query, headers=HTML | {"sec-fetch-site": "cross-site"}
    )


async def sign_in(client: httpx2.AsyncClient) -> httpx2.Response:
    return await back(client, await at_provider(await to_provider(client)))


def test_a_person_signs_in_and_has_the_role_of_the_group(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        page = await client.get("/sign-in", headers=HTML)
        assert f"Sign in at {provider.issuer}" in page.text
        done = await sign_in(client)
        assert done.status_code == 200  # a strict cookie is not sent along a way that began elsewhere
        assert '<meta http-equiv="refresh" content="0; url=/runs">' in done.text
        cookie = next(v for v in done.headers.get_list("set-cookie") if v.startswith("evac_session="))
        assert "samesite=strict" in cookie.lower()
        who = (await client.get("/who", headers=HTML)).text
        assert "ann@example.com" in who
        assert "<dd>operator</dd>" in who
        assert provider.asked == ["discovery", "keys"]

    tell(tmp_path, story)


def test_somebody_in_the_file_is_that_person_whatever_the_provider_calls_her(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        assert (await sign_in(client)).status_code == 200
        who = (await client.get("/who", headers=HTML)).text
        assert "You are kim" in who
        assert "<dd>approver</dd>" in who
        access.rules = replace(access.rules, people={"lee": Person("lee", "admin", subject="")})
        assert (await client.get("/who", headers=HTML)).status_code == 303

    tell(tmp_path, story, {"kim": Person("kim", "approver", subject="17")})


@pytest.mark.parametrize(
    ("name", "oidc", "roles", "status"),
    [
        ("kim", True, "{sre: operator, leads: approver}", 200),
        ("kim", False, "", 303),
        ("kim", True, "{leads: approver}", 303),
        ("ANN@example.com", True, "{sre: operator, leads: approver}", 303),
    ],
)
def test_a_login_ends_with_what_the_file_says_of_its_provider(
    tmp_path: Path, name: str, oidc: bool, roles: str, status: int
) -> None:
    """What else changes there does not end it. Nobody gets a second name by entering the file."""
    file = tmp_path / "access.yaml"

    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        assert (await sign_in(client)).status_code == 200
        assert (await client.get("/who", headers=HTML)).status_code == 200
        text = f"people: {{'{name}': {{role: viewer, subject: '', password: env:KIM}}}}\n"
        if oidc:
            text += f"address: {BASE}\noidc: {{issuer: '{provider.issuer}', client: {CLIENT}, "
            text += f"client_secret: 'file:{tmp_path / 'secret'}', name_claim: email, roles: {roles}}}\n"
        file.write_text(text)
        access._path, access._looked_ms = file, -10_000
        assert (await client.get("/who", headers=HTML)).status_code == status

    tell(tmp_path, story)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"iss": "http://127.0.0.1/other"}, "different issuer"),
        ({"aud": "somebody"}, "different client"),
        ({"aud": ["evac", "other"]}, "different client"),
        ({"azp": "other"}, "different client"),
        ({"exp": 1}, "has expired"),
        ({"exp": None}, "has no exp"),
        ({"iat": 2**40}, "not valid yet"),
        ({"nbf": 2**40}, "not valid yet"),
        ({"nbf": "soon"}, "not valid yet"),
        ({"nonce": "x" * 43}, "different login"),
        ({"nonce": None}, "different login"),
        ({"sub": ""}, "names no one"),
        ({"sub": 17}, "names no one"),
        ({"exp": True}, "has no exp"),
        ({"exp": float("nan")}, "has no exp"),
        ({"exp": 10**400}, "has no exp"),
        ({"iat": 10**400}, "has no iat"),
        ({"email": ""}, "no name"),
        ({"email": ["a"]}, "no name"),
        ({"email": "a\u202eb"}, "no name"),
        ({"email": "KIM"}, "someone else here is named"),
        ({"groups": []}, "no role"),
        ({"groups": "other"}, "no role"),
        ({"groups": {"sre": 1}}, "no role"),
    ],
)
def test_a_token_that_says_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        provider.change = lambda claims: {k: v for k, v in (claims | change).items() if v is not None}
        told = await sign_in(client)
        assert told.status_code == 403
        assert words in told.text.lower()
        assert len(access.book) == 0

    tell(tmp_path, story, {"kim": Person("kim", "approver", subject="")})


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(token: str) -> str:
    return f"{part(json.dumps({'alg': 'none'}).encode())}.{token.split('.')[1]}."


def confused(token: str, public: bytes) -> str:
    """Signed with the public key, as if it were a shared secret."""
    signed = f"{part(json.dumps({'alg': 'HS256', 'kid': 'one'}).encode())}.{token.split('.')[1]}"
    return f"{signed}.{part(hmac.digest(public, signed.encode(), 'sha256'))}"


def test_a_token_that_the_provider_did_not_sign_is_refused(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        other = jwk.RSAKey.generate_key(2048, {"kid": "one"})
        good, public = provider.key, provider.keys[0].as_pem(private=False)
        for key, header, token in (
            (other, {"alg": "RS256", "kid": "one"}, None),
            (other, {"alg": "RS256"}, None),
            (good, {"alg": "RS256", "kid": "unknown"}, None),
            (good, {"alg": "RS256", "kid": "one"}, unsigned),
            (good, {"alg": "RS256", "kid": "one"}, lambda text: confused(text, public)),
            (good, {"alg": "RS256", "kid": "one"}, lambda text: text[:-8] + "AAAAAAAA"),
            (good, {"alg": "RS256", "kid": "one"}, lambda text: "rubbish"),
            (good, {"alg": "RS256", "kid": "one"}, lambda text: "W10.W10.W10"),
        ):
            provider.key, provider.header, provider.token = key, header, token or (lambda text: text)
            told = await sign_in(client)
            assert told.status_code == 403, header
            assert len(access.book) == 0
        provider.key, provider.header, provider.token = good, {"alg": "PS256"}, lambda text: text
        assert (await sign_in(client)).status_code == 200  # names no key: all that there are may be tried

    tell(tmp_path, story)


def test_an_answer_counts_in_the_browser_that_asked_and_once(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        query = await at_provider(await to_provider(client))
        flow = client.cookies["evac_flow"]
        for cookies, changed in (
            ({}, query),
            ({"evac_flow": flow[:-3] + "AAA"}, query),
            ({"evac_flow": "x.y"}, query),
            ({"evac_flow": flow}, query | {"state": "x" * 43}),
            ({"evac_flow": flow}, query | {"code": ""}),
            ({"evac_flow": flow}, query | {"iss": "http://127.0.0.1/other"}),
            ({"evac_flow": flow}, query | {"error": "access_denied"}),
            ({"evac_flow": flow}, query | {"code": "x"}),
        ):
            client.cookies.clear()
            for name, value in cookies.items():
                client.cookies.set(name, value)
            assert (await back(client, changed)).status_code == 403
        client.cookies.clear()
        client.cookies.set("evac_flow", flow)
        assert (await back(client, query)).status_code == 200
        client.cookies.set("evac_flow", flow)
        again = await back(client, query)
        assert again.status_code == 403
        assert "rejected the code" in again.text
        assert len(access.book) == 1

    tell(tmp_path, story)


def test_a_new_key_of_the_provider_is_asked_for_and_not_at_each_false_one(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        assert (await sign_in(client)).status_code == 200
        provider.header = {"alg": "RS256", "kid": "made up"}
        for _ in range(3):
            client.cookies.delete("evac_session")
            assert (await sign_in(client)).status_code == 403
        assert provider.asked.count("keys") == 1

    tell(tmp_path, story)


def test_a_provider_that_does_not_answer_is_said_to_be_and_what_helps(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        provider.about = {"token_endpoint": "http://id.example.com/token"}
        open_one = await client.get("/sign-in/oidc", headers=HTML)
        assert (open_one.status_code, "over TLS" in open_one.text) == (503, True)
        provider.about = {"issuer": "https://other.example.com"}
        assert (await client.get("/sign-in/oidc", headers=HTML)).status_code == 503
        provider.about = {}
        await provider.__aexit__()
        told = await client.get("/sign-in/oidc", headers=HTML)
        assert told.status_code == 503
        assert "Cannot reach the identity provider" in told.text
        assert "evac access break-glass" in told.text
        assert (await client.get("/sign-in", headers=HTML)).status_code == 200

    tell(tmp_path, story)


def test_many_who_begin_at_once_ask_the_provider_once(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        await asyncio.gather(*(to_provider(client) for _ in range(20)))
        assert provider.asked == ["discovery"]

    tell(tmp_path, story)


def test_a_provider_that_promises_to_say_who_answers_says_it(tmp_path: Path) -> None:
    """RFC 9207, 2.4."""

    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        provider.about = {"authorization_response_iss_parameter_supported": True}
        query = await at_provider(await to_provider(client))
        silent = {name: value for name, value in query.items() if name != "iss"}
        assert (await back(client, silent)).status_code == 403
        query = await at_provider(await to_provider(client))
        assert (await back(client, query | {"iss": provider.issuer})).status_code == 200

    tell(tmp_path, story)


@pytest.mark.parametrize("verified", [False, None, "true"])
def test_an_address_that_the_provider_did_not_verify_names_nobody(tmp_path: Path, verified: object) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        provider.person["email_verified"] = verified
        told = await sign_in(client)
        assert "does not say that this address was verified" in told.text
        assert (await client.get("/v1/me")).status_code == 401

    tell(tmp_path, story)


def test_whoever_signs_in_again_proves_it_now(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        begun = await client.get("/sign-in/oidc?again=1", headers=HTML)
        asked = parse_qs(urlsplit(begun.headers["location"]).query)
        assert (asked["prompt"], asked["max_age"]) == (["login"], ["0"])
        old = await back(client, await at_provider(begun.headers["location"]))
        assert "you have just authenticated" in old.text
        provider.change = lambda claims: claims | {"auth_time": claims["iat"], "acr": "gold"}
        begun = await client.get("/sign-in/oidc?again=1", headers=HTML)
        await back(client, await at_provider(begun.headers["location"]))
        actor = (await client.get("/v1/me")).json()
        assert actor["name"] == "ann@example.com"
        rows = await access.logins()
        assert [(row.name, row.proof, row.acr, row.subject) for row in rows] == [
            ("ann@example.com", "oidc", "gold", "17")
        ]

    tell(tmp_path, story)


def test_a_login_that_is_weaker_than_the_file_wants_is_refused(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        where = await to_provider(client)
        assert parse_qs(urlsplit(where).query)["acr_values"] == ["gold"]
        assert "not have the required strength gold" in (await back(client, await at_provider(where))).text
        provider.change = lambda claims: claims | {"acr": "gold"}
        await sign_in(client)
        assert (await client.get("/v1/me")).status_code == 200

    tell(tmp_path, story, acr="gold")


def test_the_provider_ends_logins_and_nobody_else_does(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        await sign_in(client)
        now = int(time.time())
        claims = {
            "iss": provider.issuer,
            "aud": "evac",
            "iat": now,
            "exp": now + 120,
            "jti": "1",
            "sub": "17",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        }

        async def told(key: Any = None, without: str = "", **other: Any) -> int:
            said = {name: value for name, value in (claims | other).items() if name != without}
            token = jwt.encode(provider.header, said, key or provider.key)
            answer = await client.post("/sign-in/oidc/logout", data={"logout_token": token})
            return answer.status_code

        for other in (
            {"aud": "other"},
            {"iat": now - 1_000},
            {"nonce": "n"},
            {"nonce": None},
            {"events": {}},
            {"events": {"http://schemas.openid.net/event/backchannel-logout": True}},
            {"exp": now - 100},
            {"exp": "later"},
            {"jti": 5},
            {"sub": None},
            {"sub": 17, "sid": "s"},
            {"key": jwk.RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})},
            *({"without": name} for name in claims),
            {"iss": "http://elsewhere"},
        ):
            assert await told(**other) == 400, other
        assert (await client.post("/sign-in/oidc/logout", data={"logout_token": "x"})).status_code == 400
        assert await told(sub="18", jti="2") == 200
        assert (await client.get("/v1/me")).status_code == 200, "it was somebody else's"
        assert await told() == 200
        assert (await client.get("/v1/me")).status_code == 401
        assert await told() == 400, "once"

        provider.change = lambda claims: claims | {"sid": "here"}
        await sign_in(client)
        assert await told(without="sub", sid="elsewhere", jti="3") == 200
        assert await told(sid="elsewhere", jti="4") == 200
        assert (await client.get("/v1/me")).status_code == 200, "another session of the same person"
        assert await told(without="sub", sid="here", jti="5") == 200
        assert (await client.get("/v1/me")).status_code == 401

    tell(tmp_path, story)


NESTED = base64.urlsafe_b64encode(b"[" * 30_000).decode().rstrip("=") + ".e30.x"


@pytest.mark.parametrize(
    "token", [NESTED, f"{'e30' * 50_000}.e30.x", "9" * 40_000 + "..", "....", "e30.e30.e30"]
)
def test_a_hostile_logout_token_is_refused_and_asks_for_nothing(token: str, tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        answer = await client.post("/sign-in/oidc/logout", data={"logout_token": token})
        assert answer.status_code == 400
        assert "internal error" not in answer.text

    tell(tmp_path, story)


def test_keys_that_cannot_be_read_are_asked_for_once_however_many_want_them(tmp_path: Path) -> None:
    """Anyone may send a logout token, as often as they like."""

    async def story(client: httpx2.AsyncClient, provider: IdentityProvider, access: People) -> None:
        provider.about = {"jwks_uri": f"{provider.issuer}/nowhere"}
        token = jwt.encode(provider.header, {"iss": provider.issuer}, provider.key)
        for _ in range(2):
            answers = await asyncio.gather(
                *(client.post("/sign-in/oidc/logout", data={"logout_token": token}) for _ in range(10))
            )
            assert {answer.status_code for answer in answers} <= {400, 503}
        assert provider.asked.count("nowhere") == 1

    tell(tmp_path, story)


@pytest.mark.parametrize("name", ["\u3164", "ann\u3164", "ann\ufe0f", "a\u034fnn"])
def test_a_name_from_the_provider_has_no_invisible_characters(name: str) -> None:
    """A run would refuse every request under such a name, and a page would show it as another."""
    provider = Provider("https://id.example", "evac", name_claim="name", roles=ROLES)  # type: ignore[arg-type]
    rules = AccessRules(provider=provider)
    groups = next(iter(ROLES))
    assert person_of(rules, {"sub": "1", "name": "ann", "groups": [groups]})[0] == "ann"
    with pytest.raises(NotAllowed) as caught:
        person_of(rules, {"sub": "1", "name": name, "groups": [groups]})
    assert caught.value.code == "oidc-nameless"
