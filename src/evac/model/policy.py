"""What a company allows a plan to do: waivers, fences, weights, how far a plan may go.

Modes and approvals of a run come with the run; this is the part that planning reads.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """waivers: stores that may be promoted beyond their rpo; tier_weights: None takes the estate's."""

    waivers: tuple[str, ...] = ()
    tier_weights: tuple[int, ...] | None = None
    fence_rung: str = "isolate"
