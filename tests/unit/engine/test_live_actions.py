"""Parameters that come from what was seen: standing facts with their age, the proof of a fence, positions."""

from typing import Any

import pytest

from evac.drivers.port import Action
from evac.engine.runs.live_actions import LiveActions, Standing, decode_standing, refuse_old_standing
from evac.engine.stores.datasets import Epoch
from evac.model.errors import NotAllowed

FENCE = Action(
    "fence", "messages", "postgres", "anyang", {}, {"proof": "sync", "old": "pangyo", "candidate": "anyang"}
)
PROMOTE = Action("promote", "messages", "postgres", "anyang", {}, {"candidate": "anyang"})
FACT = Standing("messages", "dc-anyang", "anyang", "pangyo", 10_000, 4)


def live(
    fact: Standing | None = None, evidence: dict[str, Any] | None = None, now_ms: int = 12_000
) -> LiveActions:
    actions = {"fence:messages": (FENCE,), "promote:messages": (PROMOTE,)}
    return LiveActions(
        lambda step: actions.get(step, ()), lambda step: evidence or {}, lambda store: fact, lambda: now_ms
    )


def test_a_standing_fact_goes_with_its_age() -> None:
    (action,) = live(FACT)("fence:messages")
    assert (action.parameters["standing"], action.parameters["standing_age_ms"]) == ("dc-anyang", 2_000)


@pytest.mark.parametrize(
    ("fact", "now_ms"),
    [
        (None, 12_000),
        (Standing("messages", "dc-ansan", "ansan", "pangyo", 10_000, 4), 12_000),
        (Standing("messages", "dc-anyang", "anyang", "ansan", 10_000, 4), 12_000),
    ],
)
def test_a_fact_of_something_else_proves_nothing(fact: Standing | None, now_ms: int) -> None:
    assert live(fact, now_ms=now_ms)("fence:messages") == (FENCE,)


def test_a_fact_of_the_future_proves_nothing_and_is_named_as_such() -> None:
    (action,) = live(FACT, now_ms=6_999)("fence:messages")
    assert "standing" not in action.parameters
    with pytest.raises(NotAllowed) as caught:
        refuse_old_standing(action, Epoch("messages", changes=FACT.changes))
    assert "by this controller's clock, the advance check is 3 s in the future" in caught.value.message


def test_a_fact_of_before_a_change_of_who_confirms_is_refused_and_so_is_none() -> None:
    (proved,) = live(FACT)("fence:messages")
    refuse_old_standing(proved, Epoch("messages", 9, changes=4))
    with pytest.raises(NotAllowed, match="changed since"):
        refuse_old_standing(proved, Epoch("messages", 9, changes=5))
    with pytest.raises(NotAllowed, match="no check in advance confirmed that every commit needs"):
        refuse_old_standing(FENCE, Epoch("messages"))
    refuse_old_standing(PROMOTE, Epoch("messages", changes=5))


@pytest.mark.parametrize(
    ("evidence", "added"),
    [
        ({}, {}),
        ({"proof": "sync"}, {"proof": "sync"}),
        ({"attested_by": "kim", "proof": "sync"}, {"proof": "attest"}),
        ({"proof": "demote", "last_lsn": "0/5A0"}, {"proof": "demote", "least_lsn": "0/5A0"}),
    ],
)
def test_a_promotion_names_the_proof_of_its_fence(evidence: dict[str, Any], added: dict[str, Any]) -> None:
    (action,) = live(evidence=evidence)("promote:messages")
    assert dict(action.parameters) == {"candidate": "anyang", **added}


def test_a_standing_fact_survives_the_store_and_nothing_else_does() -> None:
    assert decode_standing("messages", FACT.encode()) == FACT
    before = FACT.encode().replace(b',"changes":4', b"")
    for value in (b"", b"[]", b"{}", b'{"member": 1}', before):
        with pytest.raises(NotAllowed):
            decode_standing("messages", value)
