"""One connection to one MariaDB server, and its reported state.

Orders that were obeyed are recorded in the table `evac.authority` of each server, outside its binary log: a
copy and its primary each store the highest token that they obeyed themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Final

import asyncmy
from asyncmy.cursors import DictCursor
from asyncmy.errors import MySQLError

from evac.drivers.capabilities import ANY_COPY, MemberRole, RoleReport
from evac.drivers.parameters import refuse_stale, text, whole
from evac.drivers.port import Action, Order, Value
from evac.model.errors import ActionError, Busy, InvalidInput, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net.secrets import Secret, resolve, scrub
from evac.net.tls import TlsFiles, client_context

CALL_S: Final = 3.0
KILL_S: Final = 1
"""How long a copy waits for a silent primary when it stops following it; 0 would mean forever."""
POLL_S: Final = 0.02
PORT: Final = 3306
REFUSED: Final = "mariadb-refused"
FOR_EVER_MS: Final = 2**64 - 1
"""`rpl_semi_sync_master_timeout` of a primary that waits for its copy without a limit."""
A_YEAR_MS: Final = 31_536_000_000
WORDS_MOST: Final = 300
"""How much of a server's own words about an error is passed on."""
RIGHTS: Final = frozenset({1044, 1045, 1142, 1227, 1370, 1698})
"""Errors for missing privileges."""
_NO_RECORD: Final = frozenset({1049, 1146})
"""Errors for a table or database that does not exist yet."""
_VARIABLES: Final = (
    "gtid_binlog_pos",
    "gtid_binlog_state",
    "gtid_current_pos",
    "gtid_slave_pos",
    "log_bin",
    "log_slave_updates",
    "read_only",
    "rpl_semi_sync_master_enabled",
    "rpl_semi_sync_master_timeout",
    "rpl_semi_sync_master_wait_no_slave",
    "rpl_semi_sync_master_wait_point",
    "rpl_semi_sync_slave_enabled",
    "server_id",
    "version",
    "wsrep_on",
)
_STATUS: Final = (
    "Rpl_semi_sync_master_clients",
    "Rpl_semi_sync_master_status",
    "Rpl_semi_sync_master_wait_sessions",
)
_TABLE: Final = (
    "CREATE DATABASE IF NOT EXISTS evac",
    "CREATE TABLE IF NOT EXISTS evac.authority (id tinyint PRIMARY KEY, token bigint unsigned NOT NULL, "
    "epoch bigint unsigned NOT NULL, fence bigint unsigned NOT NULL, demoted bigint unsigned NOT NULL, "
    "confirms varchar(1000) NOT NULL) ENGINE=InnoDB",
)

_CLIENTS: Final = (
    "SELECT id FROM information_schema.processlist WHERE id NOT IN (CONNECTION_ID(), %s) "
    "AND user <> 'system user' AND command NOT IN ('Binlog Dump', 'Daemon', 'Killed') "
    "AND command NOT LIKE 'Slave%%' ORDER BY state <=> 'Waiting for semi-sync ACK from slave', id"
)
"""Client sessions, whatever they do."""
_WAITS_TO_CLOSE: Final = (
    "SELECT COUNT(*) AS waits FROM information_schema.processlist "
    "WHERE id = %s AND state = 'Waiting for backup lock'"
)
CLOSING_S: Final = 1.0
"""After this time, a connection waits for its lock for certain, whatever this version calls that."""
_TOO_MANY: Final = 1040
"""Error for a server that has no free connection."""
_BUSY: Final = frozenset({_TOO_MANY, 1203, 1226})
"""Errors for no free connection: of the server, or of our account."""
_GONE: Final = 1094
"""Error for a session that ended before it was killed."""
_REBUILDING: Final = 2
"""The row of `evac.authority` that says that the server's data is being replaced."""


@dataclass(frozen=True, slots=True)
class MariadbMember:
    """How to reach one server, and how its copies log in to it."""

    host: str
    port: int
    user: str
    password: str
    """A reference."""
    ca: str
    name: str
    replication_user: str
    replication_password: str

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def at(self, host: str, port: int, name: str = "") -> MariadbMember:
        """Another member of the data set, with the same account."""
        return replace(self, host=host, port=port, name=name)


def member_of(action: Action) -> MariadbMember:
    """The endpoint of an action. Raises `Permanent` for wrong settings."""
    settings: Mapping[str, Value] = action.settings
    user, password = text(settings, "user", "evac"), text(settings, "password", "")
    return MariadbMember(
        text(settings, "host"),
        whole(settings, "port", PORT, 65_535),
        user,
        password,
        text(settings, "ca", ""),
        text(settings, "name", ""),
        text(settings, "replication_user", user),
        text(settings, "replication_password", password),
    )


def positions(listed: str) -> dict[tuple[int, int], int]:
    """Parse a list of GTIDs. Raises ValueError."""
    found: dict[tuple[int, int], int] = {}
    for one in filter(None, (part.strip() for part in listed.split(","))):
        domain, server, number = (int(part) for part in one.split("-"))
        found[domain, server] = max(number, found.get((domain, server), 0))
    return found


def covers(held: str, least: str) -> bool:
    """Whether one position includes everything up to the other. Raises ValueError."""
    newest: dict[int, int] = {}
    for (domain, _), number in positions(held).items():
        newest[domain] = max(number, newest.get(domain, 0))
    return all(newest.get(domain, 0) >= number for (domain, _), number in positions(least).items())


@dataclass(frozen=True, slots=True)
class MariadbAuthority:
    """Orders stored on a server."""

    token: int = 0
    epoch: int = 0
    fence: int = 0
    """The epoch for which it was cut off; 0 if it was not."""
    demoted: int = 0
    """The epoch for which it gave up its role; 0 if it did not."""
    confirms: tuple[str, ...] = ()
    """Copies that must confirm its commits."""
    rebuilding: str = ""
    """While its data is being replaced: where what only it had is kept. Its data is incomplete then."""


@dataclass(frozen=True, slots=True)
class MariadbFacts:
    """Current state of one server."""

    read_only: bool
    upstream: str
    """host:port of the configured primary; empty if there is none."""
    receives: bool
    """Whether it is connected to its primary."""
    is_fed: bool
    """Whether the primary that it was last pointed to has begun to send log. One that no longer has the log
    accepts the connection, and refuses a moment later.
    """
    is_cut: bool
    """Whether it has a configured primary and will not connect to it."""
    applies: bool
    apply_error: int
    apply_words: str
    receive_error: int
    receive_words: str
    received: str
    """GTIDs in its relay log."""
    lag_ms: int | None
    held: str
    """GTIDs that it has applied or written."""
    written: str
    """The last GTID of every domain and server in its binary log."""
    keeps_log: bool
    """Whether its binary log is complete, so that copies can follow it and differences are visible."""
    waits: bool
    """Whether its commits wait for a copy, and keep waiting without one."""
    wait_problems: tuple[str, ...]
    """Why a commit might not wait for a copy."""
    clients: int
    """Copies that confirm."""
    hanging: int
    """Sessions whose commit is waiting for a copy."""
    copies: tuple[str, ...]
    """Names of the connected copies."""
    version: str
    seen: MariadbAuthority
    never_confirms: bool = False
    """Whether it is set not to confirm commits of a primary."""

    @property
    def writable(self) -> bool:
        return not self.upstream and not self.read_only

    @property
    def serves(self) -> bool:
        """Whether it is a primary with complete data."""
        return self.writable and not self.seen.rebuilding

    @property
    def follows(self) -> bool:
        return bool(self.upstream) and self.receives and self.is_fed and self.applies

    @property
    def surely_confirms(self) -> tuple[str, ...]:
        """The copy that every commit needs. With several, MariaDB waits for any one, so none is certain."""
        one = len(self.copies) == 1 and self.clients == 1
        return self.copies if self.waits and one else ()

    def report(self) -> RoleReport:
        token, epoch = self.seen.token, self.seen.epoch
        role: MemberRole
        if self.upstream:
            whole = self.follows and not self.seen.rebuilding
            role = "replica" if whole else "detached"
            lag_ms, never = self.lag_ms if whole else None, self.never_confirms
            return RoleReport(role, lag_ms, token=token, epoch=epoch, never_confirms=never)
        if not self.serves:
            return RoleReport("none", None, token=token, epoch=epoch)
        sure = self.surely_confirms
        one = not sure and self.waits and self.clients > 0
        return RoleReport("primary", 0, sure, self.waits_for, token=token, epoch=epoch, one_of_several=one)

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Copies that commits wait for: none while any confirms, as one is enough. Without one, the next
        commit waits even if none hangs now, and for any copy if evac never named one. With a time limit it
        waits only while a commit hangs.
        """
        if self.clients or not (self.hanging or self.waits):
            return ()
        missing = tuple(name for name in self.seen.confirms if name not in self.copies)
        return missing or self.seen.confirms or (ANY_COPY,)

    def evidence(self) -> dict[str, str | int | bool]:
        """For the journal."""
        seen: dict[str, str | int | bool] = {
            "role": self.report().role,
            "gtid": self.held[:300],
            "read_only": self.read_only,
            "version": self.version[:60],
        }
        if self.seen.rebuilding:
            seen["incomplete"] = True
        if self.upstream:
            lag = {} if self.lag_ms is None else {"lag_ms": self.lag_ms}
            return (
                seen | {"upstream": self.upstream, "receives": self.receives, "applies": self.applies} | lag
            )
        return seen | {"copies": " ".join(self.copies)[:300], "confirm": self.clients, "waits": self.waits}


@dataclass(slots=True)
class MariadbLink:
    """An open connection. After a change, a missing response means an unknown outcome."""

    member: MariadbMember
    deadline: float
    connection: Any = None
    changed: bool = False
    call_s: float = CALL_S
    """Time limit of one statement."""
    secrets: list[Secret] = field(default_factory=list)

    async def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Rows of a query. Raises `Retryable`, `Permanent`, `OutcomeUnknown`."""
        async with self.bounded(), self.connection.cursor(DictCursor) as cursor:
            await cursor.execute(statement, values or None)
            found: list[dict[str, Any]] = list(await cursor.fetchall() or ())
            return found

    async def change(self, statement: str, *values: object) -> None:
        self.changed = True
        await self.rows(statement, *values)

    async def pause(self) -> None:
        if self.left_s() < 2 * POLL_S:
            message = f"{self.member.address} did not finish in time"
            raise (OutcomeUnknown if self.changed else Retryable)("mariadb-slow", message)
        await asyncio.sleep(POLL_S)

    def left_s(self) -> float:
        return self.deadline - asyncio.get_running_loop().time()

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(max(0.001, min(self.call_s, self.left_s() * 0.8))):
                yield
        except ActionError:
            raise
        except Exception as error:  # the client leaks parser errors for invalid responses
            raise self.translated(error) from error

    def translated(self, error: Exception) -> ActionError:
        number = error.args[0] if isinstance(error, MySQLError) and error.args else 0
        number = number if isinstance(number, int) else 0
        said = scrub(str(error.args[-1] if error.args else type(error).__name__), self.secrets)[:200]
        message = f"{self.member.address}: {said}"
        if isinstance(error, TimeoutError) and not error.args:
            message = f"{self.member.address} did not answer in time"
        if number in RIGHTS:
            return Permanent(REFUSED, message, "check the password and permissions of the endpoint")
        if number in _BUSY and not self.changed:
            hint = "end sessions that are not needed, or raise max_connections"
            return Busy("mariadb-busy", message, hint, after_ms=500)
        if 1_000 <= number < 2_000:
            return Retryable("mariadb-error", message, after_ms=500)
        if self.changed:
            return OutcomeUnknown("mariadb-silent", f"{message}; it may have taken effect")
        return Retryable("mariadb-silent", message, after_ms=200)


@asynccontextmanager
async def linked(member: MariadbMember, timeout_s: float) -> AsyncIterator[MariadbLink]:
    """An open connection, closed at the end. Raises `Retryable`, `Permanent`."""
    loop = asyncio.get_running_loop()
    link = MariadbLink(member, loop.time() + timeout_s)
    password = resolve(member.password) if member.password else None
    link.secrets = [password] if password is not None else []
    try:
        line = client_context(TlsFiles(ca=Path(member.ca))) if member.ca else None
    except InvalidInput as error:
        raise Permanent("setting-wrong", f"ca: {error.message}", error.hint) from error
    try:
        async with link.bounded():
            link.connection = await asyncmy.connect(
                host=member.host,
                port=member.port,
                user=member.user,
                password=password.reveal() if password is not None else "",
                connect_timeout=CALL_S,
                autocommit=True,
                ssl=line,
            )
        yield link
    finally:
        if link.connection is not None:
            link.connection.close()


async def stop_receiving(link: MariadbLink, statement: str) -> None:
    """Stop receiving. A copy that confirms commits first asks its primary to end their connection; it would
    wait for a silent one as long as this variable says, five seconds by default. It is as before afterwards.
    """
    variable = "rpl_semi_sync_slave_kill_conn_timeout"
    (found,) = await link.rows(f"SELECT @@GLOBAL.{variable} AS seconds")
    change, before = f"SET GLOBAL {variable} = %s", int(found["seconds"])
    if before == KILL_S:
        await link.change(statement)
        return
    await link.change(change, KILL_S)
    try:
        await link.change(statement)
    except BaseException:
        with contextlib.suppress(ActionError):  # this connection may be lost, or wait for an answer
            async with linked(link.member, CALL_S) as another:
                await another.change(change, before)
        raise
    await link.change(change, before)


async def read_facts(link: MariadbLink) -> MariadbFacts:
    """Current state of the server. Raises `Retryable`, `Permanent`."""
    names = ", ".join(f"'{name}'" for name in _VARIABLES)
    variables = _pairs(await link.rows(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})"))
    if "version" in variables and "gtid_current_pos" not in variables:
        words = f"{link.member.address} is MySQL {variables['version'][:40]}, whose GTIDs (UUID:1-5) differ"
        hint = "use a script for it: driver command"
        raise Permanent("mariadb-topology", words, hint)
    names = ", ".join(f"'{name}'" for name in _STATUS)
    status = _pairs(await link.rows(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})"))
    sources = await link.rows("SHOW ALL SLAVES STATUS")
    hosts = await link.rows("SHOW SLAVE HOSTS")
    seen = await read_authority(link)
    if variables.get("wsrep_on") == "ON" or len(sources) > 1:
        what = "belongs to a Galera cluster" if len(sources) <= 1 else "follows several primaries"
        raise Permanent("mariadb-topology", f"{link.member.address} {what}, which evac does not lead")
    try:
        return _facts(variables, status, sources[0] if sources else {}, hosts, seen)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise link.translated(error) from error


def _pairs(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {str(row.get("Variable_name")): str(row.get("Value")) for row in rows}


def _facts(
    variables: Mapping[str, str],
    status: Mapping[str, str],
    source: Mapping[str, Any],
    hosts: list[dict[str, Any]],
    seen: MariadbAuthority,
) -> MariadbFacts:
    """Parse its state. Raises KeyError, TypeError or ValueError if it is malformed."""
    lag = source.get("Seconds_Behind_Master")
    wait_problems = _wait_problems(variables)
    for listed in (variables["gtid_current_pos"], variables["gtid_binlog_state"]):
        positions(listed)
    return MariadbFacts(
        read_only={"ON": True, "OFF": False}.get(variables["read_only"], True),
        upstream=f"{source['Master_Host']}:{source['Master_Port']}" if source else "",
        receives=source.get("Slave_IO_Running") == "Yes",
        is_fed=bool(source.get("Master_Log_File")),
        is_cut=bool(source) and source["Slave_IO_Running"] == "No",
        applies=source.get("Slave_SQL_Running") == "Yes",
        apply_error=int(source.get("Last_SQL_Errno") or 0),
        apply_words=str(source.get("Last_SQL_Error") or "")[:WORDS_MOST],
        receive_error=int(source.get("Last_IO_Errno") or 0),
        receive_words=str(source.get("Last_IO_Error") or "")[:WORDS_MOST],
        received=str(source.get("Gtid_IO_Pos") or ""),
        lag_ms=None if lag is None else int(lag) * 1_000,
        held=variables["gtid_current_pos"],
        written=variables["gtid_binlog_state"],
        keeps_log=variables["log_bin"] == variables["log_slave_updates"] == "ON",
        waits=not wait_problems,
        wait_problems=wait_problems,
        clients=int(status["Rpl_semi_sync_master_clients"]),
        hanging=int(status["Rpl_semi_sync_master_wait_sessions"]),
        copies=tuple(sorted(str(row["Host"]) for row in hosts)),
        version=variables["version"],
        seen=seen,
        never_confirms=variables.get("rpl_semi_sync_slave_enabled") == "OFF",
    )


def _wait_problems(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Settings that let a commit end without a copy that has it."""
    problems = []
    if variables["rpl_semi_sync_master_enabled"] != "ON":
        problems.append("rpl_semi_sync_master_enabled is OFF: commits do not wait for a copy")
    if int(variables["rpl_semi_sync_master_timeout"]) < A_YEAR_MS:
        shown = variables["rpl_semi_sync_master_timeout"]
        problems.append(
            f"rpl_semi_sync_master_timeout is {shown} ms: after that, commits do not wait for a copy"
        )
    if variables["rpl_semi_sync_master_wait_no_slave"] != "ON":
        problems.append(
            "rpl_semi_sync_master_wait_no_slave is OFF: commits do not wait when no copy is connected"
        )
    if variables["rpl_semi_sync_master_wait_point"] != "AFTER_SYNC":
        problems.append("rpl_semi_sync_master_wait_point is not AFTER_SYNC")
    return tuple(problems)


async def read_authority(link: MariadbLink) -> MariadbAuthority:
    """Orders that the server has stored; none on a server that never had any."""
    statement = "SELECT id, token, epoch, fence, demoted, confirms FROM evac.authority WHERE id IN (1, 2)"
    try:
        rows = await link.rows(statement)
    except Retryable as error:
        if _number(error) in _NO_RECORD:
            return MariadbAuthority()
        raise
    try:
        by_id = {int(row["id"]): row for row in rows}
        rebuilding = str(by_id[_REBUILDING]["confirms"]) if _REBUILDING in by_id else ""
        if (row := by_id.get(1)) is None:
            return MariadbAuthority(rebuilding=rebuilding)
        token, epoch, fence, demoted = (int(row[key]) for key in ("token", "epoch", "fence", "demoted"))
        return MariadbAuthority(token, epoch, fence, demoted, tuple(str(row["confirms"]).split()), rebuilding)
    except (KeyError, TypeError, ValueError) as error:
        message = f"evac.authority of {link.member.address} cannot be read"
        raise Permanent("authority-unreadable", message) from error


async def alone(link: MariadbLink, order: Order, *, own_hand: bool = False) -> MariadbFacts:
    """Lock this server for evac until the connection ends; return the server's state. Refuses an older
    leader's order.
    """
    while not next(iter((await link.rows("SELECT GET_LOCK('evac', 0) AS got"))[0].values())):
        await link.pause()
    facts = await read_facts(link)
    refuse_stale(link.member.address, facts.seen.token, facts.seen.epoch, order, own_hand=own_hand)
    return facts


async def obey(link: MariadbLink, seen: MariadbAuthority, order: Order, **changes: Any) -> MariadbAuthority:
    """Record the order before the change that it allows."""
    now = replace(seen, token=max(order.token, seen.token), epoch=max(order.epoch, seen.epoch), **changes)
    if now == seen:
        return now
    await link.change("SET SESSION sql_log_bin = 0")
    for statement in _TABLE if seen == MariadbAuthority() else ():
        await link.change(statement)
    await link.change(
        "REPLACE INTO evac.authority VALUES (1, %s, %s, %s, %s, %s)",
        now.token,
        now.epoch,
        now.fence,
        now.demoted,
        " ".join(now.confirms)[:1_000],
    )
    if now.rebuilding and now.rebuilding != seen.rebuilding:
        marked = "REPLACE INTO evac.authority VALUES (%s, 0, 0, 0, 0, %s)"
        await link.change(marked, _REBUILDING, now.rebuilding[:1_000])
    elif seen.rebuilding and not now.rebuilding:
        await link.change("DELETE FROM evac.authority WHERE id = %s", _REBUILDING)
    return now


async def end_writes(link: MariadbLink) -> int:
    """Make it read-only and end client sessions; return how many. No commit that waits for a copy is
    confirmed by that. MariaDB commits in groups, and a session that is ended while it waits releases its
    whole group. So no other session may begin to write meanwhile, and the one that waits ends last.
    """
    ended = 0
    while True:
        try:
            async with linked(link.member, link.left_s()) as other:
                ended += await _close(link, other)
            return ended + await _end_sessions(link)
        except Retryable as error:
            if _number(error) != _TOO_MANY:
                raise
        ended += await _end_sessions(link)  # no one else can connect either
        await link.pause()


async def _close(link: MariadbLink, other: MariadbLink) -> int:
    """End client sessions while another connection waits to make the server read-only: from when it waits,
    no statement that changes data begins.
    """
    (row,) = await other.rows("SELECT CONNECTION_ID() AS id")
    own, end_s = int(row["id"]), link.left_s() - CLOSING_S
    other.call_s = link.left_s()
    await other.change("SET SESSION lock_wait_timeout = %s", max(1, int(link.left_s() / 2)))
    closing = asyncio.create_task(other.change("SET GLOBAL read_only = ON"))
    ended = 0
    try:
        while not closing.done() and link.left_s() > end_s:
            (row,) = await link.rows(_WAITS_TO_CLOSE, own)
            if row["waits"]:
                break
            await link.pause()
        while not closing.done():
            ended += await _end_sessions(link, own)
            await link.pause()
        await closing
    finally:
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
    return ended


async def _end_sessions(link: MariadbLink, but: int = 0) -> int:
    """End all client sessions except one, those that wait for a copy last."""
    rows = await link.rows(_CLIENTS, but)
    for row in rows:
        try:
            await link.change(f"KILL CONNECTION {int(row['id'])}")
        except Retryable as error:
            if _number(error) != _GONE:
                raise
    return len(rows)


def _number(error: ActionError) -> int:
    """MariaDB's number of an error; 0 if it has none."""
    cause = error.__cause__
    number = cause.args[0] if isinstance(cause, MySQLError) and cause.args else 0
    return number if isinstance(number, int) else 0
