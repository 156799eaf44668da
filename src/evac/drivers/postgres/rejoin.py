"""Make a former primary a replica of the new one, after archiving what only it has.

A running standby only needs to be pointed at its new primary, which works remotely. An old primary, or a
standby with more log than the new primary, needs access to its machine: settings `data`, `bin`,
`system_user`, and `start`, which is `pg_ctl` unless a `unit` starts it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from evac.drivers.parameters import refuse_stale, stale_token, text
from evac.drivers.port import Action, Checked, Evidence, Order
from evac.drivers.postgres.archive import (
    Archived,
    Place,
    archive,
    archive_folder,
    control,
    holds_log_after,
    place_of,
    program,
    read_archive,
    runs,
    start,
    stop,
)
from evac.drivers.postgres.facts import (
    Authority,
    Control,
    PostgresFacts,
    Stretch,
    alone,
    fork_of,
    history_of,
    obey,
    parse_authority,
    parse_history,
    read_facts,
    seen_authority,
    timeline_held,
)
from evac.drivers.postgres.fence import cut_off, follow, follows, upstream_of
from evac.drivers.postgres.link import (
    PASSFILE,
    STARTING,
    Link,
    Member,
    linked,
    literal,
    member_of,
    passfile_line,
)
from evac.drivers.postgres.own_files import put_back
from evac.drivers.postgres_log import history_name, lsn_text
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable

OURS = (
    "primary_conninfo",
    "synchronous_standby_names",
    "default_transaction_read_only",
    "evac.authority",
    "recovery_target_timeline",
)
"""Settings of postgresql.auto.conf that a rejoin sets."""
NO_ANSWER = ("postgres-silent", "postgres-unreachable", STARTING)
MEMBER_S = 3.0
"""How long to wait for a member that may be dead."""


async def rejoin_problems(action: Action, order: Order) -> Checked:
    """Whether the target is a primary, and whether local access is available if needed."""
    async with linked(_primary(action), order.timeout_s, MEMBER_S) as link:
        facts = await read_facts(link)
    problems = [] if facts.role == "primary" else [f"{_primary(action).address} is not a primary"]
    place = _place(action)
    evidence: dict[str, str | int | bool] = {
        "primary": _primary(action).address,
        "primary_timeline": facts.timeline,
    }
    try:
        own = await _own_facts(action, order)
        evidence |= {"member_role": own.role, "member_timeline": own.timeline}
    except Retryable as error:
        own = None
        if place is None:
            problems.append(error.message)
    if place is not None:
        problems += _problems_of_place(place)
        archive_folder(action, 0, 0)
    elif own is not None and own.role == "primary":
        problems.append(
            "an old primary must be rewound by hand on its machine, because data and bin are not set"
        )
    return Checked(tuple(problems), evidence)


async def stopped_here(action: Action) -> bool:
    """Whether the member's data folder is on this machine and no server runs on it: it follows no one."""
    place = _place(action)
    if place is None or not place.data.parent.is_dir():
        return False
    try:
        return not await runs(place)
    except (Permanent, OutcomeUnknown, OSError):
        return False


def _place(action: Action) -> Place | None:
    """The member's paths; None if a copy only has to follow its new primary, which works remotely (`how` is
    `follow`).
    """
    return None if text(action.parameters, "how", "") == "follow" else place_of(action)


def _problems_of_place(place: Place) -> list[str]:
    names = ("pg_ctl", "pg_controldata", "pg_rewind", "pg_basebackup", "pg_waldump")
    problems = [f"{name} is not in {place.bin}" for name in names if not (place.bin / name).exists()]
    if not place.data.parent.is_dir():
        problems.append(f"{place.data.parent} is not on this machine")
    return problems


async def rejoin(action: Action, order: Order) -> Evidence:
    """Parameters: primary_host, primary_port, primary_name, archive (a folder), archive_rows (tables or `*`):
    for these, rows that only the old primary had are exported.
    """
    primary = _primary(action)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + order.timeout_s
    async with linked(primary, order.timeout_s, MEMBER_S) as upstream:
        theirs = await read_facts(upstream)
        if theirs.role != "primary" or theirs.read_only or theirs.fenced:
            raise Retryable(
                "not-a-primary", f"{primary.address} is not a primary that accepts writes", after_ms=500
            )
        history = await history_of(upstream, theirs.timeline)
        done = await _follow_if_standby(action, order, upstream, theirs, history)
        if done is not None:
            return done
        place = _place(action)
        if place is None:
            raise Permanent(
                "needs-hands",
                f"{member_of(action).address} must be rewound on its own machine",
                "let the site's agent do it: settings data and bin",
            )
        # pg_rewind reads the timeline from the control file, which a promotion leaves to the next checkpoint.
        await upstream.change("CHECKPOINT")
    try:
        with _alone_on_disk(place):
            return await _by_hand(place, action, order, theirs, history, deadline)
    except OSError as error:
        raise Permanent("files-refused", f"the member's files could not be changed: {error}") from error


def _primary(action: Action) -> Member:
    if not text(action.parameters, "primary_host", ""):
        raise Permanent("setting-missing", "primary_host is missing: which primary should it follow?")
    return member_of(action, "primary")


async def _own_facts(action: Action, order: Order) -> PostgresFacts:
    async with linked(member_of(action), min(MEMBER_S, order.timeout_s)) as link:
        facts = await read_facts(link)
        seen = seen_authority(facts)
        refuse_stale(link.member.address, seen.token, seen.epoch, order)
        return facts


async def _follow_if_standby(
    action: Action, order: Order, upstream: Link, theirs: PostgresFacts, history: tuple[Stretch, ...]
) -> Evidence | None:
    """A standby that responds and has nothing of its own follows at once; None if local access is needed."""
    primary = upstream.member
    try:
        link_up = linked(member_of(action), order.timeout_s, MEMBER_S)
        async with link_up as link, alone(link, order) as seen:
            ours = await read_facts(link)
            if ours.system != theirs.system:
                raise Permanent("other-data", "the two members have different data sets")
            if ours.role == "primary":
                return None
            if not follows(ours, primary) or cut_off(ours, seen):
                timeline = await timeline_held(link, ours)
                if not _holds_nothing_else(timeline, ours.lsn, await history_of(link, timeline), history):
                    return None
                await _move_slots(link, upstream)
                ours = await follow(link, primary, seen, order, partial(_write_passfile, action))
            else:
                await obey(link, seen, order)
            return {**ours.evidence(), "rewound": False, "epoch": order.epoch}
    except Retryable as error:
        # Only a member that does not answer is left to hands; one that is busy with another order is not.
        if _place(action) is None or error.code not in NO_ANSWER:
            raise
        return None


_SLOT = "SELECT current_setting('primary_slot_name')"
_HAS_SLOT = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1"
_DROP_SLOT = (
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
    "WHERE slot_name = {} AND slot_type = 'physical' AND NOT active"
)


async def _move_slots(link: Link, upstream: Link) -> None:
    """Create the slot in the member's settings on its new primary, without which it cannot stream. Drop the
    slot here through which the new primary followed this member: it would retain log for no one.
    """
    own, theirs = await link.value(_SLOT), await upstream.value(_SLOT)
    if own and not await upstream.value(_HAS_SLOT, own):
        await upstream.change(f"SELECT pg_create_physical_replication_slot({literal(own)}, true)")
    if theirs and await link.value(_HAS_SLOT, theirs):
        await link.change(_DROP_SLOT.format(literal(theirs)))


def _holds_nothing_else(held: int, lsn: int, own: tuple[Stretch, ...], history: tuple[Stretch, ...]) -> bool:
    """Whether everything a standby has, up to a position of its timeline, is in the primary's history."""
    timeline, end = fork_of(own, history)
    return timeline == held and lsn <= end


async def _by_hand(
    place: Place,
    action: Action,
    order: Order,
    theirs: PostgresFacts,
    history: tuple[Stretch, ...],
    deadline: float,
) -> Evidence:
    """Stop, archive, rewind (or copy again), point at the new primary, start."""
    loop = asyncio.get_running_loop()
    seen = _authority_on_disk(place)
    if order.token < seen.token or (order.epoch and order.epoch < seen.epoch):
        raise stale_token(member_of(action).address, seen.token, order)
    kept: Archived | None = None
    if (place.data / "PG_VERSION").exists() and not _unfinished(place).exists():
        found = await control(place)
        _refuse_wrong_data(found, theirs)
        await stop(place)
        fork = fork_of(await asyncio.to_thread(_local_history, place, found), history)
        if fork[0] == theirs.timeline and not found.was_standby:
            raise Permanent(
                "same-timeline",
                "both are primaries on the same timeline, so neither can be rewound",
                "keep both, and have a person decide",
            )
        if fork[0] != theirs.timeline and holds_log_after(place, found, fork):
            kept = await archive(place, action, found, fork, deadline - loop.time())
    how = await _replace_data(place, action, kept, deadline)
    await asyncio.to_thread(_write_settings, place, action, kept, seen, order)
    _unfinished(place).unlink(missing_ok=True)
    evidence: Evidence = {
        **(kept.evidence() if kept else {}),
        "rewound": how == "rewind",
        "how": how,
        "epoch": order.epoch,
    }
    if text(action.settings, "start", "pg_ctl") == "unit":
        return {**evidence, "started": False}
    await start(place, max(1.0, deadline - loop.time()))
    return {**evidence, **await _until_it_follows(action, deadline), "started": True}


@contextmanager
def _alone_on_disk(place: Place) -> Iterator[None]:
    """Lock the member's files against concurrent changes. The lock ends with its process."""
    handle = os.open(place.data.with_name(place.data.name + ".evac-lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Retryable("hands-busy", "another rejoin is using this folder", after_ms=1_000) from error
        yield
    finally:
        os.close(handle)


def _unfinished(place: Place) -> Path:
    """Marker next to the data folder while it is partly rewound, when only a fresh copy helps. It contains
    the folder of the archive.
    """
    return place.data.with_name(place.data.name + ".evac-rejoin")


def _authority_on_disk(place: Place) -> Authority:
    settings = place.data / "postgresql.auto.conf"
    if not settings.exists():
        return Authority()
    lines = re.findall(
        r"^evac\.authority\s*=\s*'([^']*)'", settings.read_text(encoding="utf-8"), re.MULTILINE
    )
    return parse_authority(lines[-1]) if lines else Authority()


def _refuse_wrong_data(found: Control, theirs: PostgresFacts) -> None:
    if found.system != theirs.system:
        raise Permanent(
            "other-data", "the data folder belongs to another PostgreSQL cluster than the primary to follow"
        )
    if found.timeline > theirs.timeline:
        raise Permanent(
            "newer-than-primary",
            f"this member is on timeline {found.timeline}, the primary to "
            f"follow on {theirs.timeline}: it may be the old one",
        )


def _local_history(place: Place, found: Control) -> tuple[Stretch, ...]:
    path = place.data / "pg_wal" / history_name(found.timeline)
    return parse_history(path.read_text() if path.exists() else "", found.timeline)


async def _replace_data(place: Place, action: Action, kept: Archived | None, deadline: float) -> str:
    """`none`, `rewind` or `copy`: how the folder became a copy of the primary."""
    loop = asyncio.get_running_loop()
    mark = _unfinished(place)
    if (place.data / "PG_VERSION").exists() and not mark.exists():
        if kept is None:
            return "none"
        mark.write_text(str(kept.folder))
        primary = _primary(action)
        source = f"host={primary.host} port={primary.port} user={primary.user} dbname={primary.dbname}"
        argv = ("pg_rewind", "-D", str(place.data), f"--source-server={source}")
        try:
            await program(place, *argv, timeout_s=deadline - loop.time(), password=primary)
            return "rewind"
        except Permanent:
            # Half rewound, or without the log that it needs: the copy below does not ask for either.
            pass
    await _copy_anew(place, action, deadline - loop.time())
    return "copy"


async def _copy_anew(place: Place, action: Action, timeout_s: float) -> None:
    """Make a fresh copy of the primary. The old folder is kept next to it: nothing is deleted."""
    fresh = place.data.with_name(place.data.name + ".evac-new")
    old = place.data.with_name(place.data.name + ".evac-old")
    if old.exists():
        raise Permanent("old-copy-there", f"{old.name} is still there from an earlier rejoin", "move it away")
    await asyncio.to_thread(shutil.rmtree, fresh, True)
    fresh.mkdir(mode=0o700)
    place.give(fresh)
    primary = _primary(action)
    argv = (
        "pg_basebackup",
        "-h",
        primary.host,
        "-p",
        str(primary.port),
        "-U",
        primary.user,
        "-D",
        str(fresh),
        "-X",
        "stream",
        "-c",
        "fast",
    )
    await program(place, *argv, timeout_s=timeout_s, password=primary)
    if not (place.data / "PG_VERSION").exists():
        (fresh / "postgresql.auto.conf").write_text("")
    if place.data.exists():
        place.data.rename(old)
        if (old / "postgresql.auto.conf").exists():
            place.give(*put_back(old, fresh))
    fresh.rename(place.data)


def _write_settings(
    place: Place, action: Action, kept: Archived | None, seen: Authority, order: Order
) -> None:
    """Restore the member's own settings (a rewind brings the primary's), and set the primary it follows."""
    mark = _unfinished(place)
    if kept is None and mark.exists():
        kept = read_archive(Path(mark.read_text()))
    if kept is not None:
        place.give(*put_back(kept.folder / "settings", place.data))
    path = place.data / "postgresql.auto.conf"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    before = _value_of(lines, "primary_conninfo")
    own = [line for line in lines if line.partition("=")[0].strip() not in OURS]
    now = Authority(max(order.token, seen.token), max(order.epoch, seen.epoch), 0)
    values = {
        "primary_conninfo": upstream_of(
            before, member_of(action), _primary(action), partial(_write_passfile, action)
        ),
        "evac.authority": now.text(),
    }
    if not lines:
        # A new machine: the copy brought the primary's own address.
        member = member_of(action)
        values |= {"listen_addresses": member.host, "port": str(member.port), "cluster_name": member.name}
    own += [f"{name} = '{_quoted(value)}'" for name, value in values.items()]
    path.write_text("\n".join(own) + "\n", encoding="utf-8")
    path.chmod(0o600)
    (place.data / "recovery.signal").unlink(missing_ok=True)
    (place.data / "standby.signal").touch(mode=0o600)
    place.give(place.data)


def _write_passfile(action: Action) -> str:
    """Write the member's password to a file on its machine, because the setting with its primary is logged
    with its value. "" if remote, without a password, or if no file can be written.
    """
    member, place = member_of(action), _place(action)
    secret = member.secret()
    if place is None or secret is None or not place.data.parent.is_dir():
        return ""
    file = place.data.with_name(place.data.name + PASSFILE)
    try:
        file.touch(mode=0o600)
        file.chmod(0o600)
        file.write_text(passfile_line(member.user, secret.reveal()), encoding="utf-8")
        place.give(file)
    except OSError:
        return ""
    return str(file)


def _value_of(lines: list[str], name: str) -> str:
    values = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == name]
    return _unquoted(values[-1]) if values else ""


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _unquoted(text_in_quotes: str) -> str:
    # Only the outer pair: a value may end in a quote of its own, which is doubled.
    quoted = len(text_in_quotes) > 1 and text_in_quotes[0] == text_in_quotes[-1] == "'"
    inner = text_in_quotes[1:-1] if quoted else text_in_quotes
    return inner.replace("''", "'").replace("\\\\", "\\")


async def _until_it_follows(action: Action, deadline: float) -> dict[str, str | int | bool]:
    """Poll the started member until it streams from its primary. Raises `Retryable` at the deadline."""
    loop = asyncio.get_running_loop()
    primary = _primary(action)
    slots_moved = False
    while True:
        try:
            async with linked(member_of(action), max(0.1, min(MEMBER_S, deadline - loop.time()))) as link:
                if not slots_moved:
                    async with linked(primary, link.left_s(), MEMBER_S) as upstream:
                        await _move_slots(link, upstream)
                    slots_moved = True
                facts = await read_facts(link)
            if follows(facts, primary):
                return facts.evidence()
            problem = f"it is not streaming from {primary.address} yet, at {lsn_text(facts.lsn)}"
        except ActionError as error:
            problem = error.message
        if loop.time() >= deadline:
            raise Retryable("not-following", problem, after_ms=1_000)
        await asyncio.sleep(0.05)
