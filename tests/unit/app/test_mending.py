"""Plans mended out of their own bytes: of the estate as it stands, and checked like any other."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from evac.app.planner.plans import Made, Mender, make_plan, mended
from evac.derive.situation import estate_after
from evac.engine.boots.feed_watch import Trouble
from evac.estate.codecs import plan as plan_codec
from evac.estate.examples import pangyo
from evac.model.digest import estate_digest
from evac.model.errors import PlanError, StalePlan, UnknownDomain
from evac.model.estate import Estate
from evac.model.scenario import Scenario, lose


@pytest.fixture(scope="module")
def restore() -> tuple[Estate, Made]:
    burnt = pangyo(servers=1_000, mended=False)
    estate = estate_after(burnt, make_plan(burnt, lose("pangyo"), budget_ms=50).plan)
    return estate, make_plan(estate, Scenario("restore", ("pangyo",)), budget_ms=50)


def _carrying(made: Made) -> str:
    """A server that is booted for replicas that start on it."""
    booted = {step.target for step in made.plan.steps if step.kind == "boot"}
    return next(n for s in made.plan.steps if s.kind == "start" for n, _ in s.servers if n in booted)


def test_the_mended_plan_is_of_the_estate_as_it_stands(restore: tuple[Estate, Made]) -> None:
    estate, made = restore
    dead = _carrying(made)
    data = mended(estate, made.data, Trouble(frozenset({dead}), frozenset()))
    assert data is not None
    plan = plan_codec.decode(data)
    assert plan.estate_digest == estate_digest(estate)
    assert not any(dead == name for step in plan.steps for name, _ in step.servers)


def test_where_nothing_stood_on_the_server_there_is_nothing_to_mend(restore: tuple[Estate, Made]) -> None:
    estate, made = restore
    assert mended(estate, made.data, Trouble(frozenset({"no-such-server"}), frozenset())) is None


def test_an_estate_without_what_the_plan_is_about_is_said_and_the_run_keeps_its_plan(
    restore: tuple[Estate, Made],
) -> None:
    estate, made = restore
    trouble = Trouble(frozenset({_carrying(made)}), frozenset())
    plan = plan_codec.decode(made.data)
    first = next(step for step in plan.steps if step.kind == "start")
    for gone, why in (
        (replace(first, target="gone"), "no longer contains service gone"),
        (replace(first, pool="gone"), "no longer contains pool gone"),
    ):
        older = replace(plan, steps=tuple(gone if step is first else step for step in plan.steps))
        with pytest.raises(StalePlan, match=why):
            mended(estate, plan_codec.encode(older), trouble)
    elsewhere = replace(plan, scenario=Scenario("restore", ("elsewhere",)))
    with pytest.raises(UnknownDomain):
        mended(estate, plan_codec.encode(elsewhere), trouble)


def test_a_process_of_its_own_mends_the_same(restore: tuple[Estate, Made]) -> None:
    estate, made = restore
    trouble = Trouble(frozenset({_carrying(made)}), frozenset())

    async def story() -> None:
        mender = Mender()
        try:
            assert await mender.mend(estate, made.data, trouble) == mended(estate, made.data, trouble)
            with pytest.raises(PlanError):
                await mender.mend(estate, b"{}", trouble)
        finally:
            mender.close()

    asyncio.run(story())
