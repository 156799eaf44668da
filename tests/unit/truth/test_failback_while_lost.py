"""A failback while another site is still lost counts on nothing that waits there, and forgets none of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.derive.domains import topology
from evac.derive.placed import PlaceCounts
from evac.derive.planning_instance import derive
from evac.derive.situation import of, situation_after
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.scenario import Scenario, lose
from evac.model.situation import Effects, LostNow, Moved
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import servers, written

TEXT = """
name: two homes
sites: {a: {}, b: {}, c: {}}
classes: {c: {cpu: 8 cores, memory: 64 GiB, boot: 60 s}}
services:
  shop: {tier: 0, people: 9, start: 60 s, share: "50 %", spread: {per_server: 4},
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""
HOME = "service,target,count\nshop,a1,2\nshop,b1,2\n"
BACK = Scenario("failback", ("b",))


def now(folder: Path, lost: tuple[str, ...], *placed: tuple[str, int], text: str = TEXT) -> Estate:
    """The estate after a run that left replicas at these places."""
    table = servers("a1,a,,c,serving,", "b1,b,,c,serving,", "c1,c,,c,serving,")
    estate = written(folder, text, servers=table, replicas=HOME)
    run = Moved("r1", "lose", ("b",), 5, 6, "succeeded", {"shop": placed}, number=1)
    marks = tuple(LostNow(domain, "lost", 1) for domain in lost)
    return of(estate, Observation(9, effects=Effects(marks, (run,)))).estate


def running(estate: Estate) -> dict[str, int]:
    return PlaceCounts(topology(estate)).running("shop")


def test_what_waits_at_another_site_does_not_count_as_running(tmp_path: Path) -> None:
    estate = now(tmp_path, ("a",), ("a1", 2))
    services = derive(estate, BACK).services
    assert (int(services.surviving[0]), int(services.m[0]), int(services.n[0])) == (0, 2, 4)
    made = plan(estate, BACK)
    assert check(estate, made).holds
    (shop,) = made.outcomes
    started = sum(step.count for step in made.steps if step.kind == "start")
    after = situation_after(estate, made).estate
    assert (shop.state, started, running(after)) == ("restored", 4, {"b1": 4})


def test_what_still_waits_there_is_not_forgotten(tmp_path: Path) -> None:
    """Only two fit at home: the other two wait for the site that is lost, for its restore to start them."""
    estate = now(tmp_path, ("a",), ("a1", 2), text=TEXT.replace("per_server: 4", "per_server: 2"))
    made = plan(estate, BACK)
    assert check(estate, made).holds
    assert [one.state for one in made.outcomes] == ["degraded"]
    after = situation_after(estate, made).estate
    assert PlaceCounts(topology(after)).of("shop") == {"a1": 2, "b1": 2}
    restored = plan(after, Scenario("restore", ("a",)))
    assert sum(step.count for step in restored.steps if step.kind == "start") == 2


@pytest.mark.parametrize(("elsewhere", "wanted"), [(1, 3), (2, 4)])
def test_what_someone_scaled_down_elsewhere_is_not_started_at_home(
    tmp_path: Path, elsewhere: int, wanted: int
) -> None:
    estate = now(tmp_path, (), ("a1", elsewhere))
    made = plan(estate, BACK)
    assert running(situation_after(estate, made).estate) == {"a1": elsewhere, "b1": wanted - elsewhere}


def test_each_loss_counts_a_surplus_by_itself(tmp_path: Path) -> None:
    """With what a run left too many of, how many are wanted depends on how many a loss leaves."""
    estate = now(tmp_path, (), ("a1", 2), ("b1", 3), ("c1", 2))
    assert estate.surplus == ("shop",)
    top = topology(estate)
    together = [int(derive(estate, lose(site), top=top).services.n[0]) for site in ("a", "b")]
    apart = [int(derive(estate, lose(site)).services.n[0]) for site in ("a", "b")]
    assert together == apart == [5, 4]
