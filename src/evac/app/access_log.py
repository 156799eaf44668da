"""The log of access and approvals: what war rooms saw, and what people asked of runs by any way."""

from __future__ import annotations

import contextlib
from typing import Final

from evac.app import runs
from evac.engine.lead.access_journal import access_records
from evac.model.access import AccessRecord, Proven
from evac.model.errors import Corrupt, RunError
from evac.run.values import Event
from evac.store.port import Store

ACTS: Final = frozenset(
    {
        "approved",
        "gate_opened",
        "paused",
        "resumed",
        "step_attested",
        "step_skipped",
        "step_retried",
        "undo_asked",
        "rollback_started",
        "cancelled",
        "limit_changed",
        "released",
        "request_refused",
    }
)
"""Kinds of events that a person caused."""


async def access_log(store: Store, since_ms: int = 0, until_ms: int = 2**53) -> list[AccessRecord]:
    """Records of that time, oldest first. Raises Corrupt, Unavailable."""
    found = await access_records(store)
    for row in await runs.list_runs(store):
        with contextlib.suppress(Corrupt, RunError):
            events = await runs.events_of(store, row.run)
            found += [_act(row.run, one) for one in events if one.kind in ACTS and one.data.get("who")]
    inside = (one for one in found if since_ms <= one.at_ms < until_ms)
    return sorted(inside, key=lambda one: (one.at_ms, one.run, one.kind))


def _act(run: str, event: Event) -> AccessRecord:
    proof = ""
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        proof = Proven.from_data(event.data["proof"]).words if "proof" in event.data else ""
    why = str(event.data.get("reason") or event.data.get("why") or "")
    what = f"{event.step}: {why}" if event.step else why
    kind = event.kind.replace("_", "-")
    return AccessRecord(event.at_ms, kind, str(event.data["who"]), proof, what=what, run=run)
