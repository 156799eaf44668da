"""Fires from start to report: struck, followed, measured, recorded and shown."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from evac.model.errors import EvacError
from evac.model.records import dataclass
from evac_lab import clients, faults, status
from evac_lab import process as processes
from evac_lab.clients import LedgerReader, Record
from evac_lab.faults import Struck, family
from evac_lab.primaries import Connection, Database, Failures, find_primary
from evac_lab.site_servers import Ground, root_of_etcd
from evac_lab.state import LabError, LabFolder, LabState
from evac_lab.status import ENDED_WELL, UNHARMED, Before

MILESTONES: Final = ("detected", "decided", "fenced", "promoted", "shifted", "ended")
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire. seconds: of each milestone, None if it did not happen. lost_ids: at most 100."""

    number: int
    kind: str
    lost_site: str
    burnt_at: float
    ledger_offset: int
    leader_burnt: bool = False
    reason: str = ""
    run: str = ""
    state: str = "burning"
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    first_write_seconds: float | None = None
    last_client_seconds: float | None = None
    clients: int = 0
    clients_recovered: int = 0
    acknowledged: int = 0
    failed_tries: int = 0
    lost: int | None = None
    lost_ids: tuple[str, ...] = ()
    longest_gap_seconds: float = 0.0
    double_primary_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The contract: one flat object."""
        row = asdict(self)
        seconds = row.pop("seconds")
        row.pop("ledger_offset")
        return {**row, **{f"{name}_seconds": seconds.get(name) for name in MILESTONES}}


def begin(folder: LabFolder, struck: Struck, offset: int, leader_burnt: bool, reason: str = "") -> Fire:
    """Records a fire the moment it is lit. offset: size of the ledger just before."""
    numbers = [fire.number for fire in read_all(folder)]
    number = max(numbers, default=0) + 1
    fire = Fire(number, struck.kind, struck.site, struck.at, offset, leader_burnt, reason)
    write(folder, fire)
    return fire


def measured(fire: Fire, records: Sequence[Record], until: float = 0.0) -> Fire:
    """The fire with what its clients noticed. records: of the ledger since it was lit; until: when nothing at
    the site was alive any more.
    """
    found = clients.measure(records, fire.burnt_at, until)
    return replace(
        fire,
        first_write_seconds=found.first_write_seconds,
        last_client_seconds=found.last_client_seconds,
        clients=found.clients,
        clients_recovered=found.recovered,
        acknowledged=found.acknowledged,
        failed_tries=found.failed,
        longest_gap_seconds=found.longest_gap_seconds,
        double_primary_seconds=found.double_primary_seconds,
    )


def with_losses(fire: Fire, lost: Sequence[str]) -> Fire:
    """The fire with the acknowledged messages that the database lacks."""
    return replace(fire, lost=len(lost), lost_ids=tuple(sorted(lost)[:100]))


def write(folder: LabFolder, fire: Fire) -> None:
    folder.fires.mkdir(parents=True, exist_ok=True)
    path = folder.fires / f"fire-{fire.number:04d}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(fire), indent=1), encoding="utf-8")
    fresh.replace(path)


def read_all(folder: LabFolder) -> list[Fire]:
    """All fires of the lab, oldest first."""
    found = []
    for path in sorted(folder.fires.glob("fire-*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        found.append(Fire(**{**data, "lost_ids": tuple(data["lost_ids"])}))
    return sorted(found, key=lambda fire: fire.number)


_WORDS: Final = {
    "detected": "detected",
    "decided": "decided",
    "fenced": "old primary fenced",
    "promoted": "every primary can acknowledge",
    "shifted": "traffic shifted",
    "ended": "run ended",
}
_COLUMNS: Final[tuple[tuple[str, Callable[[Fire], float | None]], ...]] = (
    ("detected", lambda fire: fire.seconds.get("detected")),
    ("promoted", lambda fire: fire.seconds.get("promoted")),
    ("first write", lambda fire: fire.first_write_seconds),
    ("last client", lambda fire: fire.last_client_seconds),
)


def as_json(fires: Sequence[Fire]) -> str:
    """The machine-readable contract."""
    document = {"schema_version": SCHEMA_VERSION, "fires": [fire.to_json() for fire in fires]}
    return json.dumps(document, indent=2) + "\n"


def as_text(fires: Sequence[Fire]) -> str:
    """The last fire in full; a table of all if there were several."""
    if not fires:
        return "no fire yet\nnext: evac lab burn pangyo\n"
    parts = [timeline(fires[-1])]
    if len(fires) > 1:
        parts.append(table(fires))
    return "\n".join(parts)


def timeline(fire: Fire) -> str:
    """Events in seconds since the fire."""
    when = datetime.fromtimestamp(fire.burnt_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    leader = ", evac's leader with it" if fire.leader_burnt else ""
    lines = [f"Fire {fire.number}: {fire.lost_site} ({fire.kind}){leader}, {when}", ""]
    if fire.reason:
        lines[1:1] = [f"  why: {fire.reason}"]
    rows = [(_WORDS[name], fire.seconds.get(name)) for name in MILESTONES]
    rows += [
        ("first write acknowledged", fire.first_write_seconds),
        (f"last of {fire.clients} clients writing again", fire.last_client_seconds),
    ]
    known = sorted(((at, words) for words, at in rows if at is not None), key=lambda row: row[0])
    lines += [f"  {at:>8.2f} s  {words}" for at, words in known]
    unneeded = set(MILESTONES) - {"detected"} if fire.state == UNHARMED else {"fenced"}
    idle = {_WORDS[name] for name in unneeded} if fire.state in ENDED_WELL else set[str]()
    missing = [words for words, at in rows if at is None and words not in idle]
    if missing:
        lines += [f"  {'-':>10}  {words}: not seen" for words in missing]
    lines += ["", *_counts(fire)]
    return "\n".join(lines) + "\n"


def _counts(fire: Fire) -> list[str]:
    lost = "not counted yet" if fire.lost is None else f"{fire.lost:,}"
    lines = [
        f"  acknowledged   {fire.acknowledged:,} messages since the fire; acknowledged messages lost: {lost}",
        f"  clients        {fire.clients_recovered} of {fire.clients} write again; "
        f"{fire.failed_tries:,} tries failed; longest silence {fire.longest_gap_seconds:.2f} s",
        f"  two primaries  {fire.double_primary_seconds:.2f} s",
    ]
    if fire.lost_ids:
        lines.append(f"  lost           {', '.join(fire.lost_ids[:5])}" + (" ..." if fire.lost else ""))
    return lines


def table(fires: Sequence[Fire]) -> str:
    """One line per fire, then the medians."""
    head = f"  {'fire':>4}  {'lost':<8}" + "".join(f"{name:>13}" for name, _ in _COLUMNS)
    lines = [head + f"{'lost msgs':>11}{'2 primaries':>13}"]
    for fire in fires:
        cells = "".join(f"{_seconds(value(fire)):>13}" for _, value in _COLUMNS)
        lost = "?" if fire.lost is None else str(fire.lost)
        double = _seconds(fire.double_primary_seconds)
        lines.append(f"  {fire.number:>4}  {fire.lost_site:<8}{cells}{lost:>11}{double:>13}")
    cells = "".join(f"{_seconds(_median(fires, value)):>13}" for _, value in _COLUMNS)
    lines.append(f"  {'median':<14}{cells}")
    return "\n".join(lines) + "\n"


def _median(fires: Sequence[Fire], value: Callable[[Fire], float | None]) -> float | None:
    found = [seconds for fire in fires if (seconds := value(fire)) is not None]
    return statistics.median(found) if found else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


LOOK_SECONDS: Final = 0.25
STORE_SECONDS: Final = 1.0
"""Interval of reading evac's store meanwhile: reading disturbs the measurement, because it runs on the same
machine.
"""
_QUIET_SECONDS: Final = 1.5
"""How long the lab keeps watching for a second primary after the last client is back."""

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a fire is followed. run: whether a run of evac must end too, or only the clients count."""

    longest_s: float = 60.0
    run: bool = True


def fire(
    folder: LabFolder,
    site: str,
    light: Callable[[], Struck],
    patience: Patience,
    told: Told = lambda words: None,
    reason: str = "",
) -> Fire:
    """Lights a fire and follows it. Returns the measurements, even if it did not end in time."""
    state = folder.need()
    controllers = has_controllers(state)
    others = [one.name for one in state.topology.others(site)]
    leader = status.leader_site(state.topology, others[0]) if controllers else ""
    before = status.before_fire(state.topology, others[0]) if controllers else Before()
    offset = clients.size(folder.ledger)
    struck = light()
    begun = begin(folder, struck, offset, leader == site and struck.kind in ("burn", "cut"), reason)
    told(f"{site}: {struck.kind}, {struck.processes} processes")
    followed = _follow(folder, state, begun, patience, told, before, struck.until)
    finished = _count_losses(folder, state, followed)
    write(folder, finished)
    return finished


def _follow(
    folder: LabFolder,
    state: LabState,
    begun: Fire,
    patience: Patience,
    told: Told,
    before: Before,
    until: float,
) -> Fire:
    """Polls until both have ended or patience runs out. until: when nothing at the site was alive any
    more.
    """
    records = LedgerReader(folder.ledger, begun.ledger_offset)
    ask_at = time.monotonic()
    first = state.topology.others(begun.lost_site)[0].name
    wants_run = patience.run and has_controllers(state)
    known: set[str] = set()
    deadline = time.monotonic() + patience.longest_s
    seen = begun
    while time.monotonic() < deadline:
        seen = measured(seen, records.read(), until)
        if wants_run and time.monotonic() >= ask_at:
            seen = _with_run(folder, state, seen, first, before)
            ask_at = time.monotonic() + STORE_SECONDS
        _tell_news(seen, known, told)
        if seen.last_client_seconds is not None and (
            not wants_run or seen.state not in ("burning", "running")
        ):
            time.sleep(_QUIET_SECONDS)
            return replace(measured(seen, records.read(), until), state=seen.state if wants_run else "over")
        time.sleep(LOOK_SECONDS)
    return replace(measured(seen, records.read(), until), state="not over")


def _with_run(folder: LabFolder, state: LabState, seen: Fire, first: str, before: Before) -> Fire:
    ahead = faults.ahead(folder, [site.name for site in state.topology.sites])
    found = status.run_of_fire(state.topology, seen.lost_site, seen.burnt_at, first, ahead, before)
    if found is None:
        return seen
    return replace(seen, run=found.run, state=found.phase or "running", seconds=dict(found.seconds))


def _tell_news(seen: Fire, known: set[str], told: Told) -> None:
    """Reports each milestone once, as soon as it is seen."""
    rows = dict(seen.seconds)
    rows |= {"first write": seen.first_write_seconds, "last client": seen.last_client_seconds}
    news = sorted((at, name) for name, at in rows.items() if at is not None and name not in known)
    for at, name in news:
        known.add(name)
        told(f"{at:6.2f} s  {name}")


def _count_losses(folder: LabFolder, state: LabState, seen: Fire) -> Fire:
    """Compares the ledger with the new primary. The count stays open if none answers."""
    try:
        return with_losses(seen, lost_messages(folder, Ground(folder, state.topology).database))
    except LabError:
        return seen


def burn(
    folder: LabFolder, site: str, patience: Patience, told: Told = lambda words: None, reason: str = ""
) -> Fire:
    return fire(folder, site, lambda: faults.burn(folder, site), patience, told, reason)


def cut(
    folder: LabFolder, site: str, patience: Patience, told: Told = lambda words: None, reason: str = ""
) -> Fire:
    return fire(folder, site, lambda: faults.cut(folder, site), patience, told, reason)


def half(
    folder: LabFolder,
    site: str,
    hall: str,
    patience: Patience,
    told: Told = lambda words: None,
    reason: str = "",
) -> Fire:
    return fire(folder, site, lambda: faults.half(folder, site, hall), patience, told, reason)


def has_controllers(state: LabState) -> bool:
    return any(one.role == "controller" for one in state.processes)


_MISSING: Final = """
select asked.id from unnest($1::text[]) as asked(id)
where not exists (select 1 from messages where messages.id = asked.id)
"""
_CHUNK: Final = 20_000
_SECONDS: Final = 30.0


async def missing(connection: Connection, ids: Iterable[str]) -> list[str]:
    """Ids missing from the database of this connection."""
    wanted = list(ids)
    found: list[str] = []
    for first in range(0, len(wanted), _CHUNK):
        rows = await connection.rows(_MISSING, wanted[first : first + _CHUNK], seconds=_SECONDS)
        found.extend(row["id"] for row in rows)
    return found


def lost_messages(folder: LabFolder, database: Database) -> Sequence[str]:
    """Acknowledged messages that the present primary lacks. Raises `LabError` if no primary answers."""
    return asyncio.run(_lost(folder, database))


async def _lost(folder: LabFolder, database: Database) -> list[str]:
    ids = clients.acknowledged(clients.read_ledger(folder.ledger))
    found = await find_primary(database, "lab-report")
    if found is None:
        raise LabError("lab-no-primary", "no PostgreSQL accepts writes", "evac lab status")
    _, connection = found
    try:
        return await missing(connection, ids)
    except Failures as error:
        raise LabError("lab-no-primary", f"the primary does not answer: {type(error).__name__}") from error
    finally:
        connection.end()


MOVE_SECONDS: Final = 30.0


_ROLE: Final = "controller"


def move(folder: LabFolder, site: str) -> None:
    """Makes the controller of `site` lead, and its etcd member too. Raises `LabError` if that fails.

    All other controllers are stopped until it leads: a stopped leader loses its lease as a dead one does, and
    continues as a follower.
    """
    state = folder.need()
    others = [one for one in state.processes if one.role == _ROLE and one.site != site and one.alive]
    if not any(one.role == _ROLE and one.site == site and one.alive for one in state.processes):
        raise LabError("lab-no-controller", f"no controller is running in {site}", "evac lab status")
    try:
        processes.send(family(others), signal.SIGSTOP)
        _wait(lambda: status.leader_site(state.topology, site) == site, f"moving the leader to {site}")
    finally:
        processes.resume(family(others))
    move_etcd(Ground(folder, state.topology), site)
    _wait(lambda: status.leader_site(state.topology, site) == site, f"leading from {site}")


def _wait(ready: Any, what: str) -> None:
    deadline = time.monotonic() + MOVE_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise LabError("lab-leader", f"{what} took more than {MOVE_SECONDS:g} s", "evac lab status")
        time.sleep(0.1)


def move_etcd(ground: Ground, site: str) -> None:
    """Transfers etcd's leadership to a site's member: an election re-arms leases, which is the case worth
    measuring. Raises `LabError`.
    """
    here = _ask(ground, site, "/v3/maintenance/status", {})
    member, leader = here["header"]["member_id"], here["leader"]
    if member == leader:
        return
    for other in ground.topology.others(site):
        if _ask(ground, other.name, "/v3/maintenance/status", {})["header"]["member_id"] == leader:
            _ask(ground, other.name, "/v3/maintenance/transfer-leadership", {"targetID": member})
            return


def _ask(ground: Ground, site: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async def asked() -> dict[str, Any]:
        gateway = root_of_etcd(ground, ground.topology.site(site))
        try:
            return await gateway.call(path, body)
        finally:
            await gateway.close()

    try:
        return asyncio.run(asked())
    except EvacError as error:
        words = f"etcd in {site} does not answer: {error}"
        raise LabError("lab-etcd", words, "evac lab status") from error
