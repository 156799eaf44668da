"""Reported state of a PostgreSQL member, and whether a synchronous replica may serve as a fence proof.

Read-only. LSNs are integers, bytes since 0/0, and use the server's notation in evidence.

The highest fencing token and epoch that a member has obeyed is a custom setting, `evac.authority`, written by
ALTER SYSTEM: that works on standbys too, survives a restart and a promotion, and, unlike a table row, never
waits for a synchronous standby. An advisory lock is held from the comparison to the end of the change, so
that two leaders never act on one member at once; the lock ends with its session, even if evac is killed.

Timelines: where two histories diverge, which commits the log contains after that, and names of segment files.
Formats: "Timelines" in the manual, and the output of pg_waldump and pg_controldata.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import orjson

from evac.drivers.capabilities import ANY_COPY, MemberRole, RoleReport
from evac.drivers.parameters import refuse_stale
from evac.drivers.port import Checked, Evidence, Order
from evac.drivers.postgres.link import UNREADABLE, Link, SyncSet, literal, parse_sync_set
from evac.drivers.postgres_log import forks, history_name, lsn_text, segment_at
from evac.drivers.store_driver import place_problems
from evac.model.errors import ActionError, Permanent, Retryable
from evac.model.records import dataclass

_FACTS = """
SELECT pg_is_in_recovery() AS standby,
       CASE WHEN pg_is_in_recovery()
            THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                          coalesce((SELECT received_tli FROM pg_stat_wal_receiver), 0))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
       END::int AS timeline,
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0') END::bigint AS written,
       coalesce(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0'), 0)::bigint AS received,
       coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::bigint AS replayed,
       coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000, 0)::bigint
           AS replay_age_ms,
       (SELECT status FROM pg_stat_wal_receiver) AS receiver,
       (SELECT sender_host || ':' || sender_port FROM pg_stat_wal_receiver) AS sender,
       current_setting('primary_conninfo') <> '' AS has_upstream,
       current_setting('primary_conninfo') LIKE '%application_name=''evac-fetch''%' AS fetching,
       current_setting('synchronous_standby_names') AS sync_names,
       current_setting('default_transaction_read_only') = 'on' AS read_only,
       current_setting('fsync') = 'on' AS fsync,
       current_setting('server_version_num')::int AS version,
       (SELECT system_identifier FROM pg_control_system())::text AS system,
       current_setting('data_directory') AS folder,
       (SELECT setting FROM pg_file_settings WHERE name = 'evac.authority' ORDER BY seqno DESC LIMIT 1)
           AS authority,
       CASE WHEN NOT pg_is_in_recovery() THEN (
           SELECT json_agg(json_build_object(
               'name', application_name, 'state', state, 'sync_state', sync_state,
               'behind', coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn), 0)::bigint,
               'lag_ms', coalesce(extract(epoch FROM replay_lag) * 1000, 0)::bigint
           ) ORDER BY application_name)::text
           FROM pg_stat_replication WHERE state IS NOT NULL
       ) END AS standbys
"""
"""One statement for everything: a round trip to a distant site takes longer than the query."""
# What lowers synchronous_commit: settings of roles, databases, or functions of this database.
_LOWERED = """
SELECT 'role or database' AS what, setting FROM pg_db_role_setting, unnest(setconfig) AS setting
WHERE setting LIKE 'synchronous_commit=%'
UNION ALL
SELECT 'function ' || proname, setting FROM pg_proc, unnest(proconfig) AS setting
WHERE setting LIKE 'synchronous_commit=%'
UNION ALL
SELECT 'settings file', 'synchronous_commit=' || reset_val FROM pg_settings WHERE name = 'synchronous_commit'
UNION ALL
SELECT 'settings file', 'synchronous_commit=' || setting FROM pg_file_settings
WHERE name = 'synchronous_commit' AND setting IS NOT NULL
"""
CONFIRMED = frozenset({"on", "remote_apply"})
"""Values of synchronous_commit for which an acknowledged commit is on the standby's disk."""
FENCE_MEMBER = "evac-fence"
"""Name prefix of a standby that never exists: a demoted primary waits for it and acknowledges nothing."""
FETCH_NAME = "evac-fetch"
"""Name under which a candidate briefly follows another copy, just before it is promoted."""


@dataclass(frozen=True, slots=True)
class StandbySeen:
    """A standby as its primary sees it. behind: bytes not yet flushed there."""

    name: str
    state: str
    sync_state: str
    behind: int
    lag_ms: int


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """Current state of one member. lsn: written by a primary, or received by a standby. lag_ms: age of the
    last replayed commit if there is something left to replay, else 0. upstream: the member it receives from.
    has_upstream: whether it has a configured primary; fetching: briefly following another copy. folder: of
    its data. authority: its record of obeyed orders.
    """

    role: Literal["primary", "standby"]
    timeline: int
    lsn: int
    received: int
    replayed: int
    lag_ms: int
    receiver: str
    upstream: str
    has_upstream: bool
    sync: SyncSet
    read_only: bool
    fsync: bool
    version: int
    system: str
    standbys: tuple[StandbySeen, ...] = ()
    folder: str = ""
    authority: str = ""
    fetching: bool = False

    @property
    def fenced(self) -> bool:
        """Whether our demotion prevents it from acknowledging."""
        return any(name.startswith(FENCE_MEMBER) for name in self.sync.names)

    @property
    def writable(self) -> bool:
        """Whether an ordinary client's write would be acknowledged here."""
        return self.role == "primary" and not self.read_only and not self.fenced

    def report(self) -> RoleReport:
        """The role report. A demoted primary has no role; a copy that is reconnecting, or whose primary died,
        still follows.
        """
        position, history = self.lsn, f"{self.system}/{self.timeline}"
        obeyed = self.obeyed()
        if self.role == "primary":
            confirms = tuple(one.name for one in self.standbys if one.sync_state in ("sync", "quorum"))
            role: MemberRole = "primary" if self.writable else "none"
            return RoleReport(role, 0, confirms, self.waits_for(), position, history, *obeyed)
        if self.receiver == "streaming":
            return RoleReport("replica", self.lag_ms, (), (), position, history, *obeyed)
        is_set = self.has_upstream or self.fetching
        return RoleReport("detached" if is_set else "none", None, (), (), position, history, *obeyed)

    def obeyed(self) -> tuple[int, int]:
        """The highest token and epoch that it has obeyed; none if its record of them is broken: then it
        refuses every order, and says why.
        """
        try:
            seen = seen_authority(self)
        except Permanent:
            return 0, 0
        return seen.token, seen.epoch

    def waits_for(self) -> tuple[str, ...]:
        """Names of the synchronous members that a primary waits for because too few of them are streaming:
        until they do, or another set is written, every commit hangs. None for a primary that we demoted.
        Connections count, not names; `*` lets each confirm that receives as a synchronous one.
        """
        if not self.writable or not self.sync.names:
            return ()
        names, streams = self.sync.names, [one for one in self.standbys if one.state == "streaming"]
        any_may = "*" in names
        follow = [one.name for one in streams if one.name in names or (any_may and one.sync_state != "async")]
        if len(follow) >= self.sync.count:
            return ()
        return (ANY_COPY,) if any_may else tuple(name for name in names if name not in follow) or names

    def streaming(self, name: str) -> StandbySeen | None:
        """The standby of that name that is currently receiving."""
        return next((one for one in self.standbys if one.name == name and one.state == "streaming"), None)

    def evidence(self) -> dict[str, str | int | bool]:
        """For the journal."""
        seen: dict[str, str | int | bool] = {
            "role": self.role,
            "timeline": self.timeline,
            "lsn": lsn_text(self.lsn),
            "version": self.version,
        }
        if self.role == "standby":
            seen |= {
                "lag_ms": self.lag_ms,
                "receiver": self.receiver or "none",
                "upstream": self.upstream,
                "replayed": lsn_text(self.replayed),
            }
        else:
            seen |= {
                "synchronous": self.sync.text(),
                "strict": self.sync.every_one,
                "writable": self.writable,
                "standbys": " ".join(f"{one.name}:{one.sync_state}" for one in self.standbys)[:500],
            }
        return seen


async def read_facts(link: Link) -> PostgresFacts:
    """Query the member. Raises the errors of the link, and `Retryable` for an invalid response."""
    try:
        return await _read(link)
    except (LookupError, TypeError, ValueError) as error:
        words = f"{link.member.address}: a response cannot be read ({type(error).__name__})"
        raise Retryable(UNREADABLE, words, after_ms=1_000) from error


async def _read(link: Link) -> PostgresFacts:
    row = (await link.rows(_FACTS))[0]
    standby = bool(row["standby"])
    standbys = tuple(
        StandbySeen(one["name"], one["state"], one["sync_state"] or "", one["behind"], one["lag_ms"])
        for one in orjson.loads(row["standbys"] or "[]")
    )
    held = max(row["received"], row["replayed"])
    return PostgresFacts(
        role="standby" if standby else "primary",
        timeline=row["timeline"],
        lsn=held if standby else row["written"],
        received=row["received"],
        replayed=row["replayed"],
        lag_ms=row["replay_age_ms"] if standby and held > row["replayed"] else 0,
        receiver=row["receiver"] or "",
        upstream=row["sender"] or "",
        has_upstream=row["has_upstream"] and not row["fetching"],
        fetching=row["fetching"],
        sync=parse_sync_set(row["sync_names"]),
        read_only=row["read_only"],
        fsync=row["fsync"],
        version=row["version"],
        system=row["system"],
        standbys=standbys,
        folder=row["folder"],
        authority=row["authority"] or "",
    )


async def precheck_sync(link: Link, candidate: str, sites: Mapping[str, str], may_be_lost: str) -> Checked:
    """Check at the healthy primary whether the loss of `may_be_lost` could be fenced by cutting off
    `candidate`.

    sites: member name -> site. It holds while every commit needs the candidate's confirmation, nothing lowers
    synchronous_commit, and only one connection has its name. It fences writes, never reads; a session can
    still lower synchronous_commit for itself, which the evidence mentions.
    """
    facts = await read_facts(link)
    lowered = [] if facts.role == "standby" else await link.rows(_LOWERED)
    problems = [
        *_problems_of_set(facts, candidate),
        *place_problems(candidate, sites, may_be_lost),
        *(
            f"{row['what']} sets {row['setting']}"
            for row in lowered
            if str(row["setting"]).partition("=")[2] not in CONFIRMED
        ),
    ]
    evidence: Evidence = {
        **facts.evidence(),
        "candidate": candidate,
        "strict": not problems,
        "limits": "reads are not fenced; a session can lower synchronous_commit for itself",
    }
    return Checked(tuple(dict.fromkeys(problems)), evidence)


def _problems_of_set(facts: PostgresFacts, candidate: str) -> list[str]:
    if facts.role == "standby":
        return ["this member is a standby: check the primary instead"]
    problems: list[str] = []
    if not facts.fsync:
        problems.append("fsync is off, so nothing acknowledged is safe")
    if not facts.sync.names:
        return [*problems, "no replica is synchronous"]
    if candidate not in facts.sync.names:
        problems.append(f"{candidate} is not in synchronous_standby_names")
    elif not facts.sync.every_one:
        problems.append(f"a commit can be confirmed without {candidate}: {facts.sync.text()}")
    same_name = [one for one in facts.standbys if one.name == candidate]
    if len(same_name) > 1:
        problems.append(f"{len(same_name)} connections use the name {candidate}")
    seen = facts.streaming(candidate)
    if seen is None or seen.sync_state not in ("sync", "quorum"):
        problems.append(f"{candidate} is not streaming synchronously")
    return problems


LOCK = 0x65766163
"""`evac` in ASCII."""
LOCK_WAIT_S = 0.02


@dataclass(frozen=True, slots=True)
class Authority:
    """token and epoch of the last obeyed order; fence: the epoch for which this member was cut off, or 0."""

    token: int = 0
    epoch: int = 0
    fence: int = 0

    def text(self) -> str:
        return f"{self.token} {self.epoch} {self.fence}"


def parse_authority(text: str) -> Authority:
    """Parse the record. Raises `Permanent`: an unreadable record never counts as none."""
    try:
        token, epoch, fence = (int(part) for part in text.split())
    except ValueError as error:
        raise Permanent("authority-unreadable", "evac.authority of this member cannot be read") from error
    return Authority(token, epoch, fence)


def seen_authority(facts: PostgresFacts) -> Authority:
    """The member's record on disk, whether reloaded or not."""
    return parse_authority(facts.authority) if facts.authority else Authority()


@asynccontextmanager
async def alone(link: Link, order: Order, *, own_hand: bool = False) -> AsyncIterator[Authority]:
    """Lock the member for this evac process; refuses an order of an older leader."""
    link.locked = True
    while not await link.value("SELECT pg_try_advisory_lock($1)", LOCK):
        await link.pause(LOCK_WAIT_S)
    seen = seen_authority(await read_facts(link))
    refuse_stale(link.member.address, seen.token, seen.epoch, order, own_hand=own_hand)
    yield seen
    # The lock ends with the session, or is released before the connection is reused.


async def obey(link: Link, seen: Authority, order: Order, fence: int | None = None) -> Authority:
    """Record the order before the change that it allows. fence: None keeps the recorded one."""
    now = Authority(
        max(order.token, seen.token), max(order.epoch, seen.epoch), seen.fence if fence is None else fence
    )
    if now != seen:
        # The server accepts a setting with our prefix only once this session has set it.
        await link.change(f"SET evac.authority = {literal(now.text())}")
        await link.change(f"ALTER SYSTEM SET evac.authority = {literal(now.text())}")
    return now


ENDLESS = 2**64
_COMMIT = re.compile(
    r"rmgr: Transaction .*?\btx:\s*(\d+),\s*lsn:\s*([0-9A-F/]+),.*?desc: COMMIT(?:_PREPARED)?\b(.*)"
)
_SUBXACTS = re.compile(r"subxacts:([ \d]+)")
_PREPARED = re.compile(r"\bxid[: ]\s*(\d+)|^\s*(\d+):")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A timeline from `begin` to `end`, in bytes of log."""

    timeline: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Control:
    """From pg_controldata: system identifier, timeline, how it stopped, and the size of log segments."""

    system: str
    timeline: int
    state: str
    segment_bytes: int

    @property
    def was_standby(self) -> bool:
        return "recovery" in self.state and self.state != "in crash recovery"


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed transaction and its subtransactions."""

    xids: tuple[int, ...]
    lsn: str
    words: str


def parse_history(text: str, timeline: int) -> tuple[Stretch, ...]:
    """Parse the history file of `timeline`, "" for the first; oldest first. Raises `Permanent`."""
    try:
        listed = forks(timeline, text)
    except ValueError as error:
        raise Permanent(
            "history-unreadable", f"the history of timeline {timeline} cannot be read: {error}"
        ) from error
    begins = (0, *(one.position for one in listed))
    before = (Stretch(one.timeline, begin, one.position) for one, begin in zip(listed, begins, strict=False))
    return (*before, Stretch(timeline, begins[-1], ENDLESS))


def fork_of(ours: tuple[Stretch, ...], theirs: tuple[Stretch, ...]) -> tuple[int, int]:
    """(timeline, position) up to which both are the same. Raises `Permanent` if they have nothing in
    common.
    """
    common: tuple[int, int] | None = None
    for one, other in zip(ours, theirs, strict=False):
        if (one.timeline, one.begin) != (other.timeline, other.begin):
            break
        common = (one.timeline, min(one.end, other.end))
    if common is None:
        raise Permanent("no-common-history", "the two members have no timeline in common")
    return common


def parse_commit(line: str) -> Commit | None:
    """Parse a line of pg_waldump, if it is a commit."""
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
    """Parse the output of pg_controldata. Raises `Permanent`."""
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
        raise Permanent("control-unreadable", "pg_controldata did not print what was expected") from error


_SEGMENT_BYTES = "SELECT pg_size_bytes(current_setting('wal_segment_size'))"
_NEWEST_TIMELINE = """
SELECT max(('x' || left(name, 8))::bit(32)::int) FROM pg_ls_waldir() AS log
WHERE length(name) = 24 AND substr(name, 9) = $1
  AND EXISTS (SELECT FROM pg_ls_waldir() AS other WHERE other.name = left(log.name, 8) || '.history')
"""


async def history_of(link: Link, timeline: int) -> tuple[Stretch, ...]:
    """The history of a timeline, from the member's disk. Raises the errors of the link, `Permanent`."""
    if timeline == 1:
        return parse_history("", 1)
    path = f"pg_wal/{history_name(timeline)}"
    return parse_history(await link.value("SELECT pg_read_file($1, 0, 1000000, true)", path) or "", timeline)


async def timeline_held(link: Link, ours: PostgresFacts) -> int:
    """The timeline of a standby's last byte.

    Its control file contains only that of its last restart point, minutes ago, and its receiver, which knows
    it, is gone with its primary; but it is in the name of the log file that contains the byte.
    """
    if ours.receiver or not ours.lsn:
        return ours.timeline
    try:
        segment_bytes = int(await link.value(_SEGMENT_BYTES))
        found = await link.value(_NEWEST_TIMELINE, segment_at(0, ours.lsn - 1, segment_bytes)[8:])
    except ActionError:  # without permission to list the log, use the slower way
        return ours.timeline
    return max(ours.timeline, int(found or 0))
