"""What is particular to the driver `haproxy`: shares, the order of changes, sessions, reloads, names."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.haproxy import driver as haproxy_driver
from evac.drivers.haproxy.driver import HaproxyDriver
from evac.drivers.port import Action
from evac.model.errors import Permanent, Retryable
from evac_lab.servers import haproxy as servers
from tests.contract.adapters.haproxy import World, balancer
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@pytest.fixture
def world(server_folder: Path) -> Iterator[World]:
    with balancer(server_folder) as made:
        yield made


def test_a_share_is_what_clients_get(world: World) -> None:
    asyncio.run(HaproxyDriver().execute(world.shift(share=250), order()))
    seen = world.who_answers(400)
    assert set(seen) == {"pangyo", "anyang"}
    assert 80 <= seen["anyang"] <= 120
    asyncio.run(HaproxyDriver().execute(world.shift(share=750, from_share=250), order()))
    assert 280 <= world.who_answers(400)["anyang"] <= 320
    asyncio.run(HaproxyDriver().undo(world.shift(share=750, from_share=250), order()))
    assert 80 <= world.who_answers(400)["anyang"] <= 120


def test_a_site_that_is_left_and_where_the_service_never_stood_holds_nothing_up(world: World) -> None:
    left = world.shift(away=("osan", "pangyo"))
    asyncio.run(HaproxyDriver().execute(left, order()))
    assert world.who_answers(6) == {"anyang": 6}
    assert asyncio.run(HaproxyDriver().observe(left, order())).outcome == "done"
    with pytest.raises(Permanent, match="lists no server at the site osan"):
        asyncio.run(HaproxyDriver().execute(world.shift(to="osan"), order()))


def test_nobody_is_taken_out_before_somebody_takes_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.sites.pop("anyang").close()
    driver = HaproxyDriver()
    asyncio.run(driver.execute(world.site_action("ready", "ansan"), order()))
    deadline = time.monotonic() + 60
    while not world.is_down("anyang-1"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setattr(haproxy_driver, "_PAUSE_S", 1_000.0)  # no time is left for another look
    with pytest.raises(Retryable, match="no server of chat is up"):
        asyncio.run(driver.execute(world.shift(), order()))
    assert world.who_answers(6)["pangyo"] > 0
    assert asyncio.run(driver.observe(world.shift(), order())).outcome == "absent"


def test_a_hard_shift_ends_the_sessions_that_are_open(world: World) -> None:
    with socket.create_connection((world.balancer.host, world.balancer.port), 2) as client:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: chat\r\n\r\n")
        assert world.sites["pangyo"].holding.wait(60)
        evidence = asyncio.run(HaproxyDriver().execute(world.shift(hard=True), order()))
        assert not client.recv(4_096).startswith(b"HTTP/1.1 200")
    assert evidence["sessions"] == 0
    assert ("pangyo-1", "1", "100") in world.rows()
    assert world.who_answers(6) == {"anyang": 6}


def test_a_reload_that_puts_the_dead_site_back_is_seen(world: World) -> None:
    driver = HaproxyDriver()
    done = asyncio.run(driver.execute(world.shift(), order()))
    seen, deadline, again = None, time.monotonic() + 60, 0.0
    while (seen is None or seen.outcome != "absent") and time.monotonic() < deadline:
        if time.monotonic() >= again:  # a master that is just starting may not heed the signal
            servers.reload(world.process)
            again = time.monotonic() + 5
        time.sleep(0.05)
        seen = asyncio.run(driver.observe(world.shift(), order()))
    assert seen is not None
    assert seen.outcome == "absent"
    assert seen.evidence["worker"] != done["worker"]
    assert "ready" in str(seen.evidence["server_pangyo-1"])


def test_two_lost_sites_are_left_at_once(world: World) -> None:
    driver = HaproxyDriver()
    asyncio.run(driver.execute(world.site_action("ready", "ansan"), order()))
    both = world.shift(away="pangyo,ansan")
    asyncio.run(driver.execute(both, order()))
    assert world.who_answers(6) == {"anyang": 6}
    with pytest.raises(Permanent, match="was not recorded"):
        asyncio.run(driver.undo(both, order()))


def test_a_wrong_name_is_a_problem_and_no_command(world: World) -> None:
    driver = HaproxyDriver()
    unknown = replace(world.shift(), settings=world.settings(servers=("pangyo=pangyo-1", "anyang=nobody")))
    assert asyncio.run(driver.check(unknown, order())).problems == ("chat has no server named nobody",)
    unsafe = replace(world.shift(), settings=world.settings(servers=("pangyo=x;shutdown", "anyang=y")))
    assert "is not allowed in a name" in asyncio.run(driver.check(unsafe, order())).problems[0]
    nowhere = replace(world.shift(), settings=world.settings(backend="nope"))
    assert "no backend nope" in asyncio.run(driver.check(nowhere, order())).problems[0]


def test_verify_looks_and_changes_nothing(world: World) -> None:
    look = Action("verify", "chat", "haproxy", "anyang", world.settings(), {"expect": "anyang"})
    before = world.rows()
    with pytest.raises(Retryable, match="anyang-1 is maint"):
        asyncio.run(HaproxyDriver().execute(look, order()))
    assert world.rows() == before
    asyncio.run(HaproxyDriver().execute(world.shift(), order()))
    assert "worker" in asyncio.run(HaproxyDriver().execute(look, order()))
