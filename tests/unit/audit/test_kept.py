"""Answers that are kept: by what they follow from, and each audit its own."""

from __future__ import annotations

from evac.audit.kept import Kept

NAME = ("answer",)


def test_an_answer_stays_while_its_parts_are_the_same_objects() -> None:
    kept, part = Kept(), [1]
    first = kept.of(NAME, (part, 7, b"x"), lambda: list(part))
    assert kept.of(NAME, (part, 3 + 4, bytes([120])), lambda: [2]) is first
    assert kept.of(NAME, ([1], 7, b"x"), lambda: [2]) == [2]


def test_an_answer_that_comes_out_alike_stays_the_same_object() -> None:
    kept = Kept()
    first = kept.of(NAME, (1,), lambda: [5], list.__eq__)
    assert kept.of(NAME, (2,), lambda: [5], list.__eq__) is first
    assert kept.of(NAME, (2,), lambda: [6], list.__eq__) is first
    assert kept.of(NAME, (3,), lambda: [6], list.__eq__) == [6]


def test_what_follows_changes_nothing_of_what_was_before() -> None:
    before = Kept()
    before.of(NAME, (1,), lambda: "one")
    after = Kept(before)
    assert after.of(NAME, (1,), lambda: "again") == "one"
    assert after.of(NAME, (2,), lambda: "two") == "two"
    assert before.of(NAME, (1,), lambda: "again") == "one"
