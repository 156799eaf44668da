"""A site that was cut off is joined again while its stores are promoted elsewhere: the old primary gives its
role up, and the new one takes it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.drivers.store_driver import another_primary, only_others
from evac.engine.runs.performing import Performer, Terms, Try
from evac.model.run_policy import Patience
from evac.run.values import RunStep
from tests.unit.engine.leader import Leader

PROMOTE = Action("promote", "db", "postgres", "anyang")
DEMOTE = Action("demote", "db", "postgres", "pangyo")
STEP = RunStep("promote:db", "promote", "db", 0, 1, data_set="db")


@dataclass
class Database:
    """One store of two members. answers: whether the old primary can be reached; behind: the new one could
    not be promoted anyhow; log: what was done.
    """

    answers: bool
    behind: bool = False
    roles: dict[str, str] = field(default_factory=lambda: {"pangyo": "primary", "anyang": "replica"})
    log: list[str] = field(default_factory=list)

    async def check(self, action: Action, order: Order) -> Checked:
        if action.verb == "demote":
            return Checked(() if self.answers else ("it does not answer",))
        others = ["pangyo"] if self.answers and self.roles["pangyo"] == "primary" else []
        behind = ["it holds less than it must"] if self.behind else []
        told = [another_primary(one).message for one in others]
        return Checked((*told, *behind), error=only_others(others, behind))

    async def execute(self, action: Action, order: Order) -> Evidence:
        self.log.append(f"{action.verb} {action.at} {order.token} {order.epoch}")
        self.roles[action.at] = "primary" if action.verb == "promote" else "replica"
        return {}

    async def observe(self, action: Action, order: Order) -> Observed:
        return Observed("done" if self.roles[action.at] == "primary" else "absent")


def promoted(database: Database, *, yields: bool = True, dry_run: bool = False) -> str:
    driver: Any = database
    terms = Terms(
        "r1",
        lambda step: (PROMOTE,),
        lambda name: driver,
        Leader(),
        Patience(),
        dry_run=dry_run,
        yields=lambda step: (DEMOTE,) if yields and step == STEP.id else (),
    )
    performer = Performer(terms, lambda: None)
    kind, data = asyncio.run(performer.start(Try(STEP, STEP.id, 1, epoch=3)))
    return f"{kind} {data.get('code', '')}".strip()


def test_an_old_primary_that_answers_is_demoted_first_under_the_same_token_and_epoch() -> None:
    database = Database(answers=True)
    assert promoted(database) == "step_succeeded"
    assert database.log == ["demote pangyo 7 3", "promote anyang 7 3"]


def test_one_that_is_silent_is_left_alone() -> None:
    database = Database(answers=False)
    assert promoted(database) == "step_succeeded"
    assert database.log == ["promote anyang 7 3"]


def test_nothing_is_promoted_beside_a_primary_that_nobody_may_demote() -> None:
    database = Database(answers=True)
    assert promoted(database, yields=False) == "step_failed another-primary"
    assert database.log == []


def test_a_primary_that_answers_keeps_its_role_where_the_new_one_could_not_take_it() -> None:
    database = Database(answers=True, behind=True)
    assert promoted(database) == "step_failed not-ready"
    assert database.log == []
    assert database.roles["pangyo"] == "primary"


def test_a_dry_run_demotes_nobody() -> None:
    database = Database(answers=True)
    assert promoted(database, dry_run=True) == "step_failed another-primary"
    assert database.log == []
