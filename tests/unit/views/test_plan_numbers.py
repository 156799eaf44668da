"""The numbers of a plan's page against the same numbers counted one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.derive.domains import is_lost, loss, topology
from evac.estate import examples, load
from evac.model.estate import Estate
from evac.model.fleet import AT_SITE, ON_POOL, SERVER_STATES
from evac.model.plan import Outcome, Plan, Step
from evac.model.reason import Reason
from evac.model.scenario import Scenario, lose
from evac.model.units import RESOURCE_WORDS
from evac.planning.plan import plan
from evac.steps.registry import PLANNED
from evac.verify import check_instance
from evac.views import plan_charts, plan_view
from evac.views.html_report import _replicas, curve_words
from evac.views.plan_text import _takes
from evac.views.plan_view import Planned, Tally, answer, cards, tier_rows
from evac.views.words import GONE
from tests.unit.planning.instances import worked_example
from tests.unit.verify.worked_plan import worked_plan

CASES = ("pools", "site", "hall", "restore")


@pytest.fixture(scope="module")
def planned(project_root: Path) -> Mapping[str, tuple[Estate, Plan]]:
    """Real plans: pools that schedule themselves, a site, a hall, power returning."""
    small = load(project_root / "tests" / "fixtures" / "estates" / "small")
    company = examples.pangyo(servers=1000, mended=True)
    hall = next(h.id for h in company.halls if h.site == "pangyo")
    return {
        "pools": (small, plan(small, lose("north"), work=0)),
        "site": (company, plan(company, lose("pangyo"), work=0)),
        "hall": (company, plan(company, lose(hall), work=0)),
        "restore": (company, plan(company, Scenario("restore", ("pangyo",)), work=0)),
    }


@pytest.mark.parametrize(("kinds", "where"), [(("stop",), "shed_time"), (("reprotect", "stop"), "manual:")])
def test_an_unknown_length_names_the_fact_that_is_missing(kinds: tuple[str, ...], where: str) -> None:
    steps = tuple(Step(f"{kind}:a", kind, "a", 0, 0) for kind in kinds)
    words, style = _takes(replace(worked_plan(worked_example()), steps=steps))
    assert (where in words, style) == (True, "unknown")


def site_of_row(estate: Estate, kind: int, target: int) -> tuple[str, str]:
    """(site, what can be lost) of one row of the replica table."""
    if kind == ON_POOL:
        return estate.pools[target].site, estate.pools[target].site
    if kind == AT_SITE:
        return estate.sites[target].id, estate.sites[target].id
    site = estate.sites[int(estate.fleet.site[target])].id
    return site, estate.fleet.name[target].decode()


def counted(estate: Estate, made: Plan) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Replicas by (service, site) before and after, row by row and step by step."""
    top = topology(estate)
    lost = loss(top, made.scenario.domains)
    everything: Counter[tuple[str, str]] = Counter()
    left: Counter[tuple[str, str]] = Counter()
    r = estate.replicas
    for service, kind, target, count in zip(
        r.service.tolist(), r.kind.tolist(), r.target.tolist(), r.count.tolist(), strict=True
    ):
        site, thing = site_of_row(estate, kind, target)
        everything[estate.services[service].id, site] += count
        if not is_lost(top, lost, thing):
            left[estate.services[service].id, site] += count
    after = left.copy()
    pools = {pool.id: pool.site for pool in estate.pools}
    for step in made.steps:
        if step.kind in ("start", "shed"):
            site = pools.get(step.pool) or step.pool.removeprefix("site:").split(":")[0]
            after[step.target, site] += step.count if step.kind == "start" else -step.count
    return (left if made.scenario.kind == "restore" else everything), after


@pytest.mark.parametrize("case", CASES)
def test_the_matrix_is_what_rows_and_steps_add_up_to(
    planned: Mapping[str, tuple[Estate, Plan]], case: str
) -> None:
    estate, made = planned[case]
    before, after = counted(estate, made)
    rows = _replicas(estate, made, plan_view.standing(estate, made))
    assert {row.service for row in rows} == {o.service for o in made.outcomes}
    for row in rows:
        for site, (was, is_now) in zip(estate.sites, row.cells, strict=True):
            assert (was, is_now) == (before[row.service, site.id], after[row.service, site.id])
            assert is_now >= 0


@pytest.mark.parametrize("case", CASES)
def test_restored_services_stand_whole_after_the_plan(
    planned: Mapping[str, tuple[Estate, Plan]], case: str
) -> None:
    estate, made = planned[case]
    full = {o.service for o in made.outcomes if o.state == "restored" and o.top_ms is not None}
    _, after = counted(estate, made)
    nominal: Counter[str] = Counter()
    for service, count in zip(estate.replicas.service.tolist(), estate.replicas.count.tolist(), strict=True):
        nominal[estate.services[service].id] += count
    stands: Counter[str] = Counter()
    for (service, _), count in after.items():
        stands[service] += count
    assert full
    assert all(stands[name] >= nominal[name] for name in full)


@pytest.mark.parametrize("case", CASES)
def test_room_is_what_servers_and_replicas_add_up_to(
    planned: Mapping[str, tuple[Estate, Plan]], case: str
) -> None:
    estate, made = planned[case]
    before, after = counted(estate, made)
    demand = {s.id: s.demand for s in estate.services}
    top = topology(estate)
    lost = loss(top, made.scenario.domains)
    booted = {name for step in made.steps if step.kind == "boot" for name, _ in step.servers}
    whole: Counter[tuple[str, str]] = Counter()
    dark, woken, gone = whole.copy(), whole.copy(), whole.copy()
    fleet = estate.fleet
    for row in range(len(fleet)):
        state, site = SERVER_STATES[fleet.state[row]], estate.sites[int(fleet.site[row])].id
        if state == "condemned" or fleet.pool[row] >= 0:
            continue
        for word, amount in zip(RESOURCE_WORDS, fleet.capacity[row].tolist(), strict=True):
            whole[site, word] += amount
            gone[site, word] += amount if lost.servers[row] else 0
            if state == "dark" and not lost.servers[row]:
                dark[site, word] += amount
                woken[site, word] += amount if fleet.name[row].decode() in booted else 0
    for pool, is_gone in zip(estate.pools, lost.pools.tolist(), strict=True):
        for word, amount in zip(RESOURCE_WORDS, pool.capacity, strict=True):
            usable = (amount or 0) * pool.quota_permille // 1_000
            whole[pool.site, word] += usable
            gone[pool.site, word] += usable if is_gone else 0
    rows = plan_view.capacity(estate, made, plan_view.standing(estate, made))
    assert {row.site for row in rows} == {s.id for s in estate.sites if s.role == "full"}
    returns = made.scenario.kind == "restore"
    for row in rows:
        key, r = (row.site, row.resource), RESOURCE_WORDS.index(row.resource)
        used = [
            sum(n * (demand[service][r] or 0) for (service, site), n in table.items() if site == row.site)
            for table in (before, after)
        ]
        assert row.whole == whole[key]
        assert row.before == plan_view.Room(used[0], dark[key], gone[key] if returns else 0)
        assert row.after == plan_view.Room(used[1], dark[key] - woken[key], 0 if returns else gone[key])
        assert row.after.used + row.after.dark + row.after.gone <= row.whole


@pytest.mark.parametrize("case", CASES)
def test_every_action_of_the_plan_is_in_the_work_by_kind(
    planned: Mapping[str, tuple[Estate, Plan]], case: str
) -> None:
    _, made = planned[case]
    found = {w.kind: (w.steps, w.actions) for w in plan_charts.work_by_kind(made)}
    steps = Counter(s.kind for s in made.steps)
    actions: Counter[str] = Counter()
    for step in made.steps:
        actions[step.kind] += step.count
    assert found == {kind: (steps[kind], actions[kind]) for kind in steps}


@pytest.mark.parametrize("case", CASES)
def test_chains_end_where_their_service_is_back(
    planned: Mapping[str, tuple[Estate, Plan]], case: str
) -> None:
    _, made = planned[case]
    lead = plan_charts.lead_seconds(made)
    found = plan_charts.chains(made)
    assert found
    for chain in found:
        outcome = next(o for o in made.outcomes if o.service == chain.service)
        peers = [o for o in made.outcomes if o.tier == chain.tier and o.critical and o.base_ms]
        assert outcome.base_ms == max(o.base_ms or 0 for o in peers if o.state not in GONE)
        assert chain.back == (outcome.base_ms or 0) / 1000 + lead
        total = sum(link.waited + link.end - link.begin for link in chain.links)
        assert lead + total >= chain.links[-1].end - 1e-9
        assert chain.links[-1].end <= chain.back + 1e-9


@pytest.mark.parametrize("most", [1, 2])
def test_a_chain_that_is_too_long_says_how_much_is_left_out_and_waits_no_longer_for_it(
    planned: Mapping[str, tuple[Estate, Plan]], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    _, made = planned[CASES[0]]
    whole = plan_charts.chains(made)
    monkeypatch.setattr(plan_charts, "CHAIN_ROWS", most)
    for full, cut in zip(whole, plan_charts.chains(made), strict=True):
        assert cut.links == full.links[-most:], "the first one that is left waits as long as before"
        assert (full.earlier, cut.earlier) == (0, max(0, len(full.links) - most))
        if cut.earlier:
            assert cut.counted == f"Last {most} of {full.counted}"
            assert cut.description.startswith("After ")
    assert any(len(full.links) > most for full in whole)


def outage(outcome: Outcome, second: float, made: Plan) -> tuple[int, int, int]:
    """(without service, of them late, allowed) of one service, from its own outcome alone."""
    lead = (made.detection_ms + made.approval_ms) / 1000
    never = outcome.base_ms is None or outcome.state in ("shed", "unplaced")
    back = float("inf") if never else (outcome.base_ms or 0) / 1000 + lead
    if made.scenario.kind == "lose" and not never and outcome.recovery_ms is not None:
        assert outcome.recovery_ms / 1000 <= back, "only what happens by itself is sooner than the plan"
        back = outcome.recovery_ms / 1000
    end = made.horizon_ms if never else outcome.base_ms or 0
    begin = (end - outcome.base_outage_ms) / 1000
    begin = begin + lead if begin > 0 else 0.0
    limit = float("inf") if outcome.rto_ms is None else outcome.rto_ms / 1000
    down = begin <= second < back
    return (
        outcome.people * down,
        outcome.people * (limit <= second < back),
        outcome.people * (second < limit),
    )


def value_at(points: tuple[tuple[float, float], ...], second: float) -> float:
    return next((value for at, value in reversed(points) if at <= second), 0.0)


@pytest.mark.parametrize("case", CASES)
def test_curves_say_who_is_without_service_at_any_second(
    planned: Mapping[str, tuple[Estate, Plan]], case: str
) -> None:
    _, made = planned[case]
    for curve in plan_charts.curves_by_tier(made):
        mine = [o for o in made.outcomes if o.tier == curve.tier and o.people and o.goes_down]
        assert curve.people == sum(o.people for o in mine)
        times = sorted({s for line in (curve.down, curve.late, curve.allowed) for s, _ in line})
        for second in [*times[:40], *(t + 0.5 for t in times[:40]), times[-1] + 1e6]:
            told = [outage(o, second, made) for o in mine]
            down, late, allowed = (sum(column) for column in zip(*told, strict=True))
            assert value_at(curve.down, second) == down
            assert value_at(curve.late, second) == late
            assert value_at(curve.allowed, second) == allowed
            assert down <= late + allowed


@pytest.fixture(scope="module")
def worked() -> Plan:
    return worked_plan(worked_example())


def some(plan_of: Plan, **changes: Outcome) -> Plan:
    return replace(plan_of, outcomes=tuple(changes.get(o.service, o) for o in plan_of.outcomes))


def test_a_shed_service_is_served_until_it_is_shed(worked: Plan) -> None:
    ads = next(o for o in worked.outcomes if o.service == "ads")
    curve = next(c for c in plan_charts.curves_by_tier(worked) if c.tier == ads.tier)
    begin = (worked.horizon_ms - ads.base_outage_ms) / 1000
    assert curve.down == ((0.0, 0.0), (begin, float(ads.people)))
    assert plan_charts.curve_end(curve) is None
    assert "; some are never restored by this plan." in curve_words(curve)


def test_who_waits_for_what_never_returns_stands_with_its_reason(worked: Plan) -> None:
    def gone(outcome: Outcome, why: Reason) -> Outcome:
        return replace(outcome, state="unplaced", base_ms=None, why=why)

    by_name = {o.service: o for o in worked.outcomes}
    made = some(
        worked,
        identity=gone(by_name["identity"], Reason("no-copy", store="accounts")),
        pay=gone(by_name["pay"], Reason("needs", ("identity",))),
        messenger=gone(by_name["messenger"], Reason("needs", ("pay",))),
        search=gone(by_name["search"], Reason("needs", ("search",))),
    )
    found = {g.reason: set(g.services) for g in plan_view.given_up(made) if g.state == "unplaced"}
    assert found == {
        "store accounts has no copy or backup that can take over": {"identity", "pay", "messenger"},
        "needs search, which is not restored": {"search"},
    }


@given(st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_circles_of_reasons_end(picked: list[int]) -> None:
    names = ("ads", "identity", "messenger", "pay", "search")
    base = worked_plan(worked_example())
    outcomes = tuple(
        replace(o, state="unplaced", base_ms=None, why=Reason("needs", (names[n],)))
        for o, n in zip(base.outcomes, picked, strict=True)
    )
    groups = plan_view.given_up(replace(base, outcomes=outcomes))
    assert sorted(name for g in groups for name in g.services) == sorted(names)


def test_the_answer_names_everything_that_goes_wrong(worked: Plan) -> None:
    words, state = answer(Planned(worked, "d"))
    assert "4 of 5 affected services come back" in words
    assert "1 is shed to free capacity" in words
    assert state == "warning"
    identity = next(o for o in worked.outcomes if o.service == "identity")
    late = some(worked, identity=replace(identity, rto_ms=1000, recovery_ms=150_000))
    assert "1 comes back later than promised" in answer(Planned(late, "d"))[0]
    assert answer(Planned(late, "d"))[1] == "error"
    wrong = replace(worked, objective=1)
    refused = answer(Planned(wrong, "d", check_instance(worked_example(), wrong)))
    assert refused[0].startswith("Do not use this plan")
    assert refused[1] == "error"
    nothing = replace(worked, outcomes=())
    assert answer(Planned(nothing, "d")) == ("Nothing is down: no service is affected.", "ok")


def test_cards_are_eight_and_count_right(worked: Plan) -> None:
    found = {card.name: card for card in cards(Planned(worked, "d"))}
    assert len(found) == 8
    assert found["come back"].value == "4 of 5"
    assert found["independent check"].state == "unknown"
    rows = tier_rows(worked)
    assert sum(int(row["services"]) for row in rows) == 5
    assert [row["gone"] for row in rows if row["tier"] == 3] == ["1"]


def test_every_kind_of_step_has_words() -> None:
    for kind in PLANNED:
        step = Step("x", kind, "pay", 0, 1000, count=3, pool="anyang:web", manual=True)
        words = plan_charts.step_words(step)
        assert "pay" in words or kind == "approve"
        assert words.endswith("(by hand)")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Tally(1, 0, 0, 0, 0, 0, 0), "the one affected service comes back"),
        (Tally(2, 0, 0, 0, 0, 0, 0), "both affected services come back"),
        (Tally(2, 0, 3, 0, 0, 0, 0), "both services that go down come back"),
        (Tally(1, 1, 0, 0, 0, 0, 0), "2 of 2 affected services come back"),
        (Tally(1_200, 0, 0, 0, 0, 0, 0), "all 1,200 affected services come back"),
    ],
)
def test_two_services_are_both(found: Tally, words: str) -> None:
    assert found.back_words == words
