"""A hall burns and its site lives: a run for exactly that hall, once, and never on less than proof."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac import estate as estates
from evac.app.planner.plans import make_plan
from evac.derive.domains import halls_of_endpoints, topology
from evac.engine.lead.controller import Controller
from evac.engine.lead.votes import decode as vote_in
from evac.engine.lead.votes import encode as vote_out
from evac.engine.runs.binding import bind
from evac.engine.runs.effects import EFFECTS, encode
from evac.engine.runs.step_actions import old_of
from evac.engine.stores.guards import SITES_KEY
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.run_policy import PROFILES, Proof, RunPolicy, StorePolicy
from evac.model.scenario import Scenario
from evac.model.situation import LostNow, Moved
from evac.office.values import Ballots, LeaderSeen, QuorumSeen
from evac.office.values import Situation as Now
from evac.run.waits import waiting
from evac.store.port import Entry, Put
from evac.views.wait_words import words_of
from evac.watch.verdict import Ballot, Opinion, Standing, Vote, judge, judge_halls
from evac.web.pages.now_view import now_context
from tests.unit.engine.small_world import QUICK, World, play, policy_of
from tests.unit.run.world import World as RunWorld

HALL = "pangyo/hall-1"


async def register(world: World) -> dict[str, str]:
    entry = await world.store.get(SITES_KEY)
    assert entry is not None
    found: dict[str, str] = orjson.loads(entry.value)
    return found


async def incidents(world: World) -> list[str]:
    return [entry.key.removeprefix("incident/") for entry in await world.store.list("incident/")]


def test_its_primary_is_promoted_elsewhere_and_no_site_is_left() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.dark.add(HALL)
        await world.until(lambda: "promote" in world.systems.verbs_done())
        while not await world.ended():
            await world.until(lambda: True)
        assert world.systems.verbs_done()[:2] == ["fence", "promote"], "no promotion before its fence"
        assert world.primary == "anyang"
        assert set((await register(world)).values()) == {"active"}
        (incident,) = await incidents(world)
        assert incident.startswith("pangyo-hall-1-lost-")
        assert (HALL,) in world.planned
        words = world.words("loss")
        assert any(f"{HALL} is lost; {incident}" in one and "starts without approval" in one for one in words)

    play(story, World(policy_of("act"), halls=True))


@pytest.mark.parametrize(("mode", "said"), [("hold", "waits for approval"), ("advise", "the plan is ready")])
def test_without_the_policy_to_act_a_person_is_asked(mode: str, said: str) -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.dark.add(HALL)
        await world.until(lambda: any(HALL in one and said in one for one in world.words("loss")))
        assert not world.systems.log

    play(story, World(policy_of(mode), halls=True))


def test_now_says_it_of_a_hall_whose_site_answers_with_what_comes_next() -> None:
    """Where evac only advises, no run and no mark would say it."""

    async def story(world: World) -> None:
        await world.until_planned()
        rooms = Ballots(world.store, world.clock, QUICK, "anyang")
        rooms.follow(QUICK, [(site, "") for site in ("anyang", "ansan", "pangyo")])

        async def said(halls: tuple[str, ...]) -> Now:
            while True:
                await rooms.read()
                rooms.judge()
                if rooms.lost_halls() == halls and all(one.state == "healthy" for one in rooms.sites({})):
                    break
                await asyncio.sleep(QUICK.period_ms / 1_000)
            leader, quorum = LeaderSeen("anyang/1/x", 1), QuorumSeen("etcd", True, (), 2, True, 1)
            return Now(
                1, 1, rooms.sites({}), leader, quorum, None, (), (), (), (), 0, "", "", lost_halls=halls
            )

        calm = await said(())
        assert HALL not in now_context(calm, None, 1)["answer"][0]
        world.dark.add(HALL)
        burnt = await said((HALL,))
        words, state = now_context(burnt, None, 1)["answer"]
        assert state == "error"
        assert words.startswith(f"{HALL} is lost, although its site answers")
        assert f"evac plan ESTATE --observe --lose {HALL}" in words
        left = now_context(replace(burnt, lost=(LostNow(HALL, "lost", 1, "fire"),)), None, 1)["answer"][0]
        assert f"evac plan ESTATE --restore {HALL}" in left
        assert "--lose" not in left

    play(story, World(policy_of("advise"), halls=True))


def test_an_envelope_that_does_not_cover_it_asks() -> None:
    policy = policy_of("act")

    async def story(world: World) -> None:
        await world.until_planned()
        world.dark.add(HALL)
        await world.until(lambda: any("waits for approval" in one for one in world.words("loss")))
        assert not world.systems.log

    play(story, World(replace(policy, envelope=replace(policy.envelope, stores=())), halls=True))


@pytest.mark.parametrize("dark", [{"member"}, {"data"}, {"user", "member"}, {"agent", "data"}])
def test_less_than_two_kinds_of_evidence_lose_nothing(dark: set[str]) -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.dark |= {f"pangyo/{kind}" for kind in dark}
        await _pass_many_judgements(world)
        assert not any(_lost(one) for one in world.controllers.values())
        assert not world.systems.log

    play(story, World(policy_of("act"), halls=True))


async def _pass_many_judgements(world: World) -> None:
    until_ms = world.clock.monotonic_ms() + 20 * (QUICK.suspect_ms + QUICK.confirm_ms)
    await world.until(lambda: world.clock.monotonic_ms() > until_ms)


def test_one_witness_alone_loses_nothing() -> None:
    """The path of one site to that hall is cut: to the other it lives."""

    async def story(world: World) -> None:
        await world.until_planned()
        world.cuts |= {("anyang", HALL)}
        await _pass_many_judgements(world)
        assert all(c.halls[HALL].verdict.state != "lost" for c in world.controllers.values())
        assert not world.systems.log

    play(story, World(policy_of("act"), halls=True))


def test_a_site_that_burns_is_never_taken_for_one_of_its_halls() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.dark.add(HALL)  # it burns from one end to the other
        until_ms = world.clock.monotonic_ms() + QUICK.suspect_ms // 2
        await world.until(lambda: world.clock.monotonic_ms() > until_ms)
        world.burn("pangyo")
        await world.until(lambda: "promote" in world.systems.verbs_done())
        while not await world.ended():
            await world.until(lambda: True)
        assert [one.partition("-lost-")[0] for one in await incidents(world)] == ["pangyo"]
        assert (await register(world))["pangyo"] == "lost"

    play(story, World(policy_of("act"), halls=True))


def test_its_site_burns_while_the_run_is_under_way() -> None:
    async def story(world: World) -> None:
        world.systems.stuck.add("promote")
        await world.until_planned()
        world.dark.add(HALL)
        await world.until(lambda: "promote" in world.systems.verbs_done())
        world.burn("pangyo")
        await world.until(lambda: any("has a new plan" in one for one in world.words("loss")))
        assert (await register(world))["pangyo"] == "lost"
        assert len(await incidents(world)) == 1, "one run answers both"

    play(story, World(policy_of("act"), halls=True, sites=("anyang", "ansan", "pangyo")))


def test_whoever_leads_next_does_not_answer_the_same_loss_again() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        past = Moved("fire-1", "lose", (HALL,), 1, 2, "succeeded", number=1)
        await world.store.transact((), (Put(EFFECTS + past.run, encode(past)),))
        world.dark.add(HALL)
        await world.until(lambda: any(c.leads and _lost(c) for c in world.controllers.values()))
        await _pass_many_judgements(world)
        assert not await incidents(world)

    play(story, World(policy_of("act"), halls=True))


def _lost(controller: Controller) -> bool:
    return HALL in controller.halls and controller.halls[HALL].verdict.state == "lost"


def test_a_hall_with_nothing_to_move_makes_no_run() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        for times in (1, 2):
            world.dark.add("ansan/hall-1")
            await world.until(lambda times=times: answers(world) == times)
            assert not await incidents(world)
            world.cuts.add(("anyang", "ansan/hall-1"))  # only the other witness reaches it again
            world.dark.discard("ansan/hall-1")
            await world.until(lambda: states(world) == {"suspect"})

    def states(world: World) -> set[str]:
        return {one.halls["ansan/hall-1"].verdict.state for one in world.controllers.values()}

    def answers(world: World) -> int:
        return sum(one.data.get("steps") == 0 for one in world.notices)

    play(story, World(policy_of("act"), halls=True))


ESTATE = """evac: 1
sites: {east: {}, west: {}, north: {}}
halls: {west/hall-1: {}, west/hall-2: {}}
services:
  shop: {people: 5, replicas: {east: 1}, start: 1 s, needs: [{store: orders}]}
stores:
  orders:
    engine: postgresql
    fence: 1 s
    promote: 1 s
    members:
      - {at: west/hall-1, mode: primary}
      - {at: east, mode: sync, lag: 0 s}
      - {at: north, mode: async, lag: 1 s}
endpoints:
  west: {for: orders, at: west, driver: postgres, settings: {host: 127.0.0.1, name: w}}
  east: {for: orders, at: east, driver: postgres, settings: {host: 127.0.0.2, name: e}}
  north: {for: orders, at: north, driver: postgres, settings: {host: 127.0.0.3, name: n}}
  gate:
    for: west
    at: west
    hall: west/hall-2
    driver: command
    settings: {argv: [/bin/true], does: [fence], fence: network, observe_argv: [/bin/true]}
"""


def test_what_closes_a_site_is_no_fence_of_its_hall_and_no_lost_copy_is_led(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    estate = estates.load(tmp_path / "estate.yaml")
    policy = RunPolicy(stores={"orders": StorePolicy("orders", proofs=("network", "attest"))})
    acts = {}
    for domain in ("west", "west/hall-1"):
        plan = make_plan(estate, Scenario("lose", (domain,)), budget_ms=0).plan
        bound = bind(estate, plan, policy, run="r", incident="i", digest="d")
        acts[domain] = {act.driver for act in bound.actions["fence:orders"]}
        rejoined = {act.at for step, done in bound.actions.items() if "rejoin" in step for act in done}
        assert rejoined == {"north"}, "the old primary is lost with its hall"
        assert bound.actions[old_of("promote:orders")], "and gives its role up should it answer again"
        assert bound.spec.envelope.sites == (("west",) if domain == "west" else ())
    assert acts == {"west": {"command"}, "west/hall-1": {"manual"}}


ACCEPTED: st.SearchStrategy[tuple[Proof, ...]] = st.lists(
    st.sampled_from(("sync", "network", "power", "lease", "attest")), min_size=1, unique=True
).map(tuple)


@given(ACCEPTED, st.sampled_from(("west", "west/hall-1")))
def test_a_fence_of_a_hall_is_asked_of_what_can_prove_it_or_of_a_person_who_is_told_where(
    accepted: tuple[Proof, ...], domain: str
) -> None:
    """The gate closes all of west, where the agent and other halls live: it proves the loss of west only."""
    estate, plan = _loss_of(domain)
    rule = StorePolicy("orders", proofs=accepted, self_fence="lease" in accepted)
    bound = bind(estate, plan, RunPolicy(stores={"orders": rule}), run="r", incident="i", digest="d")
    (fence,) = bound.actions["fence:orders"]
    can = {"sync", "lease"} | ({"network"} if domain == "west" else set())
    able = [proof for proof in accepted if proof in can]
    assert fence.parameters["proof"] == (able[0] if able else "attest")
    world = RunWorld(replace(bound.spec, approvals=0))
    world.begin()
    world.settle()
    i = world.view.number("fence:orders")
    assert (i in world.view.manual_running) == (not able)
    if not able:
        (asked,) = [one for one in waiting(world.view) if one.step == "fence:orders"]
        assert "in west/hall-1" in words_of(asked), "which of its members that is"
        assert asked.verbs == (("attest", "skip") if "attest" in accepted else ("skip",))
        assert ("then attest" in words_of(asked)) == ("attest" in accepted), "only what is accepted is asked"


@cache
def _loss_of(domain: str) -> tuple[Estate, Plan]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "estate.yaml").write_text(ESTATE)
        estate = estates.load(Path(folder) / "estate.yaml")
    return estate, make_plan(estate, Scenario("lose", (domain,)), budget_ms=0).plan


def test_a_probe_says_in_which_hall_it_is(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    top = topology(estates.load(tmp_path / "estate.yaml"))
    assert halls_of_endpoints(top) == {"west": "west/hall-1", "gate": "west/hall-2"}


OPINIONS = st.sampled_from(["up", "down", "unknown"])
SITES = ("anyang", "ansan", "pangyo")
LAB = PROFILES["lab"]


@st.composite
def rounds(draw: st.DrawFn) -> list[tuple[bool, tuple[tuple[Opinion, Opinion, Opinion], ...]]]:
    """Votes of anyang and ansan on pangyo: of data and member in hall-1, and of the agent elsewhere."""
    one = st.tuples(OPINIONS, OPINIONS, OPINIONS)
    return draw(st.lists(st.tuples(st.booleans(), st.tuples(one, one)), min_size=1, max_size=25))


@given(rounds())
def test_a_hall_is_lost_only_after_two_sites_saw_nothing_of_it_and_the_rest_of_its_site(
    played: list[tuple[bool, tuple[tuple[Opinion, Opinion, Opinion], ...]]],
) -> None:
    sites: dict[str, Standing] = {}
    halls: dict[str, Standing] = {}
    proof: list[bool] = []
    for number, (late, said) in enumerate(played, 1):
        now_ms = number * LAB.period_ms
        ballots = []
        for witness, (data, member, agent) in zip(("anyang", "ansan"), said, strict=True):
            within = (("data", data), ("member", member))
            evidence = tuple(sorted((("agent", agent), *within)))
            opinion: Opinion = "up" if "up" in (data, member, agent) else "unknown"
            places = (("", (("agent", agent),)), (HALL, within))
            vote = Vote(witness, "pangyo", opinion, evidence, 0, 0, number, "", places)
            entry = Entry(f"votes/pangyo/{witness}", vote_out(vote), 1)
            assert vote_in(entry) == vote, "votes travel through the store"
            seen_ms = now_ms - (LAB.vote_ttl_ms + 1 if late else 0)
            ballots.append(Ballot(vote, seen_ms))
        sites = judge(ballots, SITES, sites, LAB, now_ms, "ansan")
        halls = judge_halls(ballots, SITES, halls, LAB, now_ms, sites)
        proof.append(not late and all(row == ("down", "down", "up") for row in said))
        needed = (LAB.confirm_ms + LAB.suspect_ms) // LAB.period_ms
        if halls[HALL].lost_since_ms == now_ms:
            assert proof[-1]
            assert sum(proof) > needed, "for as long as it takes to believe the loss of a site, and longer"
        if proof[-needed - 1 :] == [True] * (needed + 1):
            assert halls[HALL].verdict.state == "lost"
