"""Probes: one question each to a real system, and what its answer says.

Every probe is `async () -> Seen`, bounded in time by the witness. A connection alone is never an answer: a
stopped process and a host with a dead disk still accept one. An error of the network is raised as it is, for
the witness knows which of them mean silence.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from evac.drivers.capabilities import ProbeReport
from evac.watch.values import EvidenceKind, Seen

Ask = Callable[[], Awaitable[Seen]]


def asked(kind: EvidenceKind, ask: Callable[[], Awaitable[ProbeReport]]) -> Ask:
    """The probe that a driver answers (`AnswersProbe`)."""

    async def seen() -> Seen:
        began = time.monotonic()
        report = await ask()
        took_ms = int((time.monotonic() - began) * 1_000)
        return Seen(kind, "up" if report.up else "down", took_ms, report.detail)

    return seen
