"""The archived log of a repository: whether it leads from a backup to its end.

pgBackRest's `verify` mentions a gap among its details and reports no error. PostgreSQL takes a gap for the
end of the log, so that a restore ends without an error, and the data is older.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from evac.drivers.backups import Stopwatch, Tool, unreadable
from evac.drivers.postgres_log import AFTER_TIMELINE, history_name, timeline_of
from evac.drivers.postgres_timelines import SIZES, newest_timeline, route_to_end, sizes
from evac.drivers.restored_postgres import unpacked
from evac.model.records import dataclass

HISTORY_BYTES: Final = 1 << 20
FILES_MOST: Final = 1_000_000
"""More files than a log of 16 TB in segments of the usual size."""
TRIES: Final = 5
PAUSE_S: Final = 1.0
"""Several processes may archive segments at once, so that a later one arrives first."""
_FILE: Final = re.compile(rb"(?:[0-9A-F]{16}/)?([0-9A-F]{24})-[0-9a-f]{40}(?:\.[a-z0-9]{2,4})?")
_HISTORY: Final = re.compile(rb"[0-9A-F]{8}\.history")


@dataclass(frozen=True, slots=True)
class Start:
    """Where the log of a backup begins."""

    folder: str
    """The archive of its cluster, in the repository."""
    segment: str
    """Empty for a backup that was taken while PostgreSQL was stopped."""
    position: str
    """In the log, such as `0/6000028`."""


async def missing_log(tool: Tool, where: Sequence[str], start: Start, watch: Stopwatch) -> tuple[str, ...]:
    """What is missing of the log that PostgreSQL reads from a backup on. Raises `ActionError` if the
    repository cannot be read.
    """
    problems: tuple[str, ...] = ()
    for past in range(TRIES):
        if past:
            await asyncio.sleep(PAUSE_S)
        if not (problems := await _missing(tool, where, start, watch)):
            break
    return problems


async def _missing(tool: Tool, where: Sequence[str], start: Start, watch: Stopwatch) -> tuple[str, ...]:
    files: dict[str, str] = {}

    def takes(line: bytes) -> bool:
        if len(files) > FILES_MOST:
            return True
        if found := _FILE.fullmatch(line):
            if found[1][AFTER_TIMELINE] >= first:
                files[found[1].decode()] = line.decode()
        elif _HISTORY.fullmatch(line):
            files[line.decode()] = line.decode()
        return True

    first = start.segment[AFTER_TIMELINE].encode()
    # By default, messages are written among the names.
    quiet = (*where, "--log-level-console=off", "--log-level-stderr=error")
    await tool.run(*quiet, "--recurse", "repo-ls", start.folder, timeout_s=watch.left_s, takes=takes)
    if len(files) > FILES_MOST:
        raise unreadable("pgbackrest", f"more than {FILES_MOST:,} segments")
    if start.segment not in files:
        return (f"the segment {start.segment} of the archived WAL is missing",)

    async def content(name: str, most: int) -> bytes:
        argv = (*quiet, "repo-get", f"{start.folder}/{files[name]}")
        return (await tool.run(*argv, timeout_s=watch.left_s, most=most)).raw

    try:
        fitting = sizes(start.segment, start.position)
    except ValueError as error:
        raise unreadable("pgbackrest", "no position in the log where a backup starts") from error
    size = fitting[0] if len(fitting) == 1 else 0
    if not size:  # in the first segment of its 4 GiB
        file = files[start.segment].rpartition("/")[2]
        async with unpacked(file, await content(start.segment, SIZES[-1]), watch) as segment:
            size = segment.stat().st_size
    if size not in SIZES:
        return (f"the segment {start.segment} of the archived WAL has {size:,} bytes",)
    newest, _ = newest_timeline(timeline_of(start.segment), files)
    name, history = history_name(newest), ""
    if newest != timeline_of(start.segment):
        history = (await content(name, HISTORY_BYTES)).decode("utf-8", "replace")
    return route_to_end((start.segment,), files, history, size).problems
