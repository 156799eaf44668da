"""Which timeline a member's last byte is of, and its history: asked of the member itself."""

from __future__ import annotations

from evac.drivers.postgres.facts import PostgresFacts
from evac.drivers.postgres.history import Stretch, parse_history, segment_name
from evac.drivers.postgres.link import Link
from evac.model.errors import ActionError

_SEGMENT_BYTES = "SELECT pg_size_bytes(current_setting('wal_segment_size'))"
_NEWEST_TIMELINE = """
SELECT max(('x' || left(name, 8))::bit(32)::int) FROM pg_ls_waldir() AS log
WHERE length(name) = 24 AND substr(name, 9) = $1
  AND EXISTS (SELECT FROM pg_ls_waldir() AS other WHERE other.name = left(log.name, 8) || '.history')
"""


async def history_of(link: Link, timeline: int) -> tuple[Stretch, ...]:
    """The history of a timeline, as the member has it on disk. Raises what the link raises, `Permanent`."""
    if timeline == 1:
        return parse_history("", 1)
    path = f"pg_wal/{timeline:08X}.history"
    return parse_history(await link.value("SELECT pg_read_file($1, 0, 1000000, true)", path) or "", timeline)


async def timeline_held(link: Link, ours: PostgresFacts) -> int:
    """The timeline that the last byte of a standby is of.

    Its control file tells that of its last restart point alone, minutes ago, and its receiver, which knows,
    is gone with its primary; but the file of the log that the byte lies in has it in its name.
    """
    if ours.receiver or not ours.lsn:
        return ours.timeline
    try:
        segment_bytes = int(await link.value(_SEGMENT_BYTES))
        found = await link.value(_NEWEST_TIMELINE, segment_name(0, ours.lsn - 1, segment_bytes)[8:])
    except ActionError:  # who may not list the log takes the slow way, which is right as well
        return ours.timeline
    return max(ours.timeline, int(found or 0))
