"""An asynchronous replica promoted over a wide area: what may be lost is shown first, what was is named.

Network namespaces with 5 and 50 ms of delay one way; clients are near. What is on its way when a site burns
still arrives, so delay alone loses nothing: the primary's senders stand still for the last third of a second,
as on a line that is full. Nothing is synchronous, and policy wants a person to vouch for the fence and to
open the gate of the promotion. The person here reads what evac shows, and agrees. When the old primary
returns, evac archives what it had alone, and that must name every message that the clients lost.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from bench import labs
from bench.figures import Figure, Table
from evac.app import runs
from evac.engine.runs.requests import Request
from evac.model.errors import EvacError
from evac.run.view import RunView
from evac.store.port import Store
from evac_lab import clients, episodes, faults, namespaces, restoring, status, world
from evac_lab import process as processes
from evac_lab.episodes import Fire
from evac_lab.faults import Struck
from evac_lab.site_servers import Ground
from evac_lab.state import NAMESPACE_OFFSETS, LabFolder

DELAYS_MS = (5.0, 50.0)
BEHIND_SECONDS = 0.33
LONGEST_SECONDS = 90.0
FENCE, PROMOTE = f"fence:{labs.DATA}", f"promote:{labs.DATA}"
_WHO = "the bench"
_NOTHING_SYNCHRONOUS = "alter system set synchronous_standby_names = ''"


@dataclass(slots=True)
class Person:
    """Reads what evac shows of the loss of `burnt`, then vouches for the fence and opens the gate.

    shown: words of the gate; most_lost_ms: what the run's envelope says; both before anything was agreed to.
    """

    folder: LabFolder
    burnt: str
    shown: str = ""
    most_lost_ms: int | None = None
    trouble: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    done: set[str] = field(default_factory=set)

    def run(self) -> None:
        """In a thread of its own, until told to stop."""
        topology = self.folder.need().topology
        while not self.stop.is_set():
            try:
                status.ask(topology, self._look, topology.others(self.burnt)[0].name)
            except EvacError as error:
                self.trouble = error.message
            time.sleep(0.2)

    async def _look(self, store: Store) -> None:
        for entry in await store.list("incident/"):
            run = str(orjson.loads(entry.value)["run"])
            if await store.get(runs.OPEN + run) is not None:
                await self._agree(store, run, await runs.view_of(store, run))

    async def _agree(self, store: Store, run: str, view: RunView) -> None:
        steps = {step.id: step for step in view.spec.steps}
        if PROMOTE not in steps:
            return
        if self.most_lost_ms is None:
            self.most_lost_ms, self.shown = view.spec.envelope.most_lost_ms, steps[PROMOTE].gate
        if view.phase == "awaiting_approval":
            await self._ask(
                store, run, "run", Request("", "approve", _WHO, "seen", envelope=view.spec.envelope)
            )
        if view.step(FENCE).phase in ("running", "unknown", "failed"):
            seen = {"power": "off"}
            await self._ask(store, run, FENCE, Request("", "attest", _WHO, "it burnt", FENCE, evidence=seen))
        if steps[PROMOTE].gate and view.step(FENCE).phase == "succeeded":
            await self._ask(store, run, PROMOTE, Request("", "approve", _WHO, self.shown, PROMOTE))

    async def _ask(self, store: Store, run: str, what: str, request: Request) -> None:
        """Once."""
        if f"{run}/{what}" not in self.done:
            now_ms = time.time_ns() // 1_000_000
            await runs.ask(store, run, replace(request, id=runs.new_id(now_ms), at_ms=now_ms))
            self.done.add(f"{run}/{what}")


def measure(table: Table, options: world.Options) -> None:
    """With each delay."""
    if reason := namespaces.why_not():
        table.section("An asynchronous replica promoted over a wide area")
        table.trouble(f"not measured: {reason}")
        return
    for delay in DELAYS_MS:
        table.section(f"An asynchronous replica promoted, {delay:g} ms of delay one way")
        offset = options.offset % NAMESPACE_OFFSETS
        wide = replace(options, world="namespaces", offset=offset, delay_ms=delay)
        try:
            with labs.lab(wide, _make_asynchronous) as folder:
                _one(table, folder, delay)
        except (labs.NotAtRest, EvacError) as error:
            table.trouble(f"{delay:g} ms: {error}")


def _make_asynchronous(folder: LabFolder) -> None:
    """The data set as a company would declare it that replicates asynchronously, and the servers so."""
    files = folder.estate / "estate.yaml", folder.estate / "policy.yaml"
    changes = (
        ("mode: sync\n      lag: 0 s", "mode: async\n      lag: 1 s"),
        ("fence_proofs: [sync, attest], on_sync_loss: next", "fence_proofs: [attest], on_sync_loss: async"),
    )
    for path, (old, new) in zip(files, changes, strict=True):
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise labs.NotAtRest(f"{path.name} of the lab is not as expected")
        path.write_text(text.replace(old, new), encoding="utf-8")
    state = folder.need()
    near = {way: 0.0 for site in state.topology.sites for way in (f"{site.name}>", f">{site.name}")}
    links = namespaces.Network(folder, state)
    links.change(lambda now: replace(now, number=now.number + 1, delays={**now.delays, **near}))
    asyncio.run(_ask(Ground(folder, state.topology), state.topology.sites[0].name))


async def _ask(ground: Ground, site: str) -> None:
    database = ground.operators_database
    connection = await database.connect(database.hosts[site], "bench")
    try:
        for statement in (_NOTHING_SYNCHRONOUS, "select pg_reload_conf()"):
            await connection.rows(statement, seconds=5.0)
    finally:
        connection.end()


def _one(table: Table, folder: LabFolder, delay: float) -> None:
    key = f"wan_{delay:g}_ms"
    site = labs.settle(folder, synchronous=False).primary
    episodes.move(folder, folder.need().topology.others(site)[0].name)
    labs.settle(folder, synchronous=False)
    person = Person(folder, site)
    thread = threading.Thread(target=person.run)
    thread.start()
    try:
        fire = episodes.fire(
            folder, site, lambda: _burn_behind(folder, site), episodes.Patience(LONGEST_SECONDS)
        )
    finally:
        person.stop.set()
        thread.join()
    if person.trouble and not person.done:
        table.trouble(person.trouble)
    shown = None if person.most_lost_ms is None else person.most_lost_ms / 1_000
    table.add(
        Figure(
            f"{key}_shown",
            "most that may be lost, shown before approval",
            shown,
            "s",
            note=person.shown or "no gate was shown",
        ),
        Figure(
            f"{key}_first_write",
            "fire to first acknowledged write, a person's consent included",
            fire.first_write_seconds,
            "s",
            note=f"{fire.state}; {_words(fire)}",
        ),
    )
    _named(table, folder, site, fire, key, shown)


def _burn_behind(folder: LabFolder, site: str) -> Struck:
    """The replicas fall behind, then the site burns."""
    roots = [one for one in folder.need().of_site(site) if one.role == "postgres"]
    senders = {pid for pid in faults.family(roots) if b"walsender" in _title(pid)}
    processes.pause(senders)
    time.sleep(BEHIND_SECONDS)
    return faults.burn(folder, site)


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _words(fire: Fire) -> str:
    return ", ".join(f"{name} {at:.2f}" for name, at in fire.seconds.items() if at is not None)


def _named(table: Table, folder: LabFolder, site: str, fire: Fire, key: str, shown: float | None) -> None:
    """Counts what clients lost, brings the old primary back, and looks for it in what evac archived."""
    ground = Ground(folder, folder.need().topology)
    lost = set(episodes.lost_messages(folder, ground.database))
    restoring.start_site(folder, site)
    back = labs.rejoin(table, folder, site)
    evidence = back.rejoined.get(labs.DATA, {})
    kept = _archived(Path(str(evidence.get("archive", "/nowhere"))))
    missing = {one for one in lost if one not in kept}
    seconds = _span(folder, lost, fire.burnt_at)
    table.add(
        Figure(
            f"{key}_lost",
            "acknowledged messages lost",
            len(lost),
            "",
            note=f"the oldest acknowledged {seconds * 1_000:.0f} ms before the fire" if lost else "",
        ),
        Figure(
            f"{key}_beyond",
            "lost beyond what was shown",
            max(0.0, seconds - (shown or 0.0)),
            "s",
            0,
            "at most",
        ),
        Figure(
            f"{key}_unnamed",
            "lost and not named when the old primary returned",
            len(missing),
            "",
            0,
            "at most",
            f"evac kept {evidence.get('diverged_transactions', 0)} transactions, "
            f"{evidence.get('rows_by_table', '') or 'no rows'}",
        ),
    )


def _archived(folder: Path) -> str:
    """Everything that the archive holds as rows."""
    rows = sorted((folder / "rows").glob("*")) if (folder / "rows").is_dir() else []
    return "\n".join(path.read_text("utf-8", "replace") for path in rows if path.is_file())


def _span(folder: LabFolder, lost: set[str], burnt_at: float) -> float:
    """Seconds from the acknowledgement of the oldest lost message to the fire; 0 where none was lost."""
    at = [row.at for row in clients.read_ledger(folder.ledger) if row.kind == "ack" and row.id in lost]
    return max(0.0, burnt_at - min(at)) if at else 0.0
