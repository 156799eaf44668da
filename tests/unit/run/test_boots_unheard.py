"""Boots behind feeds of which no management controller has answered yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evac.run.boots import silent_servers
from evac.run.forecast import forecast
from evac.run.state import fingerprint, replay
from evac.run.values import Event, RunStep
from evac.run.waits import SilentNetwork
from evac.run.waits import waiting as all_waits
from evac.views.quarantine import quarantine_of
from tests.unit.run.waves import Wave, roomy


class Mute(Wave):
    """Controllers that are silent, whatever is asked of them."""

    silent = frozenset[str]()
    tries = 99
    code = ""
    """Of boot:s0, instead of silence."""

    def _execute(self, step: str, attempt: int) -> None:
        if step not in self.silent or attempt > self.tries:
            super()._execute(step, attempt)
            return
        code = (self.code if step == "boot:s0" else "") or "bmc-silent"
        data = {"code": code, "message": "it cannot be reached", "again_ms": -1}
        self._later(5, Event("step_failed", 0, step, attempt, data))


def mute(silent: Callable[[RunStep], bool]) -> Mute:
    world = Mute(roomy(), trouble=0)
    world.silent = frozenset(one.id for one in world.spec.steps if one.kind == "boot" and silent(one))
    world.begin()
    return world


def test_servers_whose_network_is_not_up_yet_wait_for_it() -> None:
    world = mute(lambda step: step.feeds == ("f0",))
    assert world.finish() == "running"
    assert silent_servers.waiting(world.view) == {("f0",): 12}
    assert SilentNetwork(("f0",), 12) in [one.facts for one in all_waits(world.view)]
    for step in sorted(world.silent):
        assert world.view.phases[world.view.index[step]] == "skipped"
    said = forecast(world.view, world.now_ms)
    assert (said.floor, said.up, said.waits) == (0, 12, True), "all come up once it is there"
    assert {one.remedy for one in quarantine_of(world.view, lambda step: {}).down} == {
        "nothing behind its feed has answered: check the network and the breaker first; "
        "then it is retried automatically"
    }
    world.silent = frozenset({"boot:s0", "boot:s2", "boot:s4"})  # these are dead
    world.say("feeds_seen", feeds=["f0"])
    assert not silent_servers.waiting(world.view)
    assert world.finish() == "succeeded_with_exceptions"
    assert {world.view.steps[i].target for i in world.view.boots.quarantined} == {"s0", "s2", "s4"}
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def test_the_first_server_that_comes_up_speaks_for_those_that_were_silent_before() -> None:
    world = mute(lambda step: step.feeds == ("f0",) and step.id != "boot:s22")
    world.tries = 1
    assert world.finish() == "succeeded_with_exceptions", "they were left to the floor for a while"
    assert set(world.view.phases) == {"succeeded"}
    assert {world.view.attempts[world.view.index[step]] for step in world.silent} == {2}


@pytest.mark.parametrize(
    ("code", "waits"), [("bmc-busy", 11), ("bmc-hanging", 11), ("bmc-wrong-serial", 0), ("bmc-password", 0)]
)
def test_only_what_a_controller_certainly_told_says_that_the_network_is_up(code: str, waits: int) -> None:
    world = mute(lambda step: step.feeds == ("f0",))
    world.code = code
    assert world.finish() == ("running" if waits else "succeeded_with_exceptions")
    assert sum(silent_servers.waiting(world.view).values()) == waits


@pytest.mark.parametrize("told", ["feeds_seen", "failed", "few"])
def test_servers_that_are_silent_where_others_answer_go_to_the_floor(told: str) -> None:
    few = frozenset({"boot:s0", "boot:s2"})
    world = mute(lambda step: step.feeds == ("f0",) and (told != "few" or step.id in few))
    if told == "feeds_seen":
        world.finish()
        world.say("feeds_seen", feeds=["f0"])
    elif told == "failed":
        world.finish()
        world.say("step_retried", "boot:s0", 1, who="mina", reason="a new board")
        world.silent -= {"boot:s0"}
    assert world.finish() == "succeeded_with_exceptions"
    assert len(world.view.boots.quarantined) == {"feeds_seen": 12, "failed": 11, "few": 2}[told]
    assert not silent_servers.waiting(world.view)
