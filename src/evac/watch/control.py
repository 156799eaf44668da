"""A witness doubts itself: its own loop lag, and a control probe that must answer. Pure.

A slow observer sees everybody else as dead (Lifeguard: to doubt oneself first removed 49 of 50 false
positives). So a round in which the observer was slow counts for nothing: no miss, and the vote is unknown.
"""

from __future__ import annotations

from evac.model.run_policy import WatchProfile


class SelfDoubt:
    """What a witness knows of its own health. Times of its own monotonic clock.

    Doubt begins with a lag above `lag_ms` or a control probe without answer, and ends a period later.
    """

    def __init__(self, profile: WatchProfile) -> None:
        self._profile = profile
        self._slow_at_ms: int | None = None
        self._lag_ms = 0
        self._control = ""

    def woke(self, due_ms: int, now_ms: int) -> None:
        """The loop asked to wake at `due_ms` and woke at `now_ms`."""
        lag_ms = now_ms - due_ms
        if lag_ms > self._profile.lag_ms:
            self._slow_at_ms, self._lag_ms = now_ms, lag_ms

    def controlled(self, answered: bool, detail: str = "") -> None:
        """The control probe answered, or not."""
        self._control = "" if answered else detail or "no answer"

    def reason(self, now_ms: int) -> str:
        """Why this witness does not trust what it sees now; empty when it does."""
        if self._slow_at_ms is not None and now_ms - self._slow_at_ms <= self._profile.period_ms:
            return f"this witness was {self._lag_ms} ms late"
        if self._control:
            return f"the control probe fails: {self._control}"
        return ""
