"""Nobody approves what they proposed, where two people must agree; programs vouch for nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from evac.app import runs
from evac.app.controlling import check_request
from evac.engine.clock import SystemClock
from evac.engine.lead.policies import stricter
from evac.engine.runs.proving import Provers, asked_of, key_id, outlived
from evac.engine.runs.requests import Request
from evac.engine.runs.signatures import new_key, read_key, sign
from evac.model.access import Person, Proven
from evac.model.errors import NotAllowed
from evac.model.run_policy import Approver, RunPolicy
from evac.run import envelope
from evac.run.state import apply
from evac.run.values import Event
from evac.run.view import RunView
from evac.web.access.port import Actor
from evac.web.api.requests import check_may, may_ask
from tests.unit.app.test_store_writer import PATIENCE_S, House
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


def test_an_approval_that_no_listed_key_proves_is_to_be_given_again(tmp_path: Path) -> None:
    """Those of older versions say neither which key signed them nor, before that, that one did."""
    public = {name: new_key(tmp_path / f"{name}.pem") for name in ("kim", "old")}
    policy = RunPolicy(approvals=2, approvers=(Approver("kim", public["kim"]),))
    person = Provers(True, {"kim": Person("kim", "approver", key=public["kim"])})
    view = proposed("sam")
    for proof, counts in (
        (Proven("signature", mark="m", key=key_id(public["kim"])), True),
        (Proven("signature", mark="m", key=key_id(public["old"])), False),
        (Proven("signature", mark="m"), False),
        (Proven(), False),
    ):
        data = {"who": "kim", "reason": "fire", "envelope": envelope.to_data(view.spec.envelope)}
        seen = apply(view.fork(), Event("approved", 2, data=data | {"proof": proof.to_data()}))
        assert outlived(seen, (policy,), Provers()) == ([] if counts else ["kim"])
        assert outlived(seen, (RunPolicy(approvals=2),), person) == ([] if counts else ["kim"])
    password = Event("approved", 2, data=data | {"proof": Proven("password", room="r").to_data()})
    assert outlived(apply(view.fork(), password), (RunPolicy(approvals=2),), person) == []


def test_a_program_neither_approves_nor_attests() -> None:
    program = Actor("ci", "approver", program=True)
    for verb in ("approve", "attest"):
        assert not may_ask(program, verb)
        with pytest.raises(NotAllowed) as caught:
            check_may(program, verb, "run-1", "inc-1")
        assert caught.value.code == "program"
    assert check_may(program, "pause", "run-1", "inc-1") is None
    assert check_may(Actor("kim", "operator"), "attest", "run-1", "inc-1") is None


@pytest.mark.enable_socket
@pytest.mark.parametrize("leaves", [True, False])
def test_an_approval_does_not_outlive_the_place_of_its_person_on_the_list(
    tmp_path: Path, leaves: bool
) -> None:
    """Kim approves and leaves the company, or her key is replaced because it was stolen; with the next
    approval there is one, and not two.
    """
    house, names = House(tmp_path), ("pat", "kim", "lee", "sam")
    public = {name: new_key(tmp_path / f"{name}.pem") for name in names}

    def listed(*able: str) -> None:
        roles = {one: "operator" if one == "pat" else "approver" for one in able}
        rows = [f"{one}: {{role: {role}, key: {public[one]}}}" for one, role in roles.items()]
        (tmp_path / "access.yaml").write_text(f"people: {{{', '.join(rows)}}}\n")

    listed(*names)
    (tmp_path / "policy.yaml").write_text("approvals: 2\n")
    wanted = replace(runs.proposal_of(house.data, "fire", "test", ("west",)), who="pat")

    async def story() -> None:
        async with house.leading() as store:

            async def approved(who: str) -> RunView:
                view, now_ms = await runs.view_of(store, house.run), SystemClock().now_ms()
                request = Request(f"{now_ms}-{who}", "approve", who, "test", at_ms=now_ms)
                asked = asked_of(view, request).approval
                assert asked is not None
                request = replace(request, signature=sign(asked, read_key(tmp_path / f"{who}.pem")))
                await runs.ask(store, house.run, request)
                assert await runs.settled(store, house.run, request.id)
                return await runs.view_of(store, house.run)

            key = tmp_path / "pat.pem"
            await runs.propose(store, wanted, SystemClock().now_ms(), PATIENCE_S, key)
            await house.until(store, frozenset({"awaiting_approval"}))
            assert (await approved("kim")).approvals.counted == 1
            public["kim"] = new_key(tmp_path / "kim-2.pem")
            listed("pat", "lee", "sam", *(() if leaves else ("kim",)))
            view = await approved("lee")
            assert (view.phase, view.approvals.counted) == ("awaiting_approval", 1)
            assert set(view.approvals.given) == {"lee"}
            assert (await approved("sam")).approvals.counted == 2

    asyncio.run(story())
