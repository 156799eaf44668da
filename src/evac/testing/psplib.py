"""Reads project scheduling instances in the Patterson format of PSPLIB into tasks of the scheduler.

Source of the format and the instances: Kolisch, Sprecher, "PSPLIB - a project scheduling library", EJOR 96
(1997).
"""

from __future__ import annotations

from evac.model.errors import InvalidInput
from evac.planning.schedule import Tasks, tasks_of


def project_of(text: str) -> Tasks:
    """The instance in `text`, with one weighted sink: its cost is the makespan.

    The text holds the numbers of activities and resources, the capacities, then per activity its duration,
    its demands, the number of its successors and the successors, counted from 1. Raises `InvalidInput` if it
    does not.
    """
    numbers = _Numbers(text)
    count, resources = numbers.take(2)
    capacity = numbers.take(resources)
    duration: list[int] = []
    uses: list[list[tuple[int, int, int, int]]] = []
    predecessors: list[list[int]] = [[] for _ in range(count)]
    for activity in range(count):
        length, *demand, followers = numbers.take(resources + 2)
        duration.append(length)
        uses.append([(resource, units, 0, length) for resource, units in enumerate(demand) if units])
        for follower in numbers.take(followers):
            if not 1 <= follower <= count:
                raise _broken(f"activity {activity + 1} names the successor {follower} of {count}")
            predecessors[follower - 1].append(activity)
    numbers.end()
    return tasks_of(duration, predecessors, uses, capacity, weight=[0] * (count - 1) + [1])


class _Numbers:
    """The whole numbers of a text, taken in turn."""

    def __init__(self, text: str) -> None:
        try:
            self._left = [int(word) for word in reversed(text.split())]
        except ValueError as problem:
            raise _broken(f"it holds something that is no whole number ({problem})") from problem

    def take(self, count: int) -> list[int]:
        if count < 0 or count > len(self._left):
            raise _broken("it ends too early")
        return [self._left.pop() for _ in range(count)]

    def end(self) -> None:
        if self._left:
            raise _broken(f"{len(self._left)} numbers are left after the last activity")


def _broken(why: str) -> InvalidInput:
    return InvalidInput(
        "psplib-broken",
        f"This is no instance in the Patterson format: {why}.",
        "Check the file and fetch it again.",
    )
