"""The filter of the kernel, run here by a few lines that do what the kernel does with it."""

from __future__ import annotations

import random
import socket
import struct

import numpy as np
import pytest

from evac_lab.fleet.addresses import CIRCUITS_ADDRESS, SERVERS_MOST, address_of, server_at
from evac_lab.fleet.silence import INSTRUCTIONS_MOST, RANGES_MOST, program, ranges_of

Steps = list[tuple[int, int, int, int]]


def _steps(code: bytes) -> Steps:
    """What to do, where to go on if it is true and if not, and a value, of each step."""
    return list(struct.iter_unpack("HBBI", code))


def _keeps(steps: Steps, address: str) -> bool:
    """Runs a program of classic BPF on a packet to an address; only what ours uses."""
    destination = int.from_bytes(socket.inet_aton(address), "big")
    accumulator = at = 0
    while True:
        what, if_true, if_false, value = steps[at]
        at += 1
        if what == 0x06:
            return bool(value)
        if what == 0x20:
            accumulator = destination
        elif what == 0x54:
            accumulator &= value
        else:
            true = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[what]
            at += if_true if true else if_false


def test_nothing_outside_loopback_gets_in() -> None:
    code = _steps(program([]))
    assert _keeps(code, "127.64.0.1")
    for address in ("10.0.0.1", "128.64.0.1", "126.255.255.255"):
        assert not _keeps(code, address)


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_silent_are_silent(seed: int) -> None:
    rng = random.Random(seed)
    silent = sorted(rng.sample(range(2_000), rng.randrange(1, 600)))
    code = _steps(program(ranges_of(np.array(silent))))
    for server in range(2_000):
        assert _keeps(code, address_of(server)) == (server not in silent)
    assert _keeps(code, CIRCUITS_ADDRESS)


def test_neighbours_are_one_range_over_the_end_of_a_block() -> None:
    assert len(ranges_of(np.arange(1_000))) == 1
    assert len(ranges_of(np.array([253, 254]))) == 1
    assert len(ranges_of(np.array([252, 254]))) == 2
    assert ranges_of(np.empty(0, np.int64)) == []


def test_the_program_has_room_in_the_kernel() -> None:
    assert len(program([(row, row) for row in range(RANGES_MOST)])) // 8 <= INSTRUCTIONS_MOST


def test_every_address_leads_back_to_its_server() -> None:
    for server in (0, 1, 253, 254, 255, 31_999, SERVERS_MOST - 1):
        assert server_at(address_of(server), SERVERS_MOST) == server
    assert server_at(CIRCUITS_ADDRESS, SERVERS_MOST) == -1
    for address in ("127.64.0.0", "127.64.0.255", "127.65.0.1", "127.0.0.1", "127.64.254.1"):
        assert server_at(address, SERVERS_MOST) == -2
