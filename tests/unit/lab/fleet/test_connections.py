"""HTTP on one connection, without a network: pieces, several requests at once, nonsense."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable

import numpy as np
import pytest

from evac_lab.fleet.connections import WAITING_MOST, ControllerDoor, HttpConnection
from tests.unit.lab.fleet.fleets import PASSWORD, USER, Client

WORD = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
AUTH = f"Host: x\r\nAuthorization: Basic {WORD}\r\n"


class Loop(asyncio.AbstractEventLoop):
    """Does what is due later when it is told to."""

    def __init__(self) -> None:
        self.later: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def time(self) -> float:
        return 0.0

    def call_later(self, delay: float, callback: Callable[..., object], *args: object, **_: object) -> object:  # type: ignore[override]
        self.later.append((callback, args))
        return None

    def run(self) -> None:
        while self.later:
            callback, args = self.later.pop(0)
            callback(*args)


class Transport(asyncio.Transport):
    """Keeps what was written."""

    def __init__(self, address: str = "127.64.0.1") -> None:
        super().__init__({"sockname": (address, 1)})
        self.sent = b""
        self.ended = ""

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.ended
        self.sent += data

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Talk:
    """A client's side of a connection."""

    def __init__(self, client: Client | None = None, address: str = "127.64.0.1") -> None:
        self.client = client or Client()
        self.loop, self.transport = Loop(), Transport(address)
        self.door = ControllerDoor(self.client.fleet, self.loop)
        self.connection = HttpConnection(self.door, self.loop)
        self.connection.connection_made(self.transport)

    def say(self, *pieces: bytes) -> bytes:
        """What comes back to some bytes."""
        before = len(self.transport.sent)
        for piece in pieces:
            self.connection.data_received(piece)
        self.loop.run()
        return self.transport.sent[before:]

    def hang_up(self) -> None:
        self.connection.connection_lost(None)
        self.loop.run()


def _get(path: str = "/redfish/v1/Systems/1", method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\n{AUTH}{more}\r\n".encode()


def _reset(kind: str) -> bytes:
    body = f'{{"ResetType": "{kind}"}}'
    path = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"
    return (
        _get(path, "POST", f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n")
        + body.encode()
    )


def test_a_request_in_single_bytes_is_one_request() -> None:
    whole = Talk().say(_get())
    assert whole.startswith(b"HTTP/1.1 200 OK")
    assert Talk().say(*(bytes([byte]) for byte in _get())) == whole


def test_several_requests_at_once_are_answered_in_their_order() -> None:
    talk = Talk()
    answers = talk.say(_reset("On") + _get() + _get("/redfish/v1/nothing"))
    statuses = [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"204", b"200", b"404"]
    assert b'"PowerState":"On"' in answers
    assert talk.client.fleet.stats.most_at_once[0] == 3
    assert talk.client.fleet.stats.at_once[0] == 0


def test_head_has_no_body_and_the_length_of_one() -> None:
    full, head = Talk().say(_get()), Talk().say(_get(method="HEAD"))
    assert head == full.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def test_a_client_that_says_close_is_left() -> None:
    talk = Talk()
    assert b"Connection: close" in talk.say(_get(more="Connection: close\r\n"))
    assert talk.transport.ended == "closed"


def test_too_many_waiting_requests_end_the_connection() -> None:
    talk = Talk()
    talk.say(_get() * (WAITING_MOST + 2))
    assert talk.transport.ended == "closed"


def test_a_client_that_goes_is_forgotten_whatever_it_waited_for() -> None:
    client = Client()
    client.fleet.machines.set_faults(np.array([0]), "hanging", 0)
    for count in (0, 1, 3):
        talk = Talk(client)
        assert talk.say(_get() * count) == b""
        assert client.fleet.stats.at_once[0] == count
        talk.hang_up()
        assert client.fleet.stats.at_once[0] == 0
        assert client.fleet.stats.connections == 0


def test_whoever_is_called_by_nobody_s_address_is_dropped() -> None:
    talk = Talk(address="127.64.9.9")
    assert talk.transport.ended == "aborted"
    assert talk.say(_get()) == b""
    talk.hang_up()


@pytest.mark.parametrize("seed", range(30))
def test_nonsense_never_breaks_the_connection_s_code(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        talk = Talk()
        data = bytearray(rng.choice([_get(), _reset("On"), _get(method="PATCH"), rng.randbytes(80)]))
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        cut = rng.randrange(len(data) + 1)
        for piece in (bytes(data[:cut]), bytes(data[cut:]), _get()):
            if not talk.transport.ended:
                talk.say(piece)
        talk.hang_up()
        assert talk.client.fleet.stats.at_once[0] == 0
