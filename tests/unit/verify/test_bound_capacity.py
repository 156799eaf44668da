"""Capacity of many services at once, from rows alike, is what looking at one row after the other finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from bench.wild_instances import wild_instance
from evac.model.instance import Instance, Present
from evac.verify import bound_capacity
from evac.verify.bound_capacity import NEVER, Capacity, ServiceCapacity, capacity_of
from tests.unit.planning.instances import random_variant


def plain(capacity: Capacity, service: int, wanted: set[int]) -> ServiceCapacity:
    instance, s = capacity.instance, capacity.instance.services
    rows, pools, sites = instance.rows, len(instance.pools), len(instance.site_names)
    at = np.flatnonzero(instance.present.service == service)
    here = Counter[int]()
    last: dict[int, int] = {}
    for row, count in zip(
        instance.present.row[at].tolist(), instance.present.count[at].tolist(), strict=True
    ):
        here[row] += count
        last[row] = count
    fit = [_fits(capacity, service, row, last.get(row, 0)) for row in range(len(rows))]
    pool_of = [int(pool) for pool in rows.pool]
    pool_here, site_here = [0] * pools, [0] * sites
    for row, count in here.items():
        pool_here[pool_of[row]] += count
    rack = _within(capacity, fit, here, lambda row: int(rows.rack[row]), int(s.rack_cap[service]))
    feed = _within(capacity, fit, here, lambda row: int(rows.feed_group[row]), int(s.feed_cap[service]))
    cap = int(s.site_cap[service])
    pool = []
    for number in range(pools):
        whole = sum(count for row, count in enumerate(fit) if pool_of[row] == number)
        pool.append(min(rack[number], feed[number], max(min(whole, cap), pool_here[number])))
    site = [0] * sites
    for number, one in enumerate(instance.pools):
        site[one.site] += pool[number]
        site_here[one.site] += pool_here[number]
    site = [max(min(count, cap), standing) for count, standing in zip(site, site_here, strict=True)]
    taken = not s.sheddable[service]
    return ServiceCapacity(
        np.array(pool),
        np.array(site),
        np.array([max(a - b, 0) if taken else a for a, b in zip(pool, pool_here, strict=True)]),
        np.array([max(a - b, 0) if taken else a for a, b in zip(site, site_here, strict=True)]),
        {count: _enough(capacity, fit, count) for count in wanted},
        [number for number, count in enumerate(pool) if count > 0],
    )


def _fits(capacity: Capacity, service: int, row: int, standing: int) -> int:
    instance, s = capacity.instance, capacity.instance.services
    most = int(s.n[service])
    if not instance.rows.is_pool[row]:
        most = min(most, int(s.per_server[service]))
    if not instance.eligible[service, instance.rows.pool[row]]:
        most = 0
    own = 0 if s.sheddable[service] else standing
    for resource, need in enumerate(s.demand[service].tolist()):
        if need:
            most = min(most, (int(capacity.layout.capacity[row, resource]) + own * need) // need)
    return max(most, standing)


def _within(
    capacity: Capacity, fit: list[int], here: Counter[int], place: Callable[[int], int], cap: int
) -> list[int]:
    rows = capacity.instance.rows
    found = [0] * len(capacity.instance.pools)
    total, standing = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for row, count in enumerate(fit):
        if rows.is_pool[row] or place(row) < 0:
            found[rows.pool[row]] += count
        else:
            total[int(rows.pool[row]), place(row)] += count
            standing[int(rows.pool[row]), place(row)] += here[row]
    for (pool, number), count in total.items():
        found[pool] += max(min(count, cap), standing[pool, number])
    return found


def _enough(capacity: Capacity, fit: list[int], count: int) -> int:
    powered = sum(n for row, n in enumerate(fit) if capacity.powered[row])
    if count <= powered:
        return 0
    if count > sum(fit):
        return NEVER
    for tick in range(max(group.last for group in capacity.groups) + 1):
        up = powered
        for group in capacity.groups:
            up += sum(sorted((fit[row] for row in group.rows.tolist()), reverse=True)[: group.up(tick)])
        if up >= count:
            return tick
    return NEVER


@contextmanager
def ways(monkeypatch: pytest.MonkeyPatch, together: int, pairs: int, product: int) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(bound_capacity, "_TOGETHER", together)
        patched.setattr(bound_capacity, "_MOST_PAIRS", pairs)
        patched.setattr(bound_capacity, "_PRODUCT", product)
        yield


def twice_said(instance: Instance, rng: Random) -> Instance:
    """The same with some bindings said twice, as tables may."""
    present = instance.present
    again = np.sort([k for k in range(len(present.row)) for _ in range(rng.choice((1, 1, 2)))]).astype(int)
    return replace(
        instance, present=Present(present.service[again], present.row[again], present.count[again])
    )


def many(instance: Instance, factor: int, capacity: int) -> Instance:
    """The same where more are wanted, also on one server, and servers are larger."""
    s, rows = instance.services, instance.rows
    return replace(
        instance,
        services=replace(s, n=s.n * factor, per_server=s.per_server * factor),
        rows=replace(rows, capacity=rows.capacity * capacity),
    )


def beyond(instance: Instance) -> Instance:
    """The same where so many are wanted, and fit, that floating point does not hold their sums."""
    factor, s, rows = 2**53 + 1, instance.services, instance.rows
    caps = {name: np.full(len(s), 2**61) for name in ("rack_cap", "feed_cap", "site_cap")}
    small = replace(
        instance,
        services=replace(s, demand=np.minimum(s.demand, 1), **caps),
        rows=replace(rows, capacity=np.minimum(rows.capacity, 3)),
    )
    return many(small, factor, factor)


def check(instance: Instance) -> None:
    capacity = capacity_of(instance)
    s, away = instance.services, capacity.away
    order = Random(len(instance.rows)).sample(list(capacity.services), len(capacity.services))
    for service in order:
        found = capacity.services[service]
        wanted = {int(s.m[service] - away[service]), int(s.n[service] - away[service]), 1}
        expected = plain(capacity, service, wanted)
        for name in ("pool", "site", "new_pool", "new_site"):
            assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
        assert found.enough == expected.enough
        assert found.pools == expected.pools


@pytest.mark.parametrize("make", [wild_instance, random_variant])
@pytest.mark.parametrize("seed", range(50))
def test_capacity_is_the_same(
    make: Callable[[int], Instance], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = make(seed)
    others = many(instance, 4, 1), many(instance, 4, 2), beyond(instance)
    for one in (instance, twice_said(instance, Random(seed)), *others):
        for way in ((128, 2_000_000, 250_000), (3, 2_000_000, 1), (1, 2_000_000, 250_000), (128, 0, 1)):
            with ways(monkeypatch, *way):
                check(one)


def test_what_will_be_asked_for_is_what_is_found_one_by_one() -> None:
    for seed in range(20):
        instance = wild_instance(seed)
        ahead, alone = capacity_of(instance).services, capacity_of(instance).services
        ahead.look(range(len(instance.services)))
        assert set(ahead._found) == set(alone)
        for service in alone:
            assert ahead[service].pool.tolist() == alone[service].pool.tolist()
            assert ahead[service].enough == alone[service].enough
