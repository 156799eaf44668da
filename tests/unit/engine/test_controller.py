"""Controllers of three sites over one store: who leads, what a fire leads to in each mode, and what never."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import orjson
import pytest

from evac.drivers.port import Action
from evac.engine.plans.library import digest_of, put_plan
from evac.engine.runs.binding import Bound
from evac.engine.runs.reading import events_of
from evac.engine.stores.guards import read_register
from evac.engine.stores.stalled_commits import Roles
from evac.model.errors import NotAllowed
from evac.model.run_policy import Window
from evac.run.values import RunStep
from evac.store.anchors import verify_chain
from evac.store.port import Delete, Lease, Put
from tests.unit.engine.small_world import SITES, World, play, policy_of


async def _run_names(world: World) -> list[str]:
    return [orjson.loads(entry.value)["run"] for entry in await world.store.list("incident/")]


async def _end(world: World) -> None:
    await world.until(lambda: "shift" in world.systems.verbs_done())
    async with asyncio.timeout(5):
        while not await world.ended():
            await asyncio.sleep(0.01)


def test_act_carries_a_covered_loss_out_by_itself() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await _end(world)
        assert world.systems.verbs_done() == ["fence", "promote", "shift"]
        assert [entry[4] for entry in world.systems.log[:2]] == [1, 1], "one epoch for fence and promotion"
        assert await read_register(world.store) == {"anyang": "active", "ansan": "active", "pangyo": "lost"}
        epoch = await world.store.get("epoch/chat")
        assert epoch is not None
        told = orjson.loads(epoch.value)
        assert (told["holder"], told["rung"], told["candidate"]) == ("anyang", "sync", "")
        pooled = await world.store.get("pooled")
        assert pooled is not None
        assert orjson.loads(pooled.value) == {"web": ["anyang"]}
        (run,) = await _run_names(world)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert kinds[0] == "run_created"
        assert "approval_needed" not in kinds
        assert kinds[-1] == "run_ended"

    play(story, World(policy_of("act")))


def test_what_a_run_moved_is_observed_as_soon_as_it_ends() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await _end(world)
        await world.until(lambda: bool(world.asked_after))

    play(story, World(policy_of("act")))


def test_the_leader_burns_with_its_site_and_another_goes_on() -> None:
    async def story(world: World) -> None:
        await world.until(lambda: world.leader == "pangyo")
        world.start("anyang")
        world.start("ansan")
        await world.until_planned()
        world.burn("pangyo")
        await _end(world)
        assert world.leader in ("anyang", "ansan")
        assert world.systems.verbs_done() == ["fence", "promote", "shift"]

    play(story, World(policy_of("act")), ("pangyo",))


def test_hold_prepares_and_waits_for_a_person() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: any("waits for approval" in words for words in world.words("loss")))
        await asyncio.sleep(0.3)
        assert world.systems.log == []
        (run,) = await _run_names(world)
        request = {"verb": "approve", "who": "kim", "reason": "it burns"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        await _end(world)
        assert world.systems.verbs_done() == ["fence", "promote", "shift"]

    play(story, World(policy_of("hold")))


def test_advise_says_what_it_would_do_and_does_nothing() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: any("evac apply sha256:" in words for words in world.words("loss")))
        digest = digest_of(await world.plan(("pangyo",)))
        assert world.words("loss")[0].endswith(
            f"evac apply {digest[:19]} ESTATE --execute --confirm pangyo --reason WHY"
        ), "the next command, whole"
        await asyncio.sleep(0.3)
        assert world.systems.log == []
        assert await world.store.list("incident/") == []
        assert len(world.words("loss")) == 1, "said once, not every period"

    play(story, World(policy_of("advise")))


def test_act_outside_the_envelope_asks() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("ansan")
        await world.until(lambda: any("waits for approval" in words for words in world.words("loss")))
        await asyncio.sleep(0.2)
        assert world.systems.log == []

    play(story, World(policy_of("act")))


def test_act_without_a_quorum_of_its_own_is_refused() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: any("would not survive" in words for words in world.words("refused")))
        await asyncio.sleep(0.2)
        assert world.systems.log == []
        assert await world.store.list("incident/") == []

    play(story, World(policy_of("act"), quorum=False))


def test_a_cut_between_two_sites_moves_nothing() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.cuts.add(("anyang", "pangyo"))
        await world.until(lambda: any("pangyo is suspect" in words for words in world.words("verdict")))
        await asyncio.sleep(0.5)
        assert world.systems.log == []
        assert "lost" not in {n.data.get("state") for n in world.notices if n.kind == "verdict"}

    play(story, World(policy_of("act")))


def test_a_site_that_is_cut_off_but_alive_is_isolated_and_not_left() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.cuts |= {("anyang", "pangyo"), ("ansan", "pangyo")}
        await world.until(lambda: any("pangyo is isolated" in words for words in world.words("verdict")))
        await asyncio.sleep(0.5)
        assert world.systems.log == [], "its witness still votes through the store"

    play(story, World(policy_of("act")))


def test_a_second_loss_is_never_answered_by_itself() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await _end(world)
        world.burn("anyang")
        await asyncio.sleep(1.0)
        assert world.systems.verbs_done() == ["fence", "promote", "shift"]
        register = await read_register(world.store)
        assert register["anyang"] == "active"

    play(story, World(policy_of("act")))


def test_nothing_is_planned_where_every_site_would_be_left() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        left = {"anyang": "lost", "ansan": "evacuated", "pangyo": "active"}
        await world.store.transact((), [Put("sites", orjson.dumps(left))])
        world.burn("pangyo")
        await world.until(lambda: any("no site would be left" in w for w in world.words("refused")))
        await asyncio.sleep(0.3)
        assert len(world.words("refused")) == 1
        assert tuple(SITES) not in world.planned
        assert await world.store.list("incident/") == []

    play(story, World(policy_of("act")))


async def _protects_log(lost: list[str], roles: object, left: list[str]) -> dict[str, bytes]:
    """For a store that stays at ansan, and lost its synchronous copy with pangyo."""
    action = {"driver": "simulated", "at": "ansan", "settings": {}, "synchronous": ["dc-anyang"]}
    return {"log": orjson.dumps({"protect": {"store": "log", **action}})} if "pangyo" in lost else {}


def test_a_loss_is_answered_once_a_damaged_register_is_repaired() -> None:
    """Both responses: what is lost moves, and a store that only lost a copy is protected."""

    async def story(world: World) -> None:
        await world.until_planned()
        register = await world.store.get("sites")
        assert register is not None
        await world.store.transact((), [Put("sites", b'{"anyang": 7}')])
        world.burn("pangyo")
        await world.until(lambda: len(world.words("refused")) >= 2)
        await asyncio.sleep(2.0)
        words = "pangyo is lost; the response was refused: cannot read the contents of sites"
        said = [one.startswith(words) for one in world.words("refused")]
        assert said == [True, True], "once for each response, however often it is tried"
        assert world.systems.verbs_done() == []
        await world.store.transact((), [Put("sites", register.value)])
        await world.until(lambda: {"promote", "shift"} <= {*world.systems.verbs_done()})
        words = "log lost its synchronous replica at pangyo: log-protect-1-"
        await world.until(lambda: any(one.startswith(words) for one in world.words("loss")))

    play(story, World(policy_of("act"), protections=_protects_log))


def test_a_new_leader_takes_the_run_over_and_looks_first() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.stuck.add("promote")
        world.burn("pangyo")
        await world.until(lambda: "promote" in world.systems.verbs_done())
        first = world.leader
        token = world.systems.log[-1][3]
        world.systems.stuck.clear()
        world.stores[first].cut = True
        world.tasks[first].cancel()
        await world.until(lambda: world.leader not in ("", first))
        world.start(first)
        await _end(world)
        promotes = [entry for entry in world.systems.log if entry[0] == "promote"]
        assert len(promotes) == 2, "the first never came through, which was seen before it was tried again"
        assert promotes[1][3] > token, "the token grew with the leader"
        assert promotes[1][4] == promotes[0][4], "and the epoch is the same"
        (run,) = await _run_names(world)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert kinds.index("leader_changed") < kinds.index("step_observed")
        assert len(await _run_names(world)) == 1, "the loss already has a run"
        assert any("takes this into account" in words for words in world.words("loss"))
        assert world.words("refused") == []

    play(story, World(policy_of("act")))


def test_a_leader_without_its_lease_stops_at_once() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.stuck.add("fence")
        world.burn("pangyo")
        await world.until(lambda: "fence" in world.systems.verbs_done())
        first = world.leader
        world.stores[first].cut = True
        await world.until(lambda: not world.controllers[first].leads, 1.0)
        lease = await world.store.holder("leader")
        assert lease is not None
        assert lease.owner.startswith(first), "it stopped while the store still held its lease"
        await world.until(lambda: any("stopped leading" in words for words in world.words("leader")))

    play(story, World(policy_of("act")))


def test_hold_stops_everything_until_it_is_released() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        hold = orjson.dumps({"who": "lee", "reason": "a drill", "at_ms": 1})
        await world.store.transact((), [Put("hold", hold)])
        world.burn("pangyo")
        await world.until(lambda: any("starts without approval" in words for words in world.words("loss")))
        await asyncio.sleep(0.5)
        assert world.systems.log == []
        await world.store.transact((), [Delete("hold")])
        await _end(world)

    play(story, World(policy_of("act")))


def test_a_maintenance_window_holds_every_effect_on_its_sites_until_it_ends() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        now_ms = world.clock.now_ms()
        window = Window(now_ms - 1_000, now_ms + 2_500, ("anyang",), "new switches")
        for site in SITES:
            world.tasks[site].cancel()
        world.policy = policy_of("act", windows=(window,))
        for site in SITES:
            world.start(site)
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: any("starts without approval" in words for words in world.words("loss")))
        await world.until(lambda: bool(world.systems.log))
        assert world.clock.now_ms() >= window.end_ms, "nothing was touched inside it"
        await _end(world)
        (run,) = await _run_names(world)
        waits = [event for event in await events_of(world.store, run) if event.kind == "step_waits"]
        assert [event.data["why"] for event in waits] == ["maintenance: new switches"], "said once"

    play(story, World(policy_of("act")))


def test_a_hold_in_the_middle_stops_before_the_next_effect_and_is_in_the_journal() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.slow["fence"] = 0.4
        world.burn("pangyo")
        await world.until(lambda: "fence" in world.systems.verbs_done())
        hold = orjson.dumps({"who": "lee", "reason": "look first", "at_ms": 1})
        await world.store.transact((), [Put("hold", hold)])
        await asyncio.sleep(1.0)
        assert world.systems.verbs_done() == ["fence"], "what was under way ends, nothing else begins"
        await world.store.transact((), [Delete("hold")])
        await _end(world)
        (run,) = await _run_names(world)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert kinds.index("held") < kinds.index("released") < kinds.index("run_ended")

    play(story, World(policy_of("act")))


def test_what_a_guard_refuses_is_said_once_and_waits_for_a_person() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.slow["promote"] = 0.4
        world.burn("pangyo")
        await world.until(lambda: "promote" in world.systems.verbs_done())
        left = dict(await read_register(world.store)) | {"anyang": "evacuated"}
        await world.store.transact((), [Put("sites", orjson.dumps(left))])
        (run,) = await _run_names(world)
        await world.until(lambda: any("paused" in words for words in world.words("run")))
        await asyncio.sleep(0.6)
        events = await events_of(world.store, run)
        failed = [event for event in events if event.kind == "step_failed"]
        assert [(event.step, event.data["code"]) for event in failed] == [("shift:web", "site-left")]
        assert not [event for event in events if event.kind == "step_waits"]
        await world.store.transact((), [Put("sites", orjson.dumps(left | {"anyang": "active"}))])
        request = {"verb": "retry", "who": "kim", "reason": "it is back", "step": "shift:web"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        await _end(world)

    play(story, World(policy_of("act")))


def test_traffic_that_drifts_after_the_run_is_put_right() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await _end(world)
        world.systems.done["shift", "web"] = {"to": "pangyo"}
        await world.until(lambda: any("was corrected" in words for words in world.words("drift")))
        assert world.systems.done["shift", "web"] == {"to": "anyang", "away": "pangyo"}
        world.systems.done["promote", "chat"] = {}
        await world.until(lambda: any("is not corrected" in words for words in world.words("drift")))
        assert world.systems.verbs_done().count("promote") == 1

    play(story, World(policy_of("act")))


class _Waits(World):
    """Its runs end with something that only a person can do, so that they stay open."""

    async def bind(self, data: bytes, run: str, incident: str, digest: str) -> Bound:
        bound = await super().bind(data, run, incident, digest)
        last = RunStep("attest:end", "attest", "end", 300, 0, ("shift:web",), manual=True)
        spec = replace(bound.spec, steps=(*bound.spec.steps, last))
        return Bound(spec, {**bound.actions, last.id: (Action("attest", "end", "manual"),)})


def test_whoever_takes_a_run_over_watches_what_was_done_before() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: ("shift", "web") in world.systems.done)
        await asyncio.sleep(0.1)
        for site in ("anyang", "ansan"):
            world.tasks.pop(site).cancel()
        await world.until(lambda: not world.leader)
        for site in ("anyang", "ansan"):
            world.start(site)
        await world.until(lambda: bool(world.leader))
        world.systems.done["shift", "web"] = {"to": "pangyo"}
        await world.until(lambda: any("was corrected" in words for words in world.words("drift")))
        assert world.systems.done["shift", "web"] == {"to": "anyang", "away": "pangyo"}

    play(story, _Waits(policy_of("act")))


PROTECT = orjson.dumps(
    {
        "protect": {
            "store": "chat",
            "driver": "simulated",
            "at": "pangyo",
            "settings": {},
            "synchronous": ["dc-ansan"],
        }
    }
)


async def _protections(lost: list[str], roles: dict[str, Roles], left: list[str]) -> dict[str, bytes]:
    if "chat" in roles and roles["chat"].synchronous == ("dc-ansan",):
        return {}  # it is protected already
    return {"chat": PROTECT, "mail": PROTECT} if "anyang" in lost else {}


async def _protected(world: World) -> dict[str, object]:
    async with asyncio.timeout(5):
        told: dict[str, object] = {"candidate": "anyone"}
        while told["candidate"]:
            entry = await world.store.get("epoch/chat")
            told = orjson.loads(entry.value) if entry is not None else told
            await asyncio.sleep(0.01)
    return told


def test_a_synchronous_replica_that_died_alone_is_replaced_though_its_site_lives() -> None:
    hanging: dict[str, tuple[str, ...]] = {}

    async def story(world: World) -> None:
        await world.until_planned()
        hanging["chat"] = ("anyang",)
        await world.until(lambda: "protect" in world.systems.verbs_done())
        told = await _protected(world)
        assert (told["holder"], told["synchronous"]) == ("pangyo", ["dc-ansan"])
        hanging.clear()
        await asyncio.sleep(0.3)
        assert world.systems.verbs_done() == ["protect"], "no other store, no site is left, and once"
        assert await read_register(world.store) == dict.fromkeys(SITES, "active")

    play(story, World(policy_of("act"), protections=_protections, hangs=lambda: hanging))


@pytest.mark.parametrize(("mode", "ask"), [("advise", False), ("hold", True)])
def test_hanging_commits_are_said_once_where_evac_may_not_act(mode: str, ask: bool) -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        await world.until(lambda: any("lost its synchronous replica" in w for w in world.words("loss")))
        await asyncio.sleep(0.4)
        assert world.systems.log == []
        assert len([w for w in world.words("loss") if "lost its synchronous replica" in w]) == 1
        assert bool(await world.store.list("incident/")) == ask

    hangs = {"chat": ("anyang",)}
    play(story, World(policy_of(mode), protections=_protections, hangs=lambda: hangs))


def test_a_lost_synchronous_replica_is_replaced_under_the_next_epoch() -> None:
    protect = orjson.dumps(
        {
            "protect": {
                "store": "chat",
                "driver": "simulated",
                "at": "pangyo",
                "settings": {},
                "synchronous": ["dc-ansan"],
            }
        }
    )

    async def protections(lost: list[str], roles: object, left: list[str]) -> dict[str, bytes]:
        return {"chat": protect} if lost == ["anyang"] else {}

    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("anyang")
        await world.until(lambda: "protect" in world.systems.verbs_done())
        await world.until(lambda: any("chat-protect-1" in words for words in world.words("loss")))
        async with asyncio.timeout(5):
            told = {"candidate": "anyone"}
            while told["candidate"]:
                entry = await world.store.get("epoch/chat")
                told = orjson.loads(entry.value) if entry is not None else told
                await asyncio.sleep(0.01)
        assert (told["holder"], told["synchronous"]) == ("pangyo", ["dc-ansan"])

    world = World(policy_of("act"), protections=protections)
    play(story, world)
    protects = [entry for entry in world.systems.log if entry[0] == "protect"]
    assert [entry[4] for entry in protects] == [1]


def test_a_run_that_is_cancelled_gives_up_what_it_claimed_but_did_not_begin() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.stuck.add("fence")
        world.burn("pangyo")
        await world.until(lambda: "fence" in world.systems.verbs_done())
        (run,) = await _run_names(world)
        request = {"verb": "cancel", "who": "kim", "reason": "it is a drill"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        async with asyncio.timeout(8):
            while not await world.ended():
                await asyncio.sleep(0.02)
        epoch = await world.store.get("epoch/chat")
        assert epoch is not None
        told = orjson.loads(epoch.value)
        assert (told["candidate"], told["holder"], told["epoch"]) == ("", "pangyo", 1)

    play(story, World(policy_of("act")))


def test_what_a_person_proposes_is_run_or_refused_with_words() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        data = await world.plan(("pangyo",))
        await put_plan(world.store, data)
        wanted = {
            "incident": "move-1",
            "plan": digest_of(data),
            "reason": "a new roof",
            "leaving": ["pangyo"],
            "mark": "evacuating",
            "ends": {"pangyo": "evacuated"},
        }

        async def propose(number: int, value: object, name: str = "") -> dict[str, str]:
            name = name or f"{number:013d}-{number:012x}"
            await world.store.transact((), [Put(f"proposal/{name}", orjson.dumps(value))])
            async with asyncio.timeout(5):
                while (entry := await world.store.get(f"answer/{name}")) is None:
                    await asyncio.sleep(0.01)
            return dict(orjson.loads(entry.value))

        run = (await propose(1, wanted))["run"]
        assert (await read_register(world.store))["pangyo"] == "evacuating"
        again = await propose(2, wanted | {"incident": "move-2", "leaving": ["anyang"]})
        assert again["code"] == "second-site"
        once_more = await propose(5, wanted)
        assert (once_more["code"], once_more["hint"][: len(run) + 14]) == (
            "incident-has-run",
            f"evac run show {run}",
        )
        assert (await propose(6, wanted | {"incident": "m"}, "p6"))["code"] == "proposal-misnamed"
        assert (await propose(3, [1]))["code"] == "proposal-unreadable"
        assert (await propose(4, wanted | {"plan": "sha256:00"}))["code"] == "store-corrupt"
        request = {"verb": "approve", "who": "kim", "reason": "a new roof"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        await _end(world)
        assert (await read_register(world.store))["pangyo"] == "evacuated"

    play(story, World(policy_of("hold")))


def test_heads_of_journals_reach_the_other_sites_and_the_chains_are_whole() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await _end(world)
        (run,) = await _run_names(world)
        await world.until(lambda: {run, "watch"} <= {anchor.stream for anchor in world.anchors})
        await asyncio.sleep(0.7)
        for stream in (run, "watch"):
            assert await verify_chain(world.store, stream, world.anchors) == []

    play(story, World(policy_of("act")))


@pytest.mark.parametrize("burnt", SITES)
def test_votes_of_a_burnt_site_vanish(burnt: str) -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn(burnt)
        async with asyncio.timeout(5):
            while [e for e in await world.store.list("votes/") if e.key.endswith(f"/{burnt}")]:
                await asyncio.sleep(0.05)
        assert await world.store.list("votes/"), "the votes of the others are there"

    play(story, World(policy_of("advise")))


def test_a_chore_that_is_refused_is_tried_again_after_a_while_and_reported_once() -> None:
    """Unlike one that returns a refusal, it has not waited."""
    tried_ms: list[int] = []

    async def refused(guard: Lease) -> None:
        tried_ms.append(world.clock.monotonic_ms())
        raise NotAllowed("not-now", "the archive is not allowed", "ask")

    async def story(world: World) -> None:
        await world.until(lambda: len(tried_ms) == 5, 60.0)
        assert {after - before for before, after in pairwise(tried_ms)} == {5_000}
        assert world.words("trouble") == ["the archive is not allowed"]

    world = World(policy_of("act"), chores=[refused])
    play(story, world)
