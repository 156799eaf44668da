"""Published flaws put into the mended company, and taken out of the flawed one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import MappingProxyType

import numpy as np
import pytest

from evac.audit import Finding, audit
from evac.estate.examples import pangyo
from evac.model.estate import Estate, StoreMember
from evac.model.fleet import CONDEMNED, DARK, SPARE

HOUR = 3_600_000


@cache
def mended() -> Estate:
    return pangyo(servers=1_000, mended=True)


def errors(estate: Estate) -> list[Finding]:
    return [f for f in audit(estate).findings if f.severity == "error"]


def _service(estate: Estate, name: str, **facts: object) -> Estate:
    services = tuple(replace(s, **facts) if s.id == name else s for s in estate.services)
    return replace(estate, services=services)


def _store(estate: Estate, name: str, **facts: object) -> Estate:
    return replace(estate, stores=tuple(replace(d, **facts) if d.id == name else d for d in estate.stores))


def _moved_to(estate: Estate, name: str, site: str) -> Estate:
    """All replicas of a service on servers of one site, as many on each as it takes."""
    row = [s.id for s in estate.services].index(name)
    index = [s.id for s in estate.sites].index(site)
    mine = estate.replicas.service == row
    servers = np.flatnonzero(estate.fleet.site == index)[: int(mine.sum())]
    target = estate.replicas.target.copy()
    target[mine] = servers
    moved = replace(estate, replicas=replace(estate.replicas, target=target))
    return _service(moved, name, eligible_sites=(site,))


def no_reserve(estate: Estate) -> Estate:
    state = np.where(np.isin(estate.fleet.state, (DARK, SPARE)), CONDEMNED, estate.fleet.state).astype(
        np.uint8
    )
    lean = replace(estate, fleet=replace(estate.fleet, state=state))
    return replace(lean, services=tuple(replace(s, sheddable=False) for s in lean.services))


def tool_in_pangyo(estate: Estate) -> Estate:
    return _moved_to(estate, "redistribution", "pangyo")


def ttl_above_rto(estate: Estate) -> Estate:
    front = next(s for s in estate.services if s.traffic.kind == "dns" and s.rto_ms)
    slow = replace(front.traffic, ttl_ms=2 * (front.rto_ms or 0))
    return _service(estate, front.id, traffic=slow)


def majority_in_one_site(estate: Estate) -> Estate:
    votes = next(d for d in estate.stores if d.quorum)
    members = tuple(StoreMember(f"gasan/hall-{i + 1}", m.mode, 0) for i, m in enumerate(votes.members))
    return _store(estate, votes.id, members=members)


def store_without_copy(estate: Estate) -> Estate:
    alone = next(d for d in estate.stores if not d.quorum)
    return _store(estate, alone.id, members=(StoreMember("bundang/hall-1", "primary", 0),), backups=())


def lag_above_rpo(estate: Estate) -> Estate:
    store = next(d for d in estate.stores if not d.quorum and d.rpo_ms == 0)
    late = tuple(replace(m, mode="async", lag_ms=HOUR) if m.mode == "sync" else m for m in store.members)
    return _store(estate, store.id, members=late)


def hands_only(estate: Estate) -> Estate:
    here = estate.fleet.site == [s.id for s in estate.sites].index("anyang")
    bmc = np.where(here, 0, estate.fleet.bmc).astype(np.uint8)
    return replace(estate, fleet=replace(estate.fleet, bmc=bmc))


def hopeless_by_hand(estate: Estate) -> Estate:
    limits = replace(estate.limits, manual_ms=MappingProxyType({}))
    return tool_in_pangyo(replace(estate, limits=limits))


FLAWS: tuple[tuple[Callable[[Estate], Estate], str], ...] = (
    (no_reserve, "capacity-short"),
    (tool_in_pangyo, "recovery-tool-lost"),
    (hopeless_by_hand, "recovery-tool-lost"),
    (ttl_above_rto, "traffic-cannot-move"),
    (majority_in_one_site, "quorum-in-one-domain"),
    (store_without_copy, "no-copy-outside"),
    (lag_above_rpo, "data-loss-above-rpo"),
    (hands_only, "servers-by-hand"),
)


def test_the_mended_company_has_no_error() -> None:
    assert errors(mended()) == []


@pytest.mark.parametrize(("flaw", "rule"), FLAWS, ids=lambda x: getattr(x, "__name__", x))
def test_a_flaw_put_in_is_an_error(flaw: Callable[[Estate], Estate], rule: str) -> None:
    assert rule in {f.rule for f in errors(flaw(mended()))}


def test_a_tool_that_is_lost_whole_with_no_way_by_hand_takes_everything() -> None:
    found = {f.subject: f for f in errors(hopeless_by_hand(mended())) if f.rule == "recovery-tool-lost"}
    assert found["redistribution"].chain == ("redistribution", "redistribution (for start)")
    assert found["redistribution"].domains[0] == "pangyo"
    assert "never comes back" in found["redistribution"].message


def test_a_flaw_taken_out_of_the_flawed_company_vanishes() -> None:
    flawed, cured = pangyo(servers=1_000), mended()
    stores = {d.id: d for d in cured.stores}
    kept = tuple(stores.get(d.id, d) for d in flawed.stores)
    better = replace(flawed, stores=kept, groups=cured.groups)
    before = {f.rule for f in errors(flawed)}
    after = {f.rule for f in errors(better)}
    stored = {"no-copy-outside", "data-loss-above-rpo", "quorum-in-one-domain"}
    assert stored <= before
    assert not stored & after
    assert "servers-by-hand" in after
