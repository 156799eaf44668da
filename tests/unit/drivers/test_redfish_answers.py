"""Answers of management controllers as bytes: what is read, what is refused; nothing else can happen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evac.drivers.redfish.connection import (
    BODY_BYTES_MOST,
    HEAD_BYTES_MOST,
    Broken,
    Closed,
    Connection,
    Reading,
    TooLate,
)
from evac.net.http_calls import Answer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = {
    "a length": (OK + b"Content-Length: 2\r\n\r\n{}", 200, b"{}"),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    "an unmodified one": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b""),
    "an announcement before it": (
        b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n{}",
        200,
        b"{}",
    ),
    "chunks": (CHUNKED + b"1\r\n{\r\n1;words=more\r\n}\r\n0\r\n\r\n", 200, b"{}"),
    "chunks and a trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nServer: x\r\n\r\n", 200, b"{}"),
    "any case": (b"HTTP/1.1 200 OK\r\ntRANSFER-eNCODING: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, b"{}"),
    "an old version": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    "words in no charset": (OK + b"Server: \xe9\xff\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    "the longest body": (
        OK + b"Content-Length: %d\r\n\r\n" % BODY_BYTES_MOST + b" " * BODY_BYTES_MOST,
        200,
        b" " * BODY_BYTES_MOST,
    ),
}
REFUSED = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "another one alike": b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "an unknown version": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "the oldest version": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "no version": b"HTTP 200 OK\r\n\r\n",
    "a request": b"HELP / HTTP/1.1\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status below all": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status above all": b"HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\n{}",
    "another protocol from here on": b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n{}",
    "lines that end early": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "a line begun anew": OK + b"X: a\rContent-Length: 2\r\n\r\n{}",
    "a header that is folded": OK + b"X: a\r\n Content-Length: 9\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a name": OK + b": x\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a colon": OK + b"X\r\nContent-Length: 2\r\n\r\n{}",
    "a space before the colon": OK + b"Content-Length : 2\r\n\r\n{}",
    "a space before the name": OK + b" Content-Length: 2\r\n\r\n{}",
    "a zero byte": OK + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "two lengths in one": OK + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length and chunks": OK
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks and a length": OK
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a negative length": OK + b"Content-Length: -2\r\n\r\n{}",
    "a length with a sign": OK + b"Content-Length: +2\r\n\r\n{}",
    "a length in hexadecimal": OK + b"Content-Length: 0x2\r\n\r\n{}",
    "no length in the length": OK + b"Content-Length:\r\n\r\n{}",
    "a length of other digits": OK + b"Content-Length: \xb2\r\n\r\n{}",
    "a length beyond all numbers": OK + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n{}",
    "a body too long": OK + b"Content-Length: %d\r\n\r\n" % (BODY_BYTES_MOST + 1),
    "a body without end": OK + b"\r\n" + b" " * (BODY_BYTES_MOST + 1),
    "headers without end": OK + b"X: y\r\n" * 20_000,
    "a header without end": OK + b"X: " + b"y" * 2 * HEAD_BYTES_MOST,
    "a name without end": OK + b"X" * 2 * HEAD_BYTES_MOST,
    "a reason without end": b"HTTP/1.1 200 " + b"y" * 2 * HEAD_BYTES_MOST,
    "announcements without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000,
    "more than was asked": OK + b"Content-Length: 2\r\n\r\n{}{}",
    "two answers": (OK + b"Content-Length: 2\r\n\r\n{}") * 2,
    "the begin of another": OK + b"Content-Length: 2\r\n\r\n{}H",
    "a body that must not be": b"HTTP/1.1 204 No Content\r\n\r\n{}",
    "more after the last": OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}{}",
    "another coding": OK + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "two codings": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two codings in two lines": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "a coding alike": OK + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a chunk of no size": CHUNKED + b"\r\n{}\r\n0\r\n\r\n",
    "a chunk of other digits": CHUNKED + b"g\r\n{}\r\n0\r\n\r\n",
    "a chunk of a negative size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond all numbers": CHUNKED + b"f" * 17 + b"\r\n",
    "a chunk that is longer": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a chunk that is shorter": CHUNKED + b"3\r\n{}\r\n0\r\n\r\n",
    "a chunk too long": CHUNKED + b"%x\r\n" % (BODY_BYTES_MOST + 1) + b" " * (BODY_BYTES_MOST + 1),
    "chunks without end": CHUNKED + b"8000\r\n" + (b" " * 0x8000 + b"\r\n8000\r\n") * 9,
    "tiny chunks": CHUNKED + b"1\r\n \r\n" * BODY_BYTES_MOST,
    "a chunk of words": CHUNKED + b"1;" + b"y" * 3 * BODY_BYTES_MOST,
    "a length after the chunks": CHUNKED + b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n",
    "trailers without end": CHUNKED + b"0\r\n" + b"X: y\r\n" * BODY_BYTES_MOST,
}
CUT_SHORT = {
    "nothing": b"",
    "half a status": b"HTTP/1.1 2",
    "half a head": OK + b"Content-Length: 2\r\n",
    "half a body": OK + b"Content-Length: 3\r\n\r\n{}",
    "half a chunk": CHUNKED + b"3\r\n{}",
    "no last chunk": CHUNKED + b"2\r\n{}\r\n",
    "half a trailer": CHUNKED + b"2\r\n{}\r\n0\r\nX: y",
    "an announcement alone": b"HTTP/1.1 100 Continue\r\n\r\n",
}


def pieces(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    """raw in parts, none of them empty."""
    places = sorted({0, len(raw), *(cut for cut in cuts if 0 < cut < len(raw))})
    return [raw[start:end] for start, end in pairwise(places)]


def read(parts: Iterable[bytes], ends: bool = False) -> Answer | None:
    """As a connection does it, that refuses what comes after an answer. Raises `Broken`."""
    reading, found = Reading(), None
    for part in parts:
        if found is None:
            found = reading.feed(part)
        elif part.strip(b"\r\n"):
            raise Broken("more")
    return reading.end() if found is None and ends else found


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("step", [1, 7, 1_000_000])
def test_a_plain_answer_is_read_however_it_is_cut(name: str, step: int) -> None:
    raw, status, body = WHOLE[name]
    if len(raw) > 100_000 and step < 100:
        step *= 4_096
    found = read(pieces(raw, range(0, len(raw), step)))
    assert found is not None
    assert (found.status, found.body) == (status, body)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("step", [1, 1_000_000])
def test_what_is_no_plain_answer_is_refused_however_it_is_cut(name: str, step: int) -> None:
    raw = REFUSED[name]
    if len(raw) > 10_000 and step < 100:
        step = 997
    with pytest.raises(Broken) as refused:
        read(pieces(raw, range(0, len(raw), step)), ends=True)
    assert len(str(refused.value)) < 100
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", CUT_SHORT)
def test_an_answer_that_is_cut_short_is_none(name: str) -> None:
    assert read(pieces(CUT_SHORT[name], ()), ends=True) is None


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    raw = OK + b"Server: x\r\n\r\n{}"
    assert read([raw]) is None
    found = read([raw], ends=True)
    assert found is not None
    assert (found.body, found.headers) == (b"{}", {"server": "x"})


@pytest.mark.parametrize(
    ("raw", "stays"),
    [
        (OK + b"Content-Length: 2\r\n\r\n{}", True),
        (CHUNKED + b"0\r\n\r\n", True),
        (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}", False),
        (OK + b"Connection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\n{}", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", False),
    ],
)
def test_a_connection_is_kept_where_both_know_the_end_of_the_answer(raw: bytes, stays: bool) -> None:
    reading = Reading()
    assert reading.feed(raw) is not None
    assert reading.stays_open is stays


SAMPLES = [raw for raw, _, _ in WHOLE.values() if len(raw) < 1_000] + [
    raw for raw in REFUSED.values() if len(raw) < 1_000
]
TOKENS = [b"\r\n", b"\r", b"\n", b" ", b":", b"0", b"\0", b"\xff", b"H", OK, b"Content-Length: 3\r\n", b"{}"]


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """An answer of the samples with parts that are removed, repeated, replaced or put in."""
    raw = draw(st.sampled_from(SAMPLES))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 12)))
        put = draw(
            st.one_of(
                st.just(b""), st.just(raw[start:end] * 2), st.sampled_from(TOKENS), st.binary(max_size=4)
            )
        )
        raw = raw[:start] + put + raw[end:]
    return raw


def outcome(parts: Iterable[bytes]) -> tuple[int, bytes] | str | None:
    try:
        found = read(parts, ends=True)
    except Broken:
        return "refused"
    return None if found is None else (found.status, found.body)


@given(
    raw=st.one_of(altered(), st.binary(max_size=200), st.binary(max_size=200).map(OK.__add__)), data=st.data()
)
@example(raw=OK + b"Content-Length: 2\r\n\r\n{}\r\n", data=None)
def test_any_bytes_are_an_answer_or_refused_and_cuts_change_nothing(
    raw: bytes, data: st.DataObject | None
) -> None:
    whole = outcome([raw] if raw else [])
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=6)) if data else range(len(raw))
    assert outcome(pieces(raw, cuts)) == whole
    if isinstance(whole, tuple):
        assert 200 <= whole[0] < 600
        assert len(whole[1]) <= len(raw)


class _Link(asyncio.Transport):
    """A transport that notes what becomes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.aborted = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


def asked(*events: bytes | None, timeout_s: float = 5.0) -> tuple[Answer | Broken, Connection, _Link]:
    """What a request on a connection comes to. events: what arrives after it; None: the other end closes."""

    async def story() -> tuple[Answer | Broken, Connection, _Link]:
        connection, link = Connection(asyncio.get_running_loop()), _Link()
        connection.connection_made(link)
        asking = asyncio.ensure_future(connection.ask(b"GET", timeout_s))
        await asyncio.sleep(0)
        for event in events:
            if event is None:
                connection.eof_received()
            else:
                connection.data_received(event)
        try:
            return await asking, connection, link
        except Broken as error:
            return error, connection, link

    return asyncio.run(story())


def test_a_connection_answers_and_can_be_used_again() -> None:
    found, connection, link = asked(OK + b"Content-Length: 2\r\n", b"\r\n{}")
    assert isinstance(found, Answer)
    assert (link.sent, connection.usable) == (b"GET", True)


@pytest.mark.parametrize("late", [b"{}", OK, b"\r\n"])
def test_what_comes_unasked_ends_the_connection(late: bytes) -> None:
    found, connection, link = asked(OK + b"Content-Length: 2\r\n\r\n{}", late)
    assert isinstance(found, Answer)
    assert link.aborted
    assert not connection.usable


def test_a_connection_that_refuses_an_answer_is_ended() -> None:
    found, connection, link = asked(REFUSED["two answers"])
    assert type(found) is Broken
    assert link.aborted
    assert not connection.usable


@pytest.mark.parametrize(("events", "untouched"), [((None,), True), ((b"HTTP/1.1 2", None), False)])
def test_a_connection_that_closes_says_whether_an_answer_had_begun(
    events: tuple[bytes | None, ...], untouched: bool
) -> None:
    found, _, _ = asked(*events)
    assert isinstance(found, Closed)
    assert found.untouched is untouched


def test_an_answer_that_does_not_end_in_time_is_too_late() -> None:
    found, _, link = asked(OK + b"Content-Length: 3\r\n\r\n{}", timeout_s=0.01)
    assert isinstance(found, TooLate)
    assert link.aborted
