"""The driver of people: it waits, and only a person's name and reason make it done."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from evac.drivers.manual import ManualDriver
from evac.drivers.port import Action, Evidence, Order, Value
from evac.model.errors import OutcomeUnknown, Permanent
from tests.contract.capabilities.story import Case, assert_keeps_contract, order

WORDS = "Close breaker 4 of feed A and look at its lamp."


def action(parameters: Mapping[str, Value] = MappingProxyType({})) -> Action:
    return Action("run", "feed-a", "manual", "pangyo", {"instructions": WORDS}, parameters)


class PersonActs(ManualDriver):
    """The driver, and a person who does what it says when it says so, and attests it."""

    def __init__(self, parameters: dict[str, Value]) -> None:
        self.parameters = parameters

    async def execute(self, action: Action, order: Order) -> Evidence:
        if not order.dry_run and not self.parameters:
            with pytest.raises(OutcomeUnknown, match="Close breaker 4"):
                await super().execute(action, order)
            self.parameters.update(attested_by="park", attested_reason="the lamp is green")
        return await super().execute(action, order)


def test_the_contract_is_kept_with_a_person_who_acts() -> None:
    parameters: dict[str, Value] = {}

    async def state() -> object:
        return dict(parameters)

    async def is_done() -> bool:
        return "attested_by" in parameters

    case = Case(PersonActs(parameters), action(parameters), state, is_done, before=("unclear",))
    assert_keeps_contract(case)


def test_nothing_is_done_until_somebody_says_so() -> None:
    driver = ManualDriver()
    with pytest.raises(OutcomeUnknown, match="Close breaker 4") as caught:
        asyncio.run(driver.execute(action(), order()))
    assert "evac run attest run-1 step-1" in caught.value.hint
    seen = asyncio.run(driver.observe(action(), order()))
    assert (seen.outcome, seen.evidence["waits_for"]) == ("unclear", "attest")


def test_a_name_without_a_reason_vouches_for_nothing() -> None:
    nameless = action({"attested_by": "park"})
    assert asyncio.run(ManualDriver().observe(nameless, order())).outcome == "unclear"
    with pytest.raises(Permanent):
        asyncio.run(ManualDriver().execute(nameless, order()))


def test_the_words_of_the_plan_come_before_those_of_the_endpoint() -> None:
    said = asyncio.run(ManualDriver().check(action({"instructions": "Boot the servers of row 4."}), order()))
    assert said.evidence["instructions"] == "Boot the servers of row 4."


def test_without_instructions_it_says_what_it_knows() -> None:
    bare = Action("fence", "chat-store", "manual", "pangyo")
    checked = asyncio.run(ManualDriver().check(bare, order()))
    assert checked.evidence["instructions"] == "fence chat-store at pangyo"
