"""Driver for HAProxy: takes a site's servers out, puts them back, and splits traffic between two sites.

Changes through the runtime API are lost when HAProxy reloads; `observe` notices that and reports absent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from evac.drivers import parameters
from evac.drivers.capabilities import Fences, ReportsTraffic, RoutesTraffic
from evac.drivers.haproxy import DRIVER
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Value, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass

VERBS: Final[frozenset[Verb]] = frozenset({"drain", "ready", "shift", "verify", "fence", "unfence"})
FULL_WEIGHT: Final = -1
"""The weight in a server's configuration: it takes its full share."""
_PAUSE_S: Final = 0.05
_NAMED: Final = 8


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Wanted state of a server. weight None: any. up: at least one marked server must accept traffic."""

    admin: str
    weight: int | None = None
    up: bool = False


@dataclass(frozen=True, slots=True)
class _HaproxyJob:
    endpoint: Endpoint
    backend: str
    sites: Mapping[str, tuple[str, ...]]
    hard: bool


class HaproxyDriver(RoutesTraffic, ReportsTraffic, Fences):
    """Changes one backend of one HAProxy through its runtime API."""

    name = "haproxy"
    verbs = VERBS

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            job = _read(action)
            seen = await see(job.endpoint, job.backend, order.timeout_s)
            problems = _problems(job, action, seen, _wanted(job, action))
        except ActionError as error:
            return Checked((error.message,))
        return Checked(problems, _evidence(job, seen))

    async def execute(self, action: Action, order: Order) -> Evidence:
        return await _change(action, order, action)

    async def undo(self, action: Action, order: Order) -> Evidence:
        return await _change(action, order, parameters.reversed_traffic(action))

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            job = _read(action)
            seen = await see(job.endpoint, job.backend, order.timeout_s)
            wrong = _wrong(seen, _wanted(job, action))
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})
        evidence = _evidence(job, seen) | parameters.proof_of(action)
        return Observed("absent", evidence | {"wrong": wrong}) if wrong else Observed("done", evidence)

    async def report_traffic(self, action: Action, timeout_s: float) -> tuple[str, ...] | None:
        job = _read(action)
        return _sent_to(job, await see(job.endpoint, job.backend, timeout_s))

    async def close(self) -> None:
        """Nothing to close: no connection outlives a call."""


async def _change(action: Action, order: Order, towards: Action) -> Evidence:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + order.timeout_s
    job = _read(action)
    wanted = _wanted(job, towards)
    seen = await see(job.endpoint, job.backend, order.timeout_s)
    problems = _problems(job, towards, seen, wanted)
    if problems:
        raise Permanent("haproxy-not-ready", problems[0])
    first, last = _commands(job, seen, wanted)
    if order.dry_run:
        return _evidence(job, seen) | {"would_send": "; ".join((*first, *last))[:800]}
    if towards.verb != "verify":
        # Put servers in before others are taken out, so that some are always in service.
        await _send(job, first, deadline)
        await _until_up(job, wanted, deadline)
        await _send(job, last, deadline)
    seen_after = await _confirmed(job, wanted, deadline, looked_only=towards.verb == "verify")
    return {**seen_after, **parameters.proof_of(towards)}


async def _send(job: _HaproxyJob, commands: tuple[str, ...], deadline: float) -> None:
    if commands:
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        await change(job.endpoint, commands, left)


async def _until_up(job: _HaproxyJob, wanted: Mapping[str, _Wanted], deadline: float) -> None:
    """Wait until one server that must accept traffic does. Raises `Retryable`: none was taken out yet."""
    loop = asyncio.get_running_loop()
    names = [name for name, want in wanted.items() if want.up]
    while names:
        seen = await see(job.endpoint, job.backend, max(0.0, deadline - loop.time()))
        if any(_takes_work(seen.servers[name], job.hard) for name in names):
            return
        if deadline - loop.time() < 4 * _PAUSE_S:
            raise Retryable("haproxy-down", f"no server of {job.backend} is up: {', '.join(names)}")
        await asyncio.sleep(_PAUSE_S)


def _takes_work(state: ServerState, hard: bool) -> bool:
    """Whether others may be taken out. A hard shift leaves a lost site and does not wait for a check."""
    return state.admin == "ready" and state.up and (hard or state.proven)


async def _confirmed(
    job: _HaproxyJob, wanted: Mapping[str, _Wanted], deadline: float, looked_only: bool
) -> Evidence:
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    try:
        seen = await see(job.endpoint, job.backend, left)
    except Retryable as error:
        if looked_only:
            raise
        raise OutcomeUnknown("haproxy-not-seen", error.message, "check the state of its servers") from error
    wrong = _wrong(seen, wanted)
    if wrong and looked_only:
        raise Retryable("not-as-expected", wrong, after_ms=500)
    if wrong:
        raise OutcomeUnknown("haproxy-not-seen", f"after the change: {wrong}")
    return _evidence(job, seen)


def _read(action: Action) -> _HaproxyJob:
    settings = action.settings
    if action.verb not in VERBS:
        raise Permanent("verb-unknown", f"haproxy cannot {action.verb}")
    parameters.refuse_proof(action, DRIVER.proofs)
    sites = parameters.by_site(parameters.many(settings, "servers"), "servers", "=")
    for names in sites.values():
        for name in names:
            parameters.plain_name(name, "server")
    backend = parameters.plain_name(parameters.text(settings, "backend"), "backend")
    hard = parameters.flag(action.parameters, "hard")
    return _HaproxyJob(read_endpoint(settings), backend, sites, hard)


def _of(job: _HaproxyJob, site: str) -> tuple[str, ...]:
    names = job.sites.get(site)
    if not names:
        raise Permanent("setting-missing", f"the setting servers lists no server at the site {site}")
    return names


def _all_of(job: _HaproxyJob, sites: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for site in sites for name in _of(job, site))


def _wanted(job: _HaproxyJob, action: Action) -> dict[str, _Wanted]:
    """Wanted state of every server that the action affects."""
    out = _Wanted("maint" if job.hard else "drain")
    if action.verb == "shift":
        to, away, share = parameters.shares(action)
        # Nothing is taken out where the service has no servers: all sites being left are named here.
        gone = tuple(site for site in away if site in job.sites)
        return _shared(_all_of(job, to), _all_of(job, gone), share, out)
    if action.verb in ("fence", "unfence"):
        old = _of(job, parameters.text(action.parameters, "old", action.at))
        return dict.fromkeys(old, _Wanted("maint") if action.verb == "fence" else _Wanted("ready"))
    site = parameters.text(action.parameters, "expect" if action.verb == "verify" else "site", action.at)
    if action.verb == "drain":
        return dict.fromkeys(_of(job, site), out)
    return dict.fromkeys(_of(job, site), _Wanted("ready", None, up=True))


def _shared(to: tuple[str, ...], away: tuple[str, ...], share: int, out: _Wanted) -> dict[str, _Wanted]:
    """Weights that give `to` the `share` of new traffic, whatever the number of servers at each site."""
    if share in (0, parameters.PERMILLE) or not away:
        work, rest = (to, away) if share else (away, to)
        full = dict.fromkeys(work, _Wanted("ready", FULL_WEIGHT, up=True))
        return full | dict.fromkeys(rest, out)
    each = (share / len(to), (parameters.PERMILLE - share) / len(away))
    scale = MAX_WEIGHT / max(each)
    weights = tuple(max(1, round(part * scale)) for part in each)
    return dict.fromkeys(to, _Wanted("ready", weights[0], up=True)) | dict.fromkeys(
        away, _Wanted("ready", weights[1])
    )


def _problems(job: _HaproxyJob, action: Action, seen: Seen, wanted: Mapping[str, _Wanted]) -> tuple[str, ...]:
    """Why it cannot or must not be done: a backend always keeps a server that accepts traffic."""
    missing = sorted(set(wanted) - set(seen.servers))
    if missing:
        return (f"{job.backend} has no server named {', '.join(missing)}",)
    problems: list[str] = []
    serving = {name for name, state in seen.servers.items() if state.admin == "ready" and state.up}
    serving -= {name for name, want in wanted.items() if want.admin != "ready"}
    if action.verb == "drain" and not serving:
        problems.append(f"no server would be left in {job.backend} to take the traffic")
    weighed = [name for name, want in wanted.items() if want.weight not in (None, FULL_WEIGHT)]
    backups = sorted(seen.backups.intersection(weighed))
    if backups:
        problems.append(
            f"{', '.join(backups)} is a backup server: it takes either all traffic or none, not a share"
        )
    return tuple(problems)


def _commands(
    job: _HaproxyJob, seen: Seen, wanted: Mapping[str, _Wanted]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Commands that put servers in, and those that take others out; none for servers already in the wanted
    state.
    """
    into: list[str] = []
    out: list[str] = []
    for name, want in wanted.items():
        state, server = seen.servers[name], f"{job.backend}/{name}"
        if not _weighs(state, want):
            weight = "100%" if want.weight == FULL_WEIGHT else str(want.weight)
            into.append(f"set server {server} weight {weight}")
        if state.admin != want.admin:
            (into if want.admin == "ready" else out).append(f"set server {server} state {want.admin}")
        if want.admin == "maint" and seen.sessions.get(name, 0):
            out.append(f"shutdown sessions server {server}")
    return tuple(into), tuple(out)


def _wrong(seen: Seen, wanted: Mapping[str, _Wanted]) -> str:
    """The first deviation from the wanted state; empty if there is none."""
    for name, want in wanted.items():
        state = seen.servers.get(name)
        if state is None or not _fits(state, want):
            return f"{name} is {state or 'missing'}, wanted {want.admin}"
    names = [name for name, want in wanted.items() if want.up]
    if names and not any(seen.servers[name].up for name in names):
        return f"none of these servers is up: {', '.join(names)}"
    return ""


def _fits(state: ServerState, want: _Wanted) -> bool:
    """Whether a server is in the wanted state; maintenance also satisfies a drain, because it accepts no
    traffic.
    """
    taken_out = want.admin == "drain" and state.admin == "maint"
    return (state.admin == want.admin or taken_out) and _weighs(state, want)


def _weighs(state: ServerState, want: _Wanted) -> bool:
    return want.weight is None or state.weight == (
        state.initial if want.weight == FULL_WEIGHT else want.weight
    )


def _sent_to(job: _HaproxyJob, seen: Seen) -> tuple[str, ...] | None:
    """Sites with a server that may accept traffic, sorted; health does not count, as it comes and goes. Of
    backup servers only if no other may. None if that is not clear: there are none, or a server is of no site
    or of several.
    """
    site_of = {name: site for site, names in job.sites.items() for name in names}
    single = len(site_of) == sum(map(len, job.sites.values()))
    takes = {name for name, one in seen.servers.items() if one.admin == "ready" and one.weight > 0}
    takes = takes - seen.backups or takes
    clear = single and takes and takes <= site_of.keys() <= seen.servers.keys()
    return tuple(sorted({site_of[name] for name in takes})) if clear else None


def _evidence(job: _HaproxyJob, seen: Seen) -> dict[str, str | int | bool]:
    shown = {f"server_{name}": str(state) for name, state in sorted(seen.servers.items())[:_NAMED]}
    sessions = sum(seen.sessions.get(name, 0) for name in seen.servers)
    return {"runtime_api": str(job.endpoint), "worker": seen.pid, "sessions": sessions, **shown}


MAX_ANSWER_BYTES: Final = 1 << 20
MAX_WEIGHT: Final = 256
"""The maximum weight in HAProxy."""

_MAINTENANCE: Final = 0x01 | 0x02 | 0x20 | 0x40
"""Bits of srv_admin_state: forced, inherited, by DNS resolution, by host name. 0x04 only means that the
configuration requested it once.
"""
_DRAIN: Final = 0x08 | 0x10
_RUNNING: Final = 2
_PROVEN: Final = frozenset({"UP", "no check"})
"""`UP 1/2` is a server that may go down at its next check, or had none yet."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the runtime API listens: a socket path, or an address."""

    socket: str
    host: str
    port: int

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server in HAProxy. up: accepts new traffic as far as its health checks know. proven: a check has
    passed since it was put in (after maintenance HAProxy considers a server healthy until a check fails).
    initial: its weight in the configuration.
    """

    name: str
    admin: str
    up: bool
    weight: int
    initial: int
    proven: bool

    def __str__(self) -> str:
        return f"{self.admin} weight {self.weight} {'up' if self.up else 'down'}"


@dataclass(frozen=True, slots=True)
class Seen:
    """All servers of a backend. pid: of the worker, which changes on reload. backups: servers used only when
    no other is left. sessions: open ones, by server.
    """

    servers: Mapping[str, ServerState]
    pid: int
    backups: frozenset[str]
    sessions: Mapping[str, int]


def read_endpoint(settings: Mapping[str, Value]) -> Endpoint:
    """Read `socket`, or `host` and `port`. Raises `Permanent`."""
    socket = parameters.text(settings, "socket", "")
    if socket:
        return Endpoint(socket, "", 0)
    return Endpoint("", parameters.text(settings, "host"), parameters.whole(settings, "port", most=65_535))


async def send(endpoint: Endpoint, commands: Sequence[str], timeout_s: float) -> str:
    """The response to all commands, sent in one connection. Raises `Retryable` (unreachable) and
    `OutcomeUnknown` (sent, incomplete response).
    """
    sent = False
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connect(endpoint)
            try:
                sent = True
                writer.write(";".join(commands).encode("ascii") + b"\n")
                await writer.drain()
                answer = await _read_all(reader)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        words = f"the runtime API at {endpoint} did not answer"
        if sent:
            raise OutcomeUnknown("haproxy-no-answer", words, "check the state of its servers") from error
        raise Retryable("haproxy-unreachable", words) from error
    return answer.decode("utf-8", "replace")


async def change(endpoint: Endpoint, commands: Sequence[str], timeout_s: float) -> None:
    """Send commands whose success has an empty response. Raises `Permanent` with the text of a refusal."""
    answer = await send(endpoint, commands, timeout_s)
    refused = [line.strip() for line in answer.splitlines() if line.strip()]
    if refused:
        raise Permanent(
            "haproxy-refused",
            f"{endpoint} rejected the command: {refused[0][:200]}",
            "check backend, servers and level",
        )


async def see(endpoint: Endpoint, backend: str, timeout_s: float) -> Seen:
    """The state of every server of a backend. Raises `ActionError`."""
    commands = (f"show servers state {backend}", "show info", f"show stat {backend} 4 -1")
    try:
        answer = await send(endpoint, commands, timeout_s)
    except OutcomeUnknown as error:
        raise Retryable(error.code, error.message, error.hint) from error
    stats = _stats(answer)
    servers = _servers(answer, backend, stats)
    if not servers:
        raise Permanent("haproxy-no-backend", f"{endpoint} has no backend {backend} with servers")
    return Seen(
        servers,
        _pid(answer),
        frozenset(name for name, row in stats.items() if row.get("bck") == "1"),
        {name: int(row["scur"]) for name, row in stats.items() if row.get("scur", "").isdigit()},
    )


async def _connect(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.socket:
        return await asyncio.open_unix_connection(endpoint.socket)
    return await asyncio.open_connection(endpoint.host, endpoint.port)


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    while part := await reader.read(65_536):
        answer += part
        if len(answer) > MAX_ANSWER_BYTES:
            raise Permanent("haproxy-answer-large", f"an answer larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(answer)


def _servers(answer: str, backend: str, stats: Mapping[str, Mapping[str, str]]) -> dict[str, ServerState]:
    """Parse `show servers state`: its second line names the columns, so new columns are harmless."""
    header: list[str] = []
    found: dict[str, ServerState] = {}
    for line in answer.splitlines():
        if line.startswith("# be_id"):
            header = line[2:].split()
        elif header and line[:1].isdigit() and len(fields := line.split()) >= len(header):
            row = dict(zip(header, fields, strict=False))
            if row.get("be_name") == backend:
                status = stats.get(row.get("srv_name", ""), {}).get("status", "")
                server = _server(row, proven=status in _PROVEN)
                found[server.name] = server
        elif header and line.strip():
            break
    return found


def _server(row: Mapping[str, str], proven: bool) -> ServerState:
    try:
        bits, weight = int(row["srv_admin_state"]), int(row["srv_uweight"])
        initial, name = int(row["srv_iweight"]), row["srv_name"]
        running = int(row["srv_op_state"]) == _RUNNING
    except (KeyError, ValueError) as error:
        raise Permanent("haproxy-answer", "the state of a server cannot be read") from error
    admin = "maint" if bits & _MAINTENANCE else "drain" if bits & _DRAIN else "ready"
    return ServerState(name, admin, running, weight, initial, proven)


def _pid(answer: str) -> int:
    for line in answer.splitlines():
        if line.startswith("Pid: ") and line[5:].strip().isdigit():
            return int(line[5:])
    return 0


def _stats(answer: str) -> dict[str, dict[str, str]]:
    header: list[str] = []
    found: dict[str, dict[str, str]] = {}
    for line in answer.splitlines():
        if line.startswith("# pxname"):
            header = line[2:].split(",")
        elif header and line.count(",") >= len(header) - 1:
            row = dict(zip(header, line.split(","), strict=False))
            found[row.get("svname", "")] = row
    return found
