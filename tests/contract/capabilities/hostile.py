"""Answers that a broken or a hostile server gives, put in the place of real ones on the way to a driver.

A `Wire` is one way from a driver to its server: TCP, or the output of a program. `attacks` goes through the
answers of a call one after the other, and exchanges each, and all that follow it, for something else: it
never ends, is nested too deep, of the wrong type, cut, no text at all, or comes one byte at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from evac.drivers.port import Action, Value

DEEP: Final = 50_000
ENDLESS_BYTES: Final = 16 << 20
"""A driver that takes all of these reads without a bound."""
DRIP_S: Final = 0.02
QUIET_S: Final = 0.05
"""A server that said nothing for so long has said all."""
LINGER_S: Final = 2.0
Protocol_ = Literal["http", "redis", "postgres", "mysql", "haproxy", "dns", "text"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What is said instead of an answer."""

    name: str
    made: Callable[[bytes], bytes]
    """From the real answer; nothing is asked for it where `real` is false."""
    real: bool = False
    then: Literal["close", "endless", "drip"] = "close"
    hopeless: bool = False
    """Whether nothing can be known from it, so that a check must not call anything ready."""

    @property
    def alive(self) -> bool:
        """Whether a probe may take it for life: any whole answer of an application is."""
        said = self.made(b"")
        return said.startswith(b"HTTP/1.1 200") and b"\r\n\r\n" in said


class Tampered(Protocol):
    """A wire while it is tampered with."""

    fired: bool
    taken: int
    """Bytes of an endless answer that were taken over one connection."""

    def action(self, action: Action) -> Action:
        """The same action over this wire."""
        ...


class Wire(Protocol):
    """One way to a server. turns: how many answers of one call are exchanged at most."""

    kinds: Sequence[Kind]
    turns: int
    bounded: bool
    """Whether evac itself reads what comes, and stops at a bound; else the deadline is the bound."""

    def tampered(self, kind: Kind, turn: int) -> AbstractAsyncContextManager[Tampered]: ...


@dataclass(frozen=True, slots=True)
class Attack:
    """One call during which one answer is exchanged."""

    call: str
    kind: Kind
    turn: int
    wire: Tampered

    @property
    def hopeless(self) -> bool:
        """Whether the first answer was exchanged for one from which nothing can be known."""
        return self.wire.fired and self.turn == 1 and self.kind.hopeless

    def __str__(self) -> str:
        return f"{self.call} with answer {self.turn} {self.kind.name}"


async def attacks(wire: Wire, action: Action, calls: Sequence[str]) -> AsyncIterator[tuple[Attack, Action]]:
    """Every kind in place of each answer to the last of `calls`; a third of them, in turn, for the others.
    What never ends takes the whole time of an order, and is tried once.
    """
    for call in calls:
        for turn in range(1, wire.turns + 1):
            fired = False
            for number, kind in enumerate(wire.kinds):
                slow = kind.then != "close"
                if (slow and turn > 1) or (call != calls[-1] and (slow or (number + turn) % 3)):
                    continue
                async with wire.tampered(kind, turn) as tampered:
                    yield Attack(call, kind, turn, tampered), tampered.action(action)
                fired = fired or tampered.fired
                if wire.bounded:
                    assert tampered.taken < ENDLESS_BYTES, f"{call} reads {kind.name} answers without a bound"
            if not fired:
                break


@dataclass(slots=True)
class _Relay:
    """A server in front of another one."""

    wire: TcpWire
    kind: Kind
    turn: int
    fired: bool = False
    taken: int = 0
    port: int = 0
    turns: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def action(self, action: Action) -> Action:
        return self.wire.through(action, "127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        asked = asyncio.Event()
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection(self.wire.host, self.wire.port)
            up = asyncio.ensure_future(self._up(reader, there, asked))
            try:
                await self._down(back, writer, asked)
                await asyncio.wait([up], timeout=LINGER_S)  # until the driver has read it, and hangs up
            finally:
                up.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await up
        except (OSError, asyncio.CancelledError):
            return
        finally:
            for one in (writer, there):
                if one is not None:
                    one.transport.abort()

    @staticmethod
    async def _up(reader: asyncio.StreamReader, there: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while part := await reader.read(65_536):
            asked.set()
            there.write(part)
            await there.drain()
        there.write_eof()

    async def _down(
        self, back: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event
    ) -> None:
        while part := await back.read(1 << 20):
            if asked.is_set():
                asked.clear()
                self.turns += 1
                if self.turns >= self.turn:
                    self.fired = True
                    if self.kind.real:
                        with contextlib.suppress(TimeoutError):
                            while more := await asyncio.wait_for(back.read(1 << 20), QUIET_S):
                                part += more
                    await self._say(self.kind.made(part), writer)
                    return
            writer.write(part)
            await writer.drain()
        writer.write_eof()

    async def _say(self, words: bytes, writer: asyncio.StreamWriter) -> None:
        if self.kind.then == "drip":
            while True:
                for byte in words:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(DRIP_S)
        writer.write(words)
        await writer.drain()
        if self.kind.then == "endless":
            for sent in range(0, ENDLESS_BYTES, 65_536):
                writer.write(b"0" * 65_536)
                await writer.drain()
                self.taken = max(self.taken, sent + 65_536)
        writer.write_eof()


@dataclass(frozen=True)
class TcpWire:
    """A way over TCP. through: the action, with another address of the server."""

    host: str
    port: int
    protocol: Protocol_
    through: Callable[[Action, str, int], Action]
    turns: int = 4
    bounded: bool = True

    @property
    def kinds(self) -> Sequence[Kind]:
        return KINDS[self.protocol]

    @asynccontextmanager
    async def tampered(self, kind: Kind, turn: int) -> AsyncIterator[Tampered]:
        relay = _Relay(self, kind, turn)
        server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            server.close()
            for task in relay.tasks:
                task.cancel()
            await asyncio.gather(*relay.tasks, return_exceptions=True)
            await server.wait_closed()


@dataclass(slots=True)
class _Script:
    wire: ProgramWire
    folder: Path
    turn: int
    taken: int = 0

    @property
    def fired(self) -> bool:
        calls = self.folder / "calls"
        return calls.exists() and len(calls.read_bytes()) >= self.turn

    @fired.setter
    def fired(self, value: bool) -> None:
        raise AttributeError

    def action(self, action: Action) -> Action:
        return self.wire.through(action, str(self.folder / "program"))


@dataclass(frozen=True)
class ProgramWire:
    """A program whose output is the answer. through: the action, with path of the program."""

    program: str
    folder: Path
    through: Callable[[Action, str], Action]
    turns: int = 2
    bounded: bool = False

    @property
    def kinds(self) -> Sequence[Kind]:
        return KINDS["text"]

    @asynccontextmanager
    async def tampered(self, kind: Kind, turn: int) -> AsyncIterator[Tampered]:
        folder = self.folder / f"{kind.name}-{turn}"
        folder.mkdir(exist_ok=True)
        (folder / "calls").unlink(missing_ok=True)
        (folder / "said").write_bytes(kind.made(b""))
        then = {"endless": "exec cat /dev/zero", "drip": "exec sleep 60", "close": "exit 0"}[kind.then]
        script = (
            f"#!/bin/sh\nprintf . >> {folder}/calls\n"
            f'if [ "$(wc -c < {folder}/calls)" -ge {turn} ]; then cat {folder}/said; {then}; fi\n'
            f'exec {self.program} "$@"\n'
        )
        path = folder / "program"
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        yield _Script(self, folder, turn)


def with_settings(**names: str) -> Callable[[Action, str, int], Action]:
    """For `TcpWire.through`: settings by name, each made from `{host}` and `{port}`."""

    def through(action: Action, host: str, port: int) -> Action:
        given: dict[str, Value] = {
            name: words.format(host=host, port=port) if "{" in words else words
            for name, words in names.items()
        }
        found = {name: int(value) if name == "port" else value for name, value in given.items()}
        return Action(
            action.verb,
            action.target,
            action.driver,
            action.at,
            {**action.settings, **found},
            action.parameters,
        )

    return through


def _http(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def _swapped(value: Any) -> Any:
    """Every leaf of another type."""
    match value:
        case dict():
            return {name: _swapped(one) for name, one in value.items()}
        case list():
            return [_swapped(one) for one in value]
        case bool() | None:
            return "perhaps"
        case str():
            return [value]
        case _:
            return {"value": str(value)}


def _unbranched(value: Any) -> Any:
    """Every object and list below the first is a number."""
    if isinstance(value, dict):
        return {name: 7 if isinstance(one, dict | list) else one for name, one in value.items()}
    return 7


def _body(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """The real answer with a changed body; one that holds no JSON is left out."""

    def made(real: bytes) -> bytes:
        head, _, body = real.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            body = body.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
        try:
            values = json.loads(body)
        except ValueError:
            return _http(b"")
        return _http(json.dumps(change(values)).encode())

    return made


def _always(words: bytes) -> Callable[[bytes], bytes]:
    return lambda real: words


def _half(real: bytes) -> bytes:
    return real[: len(real) // 2]


_CUT: Final = Kind("cut", _half, real=True)
_NONE: Final = Kind("empty", _always(b""), hopeless=True)
_NOISE: Final = Kind("of no text", _always(b"\xff\xfe\x00\x80" * 64), hopeless=True)
_SLOW: Final = Kind("slow", lambda real: real[:1] or b"0", then="drip")


def _message(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    """Of PostgreSQL: a letter, the length with itself, the body."""
    return kind + (len(body) + 4 if length is None else length).to_bytes(4, "big") + body


def _packet(body: bytes, number: int = 2) -> bytes:
    """Of MySQL: the length, the number of the packet, the body."""
    return len(body).to_bytes(3, "little") + bytes([number]) + body


KINDS: Final[dict[Protocol_, Sequence[Kind]]] = {
    "http": (
        _CUT,
        _NONE,
        _NOISE,
        _SLOW,
        Kind("endless", _always(_http(b"[", 1 << 40)), then="endless", hopeless=True),
        Kind("deep", _always(_http(b"[" * DEEP + b"]" * DEEP)), hopeless=True),
        Kind("deep objects", _always(_http(b'{"a":' * DEEP + b"1" + b"}" * DEEP)), hopeless=True),
        Kind("a list", _always(_http(b"[]")), hopeless=True),
        Kind("null", _always(_http(b"null")), hopeless=True),
        Kind("a long number", _always(_http(b'{"a":' + b"9" * 5_000 + b"}"))),
        Kind("no JSON", _always(_http(b"<html>\xff</html>")), hopeless=True),
        Kind("of other types", _body(_swapped), real=True),
        Kind("of other shape", _body(_unbranched), real=True),
        Kind("with endless headers", _always(b"HTTP/1.1 200 OK\r\nA: "), then="endless", hopeless=True),
    ),
    "redis": (
        _CUT,
        _NONE,
        _NOISE,
        _SLOW,
        Kind("endless", _always(b"$1099511627776\r\n"), then="endless", hopeless=True),
        Kind("an endless line", _always(b"+"), then="endless", hopeless=True),
        Kind("deep", _always(b"*1\r\n" * DEEP + b":1\r\n"), hopeless=True),
        Kind("a number", _always(b":5\r\n")),
        Kind("nothing", _always(b"$-1\r\n")),
        Kind("no array", _always(b"*-1\r\n")),
        Kind("a list", _always(b"*2\r\n:1\r\n*0\r\n")),
        Kind("a long number", _always(b":" + b"9" * 5_000 + b"\r\n"), hopeless=True),
        Kind("of another length", _always(b"*99999999999\r\n"), hopeless=True),
        Kind("an error", _always(b"-WEIRD something\r\n"), hopeless=True),
        Kind("of other words", lambda real: real.replace(b"offset:", b"offset:x"), real=True),
    ),
    "postgres": (
        _CUT,
        _NONE,
        _NOISE,
        _SLOW,
        Kind("endless", _always(_message(b"D", b"", 0x7FFFFFFF)), then="endless", hopeless=True),
        Kind("of a wrong length", _always(_message(b"T", b"\0\7", 3)), hopeless=True),
        Kind("an odd error", _always(_message(b"E", b"SFATAL\0C\0\0")), hopeless=True),
        Kind("a login by an unknown way", _always(_message(b"R", (99).to_bytes(4, "big"))), hopeless=True),
        Kind("without columns", _always(_message(b"T", b"\0\0") + _message(b"Z", b"I")), hopeless=True),
    ),
    "mysql": (
        _CUT,
        _NONE,
        _NOISE,
        _SLOW,
        Kind("endless", _always(b"\xff\xff\xff\2"), then="endless", hopeless=True),
        Kind("of a wrong number", _always(_packet(b"\0\0\0\2\0\0\0", 77)), hopeless=True),
        Kind("an odd error", _always(_packet(b"\xff\x87\x13#28000\xfe\xff")), hopeless=True),
        Kind("a login by an unknown way", _always(_packet(b"\xfeodd_way\0abc\0")), hopeless=True),
        Kind("of endless columns", _always(_packet(b"\xfe" + b"\xff" * 8)), hopeless=True),
        Kind("of no rows", _always(_packet(b"\0\0\0\2\0\0\0")), hopeless=True),
    ),
    "haproxy": (
        _CUT,
        _NONE,
        _NOISE,
        _SLOW,
        Kind("endless", _always(b""), then="endless", hopeless=True),
        Kind("without columns", _always(b"1\n# \n"), hopeless=True),
        Kind("of other types", lambda real: real.replace(b",0,", b",x,").replace(b" 0 ", b" x "), real=True),
        Kind("of short rows", lambda real: b"\n".join(row[:20] for row in real.split(b"\n")), real=True),
    ),
    "dns": (
        _CUT,
        _NONE,
        _NOISE,
        _SLOW,
        Kind("endless", _always(b"\xff\xff"), then="endless", hopeless=True),
        Kind("too short", _always(b"\0\3abc"), hopeless=True),
        Kind("of loops", lambda real: real[:14] + b"\xc0\x0c" * ((len(real) - 14) // 2), real=True),
        Kind("of another question", lambda real: real[:2] + b"\0\0" + real[4:], real=True),
    ),
    "text": (
        _NONE,
        _NOISE,
        Kind("slow", _always(b"0"), then="drip", hopeless=True),
        Kind("endless", _always(b"Chassis Power is on\n"), then="endless"),
        Kind("deep", _always(b"[" * DEEP), hopeless=True),
        Kind("of one long line", _always(b"9" * 100_000 + b"\n"), hopeless=True),
        Kind("of bars", _always(b": | :\n |||\n:::\n"), hopeless=True),
    ),
}
"""By protocol, what is said instead of an answer."""
