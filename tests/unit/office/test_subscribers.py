"""Subscribers by email, with a real SMTP server: who gets mail, how often, and who does not."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from hypothesis import given
from hypothesis import strategies as st

from evac.engine.clock import SystemClock
from evac.incident.components import StatusPage
from evac.model.errors import Corrupt, InvalidInput, Unavailable
from evac.notices.values import Channel, Message
from evac.office.notices.looking import Looker
from evac.office.notices.process import Teller
from evac.office.notices.sending import Outcome
from evac.office.notices.subscribers import (
    ASKED,
    ASKED_MOST,
    INVITES_MOST,
    MAILED,
    READER,
    REFUSED_MOST,
    Mail,
    Vault,
    address_of,
    exported,
    vault_of,
)
from evac.store.generation import copy_of, fill_store
from evac.store.port import MemoryStore, Put, all_entries
from evac.views.status_page import status_files
from evac.web.subscribing import ASKS_MOST, Desk
from tests.unit.app.receivers import KEY
from tests.unit.office.test_notices_telling import Told
from tests.web.certificates import papers

pytestmark = [pytest.mark.enable_socket]
NOW_MS = 1_792_000_000_000
CHANNEL = Channel(
    "readers",
    "mail",
    "env:SMTP_URL",
    "env:MAIL_KEY",
    frozenset({"update"}),
    clear=True,
    sender="status@example.com",
    join="https://status.example.com/email",
)
PAGE = "https://status.example.com"


class Box:
    """An SMTP server that keeps what it takes. `answers`: address -> the answers that it gives first."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        self.answers: dict[str, list[str]] = {}
        self.came = threading.Event()

    async def handle_RCPT(self, _: Any, __: Any, envelope: Any, address: str, ___: Any) -> str:
        if self.answers.get(address):
            return self.answers[address].pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _: Any, __: Any, envelope: Any) -> str:
        mail = message_from_bytes(envelope.content, _class=EmailMessage, policy=default)
        assert [mail["To"]] == envelope.rcpt_tos, "a mail has one recipient"
        self.got.append(mail)
        self.came.set()
        return "250 OK"


@contextmanager
def listening(made: Box, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[int]:
    """The port of the server. tls: from the first byte on."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    transports: list[Any] = []

    class Heard(SMTP):
        def connection_made(self, transport: Any) -> None:
            transports.append(transport)
            super().connection_made(transport)

    async def end() -> None:
        server.close()
        for one in transports:
            one.abort()
        await server.wait_closed()

    protocol = partial(Heard, made, hostname="here", loop=loop, **options)
    protocol()  # one that cannot be made would drop every connection, and a client would blame the network
    coming = loop.create_server(protocol, "127.0.0.1", 0, ssl=tls)
    server = asyncio.run_coroutine_threadsafe(coming, loop).result()
    yield server.sockets[0].getsockname()[1]
    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    made = Box()
    with listening(made) as port:
        monkeypatch.setenv("SMTP_URL", f"smtp://127.0.0.1:{port}")
        monkeypatch.setenv("MAIL_KEY", KEY)
        yield made


class Cut(MemoryStore):
    """A store that is lost at one of its changes: before it, or after it was applied."""

    left = -1
    applied = False

    async def transact(self, *given: Any, **named: Any) -> int:
        self.left -= 1
        if self.left == 0 and not self.applied:
            raise Unavailable("lost")
        revision = await super().transact(*given, **named)
        if self.left == 0:
            raise Unavailable("lost")
        return revision


class Play:
    """A store, the page where users subscribe, and the sender of one controller."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.store = Cut()
        self.mail = self.controller()

    def controller(self) -> Mail:
        return Mail(CHANNEL, PAGE, self.store, lambda: self.now_ms)

    async def open(self, path: str, method: str = "GET", client: str = "10.0.0.1", **given: Any) -> Any:
        app = Desk(self.store, CHANNEL, PAGE, lambda: self.now_ms).application()
        return await self.ask(app, path, method, client, **given)

    async def ask(self, app: Any, path: str, method: str, client: str, **given: Any) -> Any:
        way = httpx2.ASGITransport(app=app, client=(client, 1))
        async with httpx2.AsyncClient(transport=way, base_url=PAGE) as opened:
            return await opened.request(method, path, **given)

    async def subscribed(self, box: Box, addresses: Sequence[str], language: str = "en") -> None:
        for n, address in enumerate(addresses):
            form = {"address": address, "language": language}
            assert (await self.open("/email", "POST", f"10.1.0.{n}", data=form)).status_code == 200
        assert await self.mail.invite() == ""
        for mail in box.got:
            assert (await self.open(link_in(mail, "confirm"), "POST")).status_code == 200
        box.got.clear()
        self.now_ms += 1


def link_in(mail: EmailMessage, path: str) -> str:
    (found,) = set(
        re.findall(rf"https://status\.example\.com(/email/{path}\?\S*link=\S+)", mail.get_content())
    )
    return str(found)


def update(number: int = 1, title: str = "Pay is down", at_ms: int = NOW_MS + 10) -> Message:
    return Message(
        f"evac_{number:016}", "update", "once", "info", "We know.\nA fix follows.", "", at_ms, (), title
    )


def play(story: Callable[[Play], Awaitable[None]]) -> None:
    asyncio.run(story(Play()))  # type: ignore[arg-type]


@pytest.mark.parametrize(("language", "confirm"), [("en", "Confirm"), ("ko", "상태 안내 구독 확인")])
def test_a_person_subscribes_gets_updates_once_and_leaves(box: Box, language: str, confirm: str) -> None:
    async def story(play: Play) -> None:
        form = {"address": "kim@example.com", "language": language}
        said = (await play.open("/email", "POST", data=form)).text
        assert box.got == [], "the page sends nothing itself"
        assert (await play.open("/email", "HEAD")).status_code == 200
        assert await play.mail.invite() == await play.controller().invite() == ""
        (asked,) = box.got
        assert confirm in asked["Subject"]
        link = link_in(asked, "confirm")
        for method in ("GET", "HEAD"):
            assert (await play.open(link, method)).status_code == 200
        assert await exported(play.store, vault_of(CHANNEL)) == [], "opening a link changes nothing"
        for _ in range(2):
            assert (await play.open(link, "POST")).status_code == 200
        (one,) = await exported(play.store, vault_of(CHANNEL))
        assert (one.address, one.language) == ("kim@example.com", language)
        assert (await play.open("/email", "POST", data=form)).text == said, "nobody learns who subscribed"
        box.got.clear()
        for sender in (play.mail, play.mail, play.controller()):
            assert await sender.send(update()) == Outcome()
        (mail,) = box.got
        assert mail["Subject"] == "Pay is down"
        assert "A fix follows." in mail.get_content()
        assert PAGE in mail.get_content()
        assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        leave = mail["List-Unsubscribe"].strip("<>").removeprefix(PAGE)
        assert leave == link_in(mail, "leave")
        for method in ("GET", "HEAD"):
            assert (await play.open(leave, method)).status_code == 200
        assert await exported(play.store, vault_of(CHANNEL)), "opening a link changes nothing"
        assert (await play.open(leave, "POST", data={"List-Unsubscribe": "One-Click"})).status_code == 200
        assert await play.controller().send(update(2)) == Outcome()
        assert len(box.got) == 1
        assert await all_entries(play.store, READER) == []

    play(story)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")  # it is meant
def test_the_login_and_the_mail_go_over_tls_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, logins = papers(tmp_path), list[tuple[bool, LoginPassword]]()

    def known(_: SMTP, session: Any, __: Any, ___: str, told: LoginPassword) -> AuthResult:
        logins.append((session.ssl is not None, told))
        return AuthResult(success=told == LoginPassword(b"us@er", b"p:w/1"), handled=False)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    login: dict[str, Any] = {"authenticator": known, "auth_required": True}
    covered: dict[str, Any] = {"tls_context": context, "require_starttls": True}
    monkeypatch.setenv("MAIL_KEY", KEY)

    async def sent(port: int, password: str, authority: str) -> str:
        monkeypatch.setenv("SMTP_URL", f"smtp://us%40er:{password}@127.0.0.1:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", authority)
        play = Play()
        play.mail = Mail(replace(CHANNEL, clear=False), PAGE, play.store, lambda: play.now_ms)
        await play.open("/email", "POST", data={"address": "ann@example.com", "language": "en"})
        return await play.mail.invite()

    with listening(made := Box(), **covered, **login) as port:
        assert asyncio.run(sent(port, "p%3Aw%2F1", str(files.authority))) == ""
        assert [mail["To"] for mail in made.got] == ["ann@example.com"]
        assert logins == [(True, LoginPassword(b"us@er", b"p:w/1"))]
        wrong = asyncio.run(sent(port, "guess", str(files.authority)))
        assert wrong == "the mail server cannot be used (SMTPAuthenticationError)", "and never the password"
        tried = len(logins)
    with listening(made, **login, auth_require_tls=False) as port:
        plain = asyncio.run(sent(port, "p%3Aw%2F1", str(files.authority)))
    assert plain == "the mail server cannot be used (SMTPNotSupportedError)", "it answered, without STARTTLS"
    assert (len(made.got), len(logins)) == (1, tried), "nobody else learns the login"


def test_a_mail_server_with_tls_from_the_first_byte_on_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    files, other = papers(tmp_path), papers(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    monkeypatch.setenv("MAIL_KEY", KEY)

    async def sent(port: int, authority: str) -> str:
        monkeypatch.setenv("SMTP_URL", f"smtps://127.0.0.1:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", authority)
        play = Play()
        play.mail = Mail(replace(CHANNEL, clear=False), PAGE, play.store, lambda: play.now_ms)
        await play.open("/email", "POST", data={"address": "ann@example.com", "language": "en"})
        return await play.mail.invite()

    with listening(made := Box(), context) as port:
        refused = asyncio.run(sent(port, str(other.authority)))
        assert (refused, made.got) == ("the mail server cannot be used (SSLCertVerificationError)", [])
        assert asyncio.run(sent(port, str(files.authority))) == ""
    assert [mail["To"] for mail in made.got] == ["ann@example.com"]


def test_a_copy_of_the_store_shows_no_address_and_another_key_opens_nothing(box: Box) -> None:
    async def story(play: Play) -> None:
        await play.subscribed(box, ["kim@example.com"])
        await play.open("/email", "POST", data={"address": "kim.lee@example.com"})
        kept = [one for prefix in ("notices/", READER) for one in await all_entries(play.store, prefix)]
        assert len(kept) == 2
        assert not any(b"kim" in one.key.encode() + one.value or b"example" in one.value for one in kept)
        with pytest.raises(InvalidInput):
            await exported(play.store, Vault(b"another key, and just as long"))
        other = MemoryStore()
        await fill_store(other, (await copy_of(play.store)).entries.items(), ("last", b"1"))
        assert await exported(other, vault_of(CHANNEL)) == await exported(play.store, vault_of(CHANNEL))

    play(story)


@pytest.mark.parametrize("applied", [False, True])
def test_a_controller_that_takes_over_at_any_moment_sends_nothing_twice(box: Box, applied: bool) -> None:
    people = [f"reader-{n}@example.com" for n in range(3)]

    async def story(play: Play) -> None:
        await play.subscribed(box, people)
        for moment in range(1, 4):
            box.got.clear()
            play.store.left, play.store.applied = moment, applied
            with pytest.raises(Unavailable):
                await play.mail.send(update(moment))
            assert await play.controller().send(update(moment)) == Outcome()
            got = Counter(mail["To"] for mail in box.got)
            assert set(got.values()) == {1}
            assert len(got) >= len(people) - applied, "at most the one that was being sent is missing"

    play(story)


def test_a_mail_refused_for_now_comes_later_and_a_dead_mailbox_is_removed(box: Box) -> None:
    async def story(play: Play) -> None:
        await play.subscribed(box, ["busy@example.com", "dead@example.com", "kim@example.com"])
        box.answers = {"busy@example.com": ["451 later"], "dead@example.com": ["550 unknown"] * 3}
        first = await play.mail.send(update(1))
        assert (first.problem, first.hopeless) == ("1 subscribers not reached yet", False)
        assert await play.controller().send(update(1)) == Outcome()
        for number in (2, 3):
            assert await play.mail.send(update(number)) == Outcome()
        got = Counter(mail["To"] for mail in box.got)
        assert got == {"busy@example.com": 3, "kim@example.com": 3}
        left = [one.address for one in await exported(play.store, vault_of(CHANNEL))]
        assert left == ["busy@example.com", "kim@example.com"]

    play(story)


def test_a_confirmation_refused_for_now_waits_longer_each_time_and_holds_up_nobody(box: Box) -> None:
    async def asked(play: Play, address: str) -> None:
        await play.open("/email", "POST", f"10.4.0.{len(address)}", data={"address": address})

    async def story(play: Play) -> None:
        refused = [f"{'b' * n}@example.com" for n in range(1, INVITES_MOST + 1)]
        for address in refused:
            await asked(play, address)
        box.answers = {address: ["451 later"] * 9 for address in refused}
        assert await play.mail.invite() == await play.controller().invite() == ""
        left = [len(box.answers[address]) for address in refused]
        assert left == [8] * INVITES_MOST, "one attempt each, and then a pause"
        play.now_ms += 60_000
        await asked(play, f"{'c' * 40}@example.com")
        await play.mail.invite()
        assert [len(box.answers[address]) for address in refused] == [7] * INVITES_MOST
        play.now_ms += 60_000
        await play.mail.invite()
        assert [mail["To"] for mail in box.got] == [f"{'c' * 40}@example.com"], "the longest due is first"

    play(story)


def test_anyone_who_leaves_or_confirms_leaves_no_request_behind(box: Box) -> None:
    form = {"address": "kim@example.com"}

    async def kept(play: Play) -> list[str]:
        return [one.key.partition("/")[0] for one in await all_entries(play.store, "")]

    async def story(play: Play) -> None:
        for _ in range(2):
            await play.subscribed(box, ["kim@example.com"])
            assert await kept(play) == ["subscriber"], "confirmed"
            await play.open("/email", "POST", data=form)
            await play.mail.invite()
            assert (await play.open(link_in(box.got.pop(), "confirm"), "POST")).status_code == 200
            assert await kept(play) == ["subscriber"], "confirmed again"
            await play.open("/email", "POST", data={"address": "Kim+status@example.com"})
            vault = vault_of(CHANNEL)
            link = vault.leave_link(vault.id_of("kim@example.com"))
            for _ in range(2):
                assert (await play.open(f"/email/leave?link={link}", "POST")).status_code == 200
                assert await kept(play) == []
                await play.open("/email", "POST", "10.5.0.1", data=form)
            await play.open(f"/email/leave?link={link}", "POST")
            assert await kept(play) == [], "a link of an old mail erases a new request"
            await play.open("/email", "POST", "10.5.0.2", data=form)
            await play.mail.invite()
            old = link_in(box.got.pop(), "confirm")
            assert (await play.open(old, "POST")).status_code == 200
            await play.open(f"/email/leave?link={link}", "POST")
            assert (await play.open(old, "POST")).status_code == 400
            assert await kept(play) == [], "an old link subscribes no one who left"
            play.now_ms += 1
            await play.open("/email", "POST", "10.5.0.3", data=form)
            assert (await play.open(old, "POST")).status_code == 400, "nor for a request of someone else"
            told = {"address": form["address"], "language": "en", "until_ms": play.now_ms}
            earlier = f"/email/confirm?link={vault.seal('confirm', told)}"
            assert (await play.open(earlier, "POST")).status_code == 200, "a link of an older version"
            await play.open(f"/email/leave?link={link}", "POST")
        await play.subscribed(box, ["dead@example.com"])
        await play.open("/email", "POST", data={"address": "dead@example.com"})
        box.answers = {"dead@example.com": ["550 unknown"] * REFUSED_MOST}
        for number in range(REFUSED_MOST):
            await play.mail.send(update(number))
        assert set(await kept(play)) == {"notices"}
        assert await all_entries(play.store, ASKED) == []
        await play.open("/email", "POST", "10.6.0.1", data=form)
        await play.mail.invite()
        assert len(await all_entries(play.store, ASKED)) == 1
        play.now_ms += 86_400_000
        await play.mail.invite()
        assert await all_entries(play.store, ASKED) == [], "a day without a confirmation"

    play(story)


def test_an_update_ends_when_whom_it_waits_for_has_left(box: Box) -> None:
    async def story(play: Play) -> None:
        await play.subscribed(box, ["busy@example.com", "kim@example.com"])
        box.answers = {"busy@example.com": ["451 later"]}
        assert (await play.mail.send(update())).problem == "1 subscribers not reached yet"
        vault = vault_of(CHANNEL)
        await play.open(f"/email/leave?link={vault.leave_link(vault.id_of('busy@example.com'))}", "POST")
        assert await play.mail.send(update()) == Outcome()
        assert [mail["To"] for mail in box.got] == ["kim@example.com"]

    play(story)


BROKEN = [b"{", b"[]", b"{}", b'{"sealed": "x", "at_ms": 1, "more": 2}', b'{"sealed": 1, "at_ms": "x"}']


@pytest.mark.parametrize("value", BROKEN)
def test_an_entry_that_cannot_be_read_is_skipped(box: Box, value: bytes) -> None:
    async def story(play: Play) -> None:
        bad = [Put(key, value) for key in (f"{ASKED}bad", f"{READER}0", f"{MAILED}bad")]
        await play.store.transact((), bad)
        await play.subscribed(box, ["kim@example.com"])
        assert await play.mail.send(update()) == Outcome()
        assert [mail["To"] for mail in box.got] == ["kim@example.com"]
        assert play.mail.unreadable == {f"{ASKED}bad", f"{READER}0"}
        with pytest.raises(Corrupt, match="subscriber/0"):
            await exported(play.store, vault_of(CHANNEL))
        await play.store.transact((), [Put(f"{MAILED}{update(2).id}", value)])
        assert (await play.mail.send(update(2))).hopeless, "nobody gets it twice"

    play(story)


def test_nobody_floods_a_mailbox_the_server_or_the_store(box: Box) -> None:
    async def story(play: Play) -> None:
        app = Desk(play.store, CHANNEL, PAGE, lambda: play.now_ms).application()
        spelled = ("kim@example.com", "KIM@Example.com", "kim+1@example.com", "Kim+a+b@example.com")
        said = [
            await play.ask(app, "/email", "POST", "2001:db8::1", data={"address": one}) for one in spelled
        ]
        assert {(one.status_code, one.text) for one in said} == {(200, said[0].text)}
        await play.mail.invite()
        assert len(box.got) == 1
        more = [
            await play.ask(app, "/email", "POST", f"2001:db8::{n}", data={"address": f"a{n}@example.com"})
            for n in range(2, 5)
        ]
        assert [one.status_code for one in more] == [200, 429, 429], f"{ASKS_MOST} from one network"
        mapped = [
            (
                await play.ask(app, "/email", "POST", f"::ffff:10.7.0.{n}", data={"address": "m@b.kr"})
            ).status_code
            for n in range(ASKS_MOST + 1)
        ]
        assert mapped == [200] * (ASKS_MOST + 1), "each IPv4 address is one client, however it is written"
        play.now_ms += 86_400_000
        await play.ask(app, "/email", "POST", "10.0.0.9", data={"address": spelled[0]})
        assert len(await all_entries(play.store, "notices/asked/")) == 1, "old requests are forgotten"
        for n in range(ASKED_MOST):
            form = {"address": f"b{n}@example.com"}
            last = await play.ask(app, "/email", "POST", f"10.2.{n // 250}.{n % 250}", data=form)
        assert last.status_code == 429
        for address in ("b1@example.com", "new@example.com"):
            full = await play.ask(app, "/email", "POST", "10.2.9.9", data={"address": address})
            assert full.status_code == 429, "the answer is the same whether a request is open"
        assert len(await all_entries(play.store, "notices/asked/")) == ASKED_MOST
        assert (
            await play.ask(app, "/email", "POST", "10.3.0.1", content=b"address=" + b"a" * 9_000)
        ).status_code == 400

    play(story)


def test_only_the_controller_that_leads_sends_and_the_page_links_to_the_form(box: Box) -> None:
    async def story(play: Play) -> None:
        play.now_ms = SystemClock().now_ms()
        await play.store.transact((), [Put(f"{ASKED}bad", b"{")])
        said, skipped = [], asyncio.Event()

        def say(words: str) -> None:
            said.append(words)
            skipped.set()

        await play.open("/email", "POST", data={"address": "kim@example.com"})
        leads = asyncio.Event()

        async def may() -> bool:
            return leads.is_set()

        clock = SystemClock()
        looker = Looker(play.store, Told(), clock)
        teller = Teller(
            play.store, {"readers": CHANNEL}, {"readers": play.mail}, looker, clock, "a/1", may, say
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await teller.run()
        assert box.got == []
        leads.set()
        task = asyncio.create_task(teller.run())
        seen = asyncio.create_task(skipped.wait())
        await asyncio.wait([task, seen], return_when=asyncio.FIRST_COMPLETED)
        assert said == [f"{ASKED}bad in the store cannot be read and is skipped"]
        task.cancel()
        await asyncio.wait([task])
        (mail,) = box.got
        assert mail["To"] == "kim@example.com"

    play(story)
    page = StatusPage("Shop", NOW_MS, 0, (), ())
    files = status_files(page, PAGE, ("en", "ko"), CHANNEL.join)
    assert 'href="https://status.example.com/email?language=en"' in files["index.html"]
    assert 'href="https://status.example.com/email?language=ko"' in files["index.ko.html"]
    assert CHANNEL.join not in status_files(page, PAGE)["index.html"]


HOSTILE = st.text(max_size=60) | st.builds(
    lambda local, end: f"{local}@example.com{end}",
    st.text('ab.+\r\n\0 ,;<>"@%', min_size=1, max_size=8),
    st.sampled_from(["", "\nBcc: x@example.org", ",x@example.org", "\r\n", " "]),
)


@given(HOSTILE)
def test_an_address_is_one_recipient_or_none(text: str) -> None:
    try:
        found = address_of(text)
    except InvalidInput:
        return
    assert re.fullmatch(r"[\x21-\x7e]{3,254}", found)
    assert found.count("@") == 1
    assert not set(found) & set(',;<>"()[]\\: ')


def test_a_title_adds_no_header_and_a_forged_link_does_nothing(box: Box) -> None:
    async def story(play: Play) -> None:
        await play.subscribed(box, ["kim@example.com"])
        await play.mail.send(update(1, "Down\r\nBcc: all@example.org\nX-A: b"))
        (mail,) = box.got
        assert mail["Subject"] == "Down Bcc: all@example.org X-A: b"
        assert "Bcc" not in mail
        page = await play.open("/email", "POST", data={"address": '"><b>', "language": "xx"})
        assert page.status_code == 400
        assert "<b>" not in page.text
        for path in ("confirm", "leave"):
            for link in ("", "x", "a.b", link_in(mail, "leave").rpartition("=")[2][:-1]):
                for method in ("GET", "POST"):
                    said = await play.open(f"/email/{path}?link={link}", method)
                    assert said.status_code == 400
        assert len(await exported(play.store, vault_of(CHANNEL))) == 1
        play.store.left, play.store.applied = 1, False
        assert (await play.open(link_in(mail, "leave"), "POST")).status_code == 503

    play(story)
