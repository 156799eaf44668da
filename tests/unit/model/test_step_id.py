"""Ids as values: what is read is written as it was."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.model.step_id import LimitId, StepId, act, boot_step, is_another_act, plan_id, power_step

FIELDS = ("kind", "target", "milestone", "batch", "member", "turn")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("approve", StepId("approve")),
        ("boot:srv-17", StepId("boot", "srv-17")),
        ("power:pangyo/feed-a", StepId("power", "pangyo/feed-a")),
        ("promote:orders~2", StepId("promote", "orders", turn=2)),
        ("rejoin:orders", StepId("rejoin", "orders")),
        ("reprotect:orders:dc-anyang", StepId("reprotect", "orders", member="dc-anyang")),
        ("shed:search:1", StepId("shed", "search", batch=1)),
        ("shift:pay", StepId("shift", "pay")),
        ("shift:pay:3", StepId("shift", "pay", batch=3)),
        ("start:pay:base:2", StepId("start", "pay", "base", 2)),
        ("start:pay:top:0~3", StepId("start", "pay", "top", 0, turn=3)),
        ("verify:pay:base", StepId("verify", "pay", "base")),
        ("verify:pay", StepId("verify", "pay")),
    ],
)
def test_an_id_has_its_fields(text: str, value: StepId) -> None:
    read = StepId.parse(text)
    for found in (read, pickle.loads(pickle.dumps(read))):
        assert [getattr(found, name) for name in FIELDS] == [getattr(value, name) for name in FIELDS]
    assert read == value == text
    assert str(value) == text


@given(st.text("abz:~/-019", max_size=20), st.sampled_from(["", "start:", "verify:", "shed:", "rejoin:"]))
def test_whatever_is_read_is_written_as_it_was(text: str, kind: str) -> None:
    assert str(StepId.parse(kind + text)) == kind + text
    assert str(LimitId.parse(text)) == text


def test_another_act_of_a_step_has_the_same_id_in_its_plan() -> None:
    assert act("promote:orders", 1) == "promote:orders"
    assert act("promote:orders", 2) == "promote:orders~2"
    assert plan_id("promote:orders~2") == plan_id("promote:orders") == "promote:orders"
    assert [is_another_act(step) for step in ("promote:orders", "promote:orders~2")] == [False, True]
    assert (boot_step("s1"), power_step("f1")) == ("boot:s1", "power:f1")


@pytest.mark.parametrize(
    ("text", "value", "is_watts"),
    [
        ("hands", LimitId("hands"), False),
        ("power:pangyo/feed-a", LimitId("power", "pangyo/feed-a"), True),
        ("inrush:pangyo/feed-a", LimitId("inrush", "pangyo/feed-a"), True),
        ("promotions:postgres:pangyo", LimitId("promotions", "postgres:pangyo"), False),
        ("sheds:pangyo:", LimitId("sheds", "pangyo:"), False),
    ],
)
def test_a_limit_has_a_kind_and_what_it_is_of(text: str, value: LimitId, is_watts: bool) -> None:
    assert LimitId.parse(text) == value
    assert str(value) == text
    assert value.is_watts == is_watts


def test_the_parts_of_a_step_are_told_by_their_batch() -> None:
    assert StepId.parse("shift:pay~2").of_batch(3) == "shift:pay:3~2"
    assert StepId.parse("shift:pay:3~2").whole == "shift:pay~2"
    assert StepId.parse("shift:pay:3~2").in_plan == "shift:pay:3"
