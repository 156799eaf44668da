"""How long a step may take, how often it is tried, and when people are told that it is stuck. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evac.model.run_policy import Patience
from evac.run.values import RunStep
from evac.steps.registry import kind_of

NO_MORE = -1
"""again_ms of a step that is not tried again."""
LATE = "late"
"""Code of a try that we were too late to begin: nothing of it was done, and it does not count as one."""
INTERRUPTIONS_MOST = 10
"""How often controllers may end in the middle of one step. That is no failure of the step, but after so many
times it may be what ends them.
"""
FAR_BEYOND = 3
"""Times its prediction: people are told of a step that takes longer, wherever it is in the plan."""
LOOK_LEAST_MS = 1_000
LOOKS = 20
"""At a boot in doubt during the time that it is predicted to take."""
_BUSY = "bmc-busy"
_BUSY_FACTOR = 2


def deadline_ms(patience: Patience, step: RunStep) -> int:
    """How long one try may take: what the plan says, else a multiple of what it predicts; never less than the
    policy gives every step.
    """
    wanted = step.deadline_ms or patience.deadline_factor * step.duration_ms
    return max(patience.deadline_least_ms, wanted)


def stuck_ms(patience: Patience, step: RunStep) -> int:
    """How long a try may run until it counts as late; never later than its deadline. A boot that is late soon
    says something of the server that it boots from; else only what is on the critical chain matters soon.
    """
    soon = step.critical or kind_of(step.kind).boots
    factor = patience.stuck_factor if soon else max(patience.stuck_factor, FAR_BEYOND)
    predicted = factor * step.duration_ms
    return min(predicted or deadline_ms(patience, step), deadline_ms(patience, step))


def is_alarm(data: Mapping[str, Any]) -> bool:
    """Whether people are told of a late step at once. data: of its event."""
    running, predicted = int(data.get("running_ms", 0)), int(data.get("predicted_ms", 0))
    return bool(data.get("critical")) or running >= FAR_BEYOND * predicted


def backoff_ms(patience: Patience, tries: int) -> int:
    """The wait after the `tries`-th failure (from 1): doubles, up to the most."""
    return int(min(patience.backoff_most_ms, patience.backoff_ms << min(max(tries, 1) - 1, 30)))


def look_ms(patience: Patience, step: RunStep, looks: int) -> int:
    """The wait until the next look at a step in doubt. A boot is looked at as often as one that is followed:
    what it holds is wanted by others.
    """
    wait_ms = backoff_ms(patience, looks)
    if not kind_of(step.kind).boots:
        return wait_ms
    return min(wait_ms, max(LOOK_LEAST_MS, step.duration_ms // LOOKS))


def is_hopeless(patience: Patience, step: RunStep, looks: int, ran_ms: int, code: str = "") -> bool:
    """Whether a step that no one can tell of was looked at often enough. A server that boots is told of only
    when it is up: it has the time of a whole try, and twice that where the last look could not even be made.

    code: of the last look. A controller that is busy, or a machine of ours that was too slow to hear it, says
    nothing of the server; but it cannot hold up the run for good.
    """
    if looks < patience.attempts or not kind_of(step.kind).boots:
        return looks >= patience.attempts
    return ran_ms >= deadline_ms(patience, step) * (_BUSY_FACTOR if code == _BUSY else 1)


def again_ms(patience: Patience, tries: int, after_ms: int = 0) -> int:
    """The wait until the next try after `tries` of them failed, or `NO_MORE`.

    after_ms: the earliest that the real system asked for.
    """
    if tries >= patience.attempts:
        return NO_MORE
    return max(backoff_ms(patience, tries), after_ms)
