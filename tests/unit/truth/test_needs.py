"""What is needed to serve does not hold up a start; what is needed to start does (A1)."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.planning.plan import plan, plan_instance
from evac.verify import check, check_instance
from tests.unit.planning.instances import build, random_draft
from tests.unit.truth.written import written

CHAIN = """
name: chain
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 64 cores, memory: 64 GiB}, pb: {site: b, cpu: 64 cores, memory: 64 GiB}}
services:
"""


def service(name: str, needs: str = "") -> str:
    return (
        f"  {name}: {{tier: 0, people: 10, replicas: {{pa: 1}}, start: 60 s, needs: [{needs}],"
        " demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}\n"
    )


def chain(folder: Path, needed_to: str) -> Estate:
    first = [service("s1")]
    more = [service(f"s{k}", f"{{service: s{k - 1}, needed_to: {needed_to}}}") for k in range(2, 6)]
    return written(folder, CHAIN + "".join(first + more))


@pytest.mark.parametrize(("needed_to", "wanted"), [("serve", [60] * 5), ("start", [60, 120, 180, 240, 300])])
def test_a_chain_of_five_starts_of_a_minute(tmp_path: Path, needed_to: str, wanted: list[int]) -> None:
    estate = chain(tmp_path, needed_to)
    made = plan(estate, lose("a"))
    assert [o.base_ms for o in made.outcomes] == [1_000 * second for second in wanted]
    assert made.bound == made.objective
    assert check(estate, made).holds
    report = audit(estate)
    ready = report.impacts.ready_ms[report.impacts.losses.index["a"]]
    assert ready.tolist() == [1_000 * second for second in wanted]


CIRCLE = (
    CHAIN
    + service("one", "{service: two, needed_to: start}")
    + service("two", "{service: three, needed_to: serve}")
    + service("three", "{service: one, needed_to: serve}")
    + service("user", "one")
    + service("apart")
)


def fates(estate: Estate) -> dict[str, str]:
    report = audit(estate)
    row = report.impacts.fate[report.impacts.losses.index["a"]].tolist()
    return {s.id: FATES[fate] for s, fate in zip(estate.services, row, strict=True)}


def states(made: Plan) -> dict[str, str]:
    return {o.service: o.state for o in made.outcomes}


def test_a_circle_with_a_need_to_start_never_starts(tmp_path: Path) -> None:
    estate = written(tmp_path, CIRCLE)
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    lost = {"one", "two", "three", "user"}
    assert {name for name, state in states(made).items() if state == "unplaced"} == lost
    assert {name for name, fate in fates(estate).items() if fate == "lost"} == lost
    reasons = {o.service: o.reason for o in made.outcomes}
    assert reasons["one"].startswith("start cycle: starting one needs")
    assert reasons["user"] == "needs one, which is not restored"
    assert states(made)["apart"] == "restored"
    found = [f for f in audit(estate).findings if f.rule == "cold-start-cycle"]
    assert [f.severity for f in found] == ["error"]
    assert found[0].chain == ("one", "two", "three", "one")


def test_people_may_break_a_circle(tmp_path: Path) -> None:
    estate = written(tmp_path, CIRCLE + "limits: {manual: {start-cycle: 10 min}}\n")
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert {o.service: o.base_ms for o in made.outcomes} == {
        "apart": 60_000,
        "one": 660_000,
        "three": 660_000,
        "two": 660_000,
        "user": 660_000,
    }
    assert [s.id for s in made.steps if s.kind == "attest"] == ["attest:one", "attest:three", "attest:two"]
    assert set(fates(estate).values()) == {"recovers"}


def test_a_circle_of_needs_to_serve_comes_back_together(tmp_path: Path) -> None:
    estate = written(tmp_path, CIRCLE.replace("needed_to: start", "needed_to: serve"))
    made = plan(estate, lose("a"))
    assert {o.base_ms for o in made.outcomes} == {60_000}
    assert set(fates(estate).values()) == {"recovers"}


@pytest.mark.parametrize("seed", range(40))
def test_needs_to_serve_never_cost_more_and_every_bound_holds(seed: int) -> None:
    """Of random instances: with some needs to serve instead of to start, the same plan rules and proof hold,
    and the bound is no higher than with all of them to start.
    """
    draft = random_draft(seed)
    rng = random.Random(seed)
    looser = replace(
        draft,
        services=tuple(
            replace(
                s,
                serve=tuple(n for n in s.hard if rng.random() < 0.6),
                serve_stores=tuple(n for n in s.stores if rng.random() < 0.6),
            )
            for s in draft.services
        ),
    )
    strict, loose = build(draft), build(looser)
    made = plan_instance(loose)
    verdict = check_instance(loose, made)
    assert verdict.holds, verdict.violations
    assert made.bound <= made.objective
    assert made.heads <= plan_instance(strict).heads


CHOICE = """
  NAME: {tier: 0, people: PEOPLE, replicas: {pb: 1}, start: 60 s, verify: CHECK s, traffic: {kind: none},
         demand: {cpu: 1 core, memory: 1 GiB}, needs: [NEEDS]}
"""
CHOICES = """
name: choices
sites: {a: {}, b: {}}
pools: {pb: {site: b, cpu: 80 cores, memory: 640 GiB}, pa: {site: a, cpu: 8 cores, memory: 64 GiB}}
stores:
  orders: {engine: postgresql, promote: 60 s, fence: 30 s, rpo: 0 s,
           members: [{at: a, mode: primary}, {at: b, mode: sync}]}
  films: {engine: postgresql, promote: 20 s, fence: 5 s, rpo: 0 s,
          members: [{at: a, mode: primary}, {at: b, mode: sync}]}
services:
"""


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_bound_waits_for_what_all_alternatives_need(data: st.DataObject) -> None:
    """It holds whatever is chosen, and no service that needs one of several is thought to be back before
    what none of them can do without.
    """
    count = data.draw(st.integers(3, 7))
    text = CHOICES
    for number in range(count):
        needs = data.draw(st.lists(st.sampled_from(["{store: orders}", "{store: films}"]), max_size=1))
        earlier = [f"x{n}" for n in range(number)]
        needs += data.draw(st.lists(st.sampled_from(earlier), max_size=1)) if earlier else []
        if number > 1:
            some = data.draw(st.lists(st.sampled_from(earlier), min_size=2, max_size=3, unique=True))
            needs.append(f"{{any_of: [{', '.join(some)}]}}")
        replicas = data.draw(st.sampled_from(["pa", "pb"]))
        one = CHOICE.replace("pb", replicas).replace("NEEDS", ", ".join(dict.fromkeys(needs)))
        one = one.replace("CHECK", str(data.draw(st.integers(0, 30)))).replace("NAME", f"x{number}")
        text += one.replace("PEOPLE", str(data.draw(st.sampled_from([1, 1_000]))))
    with tempfile.TemporaryDirectory() as folder:
        estate = written(Path(folder), text)
    made = plan(estate, lose("a"))
    verdict = check(estate, made)
    assert verdict.holds, verdict.violations


@given(st.integers(1, 5), st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_alternatives_that_wait_for_one_store_wait_for_it_in_the_bound(links: int, check_s: int) -> None:
    """Of a service that needs one of two, nothing but the quicker check of these is left out."""
    text, last = CHOICES, "{store: orders}"
    for number in range(links):
        one = CHOICE.replace("NAME", f"link{number}").replace("NEEDS", last).replace("PEOPLE", "0")
        text, last = text + one.replace("CHECK", str(check_s)), f"link{number}"
    for name, needs, people in (("m1", last, 0), ("m2", last, 0), ("shop", "{any_of: [m1, m2]}", 1_000)):
        one = CHOICE.replace("NAME", name).replace("NEEDS", needs).replace("PEOPLE", str(people))
        text += one.replace("CHECK", str(check_s))
    with tempfile.TemporaryDirectory() as folder:
        estate = written(Path(folder), text)
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    shop = next(one for one in made.outcomes if one.service == "shop")
    assert shop.base_ms == 90_000 + (links + 2) * check_s * 1_000
    missed = made.objective - made.bound
    assert missed * made.tick_ms <= 8 * 1_000 * check_s * 1_000
