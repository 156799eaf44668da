"""No plan is carried out that the checker refuses: of each kind, whoever hands it over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from evac.app import accepting, applying, runs
from evac.app.accepting import Checker, Forethought, MadeOf, must_hold
from evac.app.applying import check_fit, rehearse
from evac.app.controlling import Composed, Setting, compose
from evac.app.planner.plans import Made, Question, make_plan, scenario_of
from evac.control.port import PlanGiven
from evac.control.store import StoreControl
from evac.derive.situation import of
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import LEADER
from evac.engine.plans.library import Ready, digest_of
from evac.engine.runs.proposals import ANSWER, PROPOSAL
from evac.engine.stores.stalled_commits import plans_for
from evac.estate import load
from evac.estate.codecs import plan as plan_codec
from evac.model.digest import estate_digest
from evac.model.errors import InvalidInput, PlanError, StalePlan, Unavailable, UnsafePlan
from evac.model.estate import Estate
from evac.model.observation import MemberSeen, Observation
from evac.model.plan import Plan
from evac.model.run_policy import RunPolicy
from evac.store.opening import open_store
from evac.store.port import Delete, MemoryStore, Put, Store
from tests.unit.planning.dark import dark_site

SMALL = Path(__file__).resolve().parents[2] / "fixtures" / "estates" / "small"
QUESTIONS = {
    "lose": Question(lose=("north",)),
    "evacuate": Question(evacuate=("north",), deadline_ms=3_600_000),
    "failback": Question(failback=("south",)),
}
RESTORES = {
    "restore": Question(restore=("a",)),
    "restore with the power of now": Question(restore=("a",), power=("a=2kW",), on=("a-web-1",)),
}


SYNCHRONOUS = """evac: 1
sites: {a: {}, b: {}}
services: {}
stores: {db: {engine: postgresql, members: [{at: a, mode: primary}, {at: b, mode: sync}]}}
endpoints:
  db-a: {for: db, at: a, driver: postgres, settings: {host: db.a, name: db-a}}
  db-b: {for: db, at: b, driver: postgres, settings: {host: db.b, name: db-b}}
"""


def altered(data: bytes, **values: object) -> bytes:
    """Plan bytes with other values in their head, in canonical form."""
    return plan_codec.encode(replace(plan_codec.decode(data), **values))  # type: ignore[arg-type]


def without_fences(plan: Plan) -> Plan:
    """What somebody makes of a plan who thinks that fencing takes too long."""
    gone = {step.id for step in plan.steps if step.kind == "fence"}
    assert gone
    steps = tuple(
        replace(step, after=tuple(name for name in step.after if name not in gone))
        for step in plan.steps
        if step.id not in gone
    )
    return replace(plan, steps=steps)


def made_of(estate: Estate, question: Question) -> Made:
    return make_plan(estate, scenario_of(estate, question), budget_ms=0)


def assert_judged(estate: Estate, made: Made) -> None:
    must_hold(estate, made.plan)
    with pytest.raises(UnsafePlan) as error:
        must_hold(estate, replace(made.plan, objective=made.plan.objective - 1))
    assert error.value.code == "plan-wrong"
    assert "F19" in error.value.message
    start = next(step for step in made.plan.steps if step.kind == "start")
    with pytest.raises(UnsafePlan) as error:
        must_hold(estate, replace(made.plan, steps=tuple(s for s in made.plan.steps if s is not start)))
    assert " more" in error.value.message, "a plan that lacks a step breaks several rules"


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_plan_of_each_kind_is_judged(kind: str) -> None:
    estate = load(SMALL)
    assert_judged(estate, made_of(estate, QUESTIONS[kind]))


@pytest.mark.parametrize("kind", RESTORES)
def test_a_plan_that_brings_a_site_back_is_judged(kind: str, tmp_path: Path) -> None:
    estate = dark_site(tmp_path)
    question = RESTORES[kind]
    if question.on:
        question = replace(question, on=(estate.fleet.server_name(0),))
    made = made_of(estate, question)
    assert made.plan.scenario.power == ((("a", 2_000),) if question.power else ())
    assert_judged(estate, made)


def test_an_evacuation_that_takes_longer_than_its_site_runs_is_refused() -> None:
    estate = load(SMALL)
    made = made_of(estate, QUESTIONS["evacuate"])
    short = replace(made.plan, scenario=replace(made.plan.scenario, deadline_ms=1_000))
    with pytest.raises(UnsafePlan, match="differs from the scenario's"):
        must_hold(estate, short)


def test_what_cannot_be_judged_is_refused() -> None:
    estate = load(SMALL)
    plan = made_of(estate, QUESTIONS["lose"]).plan
    with pytest.raises(UnsafePlan, match="atlantis"):
        must_hold(estate, replace(plan, scenario=replace(plan.scenario, domains=("atlantis",))))
    start = next(step for step in plan.steps if step.kind == "start")
    with pytest.raises(UnsafePlan, match="cannot be checked"):
        must_hold(estate, replace(plan, steps=(replace(start, servers=None),)))  # type: ignore[arg-type]


def test_the_leader_looks_at_a_plan_once_for_each_estate(monkeypatch: pytest.MonkeyPatch) -> None:
    estate, looks = load(SMALL), list[str]()
    made = made_of(estate, QUESTIONS["lose"])
    known = accepting.check

    def counted(of: Estate, plan: Plan) -> object:
        looks.append(plan.estate_digest)
        return known(of, plan)

    monkeypatch.setattr(accepting, "check", counted)
    seen = [(estate, estate_digest(estate))]
    checker = Checker(lambda: seen[0])

    async def story() -> None:
        for _ in range(3):
            await checker.accept(made.data)
        assert len(looks) == 1
        for _ in range(2):
            with pytest.raises(UnsafePlan):
                await checker.accept(altered(made.data, bound=made.plan.bound + 1))
        assert len(looks) == 3, "what was refused is looked at again"
        other = replace(estate, detection_ms=61_000)
        seen[0] = other, estate_digest(other)
        with pytest.raises(StalePlan):
            await checker.accept(made.data)

    asyncio.run(story())


def test_what_lets_a_store_commit_again_is_no_plan_of_the_planner(tmp_path: Path) -> None:
    """It is the leader's own, of one step; the checker has no rule for it."""
    (tmp_path / "estate.yaml").write_text(SYNCHRONOUS)
    estate = load(tmp_path)
    (data,) = plans_for(estate, RunPolicy(), ("b",), {}).values()
    asyncio.run(Checker(lambda: (estate, estate_digest(estate))).accept(data))
    with pytest.raises(PlanError):
        plan_codec.decode(data)


REFUSED: list[Callable[[bytes], bytes]] = [
    lambda data: altered(data, objective=1),
    lambda data: plan_codec.encode(without_fences(plan_codec.decode(data))),
]


@pytest.mark.parametrize("alter", REFUSED, ids=["objective", "no fences"])
def test_whoever_rehearses_or_proposes_hears_of_it_first(alter: Callable[[bytes], bytes]) -> None:
    estate = load(SMALL)
    data = alter(made_of(estate, QUESTIONS["lose"]).data)
    for ask in (rehearse, check_fit):
        with pytest.raises(UnsafePlan, match="the checker does not accept this plan"):
            asyncio.run(ask(data, digest_of(data), SMALL, None, 1))


Story = Callable[[Composed], Awaitable[None]]


def led(tmp_path: Path, story: Story) -> None:
    """A story with a real controller that leads an embedded store."""

    async def run() -> None:
        setting = Setting(SMALL, "local", f"sqlite:{tmp_path / 'evac.sqlite'}", watch=False, drawer=False)
        made = await compose(setting, lambda notice: None)
        tasks = [asyncio.create_task(made.controller.run()), asyncio.create_task(made.seen.follow())]
        try:
            await story(made)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await made.close()

    asyncio.run(run())


@pytest.mark.enable_socket
@pytest.mark.parametrize("alter", REFUSED, ids=["objective", "no fences"])
def test_no_run_is_made_of_it_even_by_a_leader_that_is_asked_directly(
    alter: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """As an older client, or one with another estate, would: nothing asks the checker before the leader."""
    good = made_of(load(SMALL), QUESTIONS["lose"]).data
    bad, old = alter(good), altered(good, estate_digest="sha256:" + "0" * 64)

    async def story(made: Composed) -> None:
        now_ms = SystemClock().now_ms()
        with pytest.raises(UnsafePlan) as error:
            await runs.propose(made.store, runs.proposal_of(bad, "fire-1", "fire", ("north",)), now_ms)
        assert error.value.code == "plan-wrong"
        assert "the checker does not accept this plan: F" in error.value.message
        with pytest.raises(StalePlan) as stale:
            await runs.propose(made.store, runs.proposal_of(old, "fire-1", "fire", ("north",)), now_ms)
        assert (stale.value.code, stale.value.hint) == (
            "plan-stale",
            "plan from the current state and apply that: evac plan ESTATE --observe",
        )
        for nothing in ("open/", "incident/", "journal/fire", "bound/"):
            assert await made.store.list(nothing) == []
        run = await runs.propose(made.store, runs.proposal_of(good, "fire-1", "fire", ("north",)), now_ms)
        assert (await runs.view_of(made.store, run)).phase in ("pending", "awaiting_approval")

    led(tmp_path, story)


@pytest.mark.enable_socket
def test_a_leader_reads_and_judges_plans_beside_its_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a large estate each takes a core for seconds, in which a lease would be lost."""
    proposal = runs.proposal_of(made_of(load(SMALL), QUESTIONS["lose"]).data, "fire-1", "fire", ("north",))
    on_the_loop: list[str] = []
    done: set[str] = set()

    def noted(name: str, work: Callable[..., object]) -> Callable[..., object]:
        def noting(*given: object) -> object:
            done.add(name)
            if threading.current_thread() is threading.main_thread():
                on_the_loop.append(name)
            return work(*given)

        return noting

    async def story(made: Composed) -> None:
        accepting.decoded.cache_clear()
        monkeypatch.setattr(plan_codec, "decode", noted("decode", plan_codec.decode))
        monkeypatch.setattr(accepting, "check", noted("check", accepting.check))
        await runs.propose(made.store, proposal, SystemClock().now_ms())
        assert done >= {"decode", "check"}
        assert on_the_loop == []

    led(tmp_path, story)


@pytest.mark.parametrize(
    ("leader", "words", "then"),
    [
        ("", "no controller is leading", "once a controller leads (evac serve), apply"),
        ("a/1/x", "a/1/x leads but did", "see the log of a/1/x, then apply"),
    ],
)
def test_a_plan_that_no_one_takes_is_withdrawn_and_the_answer_says_why(
    leader: str, words: str, then: str
) -> None:
    proposal = runs.proposal_of(made_of(load(SMALL), QUESTIONS["lose"]).data, "fire-1", "fire", ("north",))

    async def story() -> None:
        store = MemoryStore()
        if leader:
            await store.acquire(LEADER, leader, 60_000)
        with pytest.raises(Unavailable, match=words) as error:
            await runs.propose(store, proposal, 1, wait_s=0.01)
        assert then in error.value.hint
        assert not await store.list(PROPOSAL)

    asyncio.run(story())


@pytest.mark.parametrize("starts", ["is refused", "takes for ever"])
def test_a_proposal_is_answered_whatever_becomes_of_another_controller(
    starts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the person reads of a full disk, or waits, while a run may be created."""
    data = made_of(load(SMALL), QUESTIONS["lose"]).data
    ended: list[str] = []

    async def ensure(store: Store, *given: object) -> str:
        for entry in await store.list(PROPOSAL):
            await store.transact(
                (), (Put(ANSWER + entry.key.removeprefix(PROPOSAL), b'{"run": "fire-1-a"}'),)
            )
        try:
            if starts == "is refused":
                raise OSError(28, "no space left on device")
            await asyncio.Event().wait()
            return ""
        finally:
            ended.append(starts)

    async def story() -> None:
        control = StoreControl("memory:", tmp_path / "log")
        try:
            async with asyncio.timeout(60):
                given = PlanGiven(data, digest_of(data), SMALL)
                assert await control.propose(given, "fire-1", "fire", ("north",)) == "fire-1-a"
        finally:
            await control.close()
        assert ended, "and nothing of it goes on"

    monkeypatch.setattr(applying, "ensure_controller", ensure)
    asyncio.run(story())


def test_a_plan_in_a_file_keeps_its_other_refusals() -> None:
    data = made_of(load(SMALL), QUESTIONS["lose"]).data
    stale = altered(data, estate_digest="sha256:" + "0" * 64)
    with pytest.raises(StalePlan):
        asyncio.run(check_fit(stale, digest_of(stale), SMALL, None, 1))
    torn = orjson.dumps({"schema_version": 1})
    with pytest.raises(InvalidInput):
        asyncio.run(check_fit(torn, digest_of(torn), SMALL, None, 1))


@pytest.mark.parametrize(
    ("kind", "named", "missing"),
    [
        ("lose", (), ["north"]),
        ("lose", ("south",), ["north"]),
        ("lose", ("north",), []),
        ("evacuate", (), ["north"]),
        ("failback", (), []),
        ("failback", ("north",), ["south"]),
        ("failback", ("south", "north"), []),
    ],
)
def test_who_names_a_site_that_the_plan_is_not_about_means_another_plan(
    kind: str, named: tuple[str, ...], missing: list[str]
) -> None:
    data = made_of(load(SMALL), QUESTIONS[kind]).data
    assert runs.proposal_of(data, "fire-1", "fire", named).unnamed() == missing


def test_every_power_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    estate = dark_site(tmp_path)
    with pytest.raises(InvalidInput) as error:
        scenario_of(estate, Question(restore=("a",), power=("a=-5%", "nowhere=3kW", "a=2kW", "a")))
    assert error.value.code == "plan-power"
    for words in ("a=-5%", "'nowhere'", "given twice"):
        assert words in error.value.message
    assert error.value.message.count(";") == 3


class _Drawer:
    """What lies ready: site -> plan, each of one estate."""

    def __init__(self, plans: dict[str, bytes], estate: str) -> None:
        self.plans, self.estate, self.taken = plans, estate, 0

    async def look(self, lost: Sequence[str]) -> Ready | None:
        data = self.plans.get(lost[0])
        return None if data is None else Ready(tuple(lost), digest_of(data), self.estate, 1)

    async def take(self, lost: Sequence[str]) -> tuple[Ready, bytes] | None:
        self.taken += 1
        ready = await self.look(lost)
        return None if ready is None else (ready, self.plans[lost[0]])


class _Away:
    """A store that does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> Any:
        raise Unavailable("it does not answer")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scenarios that the checker judged, in order."""
    found: list[str] = []

    def counted(estate: Estate, plan: Plan, made_of: MadeOf | None = None) -> None:
        found.append(",".join(plan.scenario.domains))
        must_hold(estate, plan, made_of)

    monkeypatch.setattr(accepting, "must_hold", counted)
    return found


def test_the_plan_of_each_site_is_judged_once_it_lies_ready_and_not_at_the_loss(
    tmp_path: Path, judged: list[str]
) -> None:
    estate = load(SMALL)
    plans = {
        site: make_plan(estate, scenario_of(estate, Question(lose=(site,))), budget_ms=0).data
        for site in ("north", "south")
    }
    digest = estate_digest(estate)
    now = [digest]

    async def story() -> None:
        async with AsyncExitStack() as open_till_the_end:
            store = open_store("memory:")
            open_till_the_end.push_async_callback(store.close)
            checker, drawer = Checker(lambda: (estate, now[0])), _Drawer(plans, digest)
            ahead = Forethought(store, drawer, checker, ("north", "nowhere", "south"))
            await store.transact((), (Put("open/a-run", b"{}"),))
            await ahead.look()
            assert judged == [], "a run comes first"
            await store.transact((), (Delete("open/a-run"),))
            for _ in range(3):
                await ahead.look()
            assert judged == ["north", "south"]
            assert drawer.taken == 2, "what was judged is not read again"
            paused: list[float] = []

            async def pause(seconds: float) -> None:
                paused.append(seconds)
                if len(paused) == 2:
                    raise asyncio.CancelledError

            unknown = Checker(lambda: (estate, digest))
            with pytest.raises(asyncio.CancelledError):
                await Forethought(_Away(store), drawer, unknown, ("north",), pause).run()
            assert len(paused) == 2, "a store that is away ends nothing"
            await checker.accept(plans["north"])
            assert judged == ["north", "south"]
            now[0] = "sha256:of another estate"
            with pytest.raises(StalePlan):
                await checker.accept(plans["north"])

    asyncio.run(story())


def test_a_plan_that_no_longer_fits_is_refused_with_what_has_changed() -> None:
    estate = load(SMALL)
    data = make_plan(estate, scenario_of(estate, QUESTIONS["lose"]), budget_ms=0).data
    seen = Observation(
        1, (MemberSeen("carts", "north", "replica", 0), MemberSeen("carts", "south", "primary", 0))
    )
    now = of(estate, seen).estate
    checker = Checker(lambda: (now, estate_digest(now)), lambda: (estate, seen))
    with pytest.raises(StalePlan) as stale:
        asyncio.run(checker.accept(data))
    assert (
        stale.value.message
        == "this plan was made from the files only, and now carts has its primary in south, "
        "as observed since 00:00 UTC"
    )
    assert stale.value.hint.endswith("evac plan ESTATE --observe")


def test_a_plan_that_is_refused_ahead_is_not_judged_all_the_time_and_refused_at_the_loss(
    tmp_path: Path, judged: list[str]
) -> None:
    estate = load(SMALL)
    plan = plan_codec.decode(make_plan(estate, scenario_of(estate, QUESTIONS["lose"]), budget_ms=0).data)
    wrong = plan_codec.encode(without_fences(plan))
    digest = estate_digest(estate)

    async def story() -> None:
        store = open_store("memory:")
        checker = Checker(lambda: (estate, digest))
        ahead = Forethought(store, _Drawer({"north": wrong}, digest), checker, ("north",))
        for _ in range(3):
            await ahead.look()
        assert judged == ["north"]
        with pytest.raises(UnsafePlan):
            await checker.accept(wrong)
        await store.close()

    asyncio.run(story())
