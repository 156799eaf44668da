"""Placing over shapes against placing on every single server."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evac.audit.impacts.all_losses import impacts
from evac.audit.impacts.capacity import capacity
from evac.audit.impacts.dependencies import taken_of
from evac.audit.impacts.free_capacity import Headroom, Used, Wants, load_of, power_of, reserves
from evac.audit.impacts.losses import Losses, Presence, losses, lost_counts, pools_taken, presence
from evac.audit.impacts.placing import Supply, open_packing, pack, stock_of, supply_of
from evac.derive.domains import Topology, topology
from evac.derive.planning_instance import derive
from evac.estate.examples import pangyo
from evac.model.fleet import BMC_NO, CONDEMNED, SERVING, SPARE
from evac.model.scenario import lose

BIG = 2**40


def _headroom(free: np.ndarray, site: list[int]) -> Headroom:
    """A room of single servers: one shape each, one pool a site."""
    count = len(site)
    sites = np.array(site, np.int32)
    return Headroom(
        free=np.ascontiguousarray(free.T),
        vague=np.zeros((2, 4), np.bool_),
        beside=np.zeros(2, np.bool_),
        count=np.ones(count, np.int64),
        pool=sites,
        site=sites,
        stage=np.zeros(count, np.int32),
        is_pool=np.zeros(count, np.bool_),
        pool_names=("a:", "b:"),
        pool_site=np.arange(2, dtype=np.int32),
        pool_class=np.full(2, -1, np.int32),
        server_shape=np.arange(count, dtype=np.int32),
        row_start=np.zeros(1, np.int64),
        row_server=np.empty(0, np.int32),
    )


def _wants(demand: np.ndarray, per_server: list[int], site_cap: list[int], headroom: Headroom) -> Wants:
    services = len(demand)
    eligible = np.ones((services, 2), np.bool_)
    return Wants(
        demand,
        np.ones(services, np.bool_),
        np.array(per_server, np.int64),
        np.array(site_cap, np.int64),
        eligible,
        eligible[:1],
        np.zeros(services, np.int32),
        np.arange(services, dtype=np.int32),
    )


def _one_by_one(free: np.ndarray, site: list[int], wants: Wants, counts: list[int]) -> list[int]:
    """First fit, site by site, as many on a server as the service allows before the next server.

    A server that could have taken more of the service stands behind all others from then on.
    """
    left, order = free.copy(), list(range(len(site)))
    placed = []
    for service, count in enumerate(counts):
        demand, done = wants.demand[service], 0
        for place in (0, 1):
            share = min(count - done, int(wants.site_cap[service]))
            for server in [one for one in order if site[one] == place]:
                room = (left[server, demand > 0] // demand[demand > 0]).min()
                most = min(int(wants.per_server[service]), int(room))
                taken = min(most, share)
                left[server] -= taken * demand
                share -= taken
                done += taken
                if 0 < taken < most:
                    order.remove(server)
                    order.append(server)
        placed.append(done)
    return placed


amounts = st.integers(0, 6)


@example(
    [(3, 0, 0), (1, 1, 0)], [(1, 0, 1, per_server, BIG) for per_server in (1, 2, 1)] + [(0, 1, 1, 1, BIG)]
)
@given(
    st.lists(st.tuples(amounts, amounts, st.integers(0, 1)), min_size=1, max_size=40),
    st.lists(
        st.tuples(amounts, amounts, st.integers(1, 8), st.integers(1, 3), st.sampled_from([BIG, 1, 3])),
        min_size=1,
        max_size=6,
    ),
)
def test_shapes_place_what_first_fit_places(
    servers: list[tuple[int, int, int]], services: list[tuple[int, int, int, int, int]]
) -> None:
    site = sorted(s for _, _, s in servers)
    free = np.array([[cpu, memory, 0, 0] for cpu, memory, _ in servers], np.int64)
    headroom = _headroom(free, site)
    demand = np.array([[max(1, c), m, 0, 0] for c, m, *_ in services], np.int64)
    wants = _wants(demand, [s[3] for s in services], [s[4] for s in services], headroom)
    counts = [s[2] for s in services]
    packing = open_packing(
        stock_of(headroom, wants, Used(free, free[:0]), np.ones(len(counts), np.bool_)),
        np.zeros(len(site), np.int64),
        np.zeros(2, np.bool_),
        np.array(counts),
    )
    placed = pack(
        packing,
        wants,
        np.array(counts),
        np.zeros(len(counts), np.int64),
        np.zeros((2, len(counts)), np.int64),
    )
    assert placed.base.tolist() == _one_by_one(free, site, wants, counts)
    assert (packing.free[: packing.size[0]] >= 0).all()


@cache
def _company(mended: bool) -> tuple[Topology, Losses, Presence, Supply]:
    top = topology(pangyo(servers=1_000, mended=mended))
    every = losses(top)
    found = presence(top, every.rows)
    return top, every, found, supply_of(top, every, found)


@pytest.mark.parametrize("mended", [False, True])
def test_room_is_never_overstated(mended: bool) -> None:
    top, _, _, supply = _company(mended)
    fleet, headroom = top.estate.fleet, supply.headroom
    rows = np.flatnonzero(headroom.server_shape >= 0)
    assert int(headroom.count.sum()) == len(rows)
    demand = np.zeros((len(fleet), 4), np.int64)
    here = top.estate.replicas
    np.add.at(demand, here.target, supply.demand[here.service] * here.count[:, None])
    real = np.maximum(fleet.capacity - demand, 0)[rows]
    assert (headroom.free.T[headroom.server_shape[rows]] <= real).all()
    assert not (fleet.state[rows] == CONDEMNED).any()


@pytest.mark.parametrize("mended", [False, True])
def test_reserves_are_those_of_the_planning_instance_but_for_power(mended: bool) -> None:
    top, *_ = _company(mended)
    found = reserves(top)
    instance = derive(top.estate, lose("sejong"), top=top)
    planned = set(instance.rows.fleet_row.tolist())
    ours = set(np.flatnonzero(found.usable).tolist())
    assert ours <= planned
    by_people = found.over_power | found.last
    assert set(np.flatnonzero(found.over_power).tolist()) <= planned - ours
    assert planned - ours <= set(np.flatnonzero(by_people).tolist())
    assert not (found.usable & found.dark & (top.estate.fleet.bmc == BMC_NO)).any()


def test_a_rack_with_two_feeds_counts_on_both() -> None:
    top, *_ = _company(True)
    power, fleet = power_of(top), top.estate.fleet
    loads = dict.fromkeys(power.names, 0)
    on = ((fleet.state == SERVING) | (fleet.state == SPARE)) & fleet.watts_known
    for row in np.flatnonzero(on).tolist():
        rack = top.estate.racks[fleet.rack[row]]
        site = top.estate.sites[fleet.site[row]].id
        for name in {rack.id, *rack.feeds, rack.hall or "", site} & loads.keys():
            loads[name] += int(fleet.watts[row])
    assert dict(zip(power.names, load_of(top, power).tolist(), strict=True)) == loads
    assert any(len(rack.feeds) == 2 and rack.feeds[1] in loads for rack in top.estate.racks)


@pytest.mark.parametrize("mended", [False, True])
def test_down_at_a_site_is_what_the_planning_instance_says(mended: bool) -> None:
    top, every, _, _ = _company(mended)
    found = impacts(top, every)
    for site in ("anyang", "bundang", "gasan", "pangyo"):
        instance = derive(top.estate, lose(site), top=top)
        assert found.down[every.index[site]].tolist() == instance.services.base_lost.tolist()
        assert found.surviving[every.index[site]].tolist() == instance.services.surviving.tolist()


def test_what_is_placed_is_what_was_lost_or_is_named_as_short() -> None:
    top, every, found, supply = _company(False)
    pools = pools_taken(top, every)
    lost = lost_counts(found, every, pools)
    result = capacity(supply, every, lost, taken_of(lost), pools)
    for number in range(len(every)):
        missing = int(result.to_place[number] - result.placed[number])
        short = result.short.get(number)
        if short is None:
            assert missing == 0
        else:
            assert missing == int((short.unplaced_base + short.unplaced_top).sum())
            assert short.after_shedding.sum() <= short.unplaced_base[short.firm].sum()
    assert result.short
