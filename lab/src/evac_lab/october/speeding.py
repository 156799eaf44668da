"""A run whose every duration is divided, so that hours of waiting pass in minutes while requests stay real.

One second here is `speed` seconds of the story. Nothing else of the run changes: the same steps, the same
order, the same capacities.
"""

from __future__ import annotations

from dataclasses import replace

from evac.engine.runs.binding import Bound
from evac.run.values import RunLimit, RunSpec, RunStep

REQUESTS_MS = 3_000
"""What is added to a deadline: a request takes as long as it takes, however fast the story runs."""
MEND_LEAST_MS = 3_000
MEND_STEP_US = 300
"""The least wait for a mended plan, and more for each step: to mend one takes as long as it takes, too, and
leaves the run little of two cores meanwhile.
"""


def faster(bound: Bound, speed: int) -> Bound:
    """The same run with all durations, holds and windows divided by `speed`."""
    return Bound(faster_spec(bound.spec, speed), bound.actions)


def faster_spec(spec: RunSpec, speed: int) -> RunSpec:
    patience = replace(
        spec.patience,
        deadline_least_ms=REQUESTS_MS,
        backoff_ms=max(1, spec.patience.backoff_ms // speed),
        backoff_most_ms=max(1, spec.patience.backoff_most_ms // speed),
    )
    return replace(
        spec,
        steps=tuple(_step(step, speed) for step in spec.steps),
        limits=tuple(_limit(limit, speed) for limit in spec.limits),
        patience=patience,
        horizon_ms=0,
        monitor_ms=spec.monitor_ms // speed,
        mend_ms=max(_mend_least_ms(spec), spec.mend_ms // speed) if spec.mend_ms else 0,
    )


def _mend_least_ms(spec: RunSpec) -> int:
    return MEND_LEAST_MS + len(spec.steps) * MEND_STEP_US // 1_000


def _step(step: RunStep, speed: int) -> RunStep:
    return replace(
        step,
        start_ms=step.start_ms // speed,
        duration_ms=_shorter(step.duration_ms, speed),
        lag_ms=_shorter(step.lag_ms, speed),
        deadline_ms=step.deadline_ms // speed + REQUESTS_MS if step.deadline_ms else 0,
        uses=tuple((name, units, _shorter(hold, speed)) for name, units, hold in step.uses),
    )


def _limit(limit: RunLimit, speed: int) -> RunLimit:
    return replace(limit, window_ms=_shorter(limit.window_ms, speed))


def _shorter(milliseconds: int, speed: int) -> int:
    """Rounded up, so that no hold becomes none; nothing and `kept for good` stay what they are."""
    return -(-milliseconds // speed) if milliseconds > 0 else milliseconds
