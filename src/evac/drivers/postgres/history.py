"""Timelines of PostgreSQL, pure: where two histories part, what the log says was committed after that, and
names of segment files. Formats: "Timelines" of the manual, and the output of pg_waldump and pg_controldata.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from evac.drivers.postgres.facts import PostgresFacts, lsn_number
from evac.drivers.postgres.link import Link
from evac.model.errors import ActionError, Permanent

ENDLESS = 2**64
_COMMIT = re.compile(
    r"rmgr: Transaction .*?\btx:\s*(\d+),\s*lsn:\s*([0-9A-F/]+),.*?desc: COMMIT(?:_PREPARED)?\b(.*)"
)
_SUBXACTS = re.compile(r"subxacts:([ \d]+)")
_PREPARED = re.compile(r"\bxid[: ]\s*(\d+)|^\s*(\d+):")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A timeline from `begin` to `end`, bytes of the log."""

    timeline: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Control:
    """Of pg_controldata: which data this is, its timeline, how it stopped, and the size of log segments."""

    system: str
    timeline: int
    state: str
    segment_bytes: int

    @property
    def was_standby(self) -> bool:
        return "recovery" in self.state and self.state != "in crash recovery"


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed transaction and those inside it."""

    xids: tuple[int, ...]
    lsn: str
    words: str


def parse_history(text: str, timeline: int) -> tuple[Stretch, ...]:
    """The file of `timeline`, "" for the first; oldest first. Raises `Permanent`."""
    stretches: list[Stretch] = []
    begin = 0
    for line in text.splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            number, end = int(fields[0]), lsn_number(fields[1])
        except (ValueError, IndexError) as error:
            raise Permanent(
                "history-unreadable", f"the history of timeline {timeline} cannot be read"
            ) from error
        stretches.append(Stretch(number, begin, end))
        begin = end
    return (*stretches, Stretch(timeline, begin, ENDLESS))


def fork_of(ours: tuple[Stretch, ...], theirs: tuple[Stretch, ...]) -> tuple[int, int]:
    """(timeline, position) up to which both are the same. Raises `Permanent` where they share nothing."""
    common: tuple[int, int] | None = None
    for one, other in zip(ours, theirs, strict=False):
        if (one.timeline, one.begin) != (other.timeline, other.begin):
            break
        common = (one.timeline, min(one.end, other.end))
    if common is None:
        raise Permanent("no-common-history", "the two members share no timeline")
    return common


def segment_name(timeline: int, lsn: int, segment_bytes: int) -> str:
    """The file that holds the byte at `lsn`."""
    number, each = lsn // segment_bytes, 2**32 // segment_bytes
    return f"{timeline:08X}{number // each:08X}{number % each:08X}"


def parse_commit(line: str) -> Commit | None:
    """A line of pg_waldump, if it is a commit."""
    match = _COMMIT.search(line)
    if match is None:
        return None
    xids = [int(match[1])]
    if "COMMIT_PREPARED" in line and (prepared := _PREPARED.search(match[3])):
        xids.append(int(prepared[1] or prepared[2]))
    if inner := _SUBXACTS.search(match[3]):
        xids += [int(number) for number in inner[1].split()]
    return Commit(tuple(xid for xid in xids if xid), match[2], match[3].strip(" ;")[:200])


def parse_control(text: str) -> Control:
    """Raises `Permanent`."""
    values = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    try:
        return Control(
            values["Database system identifier"],
            int(values["Latest checkpoint's TimeLineID"]),
            values["Database cluster state"],
            int(values["Bytes per WAL segment"]),
        )
    except (KeyError, ValueError) as error:
        raise Permanent("control-unreadable", "pg_controldata did not say what was expected") from error


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
