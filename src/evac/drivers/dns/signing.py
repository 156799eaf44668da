"""Signs DNS messages as of a given time, and reads what a server signs for them (TSIG, RFC 8945). Pure.

dnspython signs as of the machine's clock and refuses an answer by it. A controller whose clock jumped must
still move traffic: a server that dislikes the time says, signed, what time it has, and is asked once more.
"""

from __future__ import annotations

import hmac
import struct
from typing import Any, Final

import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TSIG
import dns.tsig
import dns.wire

FUDGE_S: Final = 300
"""How far the two clocks may be apart, as RFC 8945 (10) recommends."""
_TSIG: Final[Any] = dns.rdtypes.ANY.TSIG.TSIG
_sign: Final[Any] = dns.tsig.sign
_HEADER_BYTES: Final = 12
_ADDITIONAL: Final = 10
_TIME_BYTES: Final = 6


def signed(wire: bytes, key: dns.tsig.Key, at_s: int) -> tuple[bytes, bytes]:
    """A message with its signature, and that alone, by which the answer is signed."""
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
    """The answer, and where the server refused only the time, its own (seconds since 1970).

    Raises what dnspython raises for an answer that is not signed, not by this key, or not for this request.
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
    """The header, with so many more additional records."""
    (count,) = struct.unpack_from("!H", wire, _ADDITIONAL)
    return wire[:_ADDITIONAL] + struct.pack("!H", count + more)


def _without_signature(wire: bytes) -> bytes:
    """What was signed: all but the last record."""
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
