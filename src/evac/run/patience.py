"""How long a step may take, how often it is tried, and when an alert says that it is stuck. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evac.model.run_policy import Patience
from evac.run.values import RunStep
from evac.steps.registry import kind_of

NO_MORE = -1
"""again_ms of a step that is not retried."""
LATE = "late"
"""Code of a try that began too late: none of it was done, and it does not count."""
INTERRUPTIONS_MOST = 10
"""How many controllers may end in the middle of one step. Each is no failure of the step, but after this many
the step may be the cause.
"""
FAR_BEYOND = 3
"""Multiple of its prediction after which an alert is sent for a step, wherever it is in the plan."""
LOOK_LEAST_MS = 1_000
LOOKS = 20
"""For a boot in doubt during its predicted time."""
_BUSY = "bmc-busy"
_BUSY_FACTOR = 2


def deadline_ms(patience: Patience, step: RunStep) -> int:
    """How long one try may take: as planned, else a multiple of the prediction; never less than policy gives
    every step.
    """
    wanted = step.deadline_ms or patience.deadline_factor * step.duration_ms
    return max(patience.deadline_least_ms, wanted)


def stuck_ms(patience: Patience, step: RunStep) -> int:
    """How long a try may run before it counts as late; never beyond its deadline. A late boot soon says
    something about its boot server; otherwise only the critical chain is urgent.
    """
    soon = step.critical or kind_of(step.kind).boots
    factor = patience.stuck_factor if soon else max(patience.stuck_factor, FAR_BEYOND)
    predicted = factor * step.duration_ms
    return min(predicted or deadline_ms(patience, step), deadline_ms(patience, step))


def is_alarm(data: Mapping[str, Any]) -> bool:
    """Whether a late step triggers an alert at once. data: of its event."""
    running, predicted = int(data.get("running_ms", 0)), int(data.get("predicted_ms", 0))
    return bool(data.get("critical")) or running >= FAR_BEYOND * predicted


def backoff_ms(patience: Patience, tries: int) -> int:
    """The wait after the `tries`-th failure (from 1): doubles, up to a maximum."""
    return int(min(patience.backoff_most_ms, patience.backoff_ms << min(max(tries, 1) - 1, 30)))


def look_ms(patience: Patience, step: RunStep, looks: int) -> int:
    """The wait until the next look at a step in doubt. A boot is checked as often as one that is followed,
    because others need what it holds.
    """
    wait_ms = backoff_ms(patience, looks)
    if not kind_of(step.kind).boots:
        return wait_ms
    return min(wait_ms, max(LOOK_LEAST_MS, step.duration_ms // LOOKS))


def is_hopeless(patience: Patience, step: RunStep, looks: int, ran_ms: int, code: str = "") -> bool:
    """Whether an unclear step was checked often enough. A booting server shows itself only once it is up, so
    it has the time of a full try, and twice that if the last look could not be made.

    code: of the last look. A busy controller, or our own machine being too slow to hear it, says nothing
    about the server, but must not hold up the run forever.
    """
    if looks < patience.attempts or not kind_of(step.kind).boots:
        return looks >= patience.attempts
    return ran_ms >= deadline_ms(patience, step) * (_BUSY_FACTOR if code == _BUSY else 1)


def again_ms(patience: Patience, tries: int, after_ms: int = 0) -> int:
    """The wait until the next try after `tries` failures, or `NO_MORE`.

    after_ms: the minimum that the real system asked for.
    """
    if tries >= patience.attempts:
        return NO_MORE
    return max(backoff_ms(patience, tries), after_ms)
