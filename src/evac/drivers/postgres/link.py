"""A connection to one PostgreSQL member in which every call has its own deadline.

asyncpg by default waits forever, and a commit that waits for a dead standby never returns. Converts asyncpg's
errors; independent of roles. Settings of a running member are changed through ALTER SYSTEM: nothing here
commits a transaction that writes, because a commit waits for standbys, which may be dead.

libpq connection strings and member lists are read and written exactly as in the manual: "Connection Strings"
of libpq, and `synchronous_standby_names`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import asyncpg

from evac.drivers.parameters import text, whole
from evac.drivers.port import Action, Value
from evac.model.errors import ActionError, Busy, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net.secrets import Secret, resolve, scrub

_PAIR = re.compile(r"\s*([A-Za-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))", re.DOTALL)
_TOKEN = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([A-Za-z_\x80-\xff][\w$\x80-\xff]*|\*)|(\d+)|([(),]))')


def parse_conninfo(text: str) -> dict[str, str]:
    """Keyword and value pairs. Raises `Permanent` without quoting the string, which contains a password."""
    pairs: dict[str, str] = {}
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _PAIR.match(stripped, position)
        if match is None:
            raise Permanent("conninfo-unreadable", "primary_conninfo does not consist of keywords and values")
        value = match[2] if match[2] is not None else match[3]
        pairs[match[1]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        position = match.end()
    return pairs


def format_conninfo(pairs: Mapping[str, str]) -> str:
    """A string that libpq parses back to `pairs`, with every value quoted."""
    quoted = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in pairs.items()}
    return " ".join(f"{key}='{value}'" for key, value in quoted.items())


PASSFILE: Final = ".evac-pgpass"
"""Suffix of the password file that evac writes next to a data folder."""


def passfile_line(user: str, password: str) -> str:
    """A libpq password file: this password for this user, for any server and database."""
    escaped = [text.replace("\\", "\\\\").replace(":", "\\:") for text in (user, password)]
    return f"*:*:*:{escaped[0]}:{escaped[1]}\n"


def literal(text: str) -> str:
    """An SQL string literal under standard_conforming_strings, for commands such as ALTER SYSTEM that take no
    arguments.
    """
    if "\0" in text:
        raise Permanent("setting-wrong", "a text contains a zero byte")
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class SyncSet:
    """synchronous_standby_names. count: how many of `names` must confirm; no names: none must."""

    method: Literal["first", "any"] = "first"
    count: int = 0
    names: tuple[str, ...] = ()

    @property
    def every_one(self) -> bool:
        """Whether every named member must confirm each commit, so that cutting off any one stops all."""
        return bool(self.names) and self.count >= len(self.names) and "*" not in self.names

    def text(self) -> str:
        """The value of the setting. Names are quoted, so that they may begin with `any` and `first`."""
        if not self.names:
            return ""
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in self.names)
        return f"{self.method.upper()} {self.count} ({quoted})"


def all_of(names: tuple[str, ...]) -> SyncSet:
    """The strict set: every one of `names` confirms every commit."""
    return SyncSet("first", len(names), names)


def parse_sync_set(text: str) -> SyncSet:
    """Parse any of the setting's three forms. Raises `Permanent`."""
    tokens = _tokens(text)
    if not tokens:
        return SyncSet()
    method: Literal["first", "any"] = "first"
    kinds = [kind for kind, _ in tokens]
    head = tokens[0][1].lower() if tokens[0][0] == "word" else ""
    if head in ("first", "any") and kinds[1:3] == ["number", "mark"]:
        method = "any" if head == "any" else "first"
        return SyncSet(method, int(tokens[1][1]), _names(tokens[2:], text, bracketed=True))
    if kinds[0] == "number" and kinds[1:2] == ["mark"]:
        return SyncSet("first", int(tokens[0][1]), _names(tokens[1:], text, bracketed=True))
    return SyncSet("first", 1, _names(tokens, text, bracketed=False))


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position, stripped = 0, text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise _unreadable(text)
        kinds = ("quoted", "word", "number", "mark")
        index = next(number for number in range(4) if match[number + 1] is not None)
        tokens.append((kinds[index], match[index + 1].replace('""', '"')))
        position = match.end()
    return tokens


def _names(tokens: list[tuple[str, str]], text: str, *, bracketed: bool) -> tuple[str, ...]:
    if bracketed:
        if tokens[0] != ("mark", "(") or tokens[-1] != ("mark", ")"):
            raise _unreadable(text)
        tokens = tokens[1:-1]
    names = tokens[::2]
    if any(kind == "mark" for kind, _ in names) or any(token != ("mark", ",") for token in tokens[1::2]):
        raise _unreadable(text)
    if len(tokens) % 2 == 0:
        raise _unreadable(text)
    return tuple(name for _, name in names)


def _unreadable(text: str) -> Permanent:
    return Permanent("sync-set-unreadable", f"synchronous_standby_names cannot be read: {text[:200]}")


GOODBYE_S = 1.0
KEPT_S = 3.0
ATTEMPT_S = 10.0
"""Time limit of a connection attempt that no one waits for."""
CALL_S = 5.0
"""Time limit of any statement, however long the order's timeout is."""
MAX_ROWS = 10_000
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError)
"""Errors that asyncpg raises for a response that breaks the protocol."""
FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    *_NONSENSE,
)
"""Errors with which asyncpg ends a call; the internal one occurs when a server dies between two of its
messages.
"""
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.InvalidParameterValueError,
)

REFUSED = "postgres-refused"
"""Code of a PostgreSQL that responds, but refuses access."""
UNREADABLE = "postgres-unreadable"
"""Code of something that responds, but not as PostgreSQL does."""
STARTING: Final = "postgres-starting"
"""Code of a PostgreSQL that responds, but is starting, recovering or stopping."""
_FREE_CONNECTIONS: Final = "end sessions that are not needed, or raise max_connections"
_STARTED: Final = "wait until it has started; its log shows how far it is"


@dataclass(frozen=True, slots=True)
class Member:
    """How to reach one member. name: its application_name. The password is resolved when needed."""

    host: str
    port: int
    user: str
    password: str
    dbname: str
    name: str = ""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def secret(self) -> Secret | None:
        return resolve(self.password) if self.password else None


def member_of(action: Action, prefix: str = "") -> Member:
    """The endpoint of the action. With a prefix (`candidate`, `primary`, `old`), the member in the parameters
    with that prefix, using the endpoint's own user if they name none.
    """
    own = _member(action.settings)
    named = {
        key.removeprefix(f"{prefix}_"): value
        for key, value in action.parameters.items()
        if prefix and key.startswith(f"{prefix}_")
    }
    if not named.get("host"):
        return own
    inherited: dict[str, Value] = {"user": own.user, "password": own.password, "dbname": own.dbname}
    return _member({**inherited, **named})


def _member(values: Mapping[str, Value]) -> Member:
    return Member(
        text(values, "host"),
        whole(values, "port", 5432, 65_535),
        text(values, "user", "postgres"),
        text(values, "password", ""),
        text(values, "dbname", "postgres"),
        text(values, "name", ""),
    )


class PostgresConnection(asyncpg.Connection):
    """A connection that is closed at once when its server greets with nonsense: asyncpg raises, but leaves it
    open, and Python reports an error whenever it collects one.
    """

    __slots__ = ()

    def __init__(self, protocol: Any, transport: asyncio.Transport, *given: Any) -> None:
        self._source_traceback = None
        try:
            super().__init__(protocol, transport, *given)
        except BaseException:
            protocol.abort()
            raise


class Link:
    """An open connection. `rows` and `value` query. After a change, a missing response means that the outcome
    is unknown. locked: its session holds a lock that ends with it.
    """

    def __init__(self, member: Member, connection: Any, deadline: float) -> None:
        self.member = member
        self._connection = connection
        self._deadline = deadline
        self._broken = False
        self._changed = False
        self.locked = False

    def left_s(self) -> float:
        """Seconds until the order's deadline."""
        return self._deadline - asyncio.get_running_loop().time()

    async def rows(self, query: str, *arguments: object) -> list[Mapping[str, Any]]:
        """At most `MAX_ROWS` rows of a result."""
        async with self._bounded():
            found = await self._connection.fetch(query, *arguments)
        return [dict(row) for row in found[:MAX_ROWS]]

    async def value(self, query: str, *arguments: object) -> Any:
        """The first column of the first row, or None."""
        async with self._bounded():
            return await self._connection.fetchval(query, *arguments)

    async def change(self, statement: str, *, secret: bool = False) -> None:
        """Run one statement that changes something. secret: it contains one, so errors do not quote it."""
        self._changed = True
        async with self._bounded(secret=secret):
            await self._connection.execute(statement)

    async def pause(self, seconds: float) -> None:
        """Wait between two reads. At the order's deadline raises `OutcomeUnknown` if something was changed
        before, else `Retryable`.
        """
        if self.left_s() <= seconds:
            message = f"{self.member.address} did not finish in time"
            raise (OutcomeUnknown if self._changed else Retryable)("postgres-slow", message)
        await asyncio.sleep(seconds)

    @asynccontextmanager
    async def _bounded(self, *, secret: bool = False) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(max(0.001, min(CALL_S, self.left_s()))):
                yield
        except TimeoutError as error:
            self._broken = True
            raise _silent(self.member, self._changed) from error
        except FAILURES as error:
            self._broken = True
            if secret:
                code = getattr(error, "sqlstate", "") or type(error).__name__
                raise Permanent(REFUSED, f"{self.member.address} refused ({code})") from None
            raise translate(self.member, error, self._changed) from error
        except asyncio.CancelledError:  # the server may still be working on it: do not reuse the connection
            self._broken = True
            raise

    async def close(self) -> None:
        """Close cleanly if that is possible at once; else in the background."""
        if not self._broken:
            try:
                await self._connection.close(timeout=0.5)
                return
            except (TimeoutError, *FAILURES):
                pass
        _end_later(self._connection)

    @property
    def is_whole(self) -> bool:
        """Whether every call on it completed."""
        return not self._broken and not self._connection.is_closed()


_ATTEMPTS: set[asyncio.Task[Any]] = set()
"""Connection attempts that exceeded their caller's time limit."""
_ENDING: set[asyncio.Task[None]] = set()
"""Connections being closed."""


def _end_later(connection: Any) -> None:
    task = asyncio.get_running_loop().create_task(_end(connection))
    _ENDING.add(task)
    task.add_done_callback(_ENDING.discard)
    task.add_done_callback(lambda _: connection.terminate())


async def _end(connection: Any) -> None:
    """Close a connection. An abandoned call has sent the server a cancel request over a separate connection;
    its result is consumed here, because the event loop reports results that no one consumes.
    """
    try:
        async with asyncio.timeout(GOODBYE_S):
            await connection.close(timeout=GOODBYE_S / 2)
    except (TimeoutError, *FAILURES):
        pass
    finally:
        connection.terminate()


async def _connected(member: Member, timeout_s: float, connect_s: float) -> Any:
    """A connection, or an error in time. An attempt that takes too long is left alone, not cancelled:
    cancelling it at the moment of success leaves a future behind that no one can consume.
    """
    secret = member.secret()
    limit = max(0.05, min(connect_s, timeout_s * 0.8))
    attempt: asyncio.Task[Any] = asyncio.get_running_loop().create_task(
        asyncpg.connect(
            host=member.host,
            port=member.port,
            user=member.user,
            database=member.dbname,
            password=secret.reveal() if secret else None,
            timeout=max(limit, ATTEMPT_S),
            statement_cache_size=16,
            connection_class=PostgresConnection,
            server_settings={"application_name": "evac"},
        )
    )
    try:
        await asyncio.wait((attempt,), timeout=limit)
    except asyncio.CancelledError:
        _give_up(attempt)
        raise
    if not attempt.done():
        _give_up(attempt)
        raise _silent(member, changes=False)
    try:
        return attempt.result()
    except TimeoutError as error:
        raise _silent(member, changes=False) from error
    except FAILURES as error:
        raise translate(member, error, changes=False) from error


def _give_up(attempt: asyncio.Task[Any]) -> None:
    """The caller is gone; close a connection that is made anyway, now or later."""
    if attempt.done():
        _too_late(attempt)
    else:
        _ATTEMPTS.add(attempt)
        attempt.add_done_callback(_too_late)


def _too_late(attempt: asyncio.Task[Any]) -> None:
    """Close a connection that arrived too late for its caller."""
    _ATTEMPTS.discard(attempt)
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


@asynccontextmanager
async def linked(member: Member, timeout_s: float, connect_s: float = CALL_S) -> AsyncIterator[Link]:
    """A connection for one action, closed at its end. Raises `Retryable` or `Permanent`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    link = Link(member, await _connected(member, timeout_s, connect_s), deadline)
    try:
        yield link
    finally:
        await link.close()


class KeptLinks:
    """Connections kept briefly for reuse: the check, the execution and the observation of an action follow
    each other, and connecting costs five round trips. Never for a probe, which must test whether a connection
    can be made.
    """

    def __init__(self) -> None:
        self._idle: dict[Member, tuple[Any, asyncio.Task[None]]] = {}
        self._unlocking: dict[Member, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def linked(self, member: Member, timeout_s: float) -> AsyncIterator[Link]:
        """As `linked`, reusing a kept connection if there is one."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        connection = await self._take(member) or await _connected(member, timeout_s, CALL_S)
        link = Link(member, connection, deadline)
        try:
            yield link
        finally:
            if not link.is_whole:
                await link.close()
            elif link.locked:
                unlock = asyncio.get_running_loop().create_task(self._unlock(member, connection))
                unlock.add_done_callback(lambda done: connection.terminate() if done.cancelled() else None)
                self._unlocking[member] = unlock
            else:
                self._keep(member, connection)

    async def close(self) -> None:
        """Close all of them."""
        await asyncio.gather(*self._unlocking.values(), return_exceptions=True)
        kept = [task for _, task in self._idle.values()]
        for task in kept:
            task.cancel()
        await asyncio.gather(*kept, return_exceptions=True)

    async def _take(self, member: Member) -> Any:
        if (task := self._unlocking.get(member)) is not None:
            await asyncio.wait((task,))
        connection, kept = self._idle.pop(member, (None, None))
        if connection is None or kept is None:
            return None
        kept.cancel()
        return None if connection.is_closed() else connection

    def _keep(self, member: Member, connection: Any) -> None:
        if member in self._idle:
            _end_later(connection)
            return
        task = asyncio.get_running_loop().create_task(asyncio.sleep(KEPT_S))
        self._idle[member] = (connection, task)
        task.add_done_callback(lambda _: self._let_go(member, connection))

    def _let_go(self, member: Member, connection: Any) -> None:
        """Close a connection that was not reused for a while, or whose loop ends; reusing one removes it from
        here.
        """
        found = self._idle.get(member)
        if found is not None and found[0] is connection:
            del self._idle[member]
            connection.terminate()

    async def _unlock(self, member: Member, connection: Any) -> None:
        """Release the session's locks before the connection is reused."""
        whole = False
        try:
            async with asyncio.timeout(GOODBYE_S):
                await connection.execute("SELECT pg_advisory_unlock_all()")
            whole = True
        except (TimeoutError, *FAILURES):
            pass
        finally:
            self._unlocking.pop(member, None)
            if whole:
                self._keep(member, connection)
            else:
                connection.terminate()


def _silent(member: Member, changes: bool) -> ActionError:
    if changes:
        return OutcomeUnknown("postgres-silent", f"{member.address} did not answer; it may have taken effect")
    return Retryable("postgres-silent", f"{member.address} did not answer in time", after_ms=200)


def translate(member: Member, error: Exception, changes: bool) -> ActionError:
    """Convert an error of asyncpg or the operating system to one of our port."""
    secret = member.secret()
    words = scrub(str(error) or type(error).__name__, [secret] if secret else [])[:300]
    message = f"{member.address}: {words}"
    if isinstance(error, _REFUSED):
        return Permanent(REFUSED, message, "check the user, password and permissions of the endpoint")
    nonsense = isinstance(error, _NONSENSE) and not isinstance(error, asyncpg.InterfaceError)
    if nonsense:
        message = f"{member.address}: a response cannot be read ({type(error).__name__})"
    if not changes and isinstance(error, asyncpg.InsufficientResourcesError):
        return Busy("postgres-busy", message, _FREE_CONNECTIONS, after_ms=200)
    if not changes and isinstance(error, asyncpg.CannotConnectNowError):
        return Busy(STARTING, message, _STARTED, after_ms=200)
    if changes:
        # Even a definite error says nothing about earlier changes.
        return OutcomeUnknown("postgres-cut", f"{message}; it may have taken effect")
    return Retryable(UNREADABLE if nonsense else "postgres-unreachable", message, after_ms=200)


POLL_S = 0.005


async def set_system(link: Link, name: str, value: str | None, *, secret: bool = False) -> None:
    """ALTER SYSTEM, without a reload; None resets."""
    if secret:
        # The statement contains a password: disable statement logging for this session.
        await link.change(
            "SET log_statement = 'none'; SET log_min_duration_statement = -1;"
            "SET log_min_error_statement = 'panic'"
        )
    if value is None:
        await link.change(f"ALTER SYSTEM RESET {name}")
    else:
        await link.change(f"ALTER SYSTEM SET {name} = {literal(value)}", secret=secret)


async def reload(link: Link) -> None:
    await link.change("SELECT pg_reload_conf()")


async def set_sync(link: Link, wanted: SyncSet) -> None:
    """Set the synchronous set, reload, and wait until it is in force. Otherwise every commit after a failover
    hangs.
    """
    await set_system(link, "synchronous_standby_names", wanted.text())
    await reload(link)
    while await link.value("SELECT current_setting('synchronous_standby_names')") != wanted.text():
        await link.pause(POLL_S)


async def stir(link: Link) -> None:
    """Write a few meaningless bytes to the log. Waiting commits continue when a standby next confirms
    something, and one that has everything reports nothing for up to `wal_receiver_status_interval`. It is not
    a separate transaction, so it waits for no standby itself.
    """
    await link.change("SELECT pg_logical_emit_message(false, 'evac', '')")
