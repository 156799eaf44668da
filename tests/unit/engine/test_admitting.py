"""What lets a delicate step begin, told as small stories over a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from evac.drivers.port import Action
from evac.engine.clock import SystemClock
from evac.engine.runs.admitting import Doing, GuardedAdmission
from evac.engine.runs.live_actions import Standing, keep_standing
from evac.engine.stores.datasets import DataSets, Epoch
from evac.engine.stores.guards import Guards, Permit, ensure_register
from evac.model.errors import Conflict, NotAllowed, Retryable
from evac.model.run_policy import RunPolicy, StorePolicy, Window
from evac.run.values import Event, RunStep
from evac.store.port import Delete, MemoryStore, Put

SITES = ("anyang", "ansan", "pangyo")
POLICY = RunPolicy(stores={"chat": StorePolicy("chat", proofs=("sync", "attest"))})
DONE = {"evidence": {"proof": "sync"}}


def _step(kind: str, target: str = "chat") -> RunStep:
    data_set = target if kind in ("fence", "promote", "protect") else ""
    return RunStep(f"{kind}:{target}", kind, target, 0, 100, data_set=data_set, site="anyang")


def _act(verb: Any, target: str = "chat", at: str = "anyang", **parameters: Any) -> Action:
    return Action(verb, target, "simulated", at, {}, parameters)


class _Desk:
    """One store, and admissions of runs in it."""

    def __init__(self, policy: RunPolicy = POLICY) -> None:
        self.store, self.policy, clock = MemoryStore(), policy, SystemClock()
        self.sets = DataSets(self.store, "c1", clock)
        self.guards = Guards(self.store, clock, ("anyang", "pangyo"), {"web": ("pangyo",)})
        self.actions: dict[str, Sequence[Action]] = {
            "fence:chat": (_act("fence", proof="sync", old="pangyo", candidate="anyang"),),
            "promote:chat": (_act("promote", candidate="anyang", synchronous=("dc-ansan",)),),
            "protect:chat": (_act("protect", at="pangyo", candidate="pangyo", synchronous=("dc-ansan",)),),
            "rejoin:chat": (_act("rejoin", at="ansan"),),
            "shift:web": (_act("shift", "web", to="anyang", away="pangyo"),),
            "start:web": (_act("start", "web"),),
        }
        self.admission = GuardedAdmission(
            self.guards, self.sets, lambda: self.policy, self.actions.__getitem__, 400
        )

    async def use(self, permit: Permit) -> None:
        await self.store.transact(permit.compares, permit.changes)

    async def go(
        self,
        kind: str,
        event: str = "step_succeeded",
        data: Any = None,
        run: str = "r1",
        doing: Doing = "start",
        target: str = "chat",
    ) -> int:
        """A step from its start to its result; the epoch it went under."""
        step = _step(kind, target)
        async with self.admission.enter(run, step, 1, doing) as admitted:
            await self.use(admitted.permit)
            assert await admitted.during(asyncio.sleep(0, "worked")) == "worked"
            await self.use(await admitted.conclude(Event(event, 0, step.id, 1, data or {})))
            return admitted.epoch

    async def epoch(self) -> Epoch:
        return await self.sets.read("chat")


def _story(story: Callable[[_Desk], Any], policy: RunPolicy = POLICY) -> None:
    async def play() -> None:
        desk = _Desk(policy)
        await desk.use(await ensure_register(desk.store, SITES))
        await story(desk)

    asyncio.run(play())


def test_fence_and_promote_share_an_epoch_and_settle_it() -> None:
    async def story(desk: _Desk) -> None:
        assert await desk.go("fence", data=DONE) == 1
        assert await desk.go("promote") == 1
        epoch = await desk.epoch()
        assert (epoch.holder, epoch.synchronous, epoch.settled) == ("anyang", ("dc-ansan",), True)
        assert await desk.go("rejoin") == 1

    _story(story)


def test_no_promotion_without_a_proof_and_none_by_another_run() -> None:
    async def story(desk: _Desk) -> None:
        with pytest.raises(NotAllowed, match="did not claim"):
            await desk.go("promote")
        await desk.go("fence", "step_unknown", {"message": "no answer"})
        with pytest.raises(NotAllowed, match="no fence proof"):
            await desk.go("promote")
        await desk.go("fence", "step_observed", {"outcome": "done", "evidence": {}}, doing="observe")
        with pytest.raises(NotAllowed, match="did not claim"):
            await desk.go("promote", run="r2")
        await desk.go("promote")

    _story(story)


def test_a_proof_that_was_not_asked_for_or_that_policy_does_not_take_is_none() -> None:
    async def story(desk: _Desk) -> None:
        with pytest.raises(NotAllowed, match="does not accept fence proof"):
            await desk.go("fence", data={"evidence": {"proof": "hope"}})
        desk.actions["fence:chat"] = (_act("fence", proof="network", old="pangyo", candidate="anyang"),)
        with pytest.raises(NotAllowed, match="does not accept fence proof network"):
            await desk.go("fence")
        assert (await desk.epoch()).rung == ""

    _story(story)


def test_an_old_primary_that_gave_up_its_role_itself_needs_no_other_proof() -> None:
    async def story(desk: _Desk) -> None:
        desk.actions["fence:chat"] = (
            _act("demote", at="pangyo", proof="demote", old="pangyo", candidate="anyang"),
        )
        await desk.go("fence")
        assert (await desk.epoch()).rung == "demote"
        await desk.go("promote")

    _story(story)


def test_a_person_who_vouches_before_anything_began_claims_with_it() -> None:
    async def story(desk: _Desk) -> None:
        step = _step("fence")
        async with desk.admission.enter("r1", step, 0, "observe") as admitted:
            await desk.use(await admitted.conclude(Event("step_attested", 0, step.id, 0, {})))
        assert (await desk.epoch()).rung == "attest"
        await desk.go("promote")

    _story(story)


def test_what_was_begun_blocks_every_other_run_until_the_world_was_seen() -> None:
    async def story(desk: _Desk) -> None:
        await desk.go("fence", data=DONE)
        await desk.go("promote", "step_unknown", {"message": "no answer"})
        with pytest.raises(NotAllowed, match="the outcome of anyang"):
            await desk.go("fence", data=DONE, run="r2")
        with pytest.raises(NotAllowed, match="the outcome of anyang"):
            await desk.go("protect", run="r2")
        await desk.go("promote", "step_observed", {"outcome": "unclear", "evidence": {}}, doing="observe")
        with pytest.raises(NotAllowed, match="the outcome of anyang"):
            await desk.go("fence", data=DONE, run="r2")
        await desk.go("promote", "step_observed", {"outcome": "absent", "evidence": {}}, doing="observe")
        assert await desk.go("fence", data=DONE, run="r2") == 2
        with pytest.raises(NotAllowed, match="did not claim"):
            await desk.go("promote", run="r1")

    _story(story)


def test_a_fence_that_was_overtaken_proves_nothing_for_the_other() -> None:
    async def story(desk: _Desk) -> None:
        step = _step("fence")
        await desk.go("fence", "step_unknown", {"message": "slow"}, run="r1")
        await desk.go("fence", "step_unknown", {"message": "slow"}, run="r2")
        async with desk.admission.enter("r1", step, 1, "observe") as admitted:
            seen = Event("step_observed", 0, step.id, 1, {"outcome": "done", "evidence": {}})
            with pytest.raises(NotAllowed, match="claimed epoch 2 in the meantime"):
                await admitted.conclude(seen)
        assert (await desk.epoch()).rung == ""

    _story(story)


def test_protecting_takes_an_epoch_of_its_own() -> None:
    async def story(desk: _Desk) -> None:
        assert await desk.go("protect") == 1
        epoch = await desk.epoch()
        assert (epoch.holder, epoch.synchronous, epoch.settled) == ("pangyo", ("dc-ansan",), True)
        await desk.go("protect", "step_failed", {"code": "refused", "message": "no", "again_ms": -1})
        epoch = await desk.epoch()
        assert (epoch.number, epoch.settled) == (2, True)

    _story(story)


def test_no_precheck_outlives_a_change_of_who_confirms_commits() -> None:
    async def story(desk: _Desk) -> None:
        for event in ("step_succeeded", "step_unknown"):
            await desk.store.transact((), (Put("standing/chat", b"seen before"),))
            await desk.go("protect", event, {"message": "no answer"})
            assert await desk.store.get("standing/chat") is None

    _story(story)


@pytest.mark.parametrize("ended", ["step_succeeded", "step_unknown", "before"])
def test_what_was_seen_before_a_change_is_not_written_after_it(ended: str) -> None:
    """The precheck looks, the synchronous set changes, the precheck writes."""

    async def story(desk: _Desk) -> None:
        guard = await desk.store.acquire("leader", "c1", 5_000)
        before = await desk.epoch()
        fact = Standing("chat", "dc-anyang", "anyang", "pangyo", 1, before.changes)
        assert await keep_standing(desk.store, fact, before, guard)
        step = _step("protect")
        async with desk.admission.enter("r1", step, 1, "start") as admitted:
            await desk.use(admitted.permit)
            assert not await keep_standing(desk.store, fact, before, guard), "it was read before the start"
            changing = await desk.epoch()
            during = replace(fact, changes=changing.changes)
            assert not await keep_standing(desk.store, during, changing, guard), "it is in progress"
            if ended != "before":
                told = {"message": "no answer"} if ended == "step_unknown" else {}
                await desk.use(await admitted.conclude(Event(ended, 0, step.id, 1, told)))
        after = await desk.epoch()
        for old in (fact, during):
            assert not await keep_standing(desk.store, old, before, guard)
            assert not await keep_standing(desk.store, old, changing, guard)
        assert await desk.store.get("standing/chat") is None
        new = replace(fact, changes=after.changes)
        assert await keep_standing(desk.store, new, after, guard) is after.settled

    _story(story)


def test_a_fence_refuses_a_precheck_of_another_synchronous_set() -> None:
    async def story(desk: _Desk) -> None:
        fence = Action(
            "fence",
            "chat",
            "postgres",
            "anyang",
            {},
            {
                "proof": "sync",
                "old": "pangyo",
                "candidate": "anyang",
                "standing": "dc-anyang",
                "standing_age_ms": 10,
                "standing_changes": 0,
            },
        )
        desk.actions["fence:chat"] = (fence,)
        await desk.go("protect")
        with pytest.raises(NotAllowed, match="changed since the advance check"):
            await desk.go("fence", data=DONE)
        assert (await desk.epoch()).settled, "nothing is claimed for it"
        changes = (await desk.epoch()).changes
        desk.actions["fence:chat"] = (
            replace(fence, parameters={**fence.parameters, "standing_changes": changes}),
        )
        await desk.go("fence", data=DONE)
        await desk.go("promote")
        assert (await desk.epoch()).changes > changes, "of the new primary something else holds"

    _story(story)


def test_while_one_works_on_a_store_nobody_else_does() -> None:
    async def story(desk: _Desk) -> None:
        async with desk.admission.enter("r1", _step("fence"), 1, "start") as admitted:
            await desk.use(admitted.permit)
            with pytest.raises(Retryable, match="changing the roles of chat"):
                async with desk.admission.enter("r2", _step("fence"), 1, "start"):
                    pass

    _story(story)


def test_a_store_that_moved_is_never_taken_back() -> None:
    async def story(desk: _Desk) -> None:
        await desk.go("fence", data=DONE)
        with pytest.raises(NotAllowed, match="a store stays where it moved"):
            await desk.go("promote", "undo_done", doing="undo")
        await desk.go("fence", "undo_done", doing="undo")
        assert (await desk.epoch()).settled
        await desk.go("fence", data=DONE, run="r2")
        await desk.go("promote", "step_unknown", {"message": "?"}, run="r2")
        with pytest.raises(NotAllowed, match="a store stays where it moved"):
            await desk.go("fence", "undo_done", run="r2", doing="undo")

    _story(story)


def test_a_hold_comes_between_the_check_and_the_start() -> None:
    async def story(desk: _Desk) -> None:
        for kind, target in (("fence", "chat"), ("shift", "web")):
            async with desk.admission.enter("r1", _step(kind, target), 1, "start") as admitted:
                await desk.store.transact((), [Put("hold", b'{"who": "kim", "reason": "x"}')])
                with pytest.raises(Conflict):
                    await desk.use(admitted.permit)
            with pytest.raises(Retryable, match="kim put everything on hold"):
                await desk.go(kind, target=target)
            await desk.store.transact((), [Delete("hold")])

    _story(story)


def test_only_delicate_steps_concern_it_and_every_step_in_a_window() -> None:
    async def story(desk: _Desk) -> None:
        kinds = ("fence", "promote", "protect", "rejoin", "shift", "start", "verify", "boot")
        delicate = [kind for kind in kinds if desk.admission.concerns(_step(kind))]
        assert delicate == ["fence", "promote", "protect", "rejoin", "shift"]

    _story(story)
    now_ms = SystemClock().now_ms()

    async def in_window(desk: _Desk) -> None:
        assert desk.admission.concerns(_step("start"))
        with pytest.raises(Retryable, match="new switches"):
            await desk.go("start", target="web")

    window = Window(now_ms - 1_000, now_ms + 60_000, ("anyang",), "new switches")
    _story(in_window, RunPolicy(windows=(window,)))


def test_a_promotion_in_doubt_is_vouched_to_have_come_to_nothing() -> None:
    async def story(desk: _Desk) -> None:
        await desk.go("fence", data=DONE)
        await desk.go("promote", "step_unknown", {"message": "no answer"})
        assert (await desk.epoch()).begun
        said = {"who": "kim", "reason": "it is off", "evidence": {"fenced": "anyang"}}
        await desk.go("promote", "step_attested", said, doing="observe")
        epoch = await desk.epoch()
        assert (epoch.candidate, epoch.begun, epoch.holder) == ("anyang", False, "pangyo")

    _story(story)


def test_a_share_that_must_wait_does_not_begin_and_what_is_left_still_serves() -> None:
    async def story(desk: _Desk) -> None:
        asked: list[str] = []

        async def pace(step: RunStep) -> None:
            asked.append(step.id)
            if len(asked) == 1:
                raise Retryable("paced", "too little is known", after_ms=5)

        step = RunStep("shift:web", "shift", "web", 0, 100, site="anyang", paced=True)
        act = _act("shift", "web", to="anyang", away="pangyo", share=100)
        admission = GuardedAdmission(desk.guards, desk.sets, lambda: POLICY, lambda name: (act,), 400, pace)
        with pytest.raises(Retryable, match="too little"):
            async with admission.enter("r1", step, 1, "start"):
                raise AssertionError("it was let in")
        async with admission.enter("r1", step, 1, "start") as admitted:
            await desk.use(admitted.permit)
        entry = await desk.store.get("pooled")
        assert entry is not None
        assert orjson.loads(entry.value) == {"web": ["anyang", "pangyo"]}
        async with admission.enter("r1", step, 1, "observe"):
            pass
        assert asked == ["shift:web"] * 2, "only a start is asked"

    _story(story)


def test_a_primary_counts_as_released_only_once_its_commits_are_seen_to_go_on() -> None:
    """Its own run, a person or a timeout lets them go on; the step itself does nothing."""

    @dataclass
    class Seen:
        waits: str = "commits of chat wait for dc-pangyo"
        asked: list[Any] = field(default_factory=list)

        def obeyed(self, store: str) -> int:
            return 0

        def commits_wait(self, store: str, sites: Collection[str]) -> str:
            self.asked.append((store, *sites))
            return self.waits

    async def story(desk: _Desk) -> None:
        seen, waited_ms = Seen(), []
        step = RunStep("unprotect:chat", "unprotect", "chat", 0, 100, site="anyang")
        act = Action("verify", "chat", "noop", "anyang", {}, {"without": "pangyo"})
        admission = GuardedAdmission(
            desk.guards, desk.sets, lambda: POLICY, lambda name: (act,), 400, seen=seen
        )
        assert admission.concerns(step)
        for _ in range(40):
            with pytest.raises(Retryable, match="wait for dc-pangyo") as caught:
                async with admission.enter("r1", step, 1, "start"):
                    raise AssertionError("it was let in")
            waited_ms.append(caught.value.after_ms)
        assert waited_ms == sorted(waited_ms)
        assert (waited_ms[0], waited_ms[-1]) == (200, 5_000), "seen soon, and no flood for a night"
        seen.waits = ""
        async with admission.enter("r1", step, 1, "start"):
            pass
        assert set(seen.asked) == {("chat", "pangyo")}

    _story(story)
