"""If it is unknown what runs on servers, they may be full: no share in use is better than what is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import audit
from evac.office.facts import SiteFacts, facts_of
from evac.web.pages.capacity_view import share, unclear_words
from tests.unit.truth.written import written

ESTATE = """
sites: {east: {}, west: {}}
classes: {std: {cpu: 8 cores, memory: 32 GiB, boot: 1 min, boot_odds: 100 %%}}
pools: {west-k8s: {site: west, cpu: 64 cores, memory: 256 GiB}}
services:
  mail: {tier: 0, people: 10, demand: {cpu: 2 cores, memory: 4 GiB}, replicas: %s}
"""
SERVERS = "server,site,class,state\ne-1,east,std,serving\ne-2,east,std,serving\ne-3,east,std,dark\n"


def sites_of(folder: Path, count: str, **tables: str) -> dict[str, SiteFacts]:
    estate = written(folder, ESTATE % count, servers=SERVERS, **tables)
    return {site.id: site for site in facts_of(audit(estate), "").sites}


def test_replicas_without_a_server_leave_the_load_of_servers_unknown(tmp_path: Path) -> None:
    """The dark server runs nothing for certain: its capacity is known, that of the others is not."""
    east = sites_of(tmp_path, "{east: 2}")["east"]
    assert east.unclear_servers == 2
    assert unclear_words(east) == "2 of 3 servers"
    assert {amount.resource: amount.total for amount in east.headroom}["cpu_millicores"] == 8_000
    shown = share(east.headroom[0], east.unclear[0])
    assert shown is not None
    assert (shown["is_least"], shown["percent"], shown["total"]) == (True, 33, "24 cores")
    assert share(east.headroom[0], None) is None


def test_replicas_with_a_server_leave_nothing_unknown(tmp_path: Path) -> None:
    east = sites_of(tmp_path, "2", replicas="service,target,count\nmail,e-1,1\nmail,e-2,1\n")["east"]
    cpu = {amount.resource: (amount.used, amount.total) for amount in east.headroom}["cpu_millicores"]
    assert (east.unclear_servers, unclear_words(east), cpu) == (0, "", (4_000, 24_000))
    shown = share(east.headroom[0], east.unclear[0])
    assert shown is not None
    assert (shown["is_least"], shown["percent"]) == (False, 83)


@pytest.mark.parametrize(("replicas", "pools"), [("{west-k8s: 2}", ()), ("50", ("west-k8s",))])
def test_a_pool_that_may_hold_anything_is_named(
    tmp_path: Path, replicas: str, pools: tuple[str, ...]
) -> None:
    """Fifty replicas may run anywhere: they do not all fit in the pool, so what is free of it is unknown."""
    west = sites_of(tmp_path, replicas)["west"]
    assert west.unclear_pools == pools
    assert unclear_words(west) == ("pool west-k8s" if pools else "")
    shown = share(west.headroom[0], west.unclear[0])
    assert shown is not None
    assert (shown["is_least"], shown["total"]) == (bool(pools), "64 cores")
    assert not pools or shown["percent"] == 0
