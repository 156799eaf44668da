"""What makes a bound false: each trap of the planning model as an instance that would show it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evac.model.errors import PlanError
from evac.model.instance import BootKind, Instance, Limit, Use
from evac.model.plan import CapacityRow, Certificate, PlacementRows, SupplyRow
from evac.planning.bound import bound
from evac.planning.bound.facts import Facts, facts_of
from evac.planning.bound.solve import evaluate
from evac.planning.bound.supply import works_of
from tests.unit.planning.instances import Draft, ServerDraft, ServiceDraft, StoreDraft, build, worked_example

BIG = ServerDraft("v1", "east", 64_000, 262_144)


def service(name: str, **changes: object) -> ServiceDraft:
    """Two replicas of one core, one of which serves: start 30, verify 10, change 20, settle 40."""
    plain = ServiceDraft(name, 0, 100, 2, (1, 2), 1_000, 1_024, per_server=4)
    return replace(plain, **changes)  # type: ignore[arg-type]


def facts(*services: ServiceDraft, **changes: object) -> Facts:
    draft = Draft(horizon=1_000, services=services, servers=(BIG,))
    return facts_of(build(replace(draft, **changes)))  # type: ignore[arg-type]


def head(found: Facts, name: str) -> int:
    return int(found.head[found.name.index(name)])


def works(found: Facts, *limits: int) -> dict[str, int]:
    return {found.name[i]: w.amount for i, w in works_of(found, dict.fromkeys(limits, 1)).items()}


def test_a_rate_window_can_outlive_its_step() -> None:
    """Trap 4: the middle of the window lies after the service is back, so its lead is negative."""
    found = facts(
        service("s", start=5, verify=0, change=0, settle=0),
        limits=(Limit("starts", 1, 300),),
        start_uses=(Use(0, 1, 0, 300),),
    )
    work = works_of(found, {0: 1})[found.name.index("s.base")]
    assert (work.amount, work.lead) == (300, 300 * (2 * 5 - 300))
    assert head(found, "s.base") == 5


def test_a_hold_inside_a_step_has_its_own_middle() -> None:
    """Trap 4: 40 ticks held from the tenth of a 90-tick start."""
    found = facts(service("s", start=90), limits=(Limit("image", 1),), start_uses=(Use(0, 1, 10, 40),))
    work = works_of(found, {0: 1})[found.name.index("s.base")]
    assert work.lead == 40 * (2 * (90 + 10 + 20 + 40) - 2 * 10 - 40)
    assert work.release == 10


def _two_pools(eligible: tuple[bool, bool]) -> Instance:
    """East lets two start in a minute, west three."""
    instance = build(
        Draft(
            horizon=1_000,
            services=(service("s", replicas=12, share=(1, 1), per_server=20),),
            servers=(BIG, replace(BIG, id="v2", site="west")),
            limits=(Limit("east", 2, 60), Limit("west", 3, 60)),
        )
    )
    pools = tuple(replace(p, start_uses=(Use(k, 1, 0, 60),)) for k, p in enumerate(instance.pools))
    table = instance.eligible.copy()
    table[0] = eligible
    return replace(instance, pools=pools, eligible=table)


def test_waves_are_those_of_all_pools_together() -> None:
    """Traps 5 and 7: twelve starts take two further minutes in both pools, five in the slower one."""
    both, east = facts_of(_two_pools((True, True))), facts_of(_two_pools((True, False)))
    assert both.heads.base_wave == [2 * 60]
    assert east.heads.base_wave == [5 * 60]


def test_a_limit_of_one_pool_binds_only_who_cannot_go_elsewhere() -> None:
    """Trap 7: alone it counts no work; summed with the other it counts all of it once."""
    both, east = facts_of(_two_pools((True, True))), facts_of(_two_pools((True, False)))
    assert works(both, 0) == {}
    assert works(both, 0, 1) == {"s.base": 12 * 60}
    assert works(east, 0) == {"s.base": 12 * 60}


def test_a_promotion_shared_by_services_is_counted_once() -> None:
    """Trap 6."""
    found = facts(
        service("a", stores=("d",)),
        service("b", stores=("d",)),
        stores=(StoreDraft("d", 20, (("east", 50), ("west", 30))),),
        limits=(Limit("promotions", 1),),
        promote_uses=(Use(0, 1),),
    )
    assert works(found, 0) == {"d.primary": 30}


def test_as_many_actions_as_a_limit_allows_start_in_one_tick() -> None:
    """Trap 11."""
    limits = (Limit("starts", 6, 60),)
    found = facts(
        service("s", replicas=6, share=(1, 1), per_server=9), limits=limits, start_uses=(Use(0, 1, 0, 60),)
    )
    assert head(found, "s.base") == 100
    assert found.heads.base_wave == [0]


def test_survivors_are_no_starts() -> None:
    """Trap 12."""
    found = facts(
        service("s", replicas=4, share=(3, 4), running=("v1",)),
        limits=(Limit("starts", 1, 60),),
        start_uses=(Use(0, 1, 0, 60),),
    )
    assert works(found, 0) == {"s.base": 2 * 60, "s.top": 60}
    assert found.heads.base_wave == [60]


def test_a_soft_need_holds_up_the_top_alone() -> None:
    """Trap 10."""
    found = facts(service("slow", start=300), service("s", soft=("slow",)))
    assert head(found, "slow.base") == 370
    assert (head(found, "s.base"), head(found, "s.top")) == (100, 370)


def test_a_cycle_starts_together() -> None:
    """Trap 10: the longest start and then the longest verify and shift, not one after the other."""
    found = facts(
        service("a", hard=("b",), start=30, verify=50), service("b", hard=("a",), start=200, verify=10)
    )
    assert head(found, "a.base") == head(found, "b.base") == 200 + 50 + 60


def test_the_longest_start_and_wave_of_a_cycle_may_belong_to_different_members() -> None:
    """Adding the longest wave to the longest start would be false: 120 + 10, or 0 + 100."""
    found = facts(
        service("a", hard=("b",), start=10, replicas=3, share=(1, 1), verify=0, shift=False),
        service("b", hard=("a",), start=100, replicas=1, verify=0, shift=False),
        limits=(Limit("starts", 1, 60),),
        start_uses=(Use(0, 1, 0, 60),),
    )
    assert head(found, "a.base") == 130


@pytest.mark.parametrize("manual", [50, 500])
def test_a_check_waits_for_its_tool_or_is_done_by_hand(manual: int) -> None:
    """Trap 10: the tool checks itself by hand; another takes 10 ticks with it, or as long by hand."""
    found = facts(
        service("s"),
        service("tool", shift=False, start=120, verify=10),
        tools={"verify": (("tool",), manual, ())},
    )
    assert head(found, "tool.base") == 120 + manual
    assert head(found, "s.base") == min(30 + manual, 120 + manual + 10) + 60


def test_a_check_waits_for_a_tool_that_hands_cannot_replace() -> None:
    found = facts(
        service("s"), service("tool", shift=False, start=120), tools={"shift": (("tool",), None, ())}
    )
    assert head(found, "tool.base") == 120 + 10
    assert head(found, "s.base") == 130 + 60
    assert found.arcs[found.name.index("s.base"), found.name.index("tool.base")] == 60


def test_a_tool_that_starts_itself_is_started_by_hand() -> None:
    """Nobody gains by waiting for it: all starts take the 40 ticks that hands need."""
    found = facts(service("s"), service("tool"), tools={"start": (("tool",), 40, ())})
    assert head(found, "tool.base") == head(found, "s.base") == 40 + 70


def test_a_tool_that_needs_itself_and_has_no_other_way_never_serves() -> None:
    found = facts(service("s"), service("tool"), tools={"start": (("tool",), None, ())})
    assert head(found, "tool.base") == head(found, "s.base") == 1_000


def test_what_cannot_come_back_costs_the_whole_horizon() -> None:
    """Trap 13: no candidate, and no row that is large enough."""
    found = facts(service("s", stores=("d",)), stores=(StoreDraft("d", 20, (("east", 50),), allowed=False),))
    assert head(found, "s.base") == head(found, "s.top") == 1_000
    large = facts(service("s", cpu=65_000))
    assert head(large, "s.base") == 1_000


def test_one_milestone_fits_where_both_do_not() -> None:
    found = facts(service("s", cpu=40_000, per_server=9))
    assert (head(found, "s.base"), head(found, "s.top")) == (100, 1_000)


def test_spread_caps_count_survivors() -> None:
    """Two a server and one survivor: a second replica fits, a third does not."""
    found = facts(service("s", replicas=3, share=(2, 3), per_server=2, running=("v1",)))
    assert (head(found, "s.base"), head(found, "s.top")) == (100, 1_000)


def test_dark_rows_are_not_on() -> None:
    """Trap 17: the only row must boot first."""
    dark = replace(BIG, dark=True)
    found = facts(
        service("s"), servers=(dark,), limits=(Limit("boots", 1),), boots=(BootKind("b", 120, (Use(0, 1),)),)
    )
    assert head(found, "s.base") == 120 + 100


@pytest.mark.parametrize(("sheddable", "expected"), [(True, 100), (False, 1_000)])
def test_capacity_is_whole_where_survivors_may_be_shed(sheddable: bool, expected: int) -> None:
    """Traps 9 and 16: what may be shed frees capacity, what may not keeps it."""
    low = service("low", tier=3, cpu=30_000, running=("v1", "v1"), sheddable=sheddable)
    found = facts(service("s", cpu=10_000), low)
    assert head(found, "s.base") == expected


def test_what_an_unsheddable_service_needs_pays_without_end() -> None:
    """The base below must stay; its capacity counts as taken through the arc, and never as an outage."""
    low = service("low", cpu=30_000, running=("v1", "v1"), sheddable=True)
    high = service("high", cpu=1_000, running=("v1", "v1"), hard=("low",))
    found = facts(service("s", cpu=20_000, replicas=2, share=(1, 1)), low, high)
    row = CapacityRow((("east:", 0, 1),), (("low.base", 10**9), ("s.base", 10**9)))
    alone = evaluate(found, Certificate(capacity=(row,)))
    with_arc = Certificate(arcs=(("high.base", "low.base", 10**9),), capacity=(row,))
    assert evaluate(found, with_arc) >= alone


def test_services_that_are_never_restored_do_no_work() -> None:
    """Trap 3: twenty services, one start a minute, and only ten minutes: giving up is allowed."""
    found = build(
        Draft(
            horizon=600,
            services=tuple(service(f"s{k:02}") for k in range(20)),
            servers=(BIG,),
            limits=(Limit("starts", 1, 60),),
            start_uses=(Use(0, 1, 0, 60),),
        )
    )
    total = int(found.services.base_weight.sum() + found.services.top_weight.sum())
    assert bound(found, work=300).bound <= 600 * total


def test_grace_is_taken_off_every_lost_milestone() -> None:
    late = replace(worked_example(), grace=100)
    assert 2_058_000 - 100 * 8_000 <= bound(late, work=2_000).bound <= 2_146_000 - 100 * 8_000
    assert bound(replace(worked_example(), grace=3_600), work=50).bound == 0
    assert facts_of(late).sum_of_heads == 1_848_000 - 100 * 8_000


BAD = [
    Certificate(arcs=(("pay.base", "search.base", 1),)),
    Certificate(arcs=(("pay.base", "identity.base", -1),)),
    Certificate(arcs=(("pay.base", "nobody.base", 1),)),
    Certificate(supply=(SupplyRow((("nothing", 1),), (("pay.base", 1),)),)),
    Certificate(supply=(SupplyRow((("boots", 1),), (("pay.base", 1),)),)),
    Certificate(supply=(SupplyRow((("starts", 1),), (("pay.base", 1), ("pay.base", 1))),)),
    Certificate(supply=(SupplyRow((("starts", 1),), (("pay.base", -1),)),)),
    Certificate(capacity=(CapacityRow((("anyang:", 0, 1),), (("pay.base", 1),)),)),
    Certificate(capacity=(CapacityRow((("nowhere", 0, 1),), ()),)),
    Certificate(capacity=(CapacityRow((("anyang:", 0, -1),), ()),)),
    Certificate(placement=PlacementRows(room=(("anyang:", 0, -1),))),
    Certificate(placement=PlacementRows(fit=(("ads", "anyang:", 1),))),
    Certificate(placement=PlacementRows(site=(("pay", "nowhere", 1),))),
    Certificate(scale=0),
]


@pytest.mark.parametrize("certificate", BAD)
def test_a_row_that_no_rule_gives_is_refused(certificate: Certificate) -> None:
    with pytest.raises(PlanError) as caught:
        evaluate(facts_of(worked_example()), certificate)
    assert caught.value.code == "certificate-invalid"


def test_many_pools_are_priced_in_groups() -> None:
    """Sixty pools of one core each, and ninety cores wanted: a third stays out, and pays."""
    pools = tuple(ServerDraft(f"p{k:02}", f"site{k % 7}", 1_000, 262_144, is_pool=True) for k in range(60))
    found = build(
        Draft(
            horizon=1_000,
            services=tuple(service(f"s{k:02}", share=(1, 1), people=100 + k) for k in range(45)),
            servers=pools,
        )
    )
    weight = found.services.base_weight
    left_out = int(weight[:15].sum()) * 1_000 + int(weight[15:].sum()) * 100
    value = bound(found, work=50).bound
    assert left_out * 0.999 <= value <= left_out


def test_nothing_to_split() -> None:
    """All that is lost never returns, or nothing is lost at all: the heads say everything."""
    dead = service("s", stores=("d",))
    store = StoreDraft("d", 20, (("east", 50),), allowed=False)
    found = bound(build(Draft(horizon=1_000, services=(dead,), servers=(BIG,), stores=(store,))), work=10)
    assert found.bound == found.heads == 1_000 * 800
    well = service("s", running=("v1", "v1"))
    assert bound(build(Draft(horizon=1_000, services=(well,), servers=(BIG,))), work=10).bound == 0
