"""What waits for a channel is never lost unseen, and never more than is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.model.errors import Corrupt
from evac.notices import values as b
from evac.notices.rule import OPEN_MOST, TEXT_MOST, tell
from evac.notices.values import (
    KINDS,
    Channel,
    Concern,
    Delivery,
    Known,
    Memory,
    Message,
    Reference,
    State,
    box_bytes,
    box_of,
    record_of,
    row_of,
    state_bytes,
    state_of,
)
from evac.store.port import MAX_VALUE_BYTES

MESSAGE = Message("m1", "site", "begins", "critical", "a is lost", "look", 5, ("site/a",))


def test_tries_become_more_seldom_and_never_stop_before_their_time() -> None:
    box, pauses = b.put(b.Box(), [(1, 0, True)]), []
    for _ in range(12):
        now_ms = box.waiting[0].next_ms
        box = b.failed(box, 1, "no answer", now_ms)
        pauses.append(box.waiting[0].next_ms - now_ms)
    assert pauses[:4] == [5_000, 10_000, 20_000, 40_000]
    assert pauses[-1] == b.MOST_MS
    assert box.waiting[0].tries == 12


def test_a_receiver_may_ask_for_more_time_but_not_for_ever() -> None:
    box = b.put(b.Box(), [(1, 0, True)])
    assert b.failed(box, 1, "busy", 0, 60_000).waiting[0].next_ms == 60_000
    assert b.failed(box, 1, "busy", 0, 10**12).waiting[0].next_ms == b.AFTER_MOST_MS


def test_a_channel_that_is_down_is_left_alone_and_one_that_refuses_one_message_is_not() -> None:
    box = b.put(b.Box(), [(1, 0, True), (2, 0, True)])
    assert b.due(b.failed(box, 1, "no answer", 0), 1) is None
    other = b.due(b.failed(box, 1, "refused", 0, whole=False), 1)
    assert other is not None
    assert other.number == 2


actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 40), st.booleans()),
        st.tuples(st.sampled_from(["delivered", "failed", "give up"]), st.just(0), st.just(True)),
        st.tuples(st.just("time"), st.integers(0, 2 * b.OLDEST_MS), st.just(True)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(actions)
def test_everything_that_was_put_waits_was_sent_or_was_given_up(steps: list[tuple[str, int, bool]]) -> None:
    box, now_ms, wanted, last = b.Box(), 0, 0, 0
    for name, amount, wants in steps:
        if name == "put":
            rows = [(last + n + 1, now_ms, wants) for n in range(amount)]
            box = b.put(b.put(box, rows), rows)  # the same rows again change nothing
            last, wanted = last + amount, wanted + (amount if wants else 0)
        elif name == "time":
            now_ms += amount
        else:
            one = b.due(box, now_ms)
            if one is not None:
                box = (
                    b.failed(box, one.number, "no", now_ms)
                    if name == "failed"
                    else b.delivered(box, one.number, now_ms)
                    if name == "delivered"
                    else b.given_up(box, one.number)
                )
        for row in b.hopeless(box, now_ms):
            box = b.given_up(box, row.number)
        numbers = [one.number for one in box.waiting]
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= b.WAITING_MOST
        assert all(now_ms - one.made_ms <= b.OLDEST_MS for one in box.waiting)
        assert len(numbers) + box.sent + box.given_up == wanted
        assert box_of(box_bytes(box)) == box


def test_what_is_kept_is_read_back_as_it_was() -> None:
    known = Known({"site": (Concern("site/a", "site", "critical", "a is lost"),), "finding": ()})
    memory, _ = tell(Memory(), known, 7)
    state = State(memory, 12, {"a": ("lost", "why")}, {"a": Reference(5, True, 9)})
    assert state_of(state_bytes(state)) == state
    for row in (MESSAGE, Delivery(3, "desk", "given up", 9, 5, "no answer")):
        assert row_of(record_of(row)) == row


@pytest.mark.parametrize("read", [box_of, state_of, row_of])
@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'["message", {}]', b"\xff", b'{"open": 5}'])
def test_what_cannot_be_read_is_said_to_be(read: object, value: bytes) -> None:
    with pytest.raises(Corrupt):
        read(value)  # type: ignore[operator]


def test_the_most_that_is_kept_fits_one_value_of_a_store() -> None:
    text, memory = "x" * TEXT_MOST, Memory()
    for kind in KINDS:
        memory, _ = tell(memory, Known({kind: ()}), 0)
        rows = tuple(
            Concern(f"{kind}/{'k' * 60}{n:05}", kind, "critical", text, text)
            for n in range(OPEN_MOST + 10_000)
        )
        memory, _ = tell(memory, Known({kind: rows if kind == "finding" else rows[:OPEN_MOST]}), 1)
    references = {f"{'s' * 40}{n:05}": Reference(10**12, True, 10**12) for n in range(2_500)}
    shortened = {kind: frozenset(key[-24:] for key in keys) for kind, keys in memory.adopted.items()}
    state = State(replace(memory, adopted=shortened), 10**9, {}, references)
    assert len(state_bytes(state)) < MAX_VALUE_BYTES


def test_a_channel_takes_what_it_asked_for() -> None:
    assert Channel("a", "apprise", "env:A").wants(MESSAGE)
    assert not Channel("a", "apprise", "env:A", kinds=frozenset({"plan"})).wants(MESSAGE)
    mild = Message("m", "run", "once", "info", "it ended", "", 5)
    assert not Channel("a", "apprise", "env:A").wants(mild)
    assert Channel("a", "apprise", "env:A", least="info").wants(mild)
