"""Health-gated pacing of traffic: how large the next share is, how long to wait, when to stop. Pure.

Unknown is not healthy: with too few requests to judge by, evac waits.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Final, Literal

from evac.model.records import dataclass
from evac.model.run_policy import Pace

SAMPLES_LEAST: Final = 20
"""Below this many requests an error rate says nothing."""

WAIT_MOST_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Health:
    """Health of moved traffic: requests since the last share, and how many failed."""

    requests: int
    errors: int
    baseline_permille: int = 0
    """Error rate of the service before the move, not caused by it."""

    @property
    def errors_permille(self) -> int:
        """Rounded up, so that one error never counts as none."""
        return -(-self.errors * 1_000 // self.requests) if self.requests else 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """go: take the next share after wait_ms. slow: the same with a longer wait. wait: too little is known.
    stop: no further share; `undo` says whether to roll back what is safe.
    """

    verdict: Literal["go", "slow", "wait", "stop"]
    wait_ms: int
    undo: bool
    why: str


def judge(pace: Pace, wait_ms: int, health: Health) -> Judgement:
    """How to proceed, given the present wait between two shares."""
    if health.requests < SAMPLES_LEAST:
        why = f"only {health.requests} requests seen; {SAMPLES_LEAST} are needed to judge"
        return Judgement("wait", wait_ms, False, why)
    above = max(health.errors_permille - health.baseline_permille, 0)
    words = f"{above} in 1,000 requests fail because of the move; {pace.errors_permille} are allowed"
    if above > 2 * pace.errors_permille:
        return Judgement("stop", wait_ms, True, words)
    if above > pace.errors_permille:
        longer = min(max(2 * wait_ms, pace.wait_ms, 1_000), WAIT_MOST_MS)
        return Judgement("slow", longer, False, words)
    return Judgement("go", max(pace.wait_ms, wait_ms // 2), False, words)


@dataclass(slots=True)
class Pacing:
    """Present pace of a run's traffic shares."""

    wait_ms: int = -1
    """Between two shares; negative: as in the spec."""
    stopped: bool = False
    """Health allows no further share."""
    next_ms: dict[str, int] = field(default_factory=dict)
    """Target -> when its next share may begin."""

    def fork(self) -> Pacing:
        return replace(self, next_ms=self.next_ms.copy())
