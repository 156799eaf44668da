"""A movable service makes way: its replicas start elsewhere, are verified, and then the old ones stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from evac.model.instance import BootKind, Instance, Limit, ToolNeed, Use
from evac.model.plan import Plan, Step
from evac.planning.evacuation import solve
from evac.planning.evacuation.board import TURN
from evac.planning.plan import plan_instance
from evac.verify import check_instance
from evac.views.plan_text import plan_text
from evac.views.plan_view import outcome_rows
from tests.kernels import fastest
from tests.unit.planning.instances import (
    Draft,
    ServerDraft,
    ServiceDraft,
    StoreDraft,
    build,
    one_large_server,
)

_GIB = 1_024


@pytest.fixture(autouse=True)
def fast_kernels() -> Iterator[None]:
    with fastest():
        yield


def _draft(*, movable: bool = True, replicas: int = 1, elsewhere: int = 2_000, tier: int = 3) -> Draft:
    return one_large_server(replicas=replicas, elsewhere=elsewhere, movable=movable, tier=tier)


def _two() -> Draft:
    """Both replicas must leave `large`, for two servers that have capacity for one each."""
    draft = _draft(replicas=2)
    return replace(draft, servers=(*draft.servers, ServerDraft("spare", "east", 2_000, 64 * _GIB)))


def _states(plan: Plan) -> dict[str, tuple[str, int, int]]:
    return {
        one.service: (one.state, one.base_outage_ms // 1_000, one.top_outage_ms // 1_000)
        for one in plan.outcomes
    }


def _rules(instance: Instance, plan: Plan) -> set[str]:
    return {one.rule for one in check_instance(instance, plan).violations}


def test_what_may_move_makes_way_without_an_outage() -> None:
    instance = build(_draft())
    plan = plan_instance(instance, work=0)
    assert _states(plan)["wiki"] == ("restored", 0, 0)
    assert _states(plan)["pay"][0] == "restored"
    times = {one.id: (one.start_ms // 1_000, one.end_ms // 1_000) for one in plan.steps}
    assert times["start:wiki:moved:1"] == (0, 30)
    assert times["verify:wiki:moved"] == (30, 40)
    assert times["shed:wiki:1"] == (40, 60)
    assert times["start:pay:base:1"][0] == 60
    assert _rules(instance, plan) == set()
    assert 0 < plan.bound <= plan.objective


def test_what_may_not_move_stays() -> None:
    instance = build(_draft(movable=False))
    plan = plan_instance(instance, work=0)
    assert _states(plan)["pay"][0] == "unplaced"
    assert _rules(instance, plan) == set()


def test_several_replicas_move_where_one_is_not_enough() -> None:
    instance = build(_two())
    plan = plan_instance(instance, work=0)
    assert _states(plan)["wiki"] == ("restored", 0, 0)
    assert _states(plan)["pay"][0] == "restored"
    assert sum(one.count for one in plan.steps if one.kind == "shed") == 2
    assert _rules(instance, plan) == set()


def test_a_search_of_a_large_estate_moves_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve, "SMALL", 0)
    for draft in (_draft(), _two()):
        instance = build(draft)
        plan = plan_instance(instance, work=60)
        assert _states(plan)["wiki"] == ("restored", 0, 0)
        assert _states(plan)["pay"][0] == "restored"
        assert _rules(instance, plan) == set()


@pytest.mark.parametrize(
    ("changes", "state"),
    [({"elsewhere": 1_000}, "unplaced"), ({"tier": 0}, "unplaced")],
    ids=["nothing fits elsewhere", "no lower tier"],
)
def test_nothing_moves_in_vain(changes: dict[str, int], state: str) -> None:
    instance = build(_draft(**changes))  # type: ignore[arg-type]
    plan = plan_instance(instance, work=0)
    assert _states(plan)["pay"][0] == state
    assert "wiki" not in _states(plan)
    assert not [one for one in plan.steps if one.target == "wiki"]
    assert _rules(instance, plan) == set()


def test_nothing_moves_where_there_is_capacity_anyway() -> None:
    draft = _draft()
    draft = replace(draft, servers=(*draft.servers, ServerDraft("spare", "west", 4_000, 64 * _GIB)))
    plan = plan_instance(build(draft), work=0)
    assert _states(plan) == {"pay": ("restored", 100, 100)}


@pytest.mark.parametrize("kind", ["boot", "shed"])
def test_nothing_moves_where_only_a_tool_that_cannot_be_judged_has_made_room(kind: str) -> None:
    """`front` starts on `third`, which boots for it, or where it sheds; wiki would have room beside it."""
    draft = _draft(elsewhere=1_000)
    front = ServiceDraft("front", 0, 9_000, 1, (1, 1), 4_000, _GIB)
    third = ServerDraft("third", "east", 6_000, 64 * _GIB, dark=kind == "boot")
    low = ServiceDraft("low", 3, 1, 1, (1, 1), 4_000, 0, running=("third",), sheddable=True)
    cron = ServiceDraft("cron", 3, 1, 1, (1, 1), 0, 0, running=("small",))
    boots = (BootKind("server", 20, ()),)
    more = (front, cron, *([low] if kind == "shed" else []))
    large = replace(draft.servers[0], cpu=3_500)
    services = (replace(draft.services[0], cpu=3_500), draft.services[1], *more)
    draft = replace(draft, services=services, servers=(large, draft.servers[1], third), boots=boots)
    instance = build(draft)
    tool = ToolNeed(kind, (), None, (), (instance.services.id.index("cron"),))
    doubtful = replace(instance, tools={kind: tool})
    for known in (instance, doubtful):
        plan = plan_instance(known, work=0)
        assert _step(plan, "start:wiki:moved:1").servers == (("third", 1),)
        assert _states(plan)["pay"][0] == "restored"
    unsure = replace(doubtful, unjudged={tool.doubtful[0]: "services/cron/demand"})
    plan = plan_instance(unsure, work=0)
    assert not [one for one in plan.steps if one.target == "wiki"]
    assert _rules(unsure, plan) == set()


def test_a_store_keeps_what_its_restore_holds_where_a_move_does_not_help() -> None:
    """`pay` is put off, so its store is restored as it is tried again. No move gives it enough capacity."""
    draft = _draft()
    pay = replace(draft.services[0], cpu=9_000, stores=("db",))
    store = StoreDraft("db", 20, (("east", 50),))
    one = replace(
        draft,
        services=(pay, draft.services[1]),
        stores=(store,),
        limits=(Limit("people", 1),),
        fence_uses=(Use(0, 1),),
        promote_uses=(Use(0, 1),),
    )
    board, items = solve.prepare(build(one))
    options = solve.default_options(board, 1)
    board.service["written_off"][board.service["base_lost"] > 0] = 1
    solve.generate(board, items.active, options, solve.NEVER)
    primary = board.store[0]
    assert primary["fence_at"] == 0
    assert primary["primary_at"] == 70
    assert board.used[0, :70].tolist() == [1] * 70


def test_what_needs_a_moved_service_starts_in_the_room_that_it_left() -> None:
    draft = _draft()
    pay = replace(draft.services[0], hard=("wiki",))
    plan = plan_instance(build(replace(draft, services=(pay, draft.services[1]))), work=0)
    assert _states(plan)["pay"][0] == "restored"
    assert _states(plan)["wiki"] == ("restored", 0, 0)
    assert _rules(build(replace(draft, services=(pay, draft.services[1]))), plan) == set()


def _later_shed() -> Draft:
    """`m` would move for `s1`. Then `x` is shed for `s2`, which leaves enough for `m` where it was."""
    services = (
        ServiceDraft("s1", 2, 100, 1, (1, 1), 4_000, 0, shift=False),
        ServiceDraft("s2", 1, 1_000, 1, (1, 1), 4_000, 0, shift=False, hard=("s1",)),
        ServiceDraft("x", 2, 50, 1, (1, 1), 8_000, 0, running=("a",), sheddable=True),
        ServiceDraft("m", 3, 50, 1, (1, 1), 3_500, 0, running=("a",), movable=True),
    )
    servers = (ServerDraft("a", "east", 12_000, _GIB), ServerDraft("b", "east", 3_500, _GIB))
    return Draft(horizon=900, services=services, servers=servers)


@pytest.mark.parametrize("work", [0, 60])
def test_nothing_moves_that_could_have_stayed_in_the_end(work: int) -> None:
    instance = build(_later_shed())
    plan = plan_instance(instance, work=work)
    assert _rules(instance, plan) == set()
    assert not [one for one in plan.steps if one.target == "m"]


def test_no_move_is_left_that_was_for_nothing_however_the_order_was_found() -> None:
    board, items = solve.prepare(build(_later_shed()))
    found = solve.Found(items.active, solve.default_options(board, 1), solve.NEVER, False, False)
    solve.generate(board, found.order, found.options, solve.NEVER)
    assert board.service["moved"].tolist() == [1, 0, 0, 0]
    assert solve.first_idle_shed(board, 0) == 0
    solve._without_idle_moves(board, found)
    assert board.service["moved"].tolist() == [0, 0, 0, 0]
    assert solve.first_idle_shed(board, 0) == -1


def test_the_most_important_starts_in_the_room_that_a_move_makes() -> None:
    draft = _draft()
    batch = replace(draft.services[0], id="batch", tier=2)
    instance = build(replace(draft, services=(batch, *draft.services)))
    plan = plan_instance(instance, work=0)
    assert {name: one[0] for name, one in _states(plan).items()} == {
        "batch": "unplaced",
        "pay": "restored",
        "wiki": "restored",
    }
    assert _rules(instance, plan) == set()


def _turns(draft: Draft) -> int:
    """How often a generation begins to look for rows. `low` may be shed, but that is not enough for pay."""
    low = ServiceDraft("low", 3, 10, 1, (1, 1), 10, 0, running=("v6",), sheddable=True)
    board, items = solve.prepare(build(replace(draft, services=(*draft.services, low))))
    solve.generate(board, items.active, solve.default_options(board, 1), solve.NEVER)
    assert (board.item["at"][: board.components] >= solve.NEVER).sum() == 1
    return int(board.size[TURN])


def test_a_move_is_not_tried_again_and_again_in_vain() -> None:
    """`pay` needs four servers, and all are full of wiki. Nothing moves if nothing fits anywhere; if
    something does, but not what runs where `pay` could start, that is tried once.
    """
    names = tuple(f"v{k}" for k in range(8))
    pay = ServiceDraft("pay", 0, 1_000, 4, (1, 1), 3_000, 0)
    wiki = ServiceDraft("wiki", 3, 10, 8, (1, 1), 2_000, 0, running=names, movable=True)
    tiny = ServiceDraft("tiny", 3, 10, 1, (1, 1), 10, 0, running=("v7",), movable=True)
    servers = tuple(ServerDraft(name, "east", 3_900, _GIB) for name in names)
    full = Draft(horizon=900, services=(pay, wiki), servers=servers)
    still = replace(full, services=(pay, replace(wiki, movable=False)))
    assert _turns(full) == _turns(still)
    # As things are, for a row that could be cleared, and for one where wiki could run.
    assert _turns(replace(full, services=(pay, wiki, tiny))) == _turns(still) + 3


def test_it_does_not_move_where_its_users_are_not_sent() -> None:
    draft = _draft()
    west = replace(draft.servers[1], site="west")
    plan = plan_instance(build(replace(draft, servers=(draft.servers[0], west))), work=0)
    assert _states(plan)["pay"][0] == "unplaced"


def _with(plan: Plan, name: str, **fields: object) -> Plan:
    steps = tuple(replace(one, **fields) if one.id == name else one for one in plan.steps)  # type: ignore[arg-type]
    return replace(plan, steps=steps)


def _at(plan: Plan, name: str, seconds: int, **fields: object) -> Plan:
    one = next(one for one in plan.steps if one.id == name)
    length = one.end_ms - one.start_ms
    return _with(plan, name, start_ms=seconds * 1_000, end_ms=seconds * 1_000 + length, **fields)


def _without(plan: Plan, *names: str) -> Plan:
    return replace(plan, steps=tuple(one for one in plan.steps if one.id not in names))


def _step(plan: Plan, name: str) -> Step:
    return next(one for one in plan.steps if one.id == name)


def test_the_checker_refuses_each_lie_about_a_move() -> None:
    instance = build(_draft())
    plan = plan_instance(instance, work=0)
    waits = _step(plan, "shed:wiki:1").after
    assert "verify:wiki:moved" in waits
    lies = {
        "it stops before its replacement is verified": ("F16", _at(plan, "shed:wiki:1", 30)),
        "it stops first, below its base": ("F16", _at(plan, "shed:wiki:1", 0, after=())),
        "its stop does not wait for the check": ("F16", _with(plan, "shed:wiki:1", after=())),
        "nothing starts elsewhere": ("F16", _without(plan, "start:wiki:moved:1", "verify:wiki:moved")),
        "its replacement is not verified": ("F16", _without(plan, "verify:wiki:moved")),
        "room is counted once": ("F8", _at(plan, "start:pay:base:1", 0)),
        "it starts where it runs": (
            "F8",
            _with(plan, "start:wiki:moved:1", servers=(("large", 1),)),
        ),
        "nothing takes its place": ("F16", _with(plan, "shed:wiki:1", for_services=())),
    }
    for lie, (rule, told) in lies.items():
        assert rule in _rules(instance, told), lie
    assert "F16" in _rules(build(_draft(movable=False)), plan)


def test_a_move_of_fewer_than_stop_is_refused() -> None:
    instance = build(_two())
    plan = plan_instance(instance, work=0)
    start = _step(plan, "start:wiki:moved:1")
    assert start.servers == (("small", 1), ("spare", 1))
    one = _with(plan, start.id, count=1, servers=(("small", 1),))
    assert "F16" in _rules(instance, one)


@pytest.mark.parametrize("cap", ["rack_cap", "feed_cap", "site_cap"])
def test_old_replicas_count_beside_the_new_ones_while_they_move(cap: str) -> None:
    """At the end there is one replica, and in between there are two."""
    draft = _draft()
    places = tuple(replace(one, rack=0, feed=0) for one in draft.servers)
    draft = replace(draft, servers=places)
    plan = plan_instance(build(draft), work=0)
    assert _rules(build(draft), plan) == set()
    pay, wiki = draft.services
    for most, rules in ((2, set[str]()), (1, {"F10"})):
        instance = build(replace(draft, services=(pay, replace(wiki, **{cap: most}))))  # type: ignore[arg-type]
        assert _rules(instance, plan) & {"F10"} == rules
        assert _rules(instance, plan_instance(instance, work=0)) == set()


def test_nothing_starts_beside_what_conflicts_with_it_and_stops_later() -> None:
    draft = _draft()
    large = replace(draft.servers[0], cpu=6_000)
    plan = plan_instance(build(draft), work=0)
    early = _at(plan, "start:pay:base:1", 0)
    for group, rules in ((-1, set[str]()), (0, {"F10"})):
        pay, wiki = (replace(one, conflict=group) for one in draft.services)
        instance = build(replace(draft, services=(pay, wiki), servers=(large, *draft.servers[1:])))
        assert not _rules(instance, plan) & {"F8", "F10"}
        assert _rules(instance, early) & {"F8", "F10"} == rules


def test_the_words_of_a_move_have_its_stop_last() -> None:
    plan = plan_instance(build(_draft()), work=0)
    words = "starts in small after 0 s, serves there after 40 s, stops in large after 40 s"
    rows = {row["service"]: (row["back"], row["why"]) for row in outcome_rows(plan)}
    assert rows["wiki"] == ("0 s", words)
    assert words in " ".join(plan_text(plan, "sha256:0", 400, False).split())


def random_draft(seed: int) -> Draft:
    """One or two lost services of one replica, one to three that may move, three servers, no scarce limit."""
    rng = np.random.default_rng(seed)
    free = {f"v{k}": int(rng.integers(2, 6)) for k in range(3)}
    left, services = dict(free), []
    for k in range(int(rng.integers(1, 4))):
        cpu = int(rng.integers(1, 3))
        where = [name for name in left if left[name] >= cpu]
        if where:
            name = str(rng.choice(where))
            left[name] -= cpu
            services.append(
                ServiceDraft(
                    f"m{k}",
                    3,
                    50,
                    1,
                    (1, 1),
                    cpu * 1_000,
                    0,
                    start=int(rng.choice([20, 40])),
                    verify=10,
                    shed=int(rng.choice([0, 20])),
                    per_server=3,
                    running=(name,),
                    movable=bool(rng.random() < 0.8),
                )
            )
    for k in range(int(rng.integers(1, 3))):
        people, cpu = int(rng.choice([10, 100])), int(rng.integers(1, 5)) * 1_000
        services.append(ServiceDraft(f"s{k}", k, people, 1, (1, 1), cpu, 0, shift=False))
    servers = tuple(ServerDraft(name, "east", cpu * 1_000, _GIB) for name, cpu in free.items())
    return Draft(horizon=600, services=tuple(services), servers=servers)


def _least(draft: Draft) -> int:
    """The least weighted outage of any plan that may move what is movable: by trying each placement in each
    order, and each action as early as there is room.
    """
    rows = {one.id: one.cpu for one in draft.servers}
    fixed = [one for one in draft.services if one.running and not one.movable]
    moving = [one for one in draft.services if one.running and one.movable]
    lost = [one for one in draft.services if not one.running]
    choices = [tuple(rows) for _ in moving] + [(*rows, "") for _ in lost]
    best = None
    for places in product(*choices):
        acts = [
            (one, place)
            for one, place in zip((*moving, *lost), places, strict=True)
            if place and (place,) != one.running
        ]
        for order in permutations(acts):
            cost = _cost(draft, rows, fixed, moving, order)
            best = cost if best is None else min(best, cost)
    assert best is not None
    return best


def _cost(
    draft: Draft,
    rows: dict[str, int],
    fixed: list[ServiceDraft],
    moving: list[ServiceDraft],
    order: tuple[tuple[ServiceDraft, str], ...],
) -> int:
    there = [(one.running[0], one.cpu, 0, draft.horizon) for one in fixed]
    held = {one.id: (one.running[0], one.cpu, 0, draft.horizon) for one in moving}
    back = {one.id: draft.horizon for one in draft.services if not one.running}
    for one, place in order:
        now = [*there, *held.values()]
        ticks = sorted({0, *(tick for _, _, *span in now for tick in span)} - {draft.horizon})
        used = {
            tick: sum(cpu for row, cpu, begin, end in now if row == place and begin <= tick < end)
            for tick in ticks
        }
        fits = (tick for tick in ticks if all(used[k] + one.cpu <= rows[place] for k in ticks if k >= tick))
        at = next(fits, draft.horizon)
        done = at + one.start + one.verify
        if one.running and done + one.shed < draft.horizon:
            there.append((place, one.cpu, at, draft.horizon))
            held[one.id] = (one.running[0], one.cpu, 0, done + one.shed)
        elif not one.running and done < draft.horizon:
            there.append((place, one.cpu, at, draft.horizon))
            back[one.id] = done
    weights = {one.id: draft.tier_weights[one.tier] * one.people for one in draft.services}
    return sum(weights[name] * ticks for name, ticks in back.items())


def test_no_bound_is_above_the_best_plan_and_plans_reach_it() -> None:
    moved = reached = 0
    for seed in range(50):
        draft = random_draft(seed)
        instance, least = build(draft), _least(draft)
        plan = plan_instance(instance, work=0)
        assert _rules(instance, plan) == set(), seed
        assert plan.bound <= least <= plan.objective, seed
        moved += any(one.milestone == "moved" for one in plan.steps)
        reached += plan.objective == least
    assert moved >= 3
    assert reached >= 45


def mixed_draft(seed: int) -> Draft:
    """A server full of what may move and what may be shed, lost services that need one another or some of
    that across tiers, a small server without memory for those, and perhaps one that boots.
    """
    rng = np.random.default_rng(seed)
    moves, sheds = (int(rng.integers(2, 5)) for _ in range(2))
    several, slack = int(rng.integers(1, 3)), int(rng.integers(0, 2))
    running = [
        _runs("m0", int(rng.integers(2, 4)), moves, 1, movable=True),
        _runs("x0", int(rng.integers(1, 4)), sheds * 2, several, sheddable=True),
        _runs("y0", 3, 1, 1, sheddable=bool(rng.random() < 0.5)),
    ]
    if rng.random() < 0.3:
        running.append(_runs("m1", 3, int(rng.integers(1, 3)), 1, movable=True))
    full = sum(one.cpu * one.replicas for one in running) // 1_000
    services = list(running)
    for k in range(int(rng.integers(2, 4))):
        others = [one.id for one in services if rng.random() < (0.1 if one.running else 0.5)]
        services.append(
            ServiceDraft(
                f"s{k}",
                int(rng.integers(0, 3)),
                int(rng.choice([10, 100, 1_000])),
                1,
                (1, 1),
                int(rng.integers(2, 6)) * 1_000,
                1,
                conflict=int(rng.choice([-1, -1, 0])),
                shift=False,
                hard=tuple(others),
                serve=tuple(name for name in others if rng.random() < 0.3),
            )
        )
    small = moves + int(rng.integers(0, 2))
    servers = [ServerDraft("v0", "east", (full + slack) * 1_000, _GIB)]
    servers.append(ServerDraft("v1", "east", small * 1_000, 0))
    if rng.random() < 0.3:
        servers.append(ServerDraft("v2", "east", int(rng.integers(1, 4)) * 1_000, _GIB, dark=True))
    boots = (BootKind("server", int(rng.choice([30, 300])), ()),)
    return Draft(horizon=600, services=tuple(services), servers=tuple(servers), boots=boots)


def _runs(name: str, tier: int, cpu: int, replicas: int, **may: bool) -> ServiceDraft:
    running = ("v0",) * replicas
    people, amount = 50, cpu * 1_000
    return ServiceDraft(
        name, tier, people, replicas, (1, 1), amount, 0, per_server=2, running=running, shed=20, **may
    )


def test_moves_among_sheds_needs_boots_and_conflicts_keep_all_rules() -> None:
    """But for the rule that lower tiers make way, where a plan that moves nothing breaks it as well."""
    moved = 0
    for seed in range(60):
        draft = mixed_draft(seed)
        instance = build(draft)
        plan = plan_instance(instance, work=0)
        found = _rules(instance, plan)
        if found:
            still = build(replace(draft, services=tuple(replace(s, movable=False) for s in draft.services)))
            assert found == _rules(still, plan_instance(still, work=0)) == {"F17"}, seed
        assert plan.bound <= plan.objective, seed
        moved += any(one.id == "start:m0:moved:1" for one in plan.steps)
    assert moved >= 5
