"""The port of the controllers: who gets in, who is heard, and who must wait."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from evac_lab.fleet.connections import ControllerDoor, HttpConnection
from evac_lab.fleet.fleet import Settings
from evac_lab.fleet.resources import Request
from tests.unit.lab.fleet.fleets import Client, ground


class Droppable(HttpConnection):
    """Notes that it was dropped."""

    dropped = False

    def drop(self) -> None:
        self.dropped = True


class Loop(asyncio.AbstractEventLoop):
    """A loop that knows the time alone."""

    now = 100.0

    def time(self) -> float:
        return self.now


def _door(client: Client | None = None, most: int = 100) -> tuple[ControllerDoor, Loop]:
    loop = Loop()
    return ControllerDoor((client or Client()).fleet, loop, most), loop


def _connection(door: ControllerDoor, loop: Loop) -> Droppable:
    found = Droppable(door, loop)
    found.used_at = loop.now
    return found


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("127.64.0.1", 0),
        ("127.64.0.4", 3),
        ("127.64.255.1", -1),
        ("127.64.0.5", None),
        ("127.0.0.1", None),
        ("10.64.0.1", None),
        ("", None),
    ],
)
def test_the_address_says_who_was_called(address: str, server: int | None) -> None:
    door, loop = _door()
    assert door.enter(_connection(door, loop), address) == server
    assert door.fleet.stats.nobody == (server is None)


def test_where_it_is_full_those_that_are_at_rest_go() -> None:
    door, loop = _door(most=2)
    held = [_connection(door, loop) for _ in range(2)]
    for one in held:
        assert door.enter(one, "127.64.0.1") == 0
    assert door.enter(_connection(door, loop), "127.64.0.1") is None
    assert door.fleet.stats.connections_refused == 1
    loop.now += 0.5
    held[0].used_at = loop.now
    assert door.enter(_connection(door, loop), "127.64.0.1") == 0
    assert [one.dropped for one in held] == [False, True]


def test_a_controller_without_power_hears_nothing() -> None:
    client = Client(ground(2, racks=2))
    door, _ = _door(client)
    grid = client.fleet.grid
    client.fleet.machines.open(grid.number("s/h/r1"), 0)
    assert [door.hears(server, 0) for server in range(4)] == [True, True, False, False]
    assert door.begin(2) is None


def test_a_controller_that_starts_is_silent_until_it_is_there() -> None:
    client = Client(ground(2), Settings(closed=False, bmc_boot_ms=30_000))
    door, _ = _door(client)
    assert not door.hears(0, client.fleet.now())
    client.fleet.machines.close(client.fleet.grid.number("s/h/a"), client.fleet.now())
    assert not door.hears(0, client.fleet.now())
    client.hand.seconds = 30.0
    assert door.hears(0, client.fleet.now())


@pytest.mark.parametrize(("fault", "after"), [("none", 0.005), ("slow", 3.0), ("hanging", None)])
def test_how_long_an_answer_takes(fault: str, after: float | None) -> None:
    client = Client()
    door, _ = _door(client)
    client.fleet.machines.set_faults(np.array([1]), fault, 0)
    assert door.begin(1) == after


def test_requests_at_once_are_counted_for_each_controller() -> None:
    client = Client()
    door, _ = _door(client)
    for server in (0, 0, 1):
        door.begin(server)
    door.end(0, 200)
    door.begin(0)
    assert client.fleet.stats.most_at_once[:2].tolist() == [2, 1]
    assert client.fleet.stats.requests[:2].tolist() == [3, 1]
    assert client.fleet.stats.statuses == {200: 1}


def test_power_that_goes_in_the_middle_of_a_request_leaves_it_without_an_answer() -> None:
    client = Client()
    door, _ = _door(client)
    door.begin(0)
    client.fleet.machines.open(client.fleet.grid.number("s/h/r0"), 0)
    assert door.answer(0, Request("GET", "/redfish")) is None
