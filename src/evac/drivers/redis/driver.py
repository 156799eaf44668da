"""Driver for Redis: REPLICAOF, roles, lag, and how many replicas a write needs.

Redis replicates asynchronously, so nothing here is a fence proof. The highest obeyed token and epoch are
stored in a key of the data set itself: replicated with the data, compared by a script, and watched by the
transaction that changes the role.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
    WatchError,
)

from evac.drivers.capabilities import (
    AnswersProbe,
    Follows,
    MemberRole,
    ProbeReport,
    Promotes,
    Protects,
    ReportsRole,
    RoleReport,
)
from evac.drivers.parameters import many, stale_token, text, whole
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.store_driver import (
    ANSWER_MS,
    CONNECT_MS,
    StoreDriver,
    another_primary,
    only_others,
    takes_connections,
)
from evac.model.errors import ActionError, Busy, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net.secrets import Secret, resolve, scrub

KEY: Final = "evac:authority"
CALL_S: Final = 3.0
SILENT_MS: Final = 500
_NO_CLIENT: Final = "max number of clients reached"
"""What Redis answers when it accepts no more clients; it has no code of its own for this."""
DEMOTED: Final = 1_000_000
"""min-replicas-to-write of a demoted primary: more replicas than will ever exist, so it accepts no writes."""
POLL_S: Final = 0.01
_RECORD: Final = """
local seen = redis.call('GET', KEYS[1])
local token, epoch = 0, 0
if seen then
  token, epoch = string.match(seen, '^(%d+) (%d+)$')
  token, epoch = tonumber(token), tonumber(epoch)
end
if tonumber(ARGV[1]) < token or tonumber(ARGV[2]) < epoch then return 0 end
local now = ARGV[1] .. ' ' .. ARGV[2]
if now ~= seen then redis.call('SET', KEYS[1], now) end
return 1
"""


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """Current state of one server. upstream: host:port it follows. offset: bytes of the replication stream it
    has. lag_ms: since it last heard from its primary. needed: replicas required for a write.
    """

    role: str
    offset: int
    upstream: str
    link_up: bool
    lag_ms: int
    replicas: int
    needed: int
    version: str
    history: str
    forked_history: str
    forked_at: int
    token: int
    epoch: int

    @property
    def writable(self) -> bool:
        return self.role == "primary" and self.needed < DEMOTED

    def report(self) -> RoleReport:
        """The role report. A demoted primary has no role. A replica whose link is down still follows."""
        if self.role == "primary":
            role: MemberRole = "primary" if self.writable else "none"
            return RoleReport(role, 0, (), (), self.offset, self.history, self.token, self.epoch)
        if not self.link_up:
            return RoleReport("detached", None, (), (), self.offset, self.history, self.token, self.epoch)
        return RoleReport("replica", self.lag_ms, (), (), self.offset, self.history, self.token, self.epoch)

    def evidence(self) -> dict[str, str | int | bool]:
        """For the journal."""
        seen: dict[str, str | int | bool] = {
            "role": self.role,
            "offset": self.offset,
            "version": self.version,
        }
        if self.role == "primary":
            return seen | {
                "replicas": self.replicas,
                "replicas_needed": self.needed,
                "writable": self.writable,
            }
        return seen | {"upstream": self.upstream, "link_up": self.link_up, "lag_ms": self.lag_ms}


class RedisDriver(StoreDriver, ReportsRole, Promotes, Follows, Protects, AnswersProbe):
    """One connection for each action, closed at its end."""

    name = "redis"
    verbs: frozenset[Verb] = frozenset({"promote", "demote", "protect", "rejoin", "verify"})

    async def _check(self, action: Action, order: Order) -> Checked:
        async with _Server(action.settings, order.timeout_s).open() as server:
            facts = await server.facts()
            _refuse_stale(facts, server, order, action.verb)
        others = await _others(action, order, facts)
        problems = await _problems(action, order, facts)
        told = tuple(another_primary(address).message for address in others)
        return Checked((*told, *problems), facts.evidence(), only_others(others, problems))

    async def _execute(self, action: Action, order: Order) -> Evidence:
        async with _Server(action.settings, order.timeout_s).open() as server:
            facts = await server.facts()
            _refuse_stale(facts, server, order, action.verb)
            if _is_done(action, facts):
                await server.record(order)
                return {**_evidence(action, await server.facts()), "already": True}
            if others := await _others(action, order, facts):
                raise another_primary(others[0])
            if problems := await _problems(action, order, facts):
                raise Retryable("redis-not-ready", problems[0], after_ms=500)
            alone = await _alone_bytes(action, order, facts) if action.verb == "rejoin" else -1
            if action.verb == "promote":
                await _catch_up(server, action, order, facts)
            await server.transact(_commands(action), order, record_first=action.verb == "demote")
            after = await _until_done(server, action)
            kept = await server.keep_settings()
        evidence = {**_evidence(action, after), "epoch": order.epoch, "kept_for_restart": kept}
        return evidence if alone < 0 else {**evidence, "lost_bytes": alone}

    async def _observe(self, action: Action, order: Order) -> Observed:
        facts = await self.facts(action, order.timeout_s)
        if _is_done(action, facts):
            return Observed("done", _evidence(action, facts))
        return Observed("absent", facts.evidence())

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Undo a demotion if every other member responds and none is a primary."""
        if action.verb != "demote":
            return await super().undo(action, order)
        async with _Server(action.settings, order.timeout_s).open() as server:
            facts = await server.facts()
            _refuse_stale(facts, server, order, action.verb)
            if facts.role != "primary":
                raise Permanent("store-moved", f"{server.address} follows {facts.upstream} now")
            if order.dry_run:
                return {**facts.evidence(), "dry_run": "would undo demote"}
            peers = [f"{peer['host']}:{peer['port']}" for peer in _peers(action)]
            writable, silent = await _other_primaries(action, order)
            if writable or silent or not peers:
                raise Permanent(
                    "undo-unsafe",
                    "it is not certain that no other primary exists: "
                    f"{', '.join(writable or silent) or 'no peers are named'}",
                )
            needed = len(many(action.parameters, "synchronous"))
            if facts.needed != needed:
                await server.transact([("CONFIG", "SET", "min-replicas-to-write", needed)], order)
                await server.keep_settings()
            return {**(await server.facts()).evidence(), "undone": "demote"}

    async def facts(self, action: Action, timeout_s: float) -> RedisFacts:
        """Role, offset and lag, for probes and plans. Raises `Retryable`, `Permanent`."""
        async with _Server(action.settings, timeout_s).open() as server:
            return await server.facts()

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        return (await self.facts(action, timeout_s)).report()

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """PING in the raw protocol. A request for a password, `LOADING` or too many clients also count as
        alive.
        """
        host, port = text(action.settings, "host"), whole(action.settings, "port", 6379, 65_535)
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(b"*1\r\n$4\r\nPING\r\n")
            await writer.drain()
            line = await reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            line = b""
        finally:
            writer.close()
        known = (b"+PONG", b"-NOAUTH", b"-LOADING", b"-BUSY", b"-MASTERDOWN", b"-ERR " + _NO_CLIENT.encode())
        answered = line.startswith(known)
        return ProbeReport(answered, "" if answered else f"redis {host}:{port}: no PONG")

    def _subject(self, action: Action) -> str:
        return _address(action)


class _Server:
    """One connection with a time limit."""

    def __init__(self, settings: Any, timeout_s: float) -> None:
        self.host, self.port = text(settings, "host"), whole(settings, "port", 6379, 65_535)
        self.address = f"{self.host}:{self.port}"
        reference = text(settings, "password", "")
        self._secret: Secret | None = resolve(reference) if reference else None
        self._timeout_s = timeout_s
        self._deadline = 0.0
        self._changed = False
        self._client: Any = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Server]:
        """Connect at the first call; closed at the end. Converts errors of the client."""
        self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._client = client.Redis(
            host=self.host,
            port=self.port,
            password=self._secret.reveal() if self._secret else None,
            socket_timeout=CALL_S,
            socket_connect_timeout=CALL_S,
            single_connection_client=False,
            max_connections=2,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        try:
            yield self
        finally:
            try:
                async with asyncio.timeout(0.5):
                    await self._client.aclose()
            except (TimeoutError, RedisError, OSError):
                pass

    async def ask(self, *command: str | int) -> Any:
        async with self._bounded():
            return await self._client.execute_command(*command)

    async def facts(self) -> RedisFacts:
        info = _info(await self.ask("INFO", "replication", "server"))
        needed = await self.ask("CONFIG", "GET", "min-replicas-to-write")
        seen = str(await self.ask("GET", KEY) or "0 0")
        try:
            token, epoch = (int(part) for part in seen.split())
        except ValueError as error:
            raise Permanent("authority-unreadable", f"{KEY} of {self.address} cannot be read") from error
        try:
            # The reply to CONFIG GET, in either protocol.
            pairs = needed if isinstance(needed, dict) else dict(zip(needed[::2], needed[1::2], strict=False))
            return _facts(info, int(pairs["min-replicas-to-write"]), token, epoch)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._translated(error) from error

    async def transact(
        self, commands: Sequence[Sequence[str | int]], order: Order, *, record_first: bool = False
    ) -> None:
        """The commands and the record of the order in one transaction, which fails if the record has changed
        since it was read. record_first: the commands stop writes; otherwise they enable them.
        """
        async with self._bounded(), self._client.pipeline(transaction=True) as pipe:
            await pipe.watch(KEY)
            seen = str(await pipe.get(KEY) or "0 0").split()
            if (order.token and order.token < int(seen[0])) or (order.epoch and order.epoch < int(seen[1])):
                raise stale_token(self.address, int(seen[0]), order)
            pipe.multi()
            if record_first and order.token:
                pipe.eval(_RECORD, 1, KEY, order.token, order.epoch)
            for command in commands:
                pipe.execute_command(*command)
            follows = any(command[0] == "REPLICAOF" and command[1] != "NO" for command in commands)
            if not record_first and not follows:
                pipe.eval(_RECORD, 1, KEY, order.token, order.epoch)
            self._changed = True
            await pipe.execute()

    async def record(self, order: Order) -> None:
        """Store a newer token if the key is writable; a replica gets it from its primary."""
        try:
            await self.ask("EVAL", _RECORD, 1, KEY, order.token, order.epoch)
        except (Retryable, OutcomeUnknown) as error:
            if not isinstance(error.__cause__, ResponseError):
                raise

    async def keep_settings(self) -> bool:
        """Write the current settings to its file, so that a restart does not restore the old role."""
        try:
            await self.ask("CONFIG", "REWRITE")
        except ActionError:
            # A server without a config file: whatever starts it must know the role.
            return False
        return True

    async def pause(self) -> None:
        if asyncio.get_running_loop().time() + POLL_S >= self._deadline:
            message = f"{self.address} did not finish in time"
            raise (OutcomeUnknown if self._changed else Retryable)("redis-slow", message)
        await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(0.001, min(CALL_S, left * 0.8))):
                yield
        except WatchError as error:
            raise Retryable(
                "redis-raced", f"{self.address}: another order got there first", after_ms=100
            ) from error
        except ActionError:
            raise
        except Exception as error:  # the client leaks parser errors for invalid responses
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> ActionError:
        known = isinstance(error, RedisError | OSError | TimeoutError)
        words = (str(error) if known else "") or type(error).__name__
        message = f"{self.address}: {scrub(words, [self._secret] if self._secret else [])[:300]}"
        if isinstance(error, TimeoutError) and not error.args:
            message = f"{self.address} did not answer in time"
        if isinstance(error, AuthenticationError | NoPermissionError):
            return Permanent("redis-refused", message, "check the password and permissions of the endpoint")
        if self._changed and not isinstance(error, ResponseError):
            return OutcomeUnknown("redis-silent", f"{message}; it may have taken effect")
        if isinstance(error, BusyLoadingError):
            return Busy("redis-loading", message, "wait until it has loaded its data", after_ms=500)
        if str(error).endswith(_NO_CLIENT):
            return Busy("redis-busy", message, "end clients that are not needed, or raise maxclients", 500)
        if not known:
            return Retryable("redis-unreadable", f"{message}: a response cannot be read", after_ms=1_000)
        return Retryable("redis-unreachable", message, after_ms=200)


def _info(answer: Any) -> dict[str, str]:
    """INFO as texts; the client may have parsed it already."""
    if isinstance(answer, dict):
        return {str(key): str(value) for key, value in answer.items()}
    pairs = (line.partition(":") for line in str(answer).splitlines() if ":" in line)
    return {key: value for key, _, value in pairs}


def _facts(info: Mapping[str, str], needed: int, token: int, epoch: int) -> RedisFacts:
    """Parse its state. Raises `KeyError` or `ValueError` if it is malformed."""
    primary = {"master": True, "slave": False}[info["role"]]
    return RedisFacts(
        role="primary" if primary else "replica",
        offset=int(info.get("master_repl_offset" if primary else "slave_repl_offset", "0")),
        upstream="" if primary else f"{info.get('master_host')}:{info.get('master_port')}",
        link_up=info.get("master_link_status") == "up",
        lag_ms=0 if primary else max(0, int(info.get("master_last_io_seconds_ago", "-1"))) * 1_000,
        replicas=int(info.get("connected_slaves", "0")),
        needed=needed,
        version=info.get("redis_version", ""),
        history=info.get("master_replid", ""),
        forked_history=info.get("master_replid2", ""),
        forked_at=int(info.get("second_repl_offset", "-1")),
        token=token,
        epoch=epoch,
    )


def _address(action: Action) -> str:
    return f"{text(action.settings, 'host')}:{whole(action.settings, 'port', 6379, 65_535)}"


def _refuse_stale(facts: RedisFacts, server: _Server, order: Order, verb: str = "") -> None:
    """Refuse an old order. A site that demotes itself after its lease expired has no leader's token."""
    own_hand = verb == "demote" and order.token == 0
    if (order.token < facts.token and not own_hand) or (order.epoch and order.epoch < facts.epoch):
        raise stale_token(server.address, facts.token, order)


def _primary(action: Action) -> str:
    return (
        f"{text(action.parameters, 'primary_host')}:{whole(action.parameters, 'primary_port', 6379, 65_535)}"
    )


def _is_done(action: Action, facts: RedisFacts) -> bool:
    match action.verb:
        case "promote":
            return facts.writable
        case "demote":
            return not facts.writable
        case "protect":
            return facts.role == "primary" and facts.needed == len(many(action.parameters, "synchronous"))
        case "rejoin":
            return facts.role == "replica" and facts.upstream == _primary(action) and facts.link_up
        case _:
            if text(action.parameters, "expect", "primary") == "standby":
                return facts.role == "replica" and facts.link_up
            return facts.writable and facts.replicas >= facts.needed


async def _others(action: Action, order: Order, facts: RedisFacts) -> tuple[str, ...]:
    """Other primaries that respond and accept writes, if one is to be promoted that is not primary yet."""
    if action.verb != "promote" or _is_done(action, facts):
        return ()
    writable, _ = await _other_primaries(action, order, facts.upstream)
    return tuple(writable)


async def _problems(action: Action, order: Order, facts: RedisFacts) -> list[str]:
    """What prevents the verb now; none if it is already done."""
    if _is_done(action, facts):
        return []
    match action.verb:
        case "promote":
            demoted = facts.role == "primary"
            return ["it is a primary that was demoted: let it rejoin, or undo the demotion"] * demoted
        case "protect":
            wanted = len(many(action.parameters, "synchronous"))
            if not facts.writable:
                return ["it is not a primary that accepts writes"]
            short = facts.replicas < wanted
            return [f"{facts.replicas} replicas are connected, {wanted} are needed"] if short else []
        case "rejoin":
            return await _upstream_problems(action, order)
        case "verify":
            return [f"it is {facts.role}, which is not expected"]
        case _:
            return []


async def _upstream_problems(action: Action, order: Order) -> list[str]:
    """Why a copy cannot follow its new primary now. That one is expected to live: unlike a peer of a
    promotion, which may be lost, it has the time of the step to answer.
    """
    address = _primary(action)
    try:
        async with _Server(_split(address, action), order.timeout_s).open() as server:
            theirs = await server.facts()
    except Permanent as error:
        return [error.message]
    except ActionError:
        return [f"{address} does not answer"]
    return [] if theirs.writable else [f"{address} is not a primary that accepts writes"]


def _commands(action: Action) -> list[tuple[str | int, ...]]:
    match action.verb:
        case "promote":
            needed = len(many(action.parameters, "synchronous"))
            return [("REPLICAOF", "NO", "ONE"), ("CONFIG", "SET", "min-replicas-to-write", needed)]
        case "demote":
            return [("CONFIG", "SET", "min-replicas-to-write", DEMOTED)]
        case "protect":
            needed = len(many(action.parameters, "synchronous"))
            return [("CONFIG", "SET", "min-replicas-to-write", needed)]
        case "rejoin":
            host, _, port = _primary(action).rpartition(":")
            return [("REPLICAOF", host, port), ("CONFIG", "SET", "min-replicas-to-write", 0)]
        case _:
            return []


def _evidence(action: Action, facts: RedisFacts) -> dict[str, str | int | bool]:
    """A demotion proves only what was reached and seen."""
    proof = {"proof": "demote"} if action.verb == "demote" and facts.role == "primary" else {}
    return {**facts.evidence(), **proof}


async def _catch_up(server: _Server, action: Action, order: Order, facts: RedisFacts) -> None:
    """After a clean demotion the old primary still responds: wait for its last writes, even over a link that
    is briefly down. A link to a lost site looks up for seconds, and one that hangs accepts connections: after
    a loss no one waits longer for it than a real response takes.
    """
    orderly = text(action.parameters, "proof", "") == "demote"
    if facts.role == "primary" or not (facts.link_up or orderly):
        return
    host, _, port = facts.upstream.rpartition(":")
    if not await takes_connections(host, int(port)):
        return
    limit_s = order.timeout_s if orderly else min(SILENT_MS / 1_000, order.timeout_s)
    try:
        async with _Server(_split(facts.upstream, action), limit_s).open() as old:
            last = await old.facts()
    except ActionError:
        if orderly:
            raise
        return
    while facts.offset < last.offset or (orderly and facts.history != last.history):
        await server.pause()
        facts = await server.facts()


async def _until_done(server: _Server, action: Action) -> RedisFacts:
    facts = await server.facts()
    while not _is_done(action, facts):
        await server.pause()
        facts = await server.facts()
    return facts


async def _alone_bytes(action: Action, order: Order, facts: RedisFacts) -> int:
    """Bytes of its stream that the new primary never had, and that a rejoin discards; -1: unknown.

    Redis does not keep them: copy the server's files first if they are needed.
    """
    if facts.role != "primary":
        return -1
    settings = _split(_primary(action), action)
    async with _Server(settings, order.timeout_s).open() as server:
        theirs = await server.facts()
    if theirs.forked_history != facts.history or theirs.forked_at < 0:
        return -1
    return max(0, facts.offset - (theirs.forked_at - 1))


def _split(address: str, action: Action) -> dict[str, str | int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Permanent("setting-wrong", f"{address!r} is not host:port")
    return {"host": host, "port": int(port), "password": text(action.settings, "password", "")}


def _peers(action: Action, upstream: str = "") -> list[dict[str, str | int]]:
    """Members in the parameter `peers`, and the one it follows."""
    named = [entry.rpartition("=")[2] for entry in many(action.parameters, "peers")]
    if "old_host" in action.parameters:
        named.append(f"{text(action.parameters, 'old_host')}:{text(action.parameters, 'old_port', '6379')}")
    addresses = dict.fromkeys([*named, *([upstream] if upstream else [])])
    return [_split(address, action) for address in addresses if address != _address(action)]


async def _other_primaries(action: Action, order: Order, upstream: str = "") -> tuple[list[str], list[str]]:
    """Peers that respond as primaries accepting writes, and silent peers."""
    connect_s = whole(action.parameters, "peer_ms", CONNECT_MS, 60_000) / 1_000
    return await _ask_all(_peers(action, upstream), order, connect_s)


async def _ask_all(
    peers: Sequence[dict[str, str | int]], order: Order, connect_s: float
) -> tuple[list[str], list[str]]:
    async def ask(settings: dict[str, str | int]) -> tuple[str, str]:
        address = f"{settings['host']}:{settings['port']}"
        if not await takes_connections(str(settings["host"]), int(settings["port"]), connect_s):
            return address, "silent"
        try:
            async with _Server(settings, min(ANSWER_MS / 1_000, order.timeout_s)).open() as server:
                return address, "writable" if (await server.facts()).writable else "harmless"
        except ActionError:
            return address, "silent"

    answers = await asyncio.gather(*(ask(peer) for peer in peers))
    return (
        [address for address, said in answers if said == "writable"],
        [address for address, said in answers if said == "silent"],
    )
