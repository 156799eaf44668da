"""Needs of one of several services: audit, plan, checker and a brute force agree on who is up and when."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES, impacts
from evac.audit.impacts.losses import losses
from evac.audit.impacts.stores import NEVER
from evac.derive.domains import topology
from evac.estate.codecs.estate_writer import write
from evac.estate.loading import load
from evac.model.digest import estate_digest
from evac.model.estate import Dependency, Estate, Pool, Service, ServiceProvider, Site
from evac.model.fleet import ON_POOL
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify.check import check
from tests.kernels import fastest
from tests.unit.audit.estates import bindings, service

WHERE = (("east",), ("west",), ("east", "west"))
DOMAINS = ("east", "west", "provider:one", "provider:two")


@st.composite
def estates(draw: st.DrawFn) -> Estate:
    """Services that need earlier ones, one of several or each; some are external. All find a place."""
    services: list[Service] = []
    placed: list[tuple[str, int, str, int]] = []
    for number in range(draw(st.integers(3, 9))):
        name, earlier = f"s{number}", [one.id for one in services]
        if draw(st.integers(0, 4)) == 0:
            outside = [one.id for one in services if one.external]
            needs = (Dependency(outside[0], "service", any_of=tuple(outside)),) if len(outside) > 1 else ()
            provider = draw(st.sampled_from(("one", "two")))
            services.append(Service(name, external=True, provider=provider, needs=needs))
            continue
        needs = tuple(draw(_need(earlier)) for _ in range(draw(st.integers(0, 2)) if earlier else 0))
        services.append(
            service(
                name,
                share=draw(st.sampled_from((0.5, 1))),
                replicas=2,
                start_ms=draw(st.integers(0, 9)) * 1_000,
                verify_ms=draw(st.integers(0, 3)) * 1_000,
                demand=(1, 1, 0, 0),
                needs=tuple({need.targets: need for need in needs}.values()),
            )
        )
        sites = draw(st.sampled_from(WHERE))
        placed += [(name, ON_POOL, f"{site}-k8s", 2 // len(sites)) for site in sites]
    made = Estate(
        name="drawn",
        sites=(Site("east"), Site("west")),
        pools=tuple(Pool(f"{site}-k8s", site, (10_000, 10_000, 100, 0)) for site in ("east", "west")),
        providers=(ServiceProvider("one"), ServiceProvider("two")),
        services=tuple(services),
    )
    return replace(made, replicas=bindings(made, placed))


@st.composite
def _need(draw: st.DrawFn, earlier: list[str]) -> Dependency:
    named = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=3, unique=True))
    hard, to = draw(st.integers(0, 4)) > 0, draw(st.sampled_from(("serve", "start")))
    if len(named) == 1:
        return Dependency(named[0], "service", hard, to)
    return Dependency(named[0], "service", hard, to, tuple(named))


def back_after(estate: Estate, lost: str) -> dict[str, float]:
    """Seconds until each service serves, straight from what needs mean; infinite where it never does."""
    by_name, down = {one.id: one for one in estate.services}, down_at_first(estate, lost)
    left = {one.id: 0 for one in estate.services}
    r = estate.replicas
    for row, target, count in zip(r.service.tolist(), r.target.tolist(), r.count.tolist(), strict=True):
        if estate.pools[target].site != lost:
            left[estate.services[row].id] += count

    @cache
    def back(name: str) -> float:
        one = by_name[name]
        if one.external and lost == f"provider:{one.provided_by}":
            return float("inf")
        waits = [(min(map(back, need.targets)), need.needed_to) for need in one.needs if need.hard]
        short = not one.external and left[name] < 2 * one.share
        serves = max((at for at, _ in waits), default=0)
        if name not in down:
            return 0
        start = (one.start_ms or 0) / 1_000 if short else 0
        begin = max((at for at, to in waits if to == "start"), default=0)
        return max(begin + start, serves) + (one.verify_ms / 1_000)

    return {name: back(name) for name in by_name}


def down_at_first(estate: Estate, lost: str) -> set[str]:
    """Who does not serve right after the loss: by elimination, whatever the times."""
    r, down = estate.replicas, set[str]()
    left = {one.id: 0 for one in estate.services}
    for row, target, count in zip(r.service.tolist(), r.target.tolist(), r.count.tolist(), strict=True):
        left[estate.services[row].id] += count * (estate.pools[target].site != lost)
    while True:
        more = {
            one.id
            for one in estate.services
            if (one.external and lost == f"provider:{one.provided_by}")
            or (not one.external and left[one.id] < 2 * one.share)
            or any(need.hard and down.issuperset(need.targets) for need in one.needs)
        }
        if more == down:
            return down
        down = more


@settings(max_examples=25, deadline=None)
@given(estates(), st.sampled_from(DOMAINS))
def test_plan_and_checker_say_what_needs_mean(estate: Estate, lost: str) -> None:
    if lost not in {f"provider:{s.provided_by}" for s in estate.services} | {"east", "west"}:
        lost = "east"
    with fastest():
        made = plan(estate, lose(lost))
    wanted, down = back_after(estate, lost), down_at_first(estate, lost)
    outcomes = {one.service: one for one in made.outcomes}
    for name, seconds in wanted.items():
        outcome = outcomes.get(name)
        base_ms = 0 if outcome is None else outcome.base_ms
        assert base_ms == (None if seconds == float("inf") else seconds * 1_000), name
        assert (name in down) <= (outcome is not None)
    assert check(estate, made).violations == ()


@settings(max_examples=20, deadline=None)
@given(estates())
def test_estimate_agrees_with_what_needs_mean(estate: Estate) -> None:
    """The estimate for large estates: down and lost are exact, and nothing is back sooner than it can be."""
    top = topology(estate)
    with fastest():
        found = impacts(top, losses(top))
    for number, lost in enumerate(found.losses.ids):
        wanted, down = back_after(estate, lost), down_at_first(estate, lost)
        for row, one in enumerate(estate.services):
            assert found.down[number, row] == (one.id in down), (lost, one.id)
            never = wanted[one.id] == float("inf")
            assert (found.ready_ms[number, row] >= NEVER) == never, (lost, one.id)
            assert (FATES[found.fate[number, row]] == "lost") == never
            if not never and one.id in down:
                assert found.ready_ms[number, row] >= wanted[one.id] * 1_000


FILE = """\
evac: 1
as_of: 2026-11-25
sites: {east: {}, west: {}}
pools:
  east-k8s: {site: east, cpu: 30 cores, memory: 400 GiB}
  west-k8s: {site: west, cpu: 10 cores, memory: 400 GiB}
services:
  shop: {demand: {cpu: 1 core, memory: 1 GiB}, people: 1 K, replicas: {west-k8s: 1}, start: 9 s, NEEDS}
  search: {demand: {cpu: 20 cores, memory: 1 GiB}, replicas: {east-k8s: 1}, start: 1 s, traffic: {kind: none}}
  spare: {demand: {cpu: 2 cores, memory: 1 GiB}, replicas: {east-k8s: 1}, start: 5 min, traffic: {kind: none}}
"""


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    path = tmp_path / "estate.yaml"
    path.write_text(FILE.replace("NEEDS", "traffic: {kind: none}, needs: [{any_of: [search, spare]}]"))
    return load(path)


def test_what_finds_no_room_is_passed_over_for_an_alternative(estate: Estate) -> None:
    with fastest():
        made = plan(estate, lose("east"))
    outcomes = {one.service: one for one in made.outcomes}
    assert (outcomes["search"].state, outcomes["shop"].state) == ("unplaced", "restored")
    assert outcomes["shop"].base_ms == 300_000
    assert made.passed_over == ("search",)
    assert check(estate, made).violations == ()
    lie = tuple(replace(one, base_ms=1_000) if one.service == "shop" else one for one in made.outcomes)
    rules = {(v.rule, v.subject) for v in check(estate, replace(made, outcomes=lie)).violations}
    assert ("F12", "shop") in rules
    row = next(row for row in audit(estate).rows if row.domain == "east")
    fates = {one.service: one.fate for one in row.fates(tuple(s.id for s in estate.services))}
    assert fates == {"search": "lost", "shop": "recovers", "spare": "recovers"}


def test_alternatives_are_written_and_read_back(estate: Estate, tmp_path: Path) -> None:
    write(estate, tmp_path / "again")
    assert "needs: [{any_of: [search, spare]}]" in (tmp_path / "again" / "estate.yaml").read_text()
    again = load(tmp_path / "again")
    assert again.services[1].needs == (Dependency("search", "service", any_of=("search", "spare")),)
    assert estate_digest(again) == estate_digest(estate)


def test_a_circle_that_an_alternative_closes_comes_back(estate: Estate) -> None:
    """search needs shop, which needs search or spare: only spare can go first, or both serve together."""
    rows = {one.id: one for one in estate.services}
    for to, seconds in (("serve", 300), ("start", 300)):
        need = (Dependency("shop", "service", needed_to=to),)
        small = replace(rows["search"], demand=(1_000, 1_024, 0, 0), needs=need)
        circle = replace(estate, services=tuple({**rows, "search": small}.values()))
        with fastest():
            made = plan(circle, lose("east"))
        back = {one.service: one.base_ms for one in made.outcomes}
        assert back["shop"] is not None
        assert back["shop"] <= seconds * 1_000
        assert check(circle, made).violations == ()


@st.composite
def with_tools(draw: st.DrawFn) -> Estate:
    """The same estates, where starts need tools: some by themselves, some as one of several."""
    made = draw(estates())
    names = [one.id for one in made.services]
    groups = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    named = draw(st.lists(groups, min_size=1, max_size=2))
    tools = tuple({one[0] if len(one) == 1 else tuple(one) for one in named})
    return replace(made, tools={"deploy": tools})


def plain(estate: Estate, lost: str) -> Estate | None:
    """The estate with the first tool that is up in place of each choice; None where all of one are lost."""
    down, settled = down_at_first(estate, lost), []
    for group in estate.tool_groups(("deploy",)):
        up = [name for name in group if name not in down]
        if len(group) > 1 and not up:
            return None
        settled.append(up[0] if len(group) > 1 else group[0])
    return replace(estate, tools={"deploy": tuple(settled)})


@settings(max_examples=15, deadline=None)
@given(with_tools(), st.sampled_from(("east", "west")))
def test_a_tool_that_is_left_is_enough(estate: Estate, lost: str) -> None:
    """Plan and estimate are those of an estate that names the tool that is left only."""
    settled = plain(estate, lost)
    with fastest():
        made = plan(estate, lose(lost))
        assert check(estate, made).violations == ()
        if settled is not None:
            assert made.outcomes == plan(settled, lose(lost)).outcomes
            rows = []
            for one in (estate, settled):
                top = topology(one)
                found = impacts(top, losses(top))
                rows.append(found.ready_ms[found.losses.index[lost]].tolist())
            assert rows[0] == rows[1]


def test_steps_wait_for_the_first_of_several_lost_tools(tmp_path: Path) -> None:
    """Both are lost: shop starts once the faster one serves, and a plan that starts it sooner is refused."""
    text = FILE.replace("NEEDS", "traffic: {kind: none}").replace(
        "search: {demand: {cpu: 20", "search: {demand: {cpu: 2"
    )
    text = text.replace(
        "shop: {demand: {cpu: 1 core, memory: 1 GiB}, people: 1 K, replicas: {west-k8s: 1}",
        "shop: {demand: {cpu: 1 core, memory: 1 GiB}, people: 1 K, replicas: {east-k8s: 1}",
    )
    path = tmp_path / "estate.yaml"
    path.write_text(
        text + "limits: {manual: {start: 20 min}}\ntools: {deploy: [{any_of: [spare, search]}]}\n"
    )
    estate = load(path)
    assert estate.tools == {"deploy": (("spare", "search"),)}
    with fastest():
        made = plan(estate, lose("east"))
    back = {one.service: one.base_ms for one in made.outcomes}
    assert check(estate, made).violations == ()
    assert back["search"] == 1_200_000
    assert back["shop"] in (1_200_000, 1_209_000)
    later = replace(estate, tools={"deploy": ("spare", "search")})
    write(estate, tmp_path / "again")
    assert "deploy: [{any_of: [spare, search]}]" in (tmp_path / "again" / "estate.yaml").read_text()
    assert estate_digest(load(tmp_path / "again")) == estate_digest(estate) != estate_digest(later)
    early = tuple(replace(s, manual=False, start_ms=0) if s.kind == "start" else s for s in made.steps)
    rules = {(v.rule, v.message) for v in check(estate, replace(made, steps=early)).violations}
    assert ("F15", "needs spare or search, and none is back yet") in rules
    found = [one for one in audit(estate).findings if one.code == "EV103"]
    assert [one.message.split(" is lost")[0] for one in found] == ["spare or search (deploy)"]
