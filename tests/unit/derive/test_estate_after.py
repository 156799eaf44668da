"""The estate after a plan: nothing appears, nothing vanishes, and the next plan can begin with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evac.app.planner.plans import make_plan
from evac.derive.domains import loss, topology
from evac.derive.situation import estate_after
from evac.estate.examples import pangyo
from evac.model.estate import Estate
from evac.model.fleet import CONDEMNED, DARK, ON_SERVER, SERVING
from evac.model.plan import Plan
from evac.model.scenario import Scenario, lose
from evac.verify import check


@pytest.fixture(scope="module", params=[True, False], ids=["mended", "flawed"])
def burnt(request: pytest.FixtureRequest) -> tuple[Estate, Plan, Estate]:
    estate = pangyo(servers=1_000, mended=request.param)
    plan = make_plan(estate, lose("pangyo"), budget_ms=200).plan
    return estate, plan, estate_after(estate, plan)


def _totals(estate: Estate) -> list[int]:
    found = np.zeros(len(estate.services), np.int64)
    np.add.at(found, estate.replicas.service, estate.replicas.count)
    return found.tolist()


def test_every_replica_runs_or_waits_at_what_is_lost(burnt: tuple[Estate, Plan, Estate]) -> None:
    estate, _, after = burnt
    assert _totals(after) == _totals(estate)


def test_what_waits_is_bound_to_the_lost_site_and_what_runs_to_a_live_server(
    burnt: tuple[Estate, Plan, Estate],
) -> None:
    _, plan, after = burnt
    dark = loss(topology(after), ("pangyo",)).servers
    bound = after.replicas.kind == ON_SERVER
    rows = after.replicas.target[bound]
    assert set(after.fleet.state[rows[~dark[rows]]].tolist()) == {SERVING}
    states = set(after.fleet.state[dark].tolist())
    assert states <= {DARK, CONDEMNED}
    back = {o.service for o in plan.outcomes if o.state in ("restored", "running")}
    waiting = {after.services[s].id for s in after.replicas.service[bound][dark[rows]].tolist()}
    assert not waiting & back


def test_primaries_stand_where_the_plan_put_them(burnt: tuple[Estate, Plan, Estate]) -> None:
    _, plan, after = burnt
    primary = {store.id: store.primary for store in after.stores}
    moved = [s for s in plan.stores if s.primary_ms is not None and not s.restored]
    # Of the flawed one no store can move: those with a copy left have lost the majority of their votes.
    assert moved or all(s.primary_ms is None for s in plan.stores)
    for outcome in moved:
        found = primary[outcome.store]
        assert found is not None
        assert found.at == outcome.candidate


def test_a_restore_can_be_planned_from_it_and_brings_back_what_was_missing(
    burnt: tuple[Estate, Plan, Estate],
) -> None:
    _, _, after = burnt
    plan = make_plan(after, Scenario("restore", ("pangyo",)), budget_ms=200).plan
    assert check(after, plan).holds
    whole = estate_after(after, plan)
    booted = {step.target for step in plan.steps if step.kind == "boot"}
    names = [whole.fleet.server_name(v) for v in np.flatnonzero(whole.fleet.state == DARK).tolist()]
    assert not booted & set(names)
    assert sum(_totals(whole)) <= sum(_totals(after))


def test_a_failback_brings_every_primary_home(burnt: tuple[Estate, Plan, Estate]) -> None:
    estate, _, after = burnt
    back = make_plan(after, Scenario("restore", ("pangyo",)), budget_ms=100).plan
    away = replace(estate, stores=estate_after(after, back).stores)
    moved = {store.id for store in away.stores if store.home}
    assert moved
    plan = make_plan(away, Scenario("failback", ("pangyo",)), budget_ms=100).plan
    home = estate_after(away, plan)
    files = {store.id: store.primary for store in estate.stores}
    for store in home.stores:
        if store.id in moved and not store.home:
            was, now = files[store.id], store.primary
            assert was is not None
            assert now is not None
            assert now.at == was.at
    still_away = {store.id for store in home.stores if store.home}
    assert not still_away & {s.store for s in plan.stores if s.primary_ms is not None}
