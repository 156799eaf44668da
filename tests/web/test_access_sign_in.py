"""Logins: a cookie that no script sees, a token in every form, an end, and few tries to get in."""

from __future__ import annotations

import asyncio
import io
import re
from dataclasses import replace
from pathlib import Path

import httpx2
import pyotp
import pytest
from starlette.requests import HTTPConnection

from evac.app.access import digest_of
from evac.cli.program import run as program
from evac.estate.codecs.access import load_access
from evac.model.access import AccessRules, Person
from evac.model.errors import InvalidInput, NotAllowed
from evac.model.estate import Rate
from evac.office.office import Office
from evac.store.opening import open_store
from evac.store.port import MemoryStore
from evac.web.access.passwords import WAITING_MOST, hash_of, new_totp
from evac.web.access.people import People, address_of
from evac.web.access.port import TooMany, Unauthenticated
from evac.web.api.requests import check_may
from tests.web.logins import HTML, TOKEN, HandClock, people, sign_in, sign_in_again, token_of
from tests.web.rooms import BASE, play


def test_a_browser_is_sent_to_sign_in_and_comes_back_where_it_wanted(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        refused = await client.get("/runs?begin=0", headers=HTML)
        assert refused.status_code == 303
        assert refused.headers["location"] == "/sign-in?next=%2Fruns%3Fbegin%3D0"
        assert (await client.get("/nothing/like/this", headers=HTML)).status_code == 303
        assert (await client.get("/v1/nothing", headers=HTML)).status_code == 401
        by_script = await client.get("/now", headers={**HTML, "hx-request": "true"})
        assert (by_script.status_code, by_script.headers["hx-redirect"]) == (401, "/sign-in")
        done = await sign_in(client)
        assert (done.status_code, done.headers["location"]) == (303, "/runs")
        cookie = next(v for v in done.headers.get_list("set-cookie") if v.startswith("evac_session="))
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert (await client.get("/now", headers=HTML)).status_code == 200
        for elsewhere in ("//evil.example", "/..//evil.example", "/.//evil.example"):
            told = await client.get(f"/sign-in?next={elsewhere}", headers=HTML)
            assert told.headers["location"] == "/now"

    play(story, access=people(tmp_path))


def test_a_click_on_another_site_does_not_ask_to_sign_in_again(tmp_path: Path) -> None:
    """A strict cookie does not come along with such a click; the page that answers it goes on by itself."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        told = await client.get("/runs", headers={**HTML, "sec-fetch-site": "cross-site"})
        assert told.status_code == 200
        assert '<meta http-equiv="refresh" content="0; url=/sign-in?next=%2Fruns">' in told.text

    play(story, access=people(tmp_path))


def test_under_tls_the_cookie_is_of_this_host_only(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        page = await client.get("/sign-in", headers=HTML)
        cookie = page.headers["set-cookie"]
        assert cookie.startswith("__Host-evac_form=")
        assert "Secure" in cookie
        assert "strict-transport-security" in page.headers
        plain = await client.post("/sign-in", headers={"origin": BASE})
        assert plain.json()["code"] == "cross-site", "whoever answers for this host without TLS"
        own = await client.post("/sign-in", headers={"origin": BASE.replace("http:", "https:")})
        assert own.status_code == 403
        assert "cross-site" not in own.text

    play(story, access=people(tmp_path, secure=True), secure=True)


def test_every_change_under_a_cookie_carries_the_token_of_the_login(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await sign_in(client)
        hold = {"reason": "smoke"}
        bare = await client.post("/v1/hold", json=hold)
        assert (bare.status_code, bare.json()["code"]) == (403, "csrf")
        wrong = await client.post("/v1/hold", json=hold, headers={"x-csrf-token": "x" * 43})
        assert wrong.status_code == 403
        assert (await client.post("/sign-out", data={"csrf": "x"})).status_code == 403
        assert (await client.post("/sign-out", data={"more": "x"})).status_code == 403
        twice = b"csrf=" + (await token_of(client)).encode() + b"&csrf=x"
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert (await client.post("/sign-out", content=twice, headers=form)).status_code == 403
        token = await token_of(client)
        good = await client.post("/v1/hold", json=hold, headers={"x-csrf-token": token})
        assert good.status_code == 201
        standing = await office.standing_hold()
        assert standing is not None
        assert standing.who == "kim"
        out = await client.post("/sign-out", data={"csrf": token}, headers=HTML)
        assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
        assert (await client.get("/now", headers=HTML)).status_code == 303

    play(story, access=people(tmp_path))


def test_a_token_of_one_login_is_none_of_another(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await sign_in(client)
        first = await token_of(client)
        await client.post("/sign-out", data={"csrf": first})
        await sign_in(client, "vi")
        assert await token_of(client) != first
        assert (await client.post("/sign-out", data={"csrf": first})).status_code == 403

    play(story, access=people(tmp_path))


def test_a_login_ends_when_idle_and_in_all(tmp_path: Path) -> None:
    clock = HandClock()

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await sign_in(client)
        clock.ms += 3_599_999
        assert (await client.get("/now", headers=HTML)).status_code == 200
        clock.ms += 3_599_999
        by_itself = {**HTML, "hx-request": "true"}
        assert (await client.get("/now", headers=by_itself)).status_code == 200  # asked by the page itself
        clock.ms += 1
        assert (await client.get("/now", headers=HTML)).status_code == 303
        await sign_in(client)
        for _ in range(12):
            assert (await client.get("/now", headers=HTML)).status_code == 200
            clock.ms += 3_599_000
        clock.ms += 12_000
        assert (await client.get("/now", headers=HTML)).status_code == 303

    play(story, access=people(tmp_path, clock))


def test_a_login_gets_a_new_cookie_and_ends_the_old_one(tmp_path: Path) -> None:
    access = people(tmp_path)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        page = await client.get("/sign-in", headers=HTML)
        form = re.search(r'name="form" value="([^"]+)"', page.text)
        assert form is not None
        client.cookies.set("evac_session", "f" * 43)  # fixed by somebody else
        fields = {"form": form[1], "name": "kim", "password": "open sesame now"}
        done = await client.post("/sign-in", data=fields, headers=HTML)
        assert done.status_code == 303
        assert "f" * 43 not in done.headers["set-cookie"]
        assert len(access.book) == 1

    play(story, access=access)


@pytest.mark.parametrize("name", ["kim", "nobody", "gone", "keyless"])
def test_a_wrong_password_says_nothing_of_the_name(tmp_path: Path, name: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        told = await sign_in(client, name, "wrong")
        assert told.status_code == 401
        assert "Wrong name, password or code" in told.text
        empty = await sign_in(client, name, "")
        assert empty.status_code == 401

    play(story, access=people(tmp_path))


def test_who_is_wrong_waits_longer_and_nobody_is_locked_out(tmp_path: Path) -> None:
    """Strangers behind one address, or with one name, slow the rightful down by seconds, and no more."""
    access = people(tmp_path)
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    access.slow.pause = pause

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for _ in range(30):
            assert (await sign_in(client, password="wrong")).status_code == 401
        assert waited[:3] == [0.25, 0.5, 1.0]
        assert waited[-1] == 8.0
        assert (await sign_in(client)).status_code == 303
        waited.clear()
        await access.check_password("vi", "open sesame now", "192.0.2.7")
        assert waited == [], "another address waits for nothing"

    play(story, access=access)


def test_many_tries_at_once_are_refused_beyond_a_bound(tmp_path: Path) -> None:
    access = people(tmp_path)

    async def tries(number: int, password: str) -> list[object]:
        asked = (access.check_password("kim", password, "192.0.2.7") for _ in range(number))
        return [type(one) for one in await asyncio.gather(*asked, return_exceptions=True)]

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0.05)

    access.slow.pause = pause

    async def all_of_it() -> list[object]:
        assert await tries(10, "open sesame now") == [Person] * 10
        await tries(11, "x")
        return await tries(40, "x")

    found = asyncio.run(all_of_it())
    assert found.count(Unauthenticated) == WAITING_MOST
    assert found.count(TooMany) == 40 - WAITING_MOST


def test_false_credentials_keep_nobody_from_signing_in(tmp_path: Path) -> None:
    access = people(tmp_path)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for _ in range(50):
            bearer = {"authorization": "Bearer evac-glass-1.AAAA.BBB"}
            assert (await client.get("/v1/me", headers=bearer)).status_code in (401, 429)
        assert access.slow.wait_ms("at 127.0.0.1", "name kim", access.rules.limits.sign_in) == 0
        assert (await sign_in(client)).status_code == 303

    play(story, access=access)


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("", "127.0.0.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 127.0.0.1", "203.0.113.9"),
        ("nonsense", "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_says_where_a_request_comes_from(
    tmp_path: Path, forwarded: str, address: str
) -> None:
    for proxies, expected in ((("127.0.0.0/8",), address), ((), "127.0.0.1")):
        access = people(tmp_path, proxies=proxies)
        headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "client": ("127.0.0.1", 1)}
        connection = HTTPConnection(scope)
        asyncio.run(access.who(connection))
        assert address_of(connection) == expected


def test_a_password_is_kept_as_a_hash_and_a_short_one_is_none(tmp_path: Path) -> None:
    hashed = hash_of("open sesame now")
    assert hashed.startswith("$argon2id$")
    with pytest.raises(InvalidInput):
        hash_of("elevenchars")
    known = {"kim": Person("kim", "approver", password_hash=hashed)}
    access = People(AccessRules(people=known), HandClock(), secure=False)
    assert asyncio.run(access.check_password("kim", "open sesame now", "here")).name == "kim"
    with pytest.raises(Unauthenticated):
        asyncio.run(access.check_password("kim", "open sesame", "here"))
    (tmp_path / "short").write_text("elevenchars")
    (tmp_path / "short").chmod(0o600)
    weak = {"kim": Person("kim", "approver", f"file:{tmp_path / 'short'}")}
    access = People(AccessRules(people=weak), HandClock(), secure=False)
    with pytest.raises(Unauthenticated):
        asyncio.run(access.check_password("kim", "elevenchars", "here"))


def test_a_second_factor_is_needed_and_each_code_counts_once(tmp_path: Path) -> None:
    secret, address = new_totp("kim")
    assert address.startswith("otpauth://totp/")
    (tmp_path / "totp").write_text(secret)
    (tmp_path / "totp").chmod(0o600)
    known = {
        "kim": Person(
            "kim", "approver", password_hash=hash_of("open sesame now"), totp=f"file:{tmp_path / 'totp'}"
        )
    }
    clock = HandClock()
    access = People(AccessRules(people=known), clock, secure=False)

    def tries(code: str) -> bool:
        try:
            asyncio.run(access.check_password("kim", "open sesame now", "here", code))
        except Unauthenticated:
            return False
        return True

    code = pyotp.TOTP(secret).at(clock.now_ms() // 1_000)
    assert [tries(""), tries("000000" if code != "000000" else "1"), tries(code), tries(code)] == [
        False,
        False,
        True,
        False,
    ]
    clock.ms += 120_000
    assert not tries(code)

    store, fresh = MemoryStore(), pyotp.TOTP(secret).at(clock.now_ms() // 1_000)
    taken = []
    for _ in range(2):
        access = People(AccessRules(people=known), clock, secure=False)
        access.keep_in(store)
        taken.append(tries(fresh))
    assert taken == [True, False], "another war room, or the same one after a restart"
    rooms = [People(AccessRules(people=known), clock, secure=False) for _ in range(2)]
    for access in rooms:
        access.keep_in(store)
        assert access.keep is not None
        assert asyncio.run(access.keep.is_first("kim", 1)) is (access is rooms[0])
        store._leases.clear()  # someone restored the store, or revoked their leases
    found = [asyncio.run(access.keep.is_first("kim", step)) for step in (2, 3) for access in rooms]  # type: ignore[union-attr]
    assert found == [True, False] * 2, "each takes a new lease"


def test_logins_end_when_the_password_in_the_file_changes(tmp_path: Path) -> None:
    clock = HandClock()
    access = people(tmp_path, clock)
    value = asyncio.run(access.sign_in("kim", "approver", "password", "here"))
    cookie = f"{access.cookie}={value}".encode()
    scope = {"type": "http", "method": "GET", "path": "/v1/me", "headers": [(b"cookie", cookie)]}
    assert asyncio.run(access.who(HTTPConnection(dict(scope)))) is not None
    (tmp_path / "kim").write_text("another one now")
    access._path = tmp_path / "kim"
    clock.ms += 10_000
    assert asyncio.run(access.who(HTTPConnection(dict(scope)))) is None


def test_grave_acts_need_a_login_of_the_last_minutes(tmp_path: Path) -> None:
    clock = HandClock()
    access = people(tmp_path, clock)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        done = await sign_in(client)
        cookie = done.cookies[access.cookie]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/me",
            "headers": [(b"cookie", f"{access.cookie}={cookie}".encode())],
        }
        actor = await access.who(HTTPConnection(dict(scope)))
        assert actor is not None
        assert check_may(actor, "approve", "run-1", "fire") is None
        clock.ms += 900_000
        actor = await access.who(HTTPConnection(dict(scope)))
        assert actor is not None
        for verb in ("approve", "attest", "undo", "cancel"):
            with pytest.raises(NotAllowed) as caught:
                check_may(actor, verb, "run-1", "fire")
            assert caught.value.code == "step-up"
        assert check_may(actor, "pause", "run-1", "fire") is None
        await sign_in_again(client)
        again = next(value for value in client.cookies.jar if value.name == access.cookie).value
        scope["headers"] = [(b"cookie", f"{access.cookie}={again}".encode())]
        actor = await access.who(HTTPConnection(dict(scope)))
        assert actor is not None
        assert check_may(actor, "approve", "run-1", "fire") is None

    play(story, access=access)


def test_whoever_has_to_sign_in_again_sees_why_and_their_name(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        path = "/sign-in?again=1&next=/waiting"
        first = (await client.get(path)).text
        assert "Sign in to evac" in first
        assert 'value="kim"' not in first
        await sign_in(client)
        text = (await client.get(path)).text
        assert "<h1>Sign in again</h1>" in text
        assert 'autocomplete="username" autocapitalize="off" spellcheck="false" value="kim"' in text
        assert 'name="next" value="/waiting"' in text
        form = re.search(r'name="form" value="([^"]+)"', text)
        assert form is not None
        fields = {"form": form[1], "name": "kim", "password": "not this one"}
        wrong = (await client.post("/sign-in", data=fields, headers=HTML)).text
        assert "<h1>Sign in again</h1>" in wrong
        assert 'role="alert"' in wrong

    play(story, access=people(tmp_path))


def test_a_form_of_another_browser_is_refused(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        fields = {"form": "x" * 43, "name": "kim", "password": "open sesame now"}
        told = await client.post("/sign-in", data=fields, headers=HTML)
        assert told.status_code == 403
        assert "has expired" in told.text
        other = {**HTML, "sec-fetch-site": "cross-site"}
        assert (await client.post("/sign-in", data=fields, headers=other)).status_code == 403

    play(story, access=people(tmp_path))


def test_a_token_acts_for_its_person_and_never_beyond(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        def by(token: str) -> dict[str, str]:
            return {"authorization": f"Bearer {token}"}

        hold = {"reason": "smoke", "who": "somebody else"}
        assert (await client.post("/v1/hold", json=hold, headers=by(TOKEN))).status_code == 201
        standing = await office.standing_hold()
        assert standing is not None
        assert standing.who == "ci"
        as_viewer = await client.post("/v1/hold", json=hold, headers=by(TOKEN + "2"))
        assert (as_viewer.status_code, as_viewer.json()["detail"]) == (
            403,
            "this needs the role operator; vi is viewer",
        )
        ended = await client.get("/v1/situation", headers=by(TOKEN + "3"))
        assert (ended.status_code, ended.json()["code"]) == (401, "token-ended")

    play(story, access=people(tmp_path))


def test_whoever_asks_too_often_waits(tmp_path: Path) -> None:
    from evac.model.access import AccessLimits

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        by = {"authorization": f"Bearer {TOKEN}"}
        for _ in range(3):
            assert (await client.get("/v1/situation", headers=by)).status_code == 200
        told = await client.get("/v1/situation", headers=by)
        assert (told.status_code, told.json()["code"]) == (429, "too-many-requests")
        assert told.headers["retry-after"] == "60"

    play(story, access=people(tmp_path, limits=AccessLimits(requests=Rate(3, 60_000))))


def test_a_changed_file_counts_at_once_and_a_broken_one_does_not(tmp_path: Path) -> None:
    file, clock = tmp_path / "access.yaml", HandClock()

    def write(text: str) -> None:
        file.write_text(text)
        clock.ms += 2_001

    digest = f"sha256:{digest_of(TOKEN)}"
    file.write_text(
        f"people: {{vi: {{role: viewer}}}}\ntokens: {{ci: {{role: operator, hash: '{digest}'}}}}\n"
    )
    access = People(load_access(file), clock, secure=False, path=file)
    by = {"authorization": f"Bearer {TOKEN}"}

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.get("/v1/situation", headers=by)).status_code == 200
        write("people: {vi: {role: emperor}}\n")
        assert (await client.get("/v1/situation", headers=by)).status_code == 200
        write("people: {vi: {role: viewer}}\n")
        assert (await client.get("/v1/situation", headers=by)).status_code == 401
        file.unlink()
        clock.ms += 2_001
        assert (await client.get("/v1/situation", headers=by)).status_code == 401

    play(story, access=access)


@pytest.mark.parametrize("change", [{"password": "env:OTHER"}, {"password": ""}])
def test_a_login_ends_when_its_password_stands_elsewhere(tmp_path: Path, change: dict[str, str]) -> None:
    access = people(tmp_path)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await sign_in(client)
        kim = access.rules.people["kim"]
        access.rules = replace(access.rules, people={"kim": replace(kim, role="viewer")})
        assert "<dd>viewer</dd>" in (await client.get("/who", headers=HTML)).text
        access.rules = replace(access.rules, people={"kim": replace(kim, **change)})
        assert (await client.get("/who", headers=HTML)).status_code == 303
        assert not len(access.book)

    play(story, access=access)


@pytest.mark.parametrize("proof", ["token", "password"])
def test_an_answer_that_goes_on_ends_though_nobody_asks_anything_else(tmp_path: Path, proof: str) -> None:
    file, clock = tmp_path / "access.yaml", HandClock()
    line = "people: {vi: {role: viewer, password: env:VI}}\n"
    file.write_text(f"{line}tokens: {{ci: {{role: viewer, hash: 'sha256:{digest_of(TOKEN)}'}}}}\n")
    access = People(load_access(file), clock, secure=False, path=file)
    value = f"evac_session={asyncio.run(access.sign_in('vi', 'viewer', 'password', '127.0.0.1'))}"
    header = (b"cookie", value) if proof == "password" else (b"authorization", f"Bearer {TOKEN}")
    scope = {"type": "http", "method": "GET", "headers": [(header[0], header[1].encode())], "client": None}

    async def story() -> None:
        actor = await access.who(HTTPConnection(scope))
        assert actor is not None
        assert actor.alive is not None
        assert await actor.alive()
        file.write_text(line.replace("vi:", "lee:"))
        clock.ms += 2_001
        assert not await actor.alive()

    asyncio.run(story())


def test_a_stream_that_a_page_opens_again_keeps_no_login_alive(tmp_path: Path) -> None:
    clock = HandClock()
    access = people(tmp_path, clock)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await sign_in(client)
        clock.ms += 3_000_000
        by_itself = {"accept": "text/event-stream", "sec-fetch-site": "same-origin"}
        assert (await client.get("/v1/situation", headers=by_itself)).status_code == 200
        clock.ms += 700_000
        assert (await client.get("/who", headers=HTML)).status_code == 303

    play(story, access=access)


def test_a_person_ends_their_own_logins_and_an_admin_everybodys(tmp_path: Path) -> None:
    access = people(tmp_path)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await sign_in(client)
        mine = (await client.get("/v1/logins")).json()["items"]
        assert [(row["name"], row["proof"]) for row in mine] == [("kim", "password")]
        assert "End all my logins" in (await client.get("/who", headers=HTML)).text
        token = {"x-csrf-token": await token_of(client)}
        other = await client.delete("/v1/logins?name=vi", headers=token)
        assert other.status_code == 403
        bearer = {"authorization": f"Bearer {TOKEN}2"}
        assert (await client.get("/v1/logins", headers={**bearer, "cookie": ""})).json()["items"] == []
        ended = await client.delete(f"/v1/logins?id={mine[0]['id']}", headers=token)
        assert ended.json() == {"ended": 1}
        assert (await client.get("/v1/me")).status_code == 401

    play(story, access=access)


def test_the_command_ends_logins_that_the_store_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:{tmp_path / 'runs.sqlite'}"

    async def begun() -> None:
        store = open_store(url)
        access = people(tmp_path)
        access.keep_in(store)
        await access.sign_in("kim", "approver", "password", "here")
        await store.close()

    asyncio.run(begun())
    assert program(["access", "logins", "--store", url]) == 0
    assert "kim  password  since" in capsys.readouterr().out
    assert program(["access", "logout", "vi", "--store", url]) == 0
    assert program(["access", "logout", "kim", "--store", url]) == 0
    assert "1 login of kim ended" in capsys.readouterr().err
    assert program(["access", "logins", "--store", url]) == 0
    assert capsys.readouterr().out == "no one is signed in\n"


def test_a_password_and_a_second_factor_are_made_by_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("open sesame now\n"))
    assert program(["access", "password", "kim"]) == 0, "nothing is asked where nobody is there to answer"
    line = capsys.readouterr().out.strip()
    secret = tmp_path / "kim.totp"
    assert program(["access", "totp", "kim", "--file", str(secret)]) == 0
    assert capsys.readouterr().out.startswith("otpauth://totp/")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert program(["access", "totp", "kim", "--file", str(secret)]) == 2
    path = tmp_path / "access.yaml"
    path.write_text(f"people:\n  kim:\n    role: approver\n    {line}\n    totp: file:{secret}\n")
    known = load_access(path).people["kim"]
    assert (known.totp, known.password_hash) == (f"file:{secret}", line.split('"')[1])
    for piped in ("short\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(piped))
        assert program(["access", "password", "kim", "--stdin"]) == 2
