"""The world of network namespaces: real links with a delay, a real cut, nothing left behind. Needs root."""

from __future__ import annotations

import os
import socket
import subprocess
import time

import pytest

from evac_lab import clients, faults, namespaces
from evac_lab.state import PORTS, LabFolder, living, topology
from evac_lab.world import Options
from tests.lab.conftest import running_lab

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]
DELAY_MS = 5.0


def _offset() -> int:
    """A lab number whose namespaces are not there."""
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for step in range(14):
        offset = 2 + (os.getpid() + step) % 14
        if f"{topology('namespaces', offset).sites[0].namespace} " not in f"{there} ":
            return offset
    raise AssertionError("no lab number is free")


def test_links_with_a_delay_a_cut_and_a_fire() -> None:
    if reason := namespaces.why_not():
        pytest.skip(reason)
    offset = _offset()
    with running_lab(
        Options("namespaces", offset, writers=4, pause_s=0.1, delay_ms=DELAY_MS, controllers=False)
    ) as lab:
        site = lab.need().topology.site("pangyo")
        assert 2 * DELAY_MS <= _connect_ms(site.host("redis"), PORTS["redis"]) < 20 * DELAY_MS
        _writes_within(lab, 8.0)
        alive = living(lab.need(), lab, "pangyo")
        faults.cut(lab, "pangyo")
        with pytest.raises(TimeoutError):
            socket.create_connection((site.host("redis"), PORTS["redis"]), 0.5)
        # It lives on, alone: inside the site everything answers.
        inside = [*site.prefix, "redis-cli", "-h", site.host("redis"), "ping"]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=5, check=False)
        assert "NOAUTH" in done.stdout + done.stderr
        assert {one.pid for one in lab.need().of_site("pangyo")} <= alive
        faults.heal(lab, "pangyo")
        _writes_within(lab, 12.0)
        faults.disturb(lab, "pangyo", delay_ms=30.0)
        assert _connect_ms(site.host("redis"), PORTS["redis"]) >= 60.0
        faults.disturb(lab, "pangyo", one_way="out")
        with pytest.raises(TimeoutError):
            socket.create_connection((site.host("redis"), PORTS["redis"]), 0.5)
        faults.heal(lab, "pangyo")
        assert _connect_ms(site.host("redis"), PORTS["redis"]) < 60.0
        faults.burn(lab, "pangyo")
        assert living(lab.need(), lab, "pangyo") == set()
        with pytest.raises(TimeoutError):
            socket.create_connection((site.host("redis"), PORTS["redis"]), 0.5)
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert site.namespace not in left


def _connect_ms(host: str, port: int) -> float:
    """The shortest of some round trips: a busy machine adds to each."""
    found = []
    for _ in range(5):
        began = time.monotonic()
        socket.create_connection((host, port), 5.0).close()
        found.append((time.monotonic() - began) * 1_000)
    return min(found)


def _writes_within(lab: LabFolder, seconds: float) -> None:
    offset, deadline = clients.size(lab.ledger), time.monotonic() + seconds
    while not clients.acknowledged(clients.read_ledger(lab.ledger, offset)):
        assert time.monotonic() < deadline, "no write was acknowledged"
        time.sleep(0.1)
