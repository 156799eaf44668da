"""Nobody approves what they proposed, where two people must agree; programs vouch for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evac.app.controlling import check_request
from evac.engine.lead.policies import stricter
from evac.engine.runs.requests import Request
from evac.model.errors import NotAllowed
from evac.model.run_policy import RunPolicy
from evac.run import envelope
from evac.run.state import apply
from evac.run.values import Event
from evac.run.view import RunView
from evac.web.access.port import Actor
from evac.web.api.requests import check_may, may_ask
from tests.unit.engine.worlds import spec_of

TWO, ONE, STRICT = RunPolicy(approvals=2), RunPolicy(), RunPolicy(four_eyes=True)


def proposed(by: str) -> RunView:
    view = RunView(spec_of())
    return apply(view, Event("run_created", 1, data={"plan": view.spec.plan, "who": by} if by else {}))


@pytest.mark.parametrize(
    ("policy", "proposer", "who", "fits"),
    [
        (TWO, "kim", "kim", False),
        (TWO, "kim", " Kim", False),
        (TWO, "kim", "k\N{CYRILLIC SMALL LETTER BYELORUSSIAN-UKRAINIAN I}m", False),
        (TWO, "kim", "\N{FULLWIDTH LATIN SMALL LETTER K}im\N{ZERO WIDTH SPACE}", False),
        (TWO, "kim", "lee", True),
        (TWO, "", "kim", True),
        (ONE, "kim", "kim", True),
        (STRICT, "kim", "kim", False),
        (stricter(STRICT, ONE), "kim", "kim", False),
        (stricter(ONE, TWO), "kim", "kim", False),
    ],
)
def test_the_proposer_does_not_count_where_two_must_agree(
    policy: RunPolicy, proposer: str, who: str, fits: bool
) -> None:
    view, asked = proposed(proposer), Request("1", "approve", who, "fire")
    if fits:
        check_request(policy, view, asked)
        return
    for step in ("", "promote:chat"):
        with pytest.raises(NotAllowed) as caught:
            check_request(policy, view, replace(asked, step=step))
        assert caught.value.code == "four-eyes"
    check_request(policy, view, replace(asked, verb="pause"))


@pytest.mark.parametrize("second", ["Kim", "kim ", "k\N{CYRILLIC SMALL LETTER BYELORUSSIAN-UKRAINIAN I}m"])
def test_one_person_does_not_count_twice_under_names_that_look_the_same(second: str) -> None:
    view = proposed("sam")
    for number, who in enumerate(("kim", second, "lee"), 2):
        data = {"who": who, "reason": "fire", "envelope": envelope.to_data(view.spec.envelope)}
        view = apply(view, Event("approved", number, data=data))
        assert view.approvals.counted == (2 if who == "lee" else 1)


def test_a_program_neither_approves_nor_attests() -> None:
    program = Actor("ci", "approver", program=True)
    for verb in ("approve", "attest"):
        assert not may_ask(program, verb)
        with pytest.raises(NotAllowed) as caught:
            check_may(program, verb, "run-1", "inc-1")
        assert caught.value.code == "program"
    assert check_may(program, "pause", "run-1", "inc-1") is None
    assert check_may(Actor("kim", "operator"), "attest", "run-1", "inc-1") is None
