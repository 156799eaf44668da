"""Silent addresses: a filter of the kernel on the listening socket drops what comes to them, so that a client
gets no answer at all, as from a controller without power.

Written for classic BPF (`SO_ATTACH_FILTER`), which an ordinary user may attach to his own socket. Where the
kernel has none, connections to silent addresses are dropped once they are accepted.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from evac_lab.fleet.addresses import PER_BLOCK, address_of

_SO_ATTACH_FILTER: Final = 26
_LOAD_WORD: Final = 0x20
_IF_EQUAL: Final = 0x15
_IF_GREATER: Final = 0x25
_IF_AT_LEAST: Final = 0x35
_AND: Final = 0x54
_RETURN: Final = 0x06
_NETWORK_HEADER: Final = 0xFFF0_0000
_DESTINATION: Final = 16
"""Offset of the destination in the header of IPv4."""
_KEEP: Final = 0xFFFF_FFFF
INSTRUCTIONS_MOST: Final = 4_096
_PER_RANGE: Final = 3
RANGES_MOST: Final = (INSTRUCTIONS_MOST - 8) // _PER_RANGE


def ranges_of(servers: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of addresses (as numbers, both ends included) of sorted servers, next to each other joined."""
    if not len(servers):
        return []
    block, last = np.divmod(servers, PER_BLOCK)
    at = _number(address_of(0)) + 256 * block + last
    # Where a number is missing, a range ends; .255 and .0 lie between two blocks and belong to nobody.
    ends = np.flatnonzero(np.diff(servers) > 1)
    firsts, lasts = np.r_[0, ends + 1], np.r_[ends, len(at) - 1]
    return list(zip(at[firsts].tolist(), at[lasts].tolist(), strict=True))


def program(ranges: Iterable[tuple[int, int]]) -> bytes:
    """Drops what is outside 127/8, and what is in a range; ranges are sorted."""
    loopback = _number("127.0.0.0")
    code = [
        _instruction(_LOAD_WORD, 0, 0, _NETWORK_HEADER + _DESTINATION),
        _instruction(_AND, 0, 0, _number("255.0.0.0")),
        _instruction(_IF_EQUAL, 1, 0, loopback),
        _instruction(_RETURN, 0, 0, 0),
        _instruction(_LOAD_WORD, 0, 0, _NETWORK_HEADER + _DESTINATION),
    ]
    for first, last in ranges:
        code.append(_instruction(_IF_AT_LEAST, 0, 2, first))
        code.append(_instruction(_IF_GREATER, 1, 0, last))
        code.append(_instruction(_RETURN, 0, 0, 0))
    code.append(_instruction(_RETURN, 0, 0, _KEEP))
    assert len(code) <= INSTRUCTIONS_MOST
    return b"".join(code)


def attach(listener: socket.socket, silent: npt.NDArray[np.int64]) -> bool:
    """Makes the addresses of these servers silent. False: not all of them, or the kernel knows no filters."""
    ranges = ranges_of(silent)
    most = min(len(ranges), RANGES_MOST)
    # A kernel may give less memory to the options of a socket: then as many are silent as have room.
    while not _attach(listener, program(ranges[:most])):
        if most == 0:
            return False
        most //= 2
    return most == len(ranges)


def _attach(listener: socket.socket, code: bytes) -> bool:
    held = ctypes.create_string_buffer(code)
    option = struct.pack("HL", len(code) // 8, ctypes.addressof(held))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    except OSError:
        return False
    return True


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")
