"""One message over one channel, to real receivers: signed, bounded, and without a word of a secret."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evac.model.errors import InvalidInput
from evac.notices.values import Channel, Message
from evac.office.notices.sending import Outcome, check_ways, document_of, outcome_of, sending_of, text_of
from tests.unit.app.receivers import KEY, Receiver

pytestmark = [pytest.mark.enable_socket]

HOOK = Channel("desk", "webhook", "env:HOOK_URL", "env:HOOK_KEY")
CHAT = Channel("chat", "apprise", "env:CHAT_URL")
MESSAGE = Message(
    "evac_0123456789abcdef",
    "site",
    "begins",
    "critical",
    "pangyo is lost: no votes",
    "see the Now page",
    1_792_000_000_000,
    ("site/pangyo",),
)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as made:
        monkeypatch.setenv("HOOK_URL", made.url)
        monkeypatch.setenv("HOOK_KEY", KEY)
        yield made


def send(channel: Channel, message: Message = MESSAGE, room: str = "") -> Outcome:
    async def run() -> Outcome:
        sending = sending_of(channel, room)
        try:
            return await sending.send(message)
        finally:
            await sending.close()

    return asyncio.run(run())


def test_a_webhook_verifies_and_says_what_there_is(receiver: Receiver) -> None:
    assert send(HOOK, room="https://war.example/") == Outcome()
    assert receiver.refused == 0
    ((name, document),) = receiver.got
    assert name == MESSAGE.id
    assert document["type"] == "evac.site.begins"
    assert document["data"]["words"] == MESSAGE.words
    assert document["data"]["room"] == "https://war.example/notices"
    assert document["timestamp"].endswith("Z")


def test_a_try_again_has_the_same_id(receiver: Receiver) -> None:
    receiver.answers = [(503, {})]
    assert send(HOOK) == Outcome("it returned status 503")
    assert send(HOOK) == Outcome()
    assert [name for name, _ in receiver.got] == [MESSAGE.id, MESSAGE.id]


def test_another_key_is_refused_by_the_receiver(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_KEY", "whsec_" + "QUFB" * 12)
    assert send(HOOK) == Outcome("it returned status 400", whole=False)
    assert (receiver.refused, receiver.got) == (1, [])


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with Receiver() as other:
        receiver.answers = [(307, {"location": other.url})]
        assert send(HOOK) == Outcome("it returned status 307", whole=False)
        assert other.got == []


@pytest.mark.parametrize(
    ("status", "after", "expected"),
    [
        (200, "", Outcome()),
        (410, "", Outcome("it returned status 410", whole=False, hopeless=True)),
        (404, "60", Outcome("it returned status 404", whole=False)),
        (429, "120", Outcome("it returned status 429", 120_000)),
        (503, "soon", Outcome("it returned status 503")),
        (503, "9" * 40, Outcome("it returned status 503")),
    ],
)
def test_what_an_answer_means(status: int, after: str, expected: Outcome) -> None:
    assert outcome_of(status, after) == expected


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("http://192.0.2.7/secret-path", KEY, "its address does not use TLS"),
        ("ftp://secret-path", KEY, "its address is not valid"),
        ("https://secret-path:99999/", KEY, "its address is not valid"),
        ("http://127.0.0.1:1/secret-path", "c2VjcmV0LXBhdGg=", "its key is not base64 of 24 to 64 bytes"),
        ("http://127.0.0.1:1/secret-path", "secret-path", "its key is not base64 of 24 to 64 bytes"),
        ("http://127.0.0.1:1/secret-path", KEY, "it cannot be reached (ClientConnectorError)"),
        (None, KEY, "HOOK_URL"),
    ],
)
def test_what_cannot_be_sent_is_said_without_a_word_of_the_secret(
    monkeypatch: pytest.MonkeyPatch, url: str | None, key: str, words: str
) -> None:
    monkeypatch.delenv("HOOK_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("HOOK_URL", url)
    monkeypatch.setenv("HOOK_KEY", key)
    outcome = send(HOOK)
    assert words in outcome.problem
    assert "secret-path" not in outcome.problem


def test_a_clear_address_is_allowed_where_the_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from evac.office.notices import sending as notices_sending

    channel = replace(HOOK, clear=True)
    notices_sending._check_address("http://192.0.2.7/x", channel)
    with pytest.raises(InvalidInput):
        notices_sending._check_address("http://192.0.2.7/x", HOOK)


def test_apprise_reaches_a_local_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "chat.url"
    with Receiver(signed=False) as chat:
        file.write_text(f"json://{chat.address}/")
        file.chmod(0o600)
        assert send(replace(CHAT, url=f"file:{file}")) == Outcome()
        ((_, document),) = chat.got
        assert document["title"] == "evac, critical: pangyo is lost: no votes"
        assert document["message"].startswith("pangyo is lost: no votes")
        assert "alert evac_0123456" in document["message"]
        assert document["type"] == "failure"
        over = replace(MESSAGE, state="over", words="Resolved: pangyo is lost")
        assert send(replace(CHAT, url=f"file:{file}"), over) == Outcome()
        assert chat.got[1][1]["type"] == "success"
        file.write_text(f"json://{chat.address}/?format=html")
        markup = replace(MESSAGE, words="<img src=x> <!channel> <https://evil.example|look>")
        assert send(replace(CHAT, url=f"file:{file}"), markup) == Outcome()
        said = chat.got[2][1]["message"]
        assert "<img" not in said, "what people write is text in a mail and a chat"
        assert "&lt;img src=x&gt; &lt;!channel&gt; &lt;https://evil.example|look&gt;" in said.replace(
            "&nbsp;", " "
        )
        chat.answers = [(500, {})]
        assert send(replace(CHAT, url=f"file:{file}")) == Outcome("it was refused or unreachable")
    monkeypatch.setenv("CHAT_URL", "no-such-chat://secret-path")
    assert send(CHAT) == Outcome("apprise does not understand the address")


def test_a_receiver_that_says_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from evac.office.notices import sending as notices_sending

    monkeypatch.setattr(notices_sending, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HOOK_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        monkeypatch.setenv("HOOK_KEY", KEY)
        assert send(HOOK) == Outcome("no answer in 0.2 s")


def test_words_for_people_say_what_to_do_next_and_which_notice_it_is() -> None:
    title, body = text_of(MESSAGE, "https://war.example/notices")
    assert title == "evac, critical: pangyo is lost: no votes"
    assert body.splitlines()[1:] == [
        "Next: see the Now page",
        "https://war.example/notices",
        "2026-10-14 17:46:40 UTC, alert evac_0123456",
    ]
    assert document_of(MESSAGE)["data"]["room"] == ""


def test_users_receive_what_was_published_and_nothing_else(receiver: Receiver) -> None:
    update = replace(MESSAGE, kind="update", state="once", words="It is down.\nWe work on it.", title="Chat")
    users = replace(HOOK, kinds=frozenset({"update"}))
    assert users.wants(update)
    assert not users.wants(MESSAGE)
    assert not HOOK.wants(update), "only where a channel names the kind"

    async def run() -> Outcome:
        sending = sending_of(users, "https://war.example", page="https://status.example")
        try:
            return await sending.send(update)
        finally:
            await sending.close()

    assert asyncio.run(run()) == Outcome()
    ((name, document),) = receiver.got
    assert (name, document["type"]) == (MESSAGE.id, "evac.update.once")
    assert document["data"] == {
        "id": MESSAGE.id,
        "title": "Chat",
        "text": update.words,
        "page": "https://status.example",
    }
    title, body = text_of(update, "https://status.example")
    assert title == "Chat"
    assert body == f"{update.words}\nhttps://status.example\n2026-10-14 17:46 UTC"


def test_a_missing_library_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_ways({"desk": HOOK, "chat": CHAT})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="apprise and standardwebhooks needs extra packages"):
        check_ways({"desk": HOOK, "chat": CHAT})
