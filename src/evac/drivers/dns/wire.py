"""Client of one authoritative DNS server: queries and signed updates (RFC 2136, RFC 8945).

Signs DNS messages for a given time, and verifies what a server signs in response (TSIG, RFC 8945). Pure.

dnspython signs with the machine's clock and rejects responses by it. A controller whose clock jumped must
still move traffic: a server that rejects the time returns its own time, signed, and the request is repeated
once with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import struct
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TSIG
import dns.rdtypes.ANY.TXT
import dns.rrset
import dns.tsig
import dns.update
import dns.wire

from evac.drivers.dns.records import Addresses, Answers, RecordKey
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net.secrets import Secret

ASKED_AT_ONCE: Final = 64
NAMES_AN_UPDATE: Final = 250
"""Names in one update: it is one message of at most 64 KiB, including prerequisites and names."""
_BAD_SIGNATURE: Final = frozenset({dns.rcode.NOTAUTH, dns.rcode.BADSIG, dns.rcode.BADKEY, dns.rcode.BADTIME})
_CHANGED: Final = frozenset({dns.rcode.YXDOMAIN, dns.rcode.YXRRSET, dns.rcode.NXRRSET, dns.rcode.NXDOMAIN})
_ALGORITHMS: Final = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1")


@dataclass(frozen=True, slots=True)
class Server:
    """Where an authoritative server listens: an address, because names are what may be wrong."""

    host: str
    port: int = 53

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Key:
    """A TSIG key. secret: base64."""

    name: str
    algorithm: str
    secret: Secret

    def for_messages(self) -> dns.tsig.Key:
        """The key for dnspython. Raises `Permanent` without the cause, which could reveal the secret."""
        if self.algorithm not in _ALGORITHMS:
            raise Permanent("setting-wrong", f"unknown key_algorithm: {self.algorithm}")
        try:
            return dns.tsig.Key(self.name, self.secret.reveal(), self.algorithm + ".")
        except ValueError:
            raise Permanent("secret-unreadable", f"{self.secret} is not base64") from None


@dataclass(frozen=True, slots=True)
class Found:
    """One record set as the server returns it. ttl: seconds, -1 if there is no such record."""

    values: Addresses
    ttl: int = -1


class NoDnsAnswer(Exception):
    """The server sent no response in time, or none that counts."""


async def ask(server: Server, keys: Iterable[RecordKey], timeout_s: float) -> dict[RecordKey, Found]:
    """Authoritative answers of this server. Raises `NoAnswer` if any query stays open."""
    wanted = list(keys)
    found = await _ask_all(server, [(key.name, key.kind) for key in wanted], timeout_s)
    return dict(zip(wanted, found, strict=True))


async def ask_with_texts(
    server: Server, keys: Iterable[RecordKey], name: str, timeout_s: float
) -> tuple[dict[RecordKey, Found], tuple[str, ...]]:
    """As `ask`, plus the TXT records of `name`, sorted, over the same connection. Raises `NoAnswer`."""
    wanted = list(keys)
    questions = [(key.name, str(key.kind)) for key in wanted]
    *found, texts = await _ask_all(server, [*questions, (name, "TXT")], timeout_s)
    return dict(zip(wanted, found, strict=True)), tuple(sorted(texts.values))


async def _ask_all(server: Server, questions: list[tuple[str, str]], timeout_s: float) -> list[Found]:
    """All queries pipelined over one connection (RFC 7766), to avoid lost packets and a thousand sockets."""
    found: list[Found] = []
    try:
        async with asyncio.timeout(timeout_s), _connected(server) as (reader, writer):
            for first in range(0, len(questions), ASKED_AT_ONCE):
                part = questions[first : first + ASKED_AT_ONCE]
                found += await _exchange(server, reader, writer, part)
    except TimeoutError as error:
        raise NoDnsAnswer(f"{server} did not answer within {max(timeout_s, 0):.1f} s") from error
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise NoDnsAnswer(f"{server} cannot be queried: {type(error).__name__}") from error
    return found


async def _exchange(
    server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, part: list[tuple[str, str]]
) -> list[Found]:
    """Send all queries of a batch, then read their responses in any order."""
    queries = [
        dns.message.make_query(name, kind, flags=0, id=number) for number, (name, kind) in enumerate(part)
    ]
    writer.write(b"".join(_framed(query.to_wire()) for query in queries))
    await writer.drain()
    found: dict[int, Found] = {}
    for _ in queries:
        answer = dns.message.from_wire(await _read_framed(reader))
        if answer.id >= len(queries) or not queries[answer.id].is_response(answer):
            raise NoDnsAnswer(f"{server} sent an answer to a different question")
        found[answer.id] = _judged(server, answer, *part[answer.id])
    if len(found) != len(queries):
        raise NoDnsAnswer(f"{server} answered one question twice")
    return [found[number] for number in range(len(queries))]


def _judged(server: Server, answer: dns.message.Message, name: str, kind: str) -> Found:
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise NoDnsAnswer(f"{server} answers {dns.rcode.to_text(answer.rcode())} for {name}")
    if not answer.flags & dns.flags.AA:
        raise NoDnsAnswer(f"{server} is not authoritative for {name}")
    return _found(answer, dns.name.from_text(name), dns.rdatatype.from_text(kind))


@contextlib.asynccontextmanager
async def _connected(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _framed(wire: bytes) -> bytes:
    return len(wire).to_bytes(2, "big") + wire


async def _read_framed(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


def _found(answer: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Found:
    for rrset in answer.answer:
        if rrset.name == name and rrset.rdtype == kind:
            return Found(frozenset(_text(item) for item in rrset), rrset.ttl)
    return Found(frozenset())


def _text(item: object) -> str:
    if isinstance(item, dns.rdtypes.ANY.TXT.TXT):
        return b"".join(item.strings).decode("utf-8", "replace")
    return str(item)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One record set to rewrite, only if it is unchanged since it was read."""

    key: RecordKey
    before: Found
    after: Addresses
    ttl: int


@dataclass(frozen=True, slots=True)
class TokenMark:
    """The highest token a zone has seen, stored in a TXT record of the zone itself. before: as it was
    read.
    """

    name: str
    before: tuple[str, ...]
    token: int


async def send_update(
    server: Server, zone: str, key: Key, mark: TokenMark, rewrites: Iterable[Rewrite], timeout_s: float
) -> None:
    """One UPDATE: applied completely if nothing changed since it was read, else not at all.

    Raises `Permanent` (refused), `Retryable` (changed meanwhile, or the server is unreachable) and
    `OutcomeUnknown` (sent, without a response).
    """
    wire = _message(zone, mark, rewrites).to_wire(max_size=65_535)
    deadline = asyncio.get_running_loop().time() + timeout_s
    answer, server_s = await _send(server, zone, key, wire, int(time.time()), deadline)
    if server_s is not None:
        # Nothing was done: the server only rejected our time.
        answer, server_s = await _send(server, zone, key, wire, server_s, deadline)
    if server_s is not None:
        raise Permanent(
            "dns-refused", f"{server} rejected the timestamp of an update twice", "check its clock"
        )
    _judge(server, zone, answer)


async def _send(
    server: Server, zone: str, key: Key, wire: bytes, at_s: int, deadline: float
) -> tuple[dns.message.Message, int | None]:
    """An update signed for `at_s`. The response, and the server's time if it rejected ours."""
    secret = key.for_messages()
    data, mac = signed(wire, secret, at_s)
    sent = False
    try:
        async with asyncio.timeout_at(deadline), _connected(server) as (reader, writer):
            sent = True
            writer.write(_framed(data))
            await writer.drain()
            found = await _read_framed(reader)
    except (OSError, TimeoutError, EOFError) as error:
        words = f"{server} did not answer an update of {zone}"
        if sent:
            raise OutcomeUnknown("dns-no-answer", words, "check the server's answer") from error
        raise Retryable("dns-unreachable", words) from error
    return _read(found, secret, mac, at_s, key)


def _message(zone: str, mark: TokenMark, rewrites: Iterable[Rewrite]) -> dns.update.UpdateMessage:
    update = dns.update.UpdateMessage(zone)
    if mark.before:
        update.present(mark.name, _rrset(mark.name, "TXT", [f'"{text}"' for text in mark.before]))
    else:
        update.absent(mark.name, "TXT")
    update.replace(mark.name, 0, "TXT", f'"{mark.token}"')
    for rewrite in rewrites:
        _add_rewrite(update, rewrite)
    return update


def _add_rewrite(update: dns.update.UpdateMessage, rewrite: Rewrite) -> None:
    name, kind = rewrite.key.name, rewrite.key.kind
    if rewrite.before.values:
        update.present(name, _rrset(name, kind, sorted(rewrite.before.values)))
    else:
        update.absent(name, kind)
    update.delete(name, kind)
    for address in sorted(rewrite.after):
        update.add(name, rewrite.ttl, kind, address)


def _rrset(name: str, kind: str, values: list[str]) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(name, 0, "IN", kind, values)


def _read(
    data: bytes, secret: dns.tsig.Key, mac: bytes, at_s: int, key: Key
) -> tuple[dns.message.Message, int | None]:
    """The response, with its signature verified. A badly signed response proves nothing."""
    try:
        return read(data, secret, mac, at_s)
    except dns.tsig.PeerError as error:
        raise Permanent("dns-refused", f"the server rejects the key {key.name}: {error}") from error
    except dns.exception.DNSException as error:
        raise OutcomeUnknown(
            "dns-no-answer", "received an answer that cannot be trusted", "check the server's answer"
        ) from error


def _judge(server: Server, zone: str, answer: dns.message.Message) -> None:
    code = answer.rcode()
    if code == dns.rcode.NOERROR:
        return
    words = f"{server} answers {dns.rcode.to_text(code)} to an update of {zone}"
    if code in _CHANGED:
        raise Retryable("dns-changed", f"{words}: someone else changed it in the meantime")
    if code == dns.rcode.SERVFAIL:
        raise OutcomeUnknown("dns-failed", words, "check the server's answer")
    hint = "check the key and the clocks" if code in _BAD_SIGNATURE else "check the permissions of the key"
    raise Permanent("dns-refused", words, hint)


def values(found: Mapping[RecordKey, Found]) -> Answers:
    return {key: one.values for key, one in found.items()}


FUDGE_S: Final = 300
"""Maximum difference between the two clocks, as RFC 8945 (10) recommends."""
_TSIG: Final[Any] = dns.rdtypes.ANY.TSIG.TSIG
_sign: Final[Any] = dns.tsig.sign
_HEADER_BYTES: Final = 12
_ADDITIONAL: Final = 10
_TIME_BYTES: Final = 6


def signed(wire: bytes, key: dns.tsig.Key, at_s: int) -> tuple[bytes, bytes]:
    """A signed message, and its signature alone, with which the response is signed."""
    (number,) = struct.unpack_from("!H", wire)
    blank = _TSIG(dns.rdataclass.ANY, dns.rdatatype.TSIG, key.algorithm, at_s, FUDGE_S, b"", number, 0, b"")
    made = _sign(wire, key, blank, at_s)[0]
    data = made.to_wire()
    assert data is not None
    owner = key.name.to_wire()
    assert owner is not None
    head = struct.pack("!HHIH", dns.rdatatype.TSIG, dns.rdataclass.ANY, 0, len(data))
    return _counted(wire, 1) + wire[_HEADER_BYTES:] + owner + head + data, made.mac


def read(wire: bytes, key: dns.tsig.Key, mac: bytes, at_s: int) -> tuple[dns.message.Message, int | None]:
    """The response, and the server's time (seconds since 1970) if it rejected only ours.

    Raises dnspython's errors for a response that is not signed, or not with this key or for this request.
    """
    message = dns.message.from_wire(wire, keyring=lambda message, name: False)
    if message.tsig is None:
        raise dns.tsig.BadSignature
    given: Any = message.tsig[0]
    if given.error == dns.rcode.BADSIG:
        raise dns.tsig.PeerBadSignature
    if given.error == dns.rcode.BADKEY:
        raise dns.tsig.PeerBadKey
    if message.tsig.name != key.name or given.algorithm != key.algorithm:
        raise dns.tsig.BadKey
    wanted = _sign(_without_signature(wire), key, given, given.time_signed, mac)[0].mac
    if not hmac.compare_digest(wanted, given.mac):
        raise dns.tsig.BadSignature
    if given.error == dns.rcode.BADTIME and len(given.other) == _TIME_BYTES:
        return message, int.from_bytes(given.other, "big")
    if given.error:
        raise dns.tsig.PeerError
    if abs(given.time_signed - at_s) > given.fudge:
        raise dns.tsig.BadTime
    return message, None


def _counted(wire: bytes, more: int) -> bytes:
    """The header with its count of additional records changed."""
    (count,) = struct.unpack_from("!H", wire, _ADDITIONAL)
    return wire[:_ADDITIONAL] + struct.pack("!H", count + more)


def _without_signature(wire: bytes) -> bytes:
    """The signed part: everything but the last record."""
    questions, *records = struct.unpack_from("!HHHH", wire, 4)
    parser = dns.wire.Parser(wire, _HEADER_BYTES)
    for _ in range(questions):
        parser.get_name()
        parser.get_bytes(4)
    for _ in range(sum(records) - 1):
        parser.get_name()
        parser.get_bytes(8)
        parser.get_bytes(parser.get_uint16())
    return _counted(wire, -1) + wire[_HEADER_BYTES : parser.current]
