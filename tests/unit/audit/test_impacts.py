"""Impacts for all losses at once say what the model says of each loss by itself."""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from bench.random_estates import random_estate
from evac.audit.impacts.all_losses import Impacts, impacts
from evac.audit.impacts.losses import losses, pairs
from evac.audit.impacts.planned import plain_where_small
from evac.derive.affected import (
    counts_by_service,
    families_without_instance,
    hit_by_dependency,
    stores_lost,
)
from evac.derive.domains import is_within, loss, topology
from evac.derive.pools import replicas_lost
from evac.estate.examples import pangyo
from evac.model.errors import UnknownDomain
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning import compiled
from evac.planning.plan import plan
from tests.unit.truth.written import written


@cache
def company(mended: bool) -> Estate:
    return pangyo(servers=1_000, mended=mended)


@cache
def company_impacts(mended: bool) -> Impacts:
    top = topology(company(mended))
    return impacts(top, losses(top))


@pytest.mark.parametrize("mended", [False, True])
def test_replicas_and_stores_are_lost_as_the_model_says(mended: bool) -> None:
    found = company_impacts(mended)
    estate, top = found.estate, found.top
    for number, members in enumerate(found.losses.members):
        gone = loss(top, members)
        taken = counts_by_service(estate.replicas, replicas_lost(top, gone), len(estate.services))
        assert found.lost[number].tolist() == taken.tolist()
        assert found.stores.lost[number].tolist() == stores_lost(top, gone).tolist()


@pytest.mark.parametrize("mended", [False, True])
def test_what_is_down_pulls_down_what_depends_on_it(mended: bool) -> None:
    found = company_impacts(mended)
    graph = found.graph
    for number in range(0, len(found.losses), 3):
        assert found.down[number].tolist() == hit_by_dependency(graph, found.direct[number]).tolist()
        gone = families_without_instance(graph, found.stores.lost[number])
        needs = np.array([bool(gone.intersection(f)) for f in graph.families])
        assert (found.direct[number] | ~needs).all()


def test_smallest_share_decides_who_is_down() -> None:
    found = company_impacts(False)
    below = (found.lost > 0) & (found.surviving < found.presence.m[None, :])
    assert (found.direct | ~below).all()
    assert not (found.direct & (found.lost == 0) & ~_needs_lost_store(found)).any()


def _needs_lost_store(found: Impacts) -> np.ndarray:
    table = np.zeros(found.down.shape, np.bool_)
    for number in range(len(found.losses)):
        gone = families_without_instance(found.graph, found.stores.lost[number])
        table[number] = [bool(gone.intersection(f)) for f in found.graph.families]
    return table


def _chain_times(found: Impacts) -> np.ndarray:
    """(L, S) times of the chains alone; 0 where nothing is down."""
    table = np.zeros(found.down.shape, np.int64)
    table[found.damage.pairs.loss, found.damage.pairs.service] = found.chains.ready
    return table


def test_nobody_is_back_before_what_it_needs() -> None:
    found = company_impacts(False)
    ready = _chain_times(found)
    for service, needs in enumerate(found.graph.hard):
        for other in needs:
            assert (ready[:, service] >= ready[:, other]).all()


def test_named_losses_give_the_same_rows_as_all() -> None:
    found = company_impacts(False)
    top = found.top
    chosen = (found.losses.ids[0], found.losses.ids[-1])
    some = impacts(top, losses(top, chosen))
    for number, name in enumerate(some.losses.ids):
        other = found.losses.index[name]
        assert some.fate[number].tolist() == found.fate[other].tolist()
        assert some.ready_ms[number].tolist() == found.ready_ms[other].tolist()


def test_a_server_can_be_lost_alone() -> None:
    estate = company(False)
    top = topology(estate)
    name = estate.fleet.server_name(0)
    alone = losses(top, (name, estate.sites[0].id))
    found = impacts(top, alone)
    gone = replicas_lost(top, loss(top, (name,))) > 0
    assert found.lost[0].sum() == estate.replicas.count[gone].sum()
    whole = replicas_lost(top, loss(top, (estate.sites[0].id,))) > 0
    assert found.lost[1].sum() == estate.replicas.count[whole].sum()


def test_an_unknown_domain_is_refused_with_near_names() -> None:
    with pytest.raises(UnknownDomain) as error:
        losses(topology(company(False)), ("pangio",))
    assert "pangyo" in error.value.hint


def test_pairs_lose_what_the_model_says() -> None:
    top = topology(company(False))
    both = pairs(top)
    assert "anyang + pangyo" in both.index
    assert not any(name.startswith("anyang + anyang/") for name in both.ids)
    found = impacts(top, both)
    for number in range(0, len(both), 7):
        gone = replicas_lost(top, loss(top, both.members[number])) > 0
        assert int(found.lost[number].sum()) == int(top.estate.replicas.count[gone].sum())


def test_no_pair_takes_only_what_one_of_its_domains_takes_alone(tmp_path: Path) -> None:
    """A group was paired with its own members, and a site with a group of its halls."""
    estate = written(
        tmp_path,
        """
sites: {a: {}, b: {}, c: {}}
halls: {a/x: {}, a/y: {}}
groups:
  campus: {members: [a, b]}
  floor: {members: [a/x, a/y]}
""",
    )
    top = topology(estate)
    found = [set(members) for members in pairs(top).members]
    alone = {name: loss(top, (name,)) for name in {*chain.from_iterable(found)}}
    for a, b in found:
        assert not is_within(top, alone[a], b)
        assert not is_within(top, alone[b], a)
    wanted = ({"a", "b"}, {"campus", "c"}, {"b", "floor"})
    never = ({"campus", "a"}, {"campus", "floor"}, {"a", "floor"})
    assert all(pair in found for pair in wanted)
    assert not any(pair in found for pair in never)


def test_a_small_audit_runs_compiled_once_a_search_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plans take a tenth of the time; a process without one would load it first, which takes longer."""
    estate = random_estate(2)
    plan(estate, lose(estate.sites[0].id))

    def runs_plain() -> bool:
        with plain_where_small(estate, 1):
            return compiled._Now.plain

    assert not runs_plain()
    monkeypatch.setattr(compiled, "ALL", [])
    assert runs_plain()
