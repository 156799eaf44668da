"""EV149: a backup changed in a way that no schedule explains (data was encrypted, or copies were deleted), or
no one could look whether it did.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from evac.audit.context import Context, Rule
from evac.audit.findings import Finding

_SEEN: Final = "Check the source now, and keep all older backups until you know why."
_UNSEEN: Final = "Fix what stops the listing, then run: evac backup list ESTATE DATA_SET."


def check(context: Context) -> Iterator[Finding]:
    """Warning: someone must check the source before an older, intact backup expires."""
    for alarm in context.backups.alarms:
        day = datetime.fromtimestamp(alarm.at_ms / 1_000, UTC).date().isoformat()
        yield RULE.finding(
            context,
            "warning",
            f"{alarm.data_set} at {alarm.copy}, {alarm.code}",
            f"{alarm.data_set} at {alarm.copy}: {alarm.words} ({day})",
            _UNSEEN if alarm.code == "backup-unlisted" else _SEEN,
            paths=(f"stores/{alarm.data_set}", f"data_sets/{alarm.data_set}"),
        )


RULE = Rule(
    "backup-changed-suddenly", "EV149", "A backup changed suddenly", check, per_loss=False, alerts=True
)
