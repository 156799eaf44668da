"""What was worked out before, kept with what it follows from.

Values are never changed, so the same parts give the same answer. One answer a name is kept: of the
last parts it was asked for. An answer that comes out as it was stays the same object, so that what
follows from it is kept too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

Answer = TypeVar("Answer")


class Kept:
    """Answers by name, of one audit; those of an audit before are where it begins."""

    def __init__(self, before: Kept | None = None) -> None:
        self._answers: dict[tuple[str, ...], tuple[tuple[object, ...], object]] = (
            {} if before is None else dict(before._answers)
        )

    def of(
        self,
        name: tuple[str, ...],
        parts: tuple[object, ...],
        work: Callable[[], Answer],
        alike: Callable[[Answer, Answer], bool] | None = None,
    ) -> Answer:
        """The answer that follows from some parts; worked out only if any of them is another object.

        Bytes and numbers are the same where they are equal. alike: whether a new answer says what the one
        before says, which then stays.
        """
        known = self._answers.get(name)
        if known is not None and all(_same(one, other) for one, other in zip(known[0], parts, strict=True)):
            return cast("Answer", known[1])
        answer = work()
        if known is not None and alike is not None and alike(cast("Answer", known[1]), answer):
            answer = cast("Answer", known[1])
        self._answers[name] = parts, answer
        return answer


def _same(one: object, other: object) -> bool:
    return one is other or (isinstance(one, bytes | int) and one == other)
