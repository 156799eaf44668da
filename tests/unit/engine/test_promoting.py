"""A promotion that is said to have failed is not believed until the world says that nothing was promoted:
else another candidate could be promoted beside it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.engine.runs.performing import TEXT_MOST, Performer, Terms, Try, words_of
from evac.model.errors import ActionError, Permanent, Retryable
from evac.model.run_policy import Patience
from evac.run.values import RunStep
from tests.unit.engine.leader import Leader
from tests.unit.virtual_time import run_virtually

PROMOTE = Action("promote", "db", "postgres", "anyang")
STEP = RunStep("promote:db", "promote", "db", 0, 1, data_set="db")


@dataclass
class Member:
    """says: what the server answers to the promotion; seen: what a look finds afterwards."""

    says: ActionError
    seen: Literal["done", "absent", "unclear"]
    ready: bool = True
    log: list[str] = field(default_factory=list)

    async def check(self, action: Action, order: Order) -> Checked:
        return Checked(() if self.ready else ("it does not stream",))

    async def execute(self, action: Action, order: Order) -> Evidence:
        self.log.append("execute")
        raise self.says

    async def observe(self, action: Action, order: Order) -> Observed:
        self.log.append("observe")
        return Observed(self.seen, {"seen": "anyang"})


def outcome(member: Member) -> tuple[str, Any]:
    driver: Any = member
    terms = Terms("r1", lambda step: (PROMOTE,), lambda name: driver, Leader(), Patience())
    return asyncio.run(Performer(terms, lambda: None).start(Try(STEP, STEP.id, 1, epoch=3)))


SAID = [Retryable("no", "it says no"), Permanent("refused", "it refuses")]


@pytest.mark.parametrize("says", SAID, ids=lambda error: error.code)
def test_a_failure_stands_where_nothing_was_promoted(says: ActionError) -> None:
    kind, data = outcome(Member(says, "absent"))
    assert (kind, data["code"]) == ("step_failed", says.code)


@pytest.mark.parametrize("says", SAID, ids=lambda error: error.code)
def test_what_was_promoted_all_the_same_is_a_success(says: ActionError) -> None:
    assert outcome(Member(says, "done")) == ("step_succeeded", {"evidence": {"seen": "anyang"}})


@pytest.mark.parametrize("says", SAID, ids=lambda error: error.code)
def test_where_nobody_can_see_it_stays_in_doubt(says: ActionError) -> None:
    kind, data = outcome(Member(says, "unclear"))
    assert (kind, data) == ("step_unknown", {"message": says.message, "code": says.code})


def test_nothing_is_looked_at_where_nothing_was_begun() -> None:
    member = Member(SAID[0], "done", ready=False)
    kind, data = outcome(member)
    assert (kind, data["code"], member.log) == ("step_failed", "not-ready", [])


def test_a_failure_that_no_retry_mends_says_what_to_do() -> None:
    said = Permanent("stale-token", "it obeyed another leader", "stop this controller")
    assert outcome(Member(said, "absent"))[1]["message"] == f"{said.message}; next: {said.hint}"


@given(st.text(max_size=700), st.text(max_size=700))
def test_words_of_a_failure_have_its_hint_whole_however_long_it_is(message: str, hint: str) -> None:
    error = Permanent("refused", message, hint)
    words, message, hint = words_of(error), error.message, error.hint  # without controls
    assert len(words) <= TEXT_MOST
    if not hint:
        assert words == message if len(message) <= TEXT_MOST else words.endswith("…")
    elif len(hint) < TEXT_MOST - len("; next: "):
        assert words.endswith(f"; next: {hint}")
        assert words.removesuffix(f"; next: {hint}").removesuffix("…") in message


class Frozen(Member):
    """Takes the connection and answers nothing."""

    async def check(self, action: Action, order: Order) -> Checked:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def observe(self, action: Action, order: Order) -> Observed:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def undo(self, action: Action, order: Order) -> Evidence:
        return await asyncio.Event().wait()  # type: ignore[return-value]


class Broken(Member):
    """Raises what no driver may raise, at once."""

    async def check(self, action: Action, order: Order) -> Checked:
        raise TimeoutError

    async def observe(self, action: Action, order: Order) -> Observed:
        raise TimeoutError

    async def undo(self, action: Action, order: Order) -> Evidence:
        raise TimeoutError


Outcomes = tuple[tuple[str, Any], tuple[str, Any], tuple[str, Any]]


def every_way(driver: Any) -> Outcomes:
    """What a try, a look and an undo say."""

    async def story() -> Outcomes:
        terms = Terms("r1", lambda step: (PROMOTE,), lambda name: driver, Leader(), Patience())
        performer, one = Performer(terms, lambda: None), Try(STEP, STEP.id, 1, epoch=3)
        return await performer.start(one), await performer.observe(one), await performer.undo(one)

    return run_virtually(story())


def test_a_driver_that_breaks_its_contract_is_named_and_not_called_late() -> None:
    """Also if what it raises is what a limit raises too."""
    started, observed, undone = every_way(Broken(SAID[0], "absent"))
    words = "postgres at anyang: TimeoutError"
    assert (started[0], started[1]["code"], started[1]["message"]) == ("step_failed", "driver-broken", words)
    assert observed == ("step_observed", {"outcome": "unclear", "evidence": {"why": words}})
    assert undone == ("step_unknown", {"message": words})


def test_what_did_not_answer_is_named() -> None:
    """At three in the morning, `did not finish within 10000 ms` names no system to look at."""
    started, observed, undone = every_way(Frozen(SAID[0], "absent"))
    words = "postgres at anyang: did not finish within 10 s"
    assert (started[0], started[1]["code"], started[1]["message"]) == ("step_failed", "timeout", words)
    assert observed == ("step_observed", {"outcome": "unclear", "evidence": {"why": words}})
    assert undone == ("step_unknown", {"message": words})
