"""The flaws of October 2022 are in the flawed company and gone from the mended one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from evac.model.estate import Estate, Service
from evac.model.fleet import BMC_NO, CONDEMNED, DARK
from tests.unit.estate.example.checks import copies_left

WORK_TOOLS = ("deploy", "monitoring", "chat", "identity", "inventory", "registry", "evac")


def _sites(estate: Estate) -> dict[str, set[str]]:
    site = estate.fleet.site[estate.replicas.target]
    found: dict[str, set[str]] = {s.id: set() for s in estate.services}
    for service, place in np.unique(np.stack((estate.replicas.service, site)), axis=1).T.tolist():
        found[estate.services[service].id].add(estate.sites[place].id)
    return found


def _hard(estate: Estate) -> Iterator[tuple[Service, Service]]:
    known = {s.id: s for s in estate.services}
    for service in estate.services:
        for need in service.needs:
            if need.hard and need.kind == "service":
                yield service, known[need.target]


def _closure(estate: Estate, starts: set[str]) -> set[str]:
    """Services that these need, transitively, by hard dependencies."""
    edges: dict[str, set[str]] = {}
    for source, target in _hard(estate):
        edges.setdefault(source.id, set()).add(target.id)
    found, waiting = set(starts), list(starts)
    while waiting:
        for name in edges.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


def _in_cycles(estate: Estate) -> set[str]:
    """Services left when those without unresolved hard dependencies are taken away again and again."""
    needs: dict[str, set[str]] = {s.id: set() for s in estate.services}
    for source, target in _hard(estate):
        needs[source.id].add(target.id)
    while True:
        free = {name for name, wanted in needs.items() if not wanted}
        if not free:
            return set(needs)
        needs = {name: wanted - free for name, wanted in needs.items() if name not in free}


def test_redistribution_and_work_tools_stand_at_pangyo_alone(flawed: Estate) -> None:
    sites = _sites(flawed)
    for role in WORK_TOOLS:
        assert all(sites[name] == {"pangyo"} for name in flawed.tools[role]), role


def test_redistribution_was_duplicated_inside_pangyo(flawed: Estate) -> None:
    row = [s.id for s in flawed.services].index("redistribution")
    racks = flawed.fleet.rack[flawed.replicas.target[flawed.replicas.service == row]]
    assert len({flawed.racks[r].hall for r in racks.tolist()}) >= 2


def test_mended_tools_and_all_they_need_stand_at_two_sites_or_more(mended: Estate) -> None:
    sites = _sites(mended)
    tools = {name for names in mended.tools.values() for name in names}
    for name in _closure(mended, tools):
        assert len(sites[name]) >= 2, name


def test_mended_tools_wait_for_no_store(mended: Estate) -> None:
    known = {s.id: s for s in mended.services}
    tools = {name for names in mended.tools.values() for name in names}
    for name in _closure(mended, tools):
        assert not [n for n in known[name].needs if n.kind == "store" and n.hard], name


def test_single_site_services_are_many_before_and_none_after(flawed: Estate, mended: Estate) -> None:
    single = [name for name, sites in _sites(flawed).items() if sites == {"pangyo"}]
    assert len(single) > 200
    assert min(len(sites) for sites in _sites(mended).values()) >= 2


def test_stores_without_a_copy_elsewhere_exist_before_and_not_after(flawed: Estate, mended: Estate) -> None:
    alone = [s for s in flawed.stores if {m.at.split("/")[0] for m in s.members} == {"pangyo"}]
    assert len(alone) > 20
    assert any(not s.backups for s in alone)
    for store in mended.stores:
        for site in ("anyang", "bundang", "gasan", "pangyo", "sejong"):
            assert copies_left(store, site), (store.id, site)
        primary = store.primary
        assert primary is not None
        home = primary.at.split("/")[0]
        assert store.automatic
        assert all(b.verified is not None and b.at != home for b in store.backups)
        assert sum(m.votes for m in store.members) == 3
        assert len({m.at.split("/")[0] for m in store.members}) == 3


def test_hands_must_boot_pangyo_before_and_nothing_after(flawed: Estate, mended: Estate) -> None:
    index = [s.id for s in flawed.sites].index("pangyo")
    assert bool((flawed.fleet.bmc[flawed.fleet.site == index] == BMC_NO).all())
    assert not bool((mended.fleet.bmc == BMC_NO).any())
    assert not bool((mended.fleet.state == CONDEMNED).any())
    assert int((flawed.fleet.state == DARK).sum()) * 3 < int((mended.fleet.state == DARK).sum()) * 2


def test_manual_ways_exist_in_both_and_are_slow(flawed: Estate, mended: Estate) -> None:
    for estate in (flawed, mended):
        assert {"start", "boot", "promote", "shift", "approve"} <= set(estate.limits.manual_ms)
        slow = [ms for kind, ms in estate.limits.manual_ms.items() if kind != "power"]
        assert min(slow) >= 300_000
    assert (flawed.limits.hands_at_once or 0) <= 20


def test_cycles_and_tier_inversions_exist_before_and_not_after(flawed: Estate, mended: Estate) -> None:
    assert {"config", "discovery", "secrets", "workforce-login"} <= _in_cycles(flawed)
    assert any((a.tier or 0) < (b.tier or 0) for a, b in _hard(flawed))
    assert _in_cycles(mended) == set()
    assert all((a.tier or 0) >= (b.tier or 0) for a, b in _hard(mended))


def test_objectives_contradict_each_other_before_and_not_after(flawed: Estate, mended: Estate) -> None:
    assert any((a.rto_ms or 0) < (b.rto_ms or 0) for a, b in _hard(flawed))
    assert all((a.rto_ms or 0) >= (b.rto_ms or 0) for a, b in _hard(mended))


def test_dependencies_are_about_six_levels_deep(mended: Estate) -> None:
    needs: dict[str, list[str]] = {s.id: [] for s in mended.services}
    for source, target in _hard(mended):
        needs[source.id].append(target.id)
    depth: dict[str, int] = {}

    def measure(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((measure(n) for n in needs[name]), default=0)
        return depth[name]

    assert max(map(measure, needs)) == 6


def test_names_take_too_long_before_and_not_after(flawed: Estate, mended: Estate) -> None:
    def too_long(estate: Estate) -> list[str]:
        return [s.id for s in estate.services if (s.traffic.ttl_ms or 0) > (s.rto_ms or 0)]

    assert too_long(flawed)
    assert too_long(mended) == []


def test_sites_share_fate_before_and_not_after(flawed: Estate, mended: Estate) -> None:
    def across(estate: Estate) -> list[str]:
        return [g.id for g in estate.groups if len({m.split("/")[0] for m in g.members}) > 1]

    assert across(flawed) == ["bundang-utility", "gasan-spine-b"]
    assert across(mended) == []


def test_rehearsals_cover_every_site_hall_and_group_after(flawed: Estate, mended: Estate) -> None:
    full = {s.id for s in flawed.sites}
    assert not full & {r.domain for r in flawed.rehearsals}
    wanted = {d.id for ds in (mended.sites, mended.halls, mended.groups) for d in ds}
    assert wanted == {r.domain for r in mended.rehearsals}
    assert all(mended.changed is not None and r.done > mended.changed for r in mended.rehearsals)
    shed = [s for s in mended.services if s.sheddable]
    assert shed
    assert all(s.tier == 3 and s.shed_rehearsed is not None for s in shed)


def test_something_has_expired_before_and_nothing_after(flawed: Estate, mended: Estate) -> None:
    assert flawed.as_of is not None
    assert any(e.expires is not None and e.expires < flawed.as_of for e in flawed.expiring)
    assert all(e.expires is not None and (e.expires - flawed.as_of).days > 90 for e in mended.expiring)


def test_rival_automation_can_be_paused_after(flawed: Estate, mended: Estate) -> None:
    assert any(a.can_be_paused is False for a in flawed.automations)
    assert all(a.can_be_paused for a in mended.automations)


def test_links_ingress_and_power_are_wide_enough_after(flawed: Estate, mended: Estate) -> None:
    everything = sum(s.traffic.mbps or 0 for s in mended.services)
    full = [s for s in mended.sites if s.role == "full"]
    assert all((s.ingress_mbps or 0) >= everything for s in full)
    pairs = {link.ends: link.bandwidth_mbps or 0 for link in mended.links}
    assert all(pairs[pair] >= everything for pair in combinations([s.id for s in full], 2))
    assert (
        sum(s.ingress_mbps or 0 for s in flawed.sites if s.role == "full" and s.id != "pangyo") < everything
    )
    for estate, roomy in ((flawed, False), (mended, True)):
        watts = np.bincount(estate.fleet.site, estate.fleet.watts, len(estate.sites))
        budgets = [s.power_budget_watts or 0 for s in estate.sites]
        assert all(b > w for b, w in zip(budgets, watts.tolist(), strict=True) if w) == roomy


def test_replicas_huddle_in_one_rack_before_and_not_after(flawed: Estate, mended: Estate) -> None:
    def huddled(estate: Estate) -> list[str]:
        racks = estate.fleet.rack[estate.replicas.target]
        pairs = np.unique(np.stack((estate.replicas.service, racks)), axis=1)
        return [estate.services[i].id for i in np.flatnonzero(np.bincount(pairs[0]) == 1)]

    assert len(huddled(flawed)) >= 3
    assert huddled(mended) == []
