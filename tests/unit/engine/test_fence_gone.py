"""A fence that stands on a device is looked at once more right before a promotion: somebody may have switched
the device back since.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.engine.runs.performing import Performer, Terms, Try
from evac.engine.runs.reading import events_of
from evac.model.errors import Retryable
from evac.model.run_policy import Patience
from evac.run.agenda import lasting_fences
from evac.run.state import apply
from evac.run.values import Event, RunSpec, RunStep
from evac.run.view import RunView
from tests.unit.engine import small_world
from tests.unit.engine.leader import Leader
from tests.unit.engine.small_world import World, play, policy_of

FENCE = Action("fence", "db", "command", "pangyo", {}, {"proof": "power"})
DEMOTE = Action("demote", "db", "postgres", "pangyo")
PROMOTE = Action("promote", "db", "postgres", "anyang")
STEP = RunStep("promote:db", "promote", "db", 0, 1, data_set="db")


@dataclass
class Systems:
    """fence: what the device says of it now. log: (verb, order key) of everything asked and done."""

    fence: str = "done"
    old_role: str = "primary"
    silent: bool = False
    log: list[str] = field(default_factory=list)

    async def check(self, action: Action, order: Order) -> Checked:
        return Checked(())

    async def execute(self, action: Action, order: Order) -> Evidence:
        self.log.append(f"{action.verb} {order.key}")
        return {}

    async def observe(self, action: Action, order: Order) -> Observed:
        if action.verb == "fence":
            self.log.append(f"look at {order.step} {order.key}")
            if self.silent:
                raise Retryable("silent", "it does not answer")
            return Observed("done" if self.fence == "done" else "absent")
        if action.verb == "demote":
            return Observed("absent" if self.old_role == "primary" else "done")
        return Observed("done")


def tried(systems: Systems, *, attempt: int = 1, dry_run: bool = False) -> tuple[str, dict[str, Any]]:
    driver: Any = systems
    actions = {"fence:db": (FENCE,), "promote:db": (PROMOTE,)}
    terms = Terms(
        "r1",
        actions.__getitem__,
        lambda name: driver,
        Leader(),
        Patience(attempts=2),
        dry_run=dry_run,
        yields=lambda step: (DEMOTE,),
        proofs=lambda step: ("fence:db",),
    )
    performer = Performer(terms, lambda: None)
    return asyncio.run(performer.start(Try(STEP, STEP.id, attempt, attempt, epoch=3)))


def test_a_fence_that_still_stands_is_seen_under_its_own_step_before_the_promotion() -> None:
    systems = Systems()
    assert tried(systems)[0] == "step_succeeded"
    assert systems.log == ["look at fence:db r1/fence:db", "promote r1/promote:db"]


def test_nothing_is_promoted_once_the_device_was_switched_back() -> None:
    systems = Systems(fence="taken back")
    kind, data = tried(systems)
    assert (kind, data["code"]) == ("step_failed", "fence-gone")
    assert data["message"].startswith("the fence of db at pangyo was rolled back after it was proven")
    assert data["again_ms"] > 0, "it may be fenced again by then"
    assert not [line for line in systems.log if line.startswith("promote")]


def test_an_old_primary_that_gave_its_role_up_needs_no_device() -> None:
    systems = Systems(fence="taken back", old_role="replica")
    assert tried(systems)[0] == "step_succeeded"


def test_a_device_that_is_silent_by_now_takes_no_proof_back() -> None:
    systems = Systems(silent=True)
    assert tried(systems)[0] == "step_succeeded"


def test_a_dry_run_asks_no_device() -> None:
    systems = Systems(fence="taken back")
    assert tried(systems, dry_run=True)[0] == "step_succeeded"
    assert systems.log == ["promote r1/promote:db"]


@pytest.mark.parametrize(
    ("kind", "data", "looked_at"),
    [
        ("step_succeeded", {"evidence": {"proof": "power"}}, ["fence:db"]),
        ("step_succeeded", {"evidence": {"proof": "network"}}, ["fence:db"]),
        ("step_succeeded", {"evidence": {"proof": "sync"}}, []),
        ("step_attested", {"who": "mina", "reason": "unplugged", "evidence": {"proof": "power"}}, []),
        ("step_failed", {"code": "silent", "message": "", "again_ms": 100}, []),
    ],
)
def test_only_a_proof_that_lasts_as_long_as_a_device_is_looked_at(
    kind: str, data: dict[str, Any], looked_at: list[str]
) -> None:
    fence = RunStep("fence:db", "fence", "db", 0, 1, data_set="db")
    promote = RunStep("promote:db", "promote", "db", 0, 1, after=("fence:db",), data_set="db")
    other = RunStep("promote:mail", "promote", "mail", 0, 1, data_set="mail")
    view = RunView(RunSpec("r1", "i1", "p1", (fence, promote, other)))
    told: dict[str, Any] = {"token": 1, "epoch": 0, "deadline_ms": 9_000}
    for event in (
        Event("run_created", 1, data={"plan": "p1"}),
        Event("run_started", 1),
        Event("step_started", 1, "fence:db", 1, told),
        Event(kind, 2, "fence:db", 1, data),
    ):
        apply(view, event)
    assert lasting_fences(view, "promote:db") == looked_at
    assert lasting_fences(view, "promote:mail") == []


class _SwitchedBack(small_world.Systems):
    """Somebody gives the old primary its power again right before the first try of the promotion, and takes
    it before the second.
    """

    async def check(self, action: Action, order: Order) -> Checked:
        if action.verb == "promote":
            fence = ("fence", action.target)
            if order.attempt == 1:
                self.kept = self.done.pop(fence)
            elif fence not in self.done:
                self.done[fence] = self.kept
        return Checked()


def test_a_run_promotes_only_after_the_fence_was_made_again() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: "shift" in world.systems.verbs_done())
        assert world.systems.verbs_done() == ["fence", "promote", "shift"]
        (entry,) = await world.store.list("incident/")
        events = await events_of(world.store, orjson.loads(entry.value)["run"])
        failed = [(event.step, event.data["code"]) for event in events if event.kind == "step_failed"]
        assert failed == [("promote:chat", "fence-gone")]

    play(story, World(policy_of("act", proofs=("power",)), proof="power", systems=_SwitchedBack()))
