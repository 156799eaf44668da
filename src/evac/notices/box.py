"""What waits for one channel: a value that goes from one state to the next. Pure.

A message waits by its number in the journal of notices. It is tried in order, ever more seldom, until it was
taken, or is too old, or too many wait behind it. Bounds: `WAITING_MOST` messages, `OLDEST_MS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

WAITING_MOST: Final = 200
OLDEST_MS: Final = 86_400_000
FIRST_MS: Final = 5_000
MOST_MS: Final = 600_000
AFTER_MOST_MS: Final = 3_600_000
PROBLEM_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Waiting:
    """number: in the journal of notices. next_ms: not tried again before then."""

    number: int
    made_ms: int
    tries: int = 0
    next_ms: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """after: all messages up to this number were looked at. sent: how many were delivered, sent_ms: the last
    one; given_up: how many never were. about: what the channel is, in words without a secret.
    """

    after: int = 0
    waiting: tuple[Waiting, ...] = ()
    sent: int = 0
    sent_ms: int = 0
    given_up: int = 0
    about: str = ""

    @property
    def problem(self) -> str:
        """Of whatever waits longest; empty while nothing fails."""
        return next((one.problem for one in self.waiting if one.problem), "")


def put(box: Box, rows: Iterable[tuple[int, int, bool]]) -> Box:
    """Messages of the journal: (number, when it was made, whether the channel wants it)."""
    after, waiting = box.after, list(box.waiting)
    for number, made_ms, wanted in rows:
        if number > after:
            after = number
            if wanted:
                waiting.append(Waiting(number, made_ms))
    return replace(box, after=after, waiting=tuple(waiting))


def due(box: Box, now_ms: int) -> Waiting | None:
    """What is to be tried now: the oldest whose time has come."""
    return next((one for one in box.waiting if one.next_ms <= now_ms), None)


def hopeless(box: Box, now_ms: int) -> tuple[Waiting, ...]:
    """What is given up now: too old, or too many."""
    over = max(0, len(box.waiting) - WAITING_MOST)
    return tuple(
        one for place, one in enumerate(box.waiting) if place < over or now_ms - one.made_ms > OLDEST_MS
    )


def delivered(box: Box, number: int, now_ms: int) -> Box:
    return replace(_without(box, number), sent=box.sent + 1, sent_ms=now_ms)


def given_up(box: Box, number: int) -> Box:
    return replace(_without(box, number), given_up=box.given_up + 1)


def failed(box: Box, number: int, problem: str, now_ms: int, after_ms: int = 0, whole: bool = True) -> Box:
    """It is tried again later. after_ms: as the receiver asks. whole: the channel is down, and what waits
    behind it is not tried before.
    """
    tries = next(one.tries for one in box.waiting if one.number == number) + 1
    pause_ms = min(MOST_MS, FIRST_MS * 2 ** min(tries - 1, 20))
    next_ms = now_ms + max(pause_ms, min(after_ms, AFTER_MOST_MS))

    def tried(one: Waiting) -> Waiting:
        if one.number == number:
            return replace(one, tries=tries, next_ms=next_ms, problem=problem[:PROBLEM_MOST])
        return replace(one, next_ms=max(one.next_ms, next_ms)) if whole else one

    return replace(box, waiting=tuple(tried(one) for one in box.waiting))


def _without(box: Box, number: int) -> Box:
    return replace(box, waiting=tuple(one for one in box.waiting if one.number != number))
