"""How long a step may take, how often it is tried, and when people are told that it is stuck. Pure."""

from __future__ import annotations

from evac.model.run_policy import Patience
from evac.run.values import RunStep

NO_MORE = -1
"""again_ms of a step that is not tried again."""


def deadline_ms(patience: Patience, step: RunStep) -> int:
    """How long one try may take: what the plan says, else a multiple of what it predicts."""
    if step.deadline_ms:
        return step.deadline_ms
    return max(patience.deadline_least_ms, patience.deadline_factor * step.duration_ms)


def stuck_ms(patience: Patience, step: RunStep) -> int:
    """How long a try may run until people are told; never later than its deadline."""
    predicted = patience.stuck_factor * step.duration_ms
    return min(predicted or deadline_ms(patience, step), deadline_ms(patience, step))


def backoff_ms(patience: Patience, tries: int) -> int:
    """The wait after the `tries`-th failure (from 1): doubles, up to the most."""
    return int(min(patience.backoff_most_ms, patience.backoff_ms << min(max(tries, 1) - 1, 30)))


def again_ms(patience: Patience, tries: int, after_ms: int = 0) -> int:
    """The wait until the next try after `tries` of them failed, or `NO_MORE`.

    after_ms: the earliest that the real system asked for.
    """
    if tries >= patience.attempts:
        return NO_MORE
    return max(backoff_ms(patience, tries), after_ms)
