"""What a run has shown so far: how long steps take that are alike, and how many boots fail. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from evac.run.boots import silent_servers
from evac.run.values import RunStep
from evac.run.view import RunView
from evac.steps.registry import kind_of

GOLDEN: Final = 0.6180339887498949
"""Steps of this size, modulo one, spread evenly however many are taken."""
PRIOR: Final = 4
"""As long as fewer were measured, the prediction counts as well."""
LATE_SHARE: Final = 4
"""Of what runs longer than anything measured: a quarter of that again is left."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Of one kind and predicted length: steps that went well, those that failed, and the mean of measured
    over predicted, in permille.
    """

    kind: str
    predicted_ms: int
    measured: int
    failed: int
    permille: int


class _Alike:
    """Steps that are alike: permille of the prediction of those that went well, in order; failed: how many
    did not. least: what the one that has run longest shows already.
    """

    __slots__ = ("drawn", "failed", "found", "least")

    def __init__(self) -> None:
        self.found: list[int] = []
        self.failed = self.drawn = self.least = 0

    def draw(self, beyond: int) -> int:
        """The next permille, of those above `beyond`."""
        self.drawn += 1
        first = bisect_right(self.found, beyond) if beyond else 0
        left = len(self.found) - first
        spread = self.drawn * GOLDEN % 1.0
        if beyond and not left:
            return max(1_000 if not self.found else 0, self.least, beyond + beyond // LATE_SHARE)
        if not left or (len(self.found) < PRIOR and spread * PRIOR >= len(self.found)):
            return max(1_000, beyond, self.least)
        return self.found[first + int(spread * left)]


class Measured:
    """failing: how long servers took that did not come up, in order; share: of boots that fail."""

    def __init__(self, view: RunView, now_ms: int) -> None:
        self._alike: dict[tuple[str, int], _Alike] = {}
        self._waiting = silent_servers.are_waiting(view)
        self.failing: list[int] = []
        boots = []
        for i, step in enumerate(view.steps):
            if view.attempts[i] and step.duration_ms and not step.manual:
                self._measure(view, i, now_ms)
                if kind_of(step.kind).boots:
                    boots.append(i)
        for alike in self._alike.values():
            alike.found.sort()
        self.failing.sort()
        self.share = self._share(view, boots, now_ms)
        booted = (one for (kind, _), one in self._alike.items() if kind_of(kind).boots)
        self._most = max(booted, key=lambda one: len(one.found), default=_Alike())
        self._owed = 0.0
        self._failed = 0

    def _measure(self, view: RunView, i: int, now_ms: int) -> None:
        step, phase = view.steps[i], view.phases[i]
        alike = self._alike.setdefault((step.kind, step.duration_ms), _Alike())
        if phase == "running":
            alike.least = max(alike.least, (now_ms - view.started[i]) * 1_000 // step.duration_ms)
        if view.ended[i] < view.started[i]:
            return
        took_ms = view.ended[i] - view.started[i]
        if phase == "succeeded":
            alike.found.append(took_ms * 1_000 // step.duration_ms)
        elif i in view.boots.refused or i in self._waiting:
            return  # says nothing of the server: it is tried again once what it was for is mended
        elif i in view.boots.quarantined or phase == "failed":
            alike.failed += 1
            if kind_of(step.kind).boots:
                self.failing.append(took_ms * max(1, view.tries[i]))

    def _share(self, view: RunView, boots: list[int], now_ms: int) -> float:
        """Of boots begun so long ago that those that fail have failed."""
        if not self.failing:
            return 0.0
        most_ms = self.failing[len(self.failing) * 9 // 10]
        begun = sum(1 for i in boots if i in view.boots.quarantined or view.started[i] <= now_ms - most_ms)
        return len(self.failing) / max(begun, len(self.failing), 1)

    def next_failure(self, ran_ms: int) -> int:
        """How long the next boot takes to fail, spread evenly by the share; -1: it comes up. ran_ms: of one
        that has run so long already.
        """
        if not self.failing or ran_ms >= self.failing[-1]:
            return -1
        self._owed += self.share
        if self._owed < 1.0:
            return -1
        self._owed -= 1.0
        self._failed += 1
        return max(ran_ms, self.failing[int(self._failed * GOLDEN % 1.0 * len(self.failing))])

    def next_permille(self, step: RunStep, ran_ms: int) -> int:
        """How long the next such step takes, of what was predicted: as its like, or, for a boot of a class of
        which none is up yet, as the class that most is known of.
        """
        alike, boots = self._alike.get((step.kind, step.duration_ms)), kind_of(step.kind).boots
        beyond = ran_ms * 1_000 // step.duration_ms
        if alike is not None and (alike.found or not boots):
            return alike.draw(beyond)
        least = 0 if alike is None else alike.least
        return max(least, self._most.draw(beyond) if boots else 1_000)

    def summary(self) -> tuple[Learned, ...]:
        return tuple(
            Learned(kind, predicted, len(one.found), one.failed, sum(one.found) // max(1, len(one.found)))
            for (kind, predicted), one in sorted(self._alike.items())
        )
