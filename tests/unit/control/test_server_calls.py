"""A command and servers that hang, lie, break off, speak without end, or refuse."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_socket

from evac.cli.console import exit_code
from evac.control import server
from evac.control.port import PlanGiven
from evac.control.server import Message, Parser, ServerControl, messages
from evac.control.server_calls import Server, ServerCalls, checked_url
from evac.engine.runs.requests import Request
from evac.incident.records import Note
from evac.model.errors import EvacError, NotAllowed
from evac.net.secrets import Secret
from evac.views import documents
from evac.views.documents import RunDocument
from evac.views.run_report import run_text
from tests.unit.app.false_servers import Asked, Told, always, answer, problem, serving
from tests.web.certificates import papers

TOKEN = Secret("evac-token-of-a-test", "env:EVAC_TOKEN")
Ask = Callable[[ServerCalls], Awaitable[Any]]


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


async def at_once(seconds: float) -> None:
    await asyncio.sleep(0)


async def ask(
    told: Told, question: Ask, token: Secret | None = None, timeout_s: float = 20.0
) -> tuple[Any, list[Asked]]:
    """(what came of it, an error too; what the server was asked)."""
    async with serving(told) as heard:
        calls = ServerCalls(Server(heard.url, token, timeout_s=timeout_s), at_once)
        try:
            return await question(calls), heard.asked
        except EvacError as error:
            return error, heard.asked
        finally:
            await calls.close()


async def read(calls: ServerCalls) -> Any:
    return (await calls.read("/v1/situation")).document()


def refused(told: Told, question: Ask = read, **more: Any) -> EvacError:
    error, _ = asyncio.run(ask(told, question, **more))
    assert isinstance(error, EvacError), error
    assert error.hint, "every error says what to do next"
    return error


async def hang(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3_600)


async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1073741824\r\n\r\n")
    for _ in range(1_024):
        writer.write(b"[" * (1 << 20))
        await writer.drain()


async def half(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(answer({"a": 1}).replace(b"content-length: 8", b"content-length: 80"))


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (endless, "server-answer-large"),
        (half, "server-broke-off"),
        (always(answer([1])), "server-answer"),
        (always(b"SSH-2.0-x\r\n"), "server-broke-off"),
        (always(answer(b"<html>", media="text/html")), "server-answer"),
        (always(answer({}, more="content-encoding: gzip\r\n")), "server-answer"),
        (always(answer(b"no", "502 Bad")), "server-answer"),
        (always(answer(b"", "302 Found", more="location: http://127.0.0.1:1/\r\n")), "server-redirect"),
        (always(problem(404, "not-found")), "server-version"),
        (always(answer(b"x" * 40_000, "500 Bad", more=f"x: {'y' * 20_000}\r\n")), "server-broke-off"),
    ],
)
def test_what_no_room_says_is_one_clear_error(told: Told, code: str) -> None:
    error = refused(told)
    assert (error.code, exit_code(error)) == (code, 1)


def test_a_server_that_hangs_or_is_not_there_is_told_apart() -> None:
    assert refused(hang, timeout_s=0.05).code == "server-timeout"

    async def nobody() -> None:
        calls = ServerCalls(Server("http://127.0.0.1:9", connect_s=2.0), at_once)
        try:
            with pytest.raises(EvacError, match="cannot be reached") as caught:
                await read(calls)
        finally:
            await calls.close()
        assert caught.value.code == "server-unreachable"

    asyncio.run(nobody())


@pytest.mark.parametrize(
    ("status", "code", "kind", "exit"),
    [
        (401, "token-unknown", "error", 4),
        (403, "role", "not-allowed", 4),
        (409, "plan-stale", "stale-plan", 12),
        (409, "lock-held", "lock-held", 11),
        (422, "request-invalid", "invalid-input", 2),
        (404, "unknown-domain", "unknown-domain", 2),
        (404, "run-unknown", "run", 1),
        (409, "run-over", "run", 1),
        (412, "changed-meanwhile", "error", 1),
        (422, "old-server", "", 2),
        (500, "internal", "error", 1),
    ],
)
def test_a_problem_has_the_code_and_the_exit_of_the_error_that_it_was(
    status: int, code: str, kind: str, exit: int
) -> None:
    error = refused(always(problem(status, code, kind)))
    assert (error.code, error.message, exit_code(error)) == (code, f"words of {code}", exit)


def test_words_of_a_server_cannot_steer_a_terminal() -> None:
    told = answer(
        {"code": "x\x1b[2J", "detail": "\x1b]0;owned\x07\u202egnp" + "z" * 5_000},
        "403 No",
        "application/problem+json",
    )
    error = refused(always(told))
    assert error.message.isprintable()
    assert len(error.message) < 700
    assert error.code.isprintable()


def test_a_change_that_was_cut_is_made_again_under_the_same_key_and_a_read_too() -> None:
    async def second(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.number > 1:
            writer.write(answer({"request": "r", "state": "taken", "why": ""}, "202 Accepted"))

    request = Request("", "pause", "kim", "people inside")
    done, asked = asyncio.run(ask(second, lambda calls: ServerControl(calls).ask("r/1", request)))
    assert done.taken
    assert [one.path.partition("?")[0] for one in asked] == ["/v1/runs/r%2F1/requests"] * 2
    assert len({one.headers["idempotency-key"] for one in asked}) == 1
    found, asked = asyncio.run(ask(second, read))
    assert (found["state"], len(asked)) == ("taken", 2)


def test_a_change_of_which_nobody_knows_says_so() -> None:
    async def never(asked: Asked, writer: asyncio.StreamWriter) -> None:
        return

    error = refused(never, lambda calls: ServerControl(calls).ask("r", Request("", "pause", "kim", "why")))
    assert (error.code, exit_code(error)) == ("server-no-answer", 16)
    assert error.hint == "check first: evac run show r"
    plan = PlanGiven(b"plan", "sha256:1")
    for hint, change in (
        ("evac status", lambda calls: ServerControl(calls).hold("kim", "why")),
        ("evac status", lambda calls: ServerControl(calls).release("kim", "why")),
        ("evac run list", lambda calls: ServerControl(calls).propose(plan, "i", "why", ())),
        (
            "evac incident timeline fire-1 --all",
            lambda calls: ServerControl(calls).note(Note("", "fire-1", "note", "kim", 0, text="seen"), False),
        ),
    ):
        heard = asyncio.run(ask(never, change))
        assert (heard[0].code, exit_code(heard[0]), heard[0].hint) == (
            "server-no-answer",
            16,
            f"check first: {hint}",
        )
        assert len({one.headers["idempotency-key"] for one in heard[1]}) == 1


def test_what_changes_nothing_or_the_same_twice_leaves_no_doubt_when_its_answer_is_lost() -> None:
    async def never(asked: Asked, writer: asyncio.StreamWriter) -> None:
        return

    for question in (
        lambda calls: ServerControl(calls).what_if(["pangyo"], None),
        lambda calls: ServerControl(calls).proof("r", []),
        lambda calls: ServerControl(calls).rehearse(PlanGiven(b"plan", "sha256:1")),
    ):
        error, asked = asyncio.run(ask(never, question))
        assert (error.code, exit_code(error), len(asked) >= 3) == ("server-broke-off", 1, True)
        assert error.hint == "try again: nothing is done twice"


LATER = [
    problem(503, "store-unavailable"),
    problem(429, "too-many-requests", more="retry-after: 500\r\n"),
    problem(500, "internal"),
    answer(b"<html>", "502 Bad", media="text/html"),
]


@pytest.mark.parametrize("said", LATER)
def test_a_change_that_was_cut_stays_in_doubt_whatever_a_later_try_meets(said: bytes) -> None:
    async def cut_first(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.number > 1:
            writer.write(said)

    pause = Request("", "pause", "kim", "why")
    error = refused(cut_first, lambda calls: ServerControl(calls).ask("r", pause))
    assert (error.code, exit_code(error)) == ("server-no-answer", 16)
    assert refused(cut_first).code != "server-no-answer", "a read did nothing"


def test_a_server_that_is_gone_after_a_cut_is_asked_again_and_leaves_a_change_in_doubt() -> None:
    """The first server takes the request and breaks off; then nobody listens, at last the one after it."""

    async def story(comes_back: bool) -> tuple[Any, int, int]:
        pauses = 0
        async with contextlib.AsyncExitStack() as second, contextlib.AsyncExitStack() as first:
            heard = await first.enter_async_context(serving(cut))
            after = heard

            async def pause(seconds: float) -> None:
                nonlocal pauses, after
                pauses += 1
                if pauses == 1:
                    await first.aclose()
                elif comes_back:
                    told = answer({"request": "r", "state": "taken", "why": ""}, "202 Accepted")
                    port = int(heard.url.rpartition(":")[2])
                    after = await second.enter_async_context(serving(always(told), port=port))

            calls = ServerCalls(Server(heard.url, connect_s=2.0), pause)
            try:
                found: Any = await ServerControl(calls).ask("r", Request("", "pause", "kim", "why"))
            except EvacError as error:
                found = error
            finally:
                await calls.close()
        keys = {one.headers["idempotency-key"] for one in (*heard.asked, *after.asked)}
        return found, pauses, len(keys)

    async def cut(asked: Asked, writer: asyncio.StreamWriter) -> None:
        return

    error, pauses, _ = asyncio.run(story(False))
    assert (error.code, exit_code(error), pauses) == ("server-no-answer", 16, 2)
    taken, pauses, keys = asyncio.run(story(True))
    assert (taken.taken, pauses, keys) == (True, 2, 1)


def test_a_busy_room_is_asked_again_when_it_says() -> None:
    pauses: list[float] = []

    async def busy(asked: Asked, writer: asyncio.StreamWriter) -> None:
        more = "retry-after: 3\r\n"
        writer.write(problem(429, "too-many-requests", more=more) if asked.number == 1 else answer({"ok": 1}))

    async def story() -> Any:
        async with serving(busy) as heard:

            async def pause(seconds: float) -> None:
                pauses.append(seconds)

            calls = ServerCalls(Server(heard.url), pause)
            try:
                return await read(calls)
            finally:
                await calls.close()

    assert asyncio.run(story()) == {"ok": 1}
    assert pauses == [3.0]
    assert (
        refused(always(problem(429, "too-many-requests", more="retry-after: 500\r\n"))).code
        == "too-many-requests"
    )


def test_a_token_goes_to_the_named_server_only_and_never_in_the_clear() -> None:
    _, asked = asyncio.run(ask(always(answer({})), read, token=TOKEN))
    assert asked[0].headers["authorization"] == f"Bearer {TOKEN.reveal()}"
    error, asked = asyncio.run(
        ask(always(answer(b"", "307 Go", more="location: /elsewhere\r\n")), read, token=TOKEN)
    )
    assert (error.code, len(asked)) == ("server-redirect", 1)
    with pytest.raises(EvacError, match="in plain text"):
        checked_url(Server("http://evac.example:8400", TOKEN))
    for url in (
        "evac.example",
        "ftp://evac.example",
        "https://kim:geheim@evac.example",
        "https://e/?t=geheim",
    ):
        with pytest.raises(EvacError) as caught:
            checked_url(Server(url, TOKEN))
        assert "geheim" not in caught.value.message
    assert checked_url(Server("https://evac.example:8400/", TOKEN)) == "https://evac.example:8400"


def test_tls_is_refused_with_a_reason(tmp_path: Path) -> None:
    found = papers(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.cert, found.key)
    context.load_verify_locations(found.authority)

    async def asked(server: dict[str, Any], verify: ssl.VerifyMode) -> Any:
        context.verify_mode = verify
        async with serving(always(answer({"ok": 1})), context) as heard:
            try:
                calls = ServerCalls(Server(heard.url, TOKEN, **server), at_once)
            except EvacError as error:
                return error
            try:
                return await read(calls)
            except EvacError as error:
                return error
            finally:
                await calls.close()

    stranger = asyncio.run(asked({}, ssl.CERT_NONE))
    assert (stranger.code, "--ca" in stranger.hint) == ("tls-authority", True)
    assert asyncio.run(asked({"ca": found.authority}, ssl.CERT_NONE)) == {"ok": 1}
    bare = asyncio.run(asked({"ca": found.authority}, ssl.CERT_REQUIRED))
    assert isinstance(bare, NotAllowed), bare
    assert bare.code == "tls-client-missing"
    both = {"ca": found.authority, "cert": found.client_cert, "key": found.client_key}
    assert asyncio.run(asked(both, ssl.CERT_REQUIRED)) == {"ok": 1}
    for wrong in ({"ca": found.key}, {**both, "key": found.key}, {"key": found.client_key}):
        error = asyncio.run(asked(wrong, ssl.CERT_REQUIRED))
        assert error.code in ("tls-ca", "tls-cert")


LIES = [
    {},
    {"schema_version": 2},
    {"schema_version": 1, "run": 7},
    {"items": 5},
    {"items": [5], "next": None},
]


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_before_it_is_shown(lie: dict[str, Any]) -> None:
    for question in (
        lambda calls: ServerControl(calls).run("r"),
        lambda calls: ServerControl(calls).proof("r", ()),
        lambda calls: ServerControl(calls).what_if(("a",), None),
    ):
        assert refused(always(answer(lie)), question).code in ("server-answer", "server-version")


def test_a_list_without_end_is_left() -> None:
    error = refused(
        always(answer({"items": [{"a": 1}], "next": "b"})), lambda calls: ServerControl(calls).runs()
    )
    assert "form a loop" in error.message


async def listen(calls: ServerCalls) -> list[Message]:
    return [one async for one in messages(calls, "/v1/runs/r/stream", 2)]


def test_a_stream_that_is_cut_goes_on_behind_the_last_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "AGAIN_S", 0.0)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nretry: 1\n\n"
    first = b'id: 3\nevent: event\ndata: {"n":3}\n\nid: 4\nevent: event\ndata: {"n'
    rest = b'id: 3\nevent: event\ndata: {"n":3}\n\nid: 4\nevent: event\ndata: {"n":4}\n\n: alive\n\n'
    end = b'event: end\ndata: {"run":"over"}\n\n'

    async def cut(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.number == 2:
            writer.write(problem(503, "store-unavailable"))
        else:
            writer.write(head + (first if asked.number == 1 else rest + end))

    found, asked = asyncio.run(ask(cut, listen))
    assert [(one.number, one.name) for one in found] == [(3, "event"), (4, "event"), (0, "end")]
    assert [one.headers.get("last-event-id") for one in asked] == ["2", "3", "3"]
    assert refused(always(problem(403, "role", "not-allowed")), listen).code == "role"
    assert refused(always(answer({})), listen).code == "server-answer"
    monkeypatch.setattr(server, "SILENCE_S", 0.02)

    async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await asyncio.sleep(3_600)

    error = refused(silent, listen)
    assert (error.code, error.message) == ("server-timeout", "the stream was silent for 0.02 s")


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_a_stream_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    text = 'retry: 9\r\n\r\nid: 1\nevent: event\ndata: {"a":\ndata: "ü"}\n\n: x\n\nevent: end\ndata: 1\n\n'
    data = text.encode()
    parser = Parser()
    found = [one for at in range(0, len(data), size) for one in parser.feed(data[at : at + size])]
    assert found == [Message(1, "event", {"a": "ü"}), Message(0, "end", 1)]


@pytest.mark.parametrize("data", [b"id: x\ndata: 1\n\n", b"data: {\n\n", b"data: " + b"x" * (5 << 20)])
def test_a_stream_of_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(EvacError, match="war room"):
        Parser().feed(data)


def run_of(events: int) -> dict[str, Any]:
    """The document of a run, as short as it may be."""
    texts = dict.fromkeys(("run", "incident", "question", "plan_digest", "leader", "held_by", "why"), "r")
    lists = ("approved_by", "to_type", "waits_for", "most_lost", "items")
    nothing: dict[str, Any] = {name: [] for name in lists}
    numbers = dict.fromkeys(("approvals_needed", "in_doubt", "undo_failed", "token"), 0)
    envelope = {"sites": [], "stores": [], "most_lost_ms": 0, "most_shed": 0}
    return {
        **texts,
        **nothing,
        **numbers,
        "schema_version": 1,
        "state": "running",
        "graceful": True,
        "envelope": envelope,
        "events": events,
        "forecast": None,
        "started_at": None,
        "ended_at": None,
        "next": None,
        "as_of": "2026-11-26T10:00:00.000Z",
        "counts": {},
        "evidence": {},
    }


def test_who_follows_a_run_is_told_when_the_stream_is_refused() -> None:
    seen: list[int] = []

    async def told(asked: Asked, writer: asyncio.StreamWriter) -> None:
        stream = asked.path.endswith("/stream")
        writer.write(problem(403, "role", "not-allowed") if stream else answer(run_of(asked.number)))

    async def follow(calls: ServerCalls) -> None:
        async for document in ServerControl(calls).follow("r"):
            seen.append(document.events)

    error, _ = asyncio.run(ask(told, follow))
    assert (error.code, exit_code(error)) == ("role", 4)
    assert len(seen) == 2, "what changed meanwhile was shown"


def test_a_stream_whose_answer_never_begins_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "AGAIN_S", 0.0)
    error = refused(hang, listen, timeout_s=0.02)
    assert (error.code, error.message) == ("server-timeout", "the stream did not begin in 0.02 s")


def test_no_letter_of_others_steers_a_terminal() -> None:
    hostile = run_of(1) | {"why": "\x1b[2J\x9b31mred\u202egnp", "steps": []}
    page = run_text(documents.read(RunDocument, hostile, "run"), 120, False)
    assert "red" in page
    assert not any(letter in page for letter in "\x1b\x9b\u202e")
