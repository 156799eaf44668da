"""What was worked out before, kept with what it follows from.

Values are never changed, so the same parts give the same answer. One answer a name is kept: of the
last parts it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

Answer = TypeVar("Answer")


class Kept:
    """Answers by name, handed on from the audit of an estate to the audits of what becomes of it."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, ...], tuple[tuple[object, ...], object]] = {}

    def of(self, name: tuple[str, ...], parts: tuple[object, ...], work: Callable[[], Answer]) -> Answer:
        """The answer that follows from some parts; worked out only if any of them is another object.

        Bytes and numbers are the same where they are equal.
        """
        known = self._answers.get(name)
        if known is not None and all(_same(one, other) for one, other in zip(known[0], parts, strict=True)):
            return cast("Answer", known[1])
        answer = work()
        self._answers[name] = parts, answer
        return answer


def _same(one: object, other: object) -> bool:
    return one is other or (isinstance(one, bytes | int) and one == other)
