"""Fires over three real etcd members: a site's member and its controller die in the same instant."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evac.model.run_policy import PROFILES
from evac.store.etcd import EtcdStore
from evac.store.port import Store
from evac_lab.servers.etcd import EtcdServer, etcd, wait_for_all
from tests.contract.ports import free_port
from tests.unit.engine.small_world import SITES, World, play, policy_of

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
]
HOSTS = {"anyang": "127.0.42.1", "ansan": "127.0.42.2", "pangyo": "127.0.42.3"}
MOST_S = 15.0


@pytest.fixture
def members(tmp_path: Path) -> Iterator[dict[str, EtcdServer]]:
    peer_ports = {site: free_port(host) for site, host in HOSTS.items()}
    peers = {site: f"http://{HOSTS[site]}:{port}" for site, port in peer_ports.items()}
    servers = {
        site: etcd(tmp_path / site, HOSTS[site], free_port(HOSTS[site]), peer_ports[site], site, peers)
        for site in SITES
    }
    for server in servers.values():
        server.start()
    try:
        wait_for_all(list(servers.values()))
        yield servers
    finally:
        for server in servers.values():
            server.kill()


@pytest.mark.parametrize("leader_burns", [False, True])
def test_a_fire_is_answered_by_those_who_are_left(members: dict[str, EtcdServer], leader_burns: bool) -> None:
    stores: list[EtcdStore] = []

    def connect(site: str) -> Store:
        urls = [members[site].url] if site in members else []
        others = [members[other].url for other in ("anyang", "ansan", "pangyo") if other != site]
        stores.append(EtcdStore([*urls, *others]))
        return stores[-1]

    async def story(world: World) -> None:
        first = "pangyo" if leader_burns else "anyang"
        await world.until(lambda: world.leader == first, MOST_S)
        for site in SITES:
            if site != first:
                world.start(site)
        await world.until_planned(MOST_S)
        members["pangyo"].kill()
        world.burn("pangyo")
        await world.until(lambda: "shift" in world.systems.verbs_done(), MOST_S)
        async with asyncio.timeout(MOST_S):
            while not await world.ended():
                await asyncio.sleep(0.05)
        assert world.systems.verbs_done() == ["fence", "promote", "shift"]
        for store in stores:
            await store.close()

    policy = replace(policy_of("act"), profile=PROFILES["lab"])
    world = World(policy, connect=connect, leader_ttl_ms=2_000)
    play(story, world, ("pangyo",) if leader_burns else ("anyang",))
