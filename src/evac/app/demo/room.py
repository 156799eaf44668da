"""`evac serve --demo`: a small company with three sites, one of which burns, and everything that shows it.

Controllers, witnesses, votes, plans, the run, its journal and the war room are real, on a SQLite file in a
folder of its own. Only the systems behind the endpoints are simulated: operators who take their time,
databases with roles, sites that respond until they burn. Each takes the time in its endpoint's `takes`,
varied by seed and order, so that repeating the demonstration takes the same times. A site's simulation ends
when it burns.

The site burns once its plan is ready; the demonstration then acts as an operator would: it applies the plan,
takes command and approves the run. The step that may lose writes waits for a person. Once a person has
resolved the incident, its customers are credited (`credits`). Nothing is left at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field, replace
from datetime import UTC, date, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final, get_args

from evac import estate as estates
from evac.app import controlling, incidents, runs, side_process
from evac.app.demo.tour import INCIDENT, LOST, PEOPLE, sign_in_words, step_of
from evac.drivers.capabilities import (
    AnswersProbe,
    ProbeReport,
    Promotes,
    ProvesSync,
    ReportsReplicas,
    ReportsRole,
    RoleReport,
)
from evac.drivers.port import NO_EVIDENCE, Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.registry import DRIVERS, Maker
from evac.drivers.spec import DriverSpec
from evac.engine.clock import SystemClock
from evac.engine.plans import library
from evac.engine.runs import requests
from evac.incident.incident import summary
from evac.incident.records import Note
from evac.model import extras
from evac.model.errors import EvacError, InvalidInput, Retryable, RunError, Unavailable
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.run.waits import waiting
from evac.store.opening import open_store
from evac.store.port import Store
from evac.views.incident_document import incident_course
from evac.watch.verdict import EvidenceKind, Seen
from evac.watch.witness import Probe

KINDS: Final[tuple[EvidenceKind, ...]] = ("user", "data", "agent")
TAKES_S: Final = 4.0
QUICK: Final = 0.7
SLOWER: Final = 1.5
"""A manual action takes this many times its usual time."""
SLOW_SERVICE: Final = 2.6
NEVER_S: Final = 3_600.0
GROWS: Final = 4_096
"""Bytes of log that a primary writes between two observations."""


@dataclass(slots=True)
class DemoCopies:
    """One store: site -> name of its copy, and which of them accepts writes."""

    names: Mapping[str, str]
    primary: str
    synchronous: bool
    timeline: int = 1
    lsn: int = 1_000_000


@dataclass(slots=True)
class Company:
    """State of the simulated company. slow: a service that starts too slowly. speed: 2 makes all drivers
    twice as fast.
    """

    seed: int
    stores: dict[str, DemoCopies]
    slow: str = ""
    speed: float = 1.0
    burnt: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    replicas: dict[tuple[str, str], int] = field(default_factory=dict)
    """(Service, site) -> how many replicas it was last set to run; none: by nobody yet."""

    def takes_s(self, action: Action, order: Order) -> float:
        told = action.settings.get("takes", TAKES_S)
        usual = float(str(told)) / self.speed
        if action.target == self.slow and action.verb == "start":
            return usual * SLOW_SERVICE
        return usual * random.Random(f"{self.seed} {order.step}").uniform(QUICK, SLOWER)

    def check(self, site: str) -> None:
        """Raise Retryable if the site burns."""
        if site in self.burnt:
            raise Retryable("unreachable", f"{site} does not answer", after_ms=1_000)

    def targets(self, sites: tuple[str, ...], own: str) -> dict[str, tuple[Probe, ...]]:
        """Probes of the other sites."""
        return {site: tuple(self._probe(kind, site, own) for kind in KINDS) for site in sites if site != own}

    def _probe(self, kind: EvidenceKind, site: str, own: str) -> Probe:
        async def ask() -> Seen:
            await asyncio.sleep(NEVER_S if {site, own} & self.burnt else 0.002)
            return Seen(kind, "up", 2)

        return Probe(kind, f"{kind}-{site}", ask)

    def hands(self) -> dict[str, Maker]:
        """Drivers by name, as endpoints name them."""
        every = frozenset(get_args(Verb))
        return {
            name: partial(_simulation(spec), self, name, every) for name, spec in DRIVERS.items() if spec.acts
        }


def _simulation(spec: DriverSpec) -> type[Hands]:
    """The class that simulates a driver."""
    if spec.can(Promotes):
        return StoreHands
    return UnitHands if spec.can(ReportsReplicas) else Hands


def company_of(estate: Estate, seed: int, slow: str = "", speed: float = 1.0) -> Company:
    names = {(e.subject, e.at): str(e.settings["name"]) for e in estate.endpoints if "name" in e.settings}
    stores = {
        store.id: DemoCopies(
            {member.at: names[store.id, member.at] for member in store.members},
            next((one.at for one in store.members if one.mode == "primary"), store.members[0].at),
            any(member.mode == "sync" for member in store.members),
        )
        for store in estate.stores
    }
    return Company(seed, stores, slow, speed)


def systems_of(estate: Estate) -> Mapping[str, Maker]:
    """Simulated drivers for the company as it is now, for a process without controllers."""
    company = company_of(estate, SEED)
    company.burnt.update(estate.lost)
    return company.hands()


class Hands:
    """A simulated driver: an action completes after a while, if its site survives that long."""

    def __init__(self, company: Company, name: str, verbs: frozenset[Verb]) -> None:
        self.company, self.name, self.verbs = company, name, verbs

    async def check(self, action: Action, order: Order) -> Checked:
        if action.at in self.company.burnt:
            return Checked((f"{action.at} does not answer",))
        return Checked()

    async def execute(self, action: Action, order: Order) -> Evidence:
        self.company.check(action.at)
        if order.dry_run:
            return {"dry_run": f"would {action.verb} {action.target}"}
        await asyncio.sleep(min(self.company.takes_s(action, order), order.timeout_s * 0.9))
        self.company.check(action.at)
        self.apply(action)
        self.company.done.add(self._what(action, order))
        return {"simulated": True}

    async def observe(self, action: Action, order: Order) -> Observed:
        if action.at in self.company.burnt:
            return Observed("unclear", {"why": f"{action.at} does not answer"})
        return Observed("done" if self._what(action, order) in self.company.done else "absent")

    async def undo(self, action: Action, order: Order) -> Evidence:
        self.company.check(action.at)
        if not order.dry_run:
            self.company.done.discard(self._what(action, order))
        return NO_EVIDENCE

    async def report_traffic(self, action: Action, timeout_s: float) -> tuple[str, ...] | None:
        """Nothing: users are sent to where the files and runs say."""
        return None

    async def close(self) -> None:
        """Nothing to close."""

    def apply(self, action: Action) -> None:
        """Apply an action; most of them change nothing that is observed."""

    def _what(self, action: Action, order: Order) -> str:
        return f"{order.run} {order.step} {action.verb} {action.target} {action.at}"


class UnitHands(Hands, ReportsReplicas):
    """Simulated services, which are set to run a number of replicas at each site."""

    async def report_replicas(self, action: Action, timeout_s: float, token: int) -> int | None:
        """The number that a step has set. Raises Retryable if its site burns."""
        self.company.check(action.at)
        return self.company.replicas.get((action.target, action.at))

    def apply(self, action: Action) -> None:
        count = 0 if action.verb == "stop" else action.parameters.get("replicas")
        if action.verb in ("start", "scale", "stop") and isinstance(count, int):
            self.company.replicas[action.target, action.at] = count

    async def undo(self, action: Action, order: Order) -> Evidence:
        evidence = await super().undo(action, order)
        before = action.parameters.get("from_replicas")
        if not order.dry_run and isinstance(before, int):
            self.company.replicas[action.target, action.at] = before
        return evidence


class StoreHands(Hands, ReportsRole, ProvesSync, AnswersProbe):
    """Simulated databases: members with roles, which a promotion changes."""

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        """The role that one copy reports. Raises Retryable if its site burns."""
        self.company.check(action.at)
        store, burnt = self.company.stores[action.target], self.company.burnt
        history = f"demo-{action.target}/{store.timeline}"
        if action.at != store.primary:
            streams = store.primary not in burnt
            if not streams:
                return RoleReport("detached", position=store.lsn, history=history)
            # A synchronous copy has each write before the primary acknowledges it.
            ahead = GROWS if store.synchronous else 0
            return RoleReport("replica", 0, position=store.lsn + ahead, history=history)
        store.lsn += GROWS
        alive = {site: name for site, name in store.names.items() if site not in {store.primary, *burnt}}
        confirms = tuple(alive.values()) if store.synchronous else ()
        others = tuple(name for site, name in store.names.items() if site != store.primary)
        waits_for = others if store.synchronous and not alive else ()
        return RoleReport("primary", 0, confirms, waits_for, store.lsn, history)

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        burns = action.at in self.company.burnt
        return ProbeReport(not burns, f"{action.at} does not answer" if burns else "")

    async def precheck_sync(
        self, action: Action, timeout_s: float, member: str, names: Mapping[str, str], at: str
    ) -> Checked:
        """Whether every commit needs the synchronous copy."""
        store = self.company.stores[action.target]
        whole = store.synchronous and store.primary not in self.company.burnt
        return Checked() if whole else Checked((f"no copy of {action.target} is synchronous",))

    def apply(self, action: Action) -> None:
        if action.verb == "promote":
            store = self.company.stores[action.target]
            store.primary, store.synchronous = action.at, False
            store.timeline += 1


HOST: Final = "127.0.0.1"
PORT: Final = 8400
ZONE: Final = "Asia/Seoul"
"""Time zone of the people in the demonstration."""
SLOW: Final = "taxi"
WHO: Final = "demo"
SEED: Final = 20_221_015
CALM_S: Final = 6.0
"""Calm period before the fire, for visitors who open a page quickly."""
LOOK_S: Final = 0.25
PATIENCE_S: Final = 180.0
ANSWER_S: Final = 10.0
TTL_MS: Final = 3_000
BUDGET_MS: Final = 800
FILES: Final = ("estate.yaml", "policy.yaml")

WRITTEN_ON: Final = date(2026, 11, 21)
"""The day on which the facts in the company's files were verified."""

Say = Callable[[str], None]


def serve_demo(port: int, say: Say, speed: float = 1.0, sign_in: bool = False) -> None:
    """Serve until SIGINT or SIGTERM. port 0: any free one. speed: of the simulation. sign_in: two people with
    passwords, instead of open access.

    Raises InvalidInput, EvacError.
    """
    side_process.check_libraries()
    with listening(port) as taken, tempfile.TemporaryDirectory(prefix="evac-demo-") as folder:
        asyncio.run(_Demo(Path(folder), taken, say, speed, sign_in).run())


def listening(port: int) -> socket.socket:
    """Listen at once, so that no other process gets the port before the war room is ready; 0: any free port.
    Raises InvalidInput if the port is in use.
    """
    taken = socket.socket()
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        taken.listen()
    except OSError as error:
        taken.close()
        raise InvalidInput(
            "port-taken", f"port {port} is not available: {error.strerror}", "choose another port: --port N"
        ) from error
    return taken


@dataclass(slots=True)
class _Demo:
    """One demonstration, in a folder of its own. taken: address of its war room."""

    folder: Path
    taken: socket.socket
    say: Say
    speed: float
    sign_in: bool
    clock: SystemClock = field(default_factory=SystemClock)
    made: dict[str, controlling.Composed] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{HOST}:{self.taken.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"sqlite:{self.folder / 'demo.sqlite'}"

    @property
    def cases(self) -> Path:
        """Credit cases for the page Credits."""
        return self.folder / "credits"

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        estate_folder = self._write_company()
        estate = estates.load(estate_folder)
        company = company_of(estate, SEED, SLOW, self.speed)
        try:
            for site in (site.id for site in estate.sites):
                await self._begin(estate_folder, estate, company, site)
            self.tasks["room"] = asyncio.create_task(self._room(estate_folder), name="war room")
            self.tasks["alerts"] = asyncio.create_task(self._alerts(estate_folder), name="alerts")
            self.tasks["story"] = asyncio.create_task(self._story(company), name="story")
            for task in self.tasks.values():
                task.add_done_callback(self._ended)
            await stop.wait()
        finally:
            for task in self.tasks.values():
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
            for made in self.made.values():
                await made.close()
        self.say("the demo has ended and left nothing behind")

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Report the end of any part but the story, which is the only one that may end by itself."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.say(f"the {task.get_name()} stopped unexpectedly: {repr(error)[:300]}; the rest continues")

    async def _room(self, estate: Path) -> None:
        handed = self.taken.fileno()
        told = [str(estate), "--store", self.url, "--listen", self.place, "--socket", str(handed)]
        told += ["--credits", str(self.cases), "--demo", str(self.folder)]
        if self.sign_in:
            told += ["--access", str(self._write_access())]
        await side_process.keep(told, self.say, handed=[handed])

    async def _alerts(self, estate: Path) -> None:
        """Send alerts to the on-call person, or say what to install if that is not possible."""
        if not extras.is_installed("notices"):
            self.say(f"to see alerts: {extras.install('notices')}, then start again")
            return
        from evac.app.demo.alerts import send_alerts

        store = open_store(self.url)
        try:
            await send_alerts(estate, f"http://{self.place}", store, self.url, self.say)
        finally:
            await store.close()

    def _write_access(self) -> Path:
        """Write an access file with people whose passwords are generated for this demonstration and
        printed.
        """
        passwords = {name: secrets.token_hex(6) for name in PEOPLE}
        rows = ["people:"]
        for name, password in passwords.items():
            path = self.folder / f"password-{name}"
            path.touch(0o600)
            path.write_text(password, encoding="utf-8")
            rows.append(f'  {name}: {{role: approver, password: "file:{path}"}}')
        file = self.folder / "access.yaml"
        file.write_text("\n".join([*rows, ""]), encoding="utf-8")
        self.say(sign_in_words(passwords))
        return file

    def _write_company(self) -> Path:
        folder = self.folder / "company"
        folder.mkdir()
        self.cases.mkdir()
        later = datetime.now(UTC).date() - WRITTEN_ON

        def shifted(found: re.Match[str]) -> str:
            return str(date.fromisoformat(found[0]) + later)

        for name in FILES:
            text = resources.files("evac.app").joinpath("demo_company", name).read_text("utf-8")
            # What was proven is as old on every day on which somebody looks.
            text = re.sub(r"(?<=verified: )[\d-]{10}", shifted, text)
            (folder / name).write_text(text, encoding="utf-8")
        return folder

    async def _begin(self, folder: Path, estate: Estate, company: Company, site: str) -> None:
        """Start the controller of a site, with simulated drivers."""
        sites = tuple(one.id for one in estate.sites)
        setting = controlling.Setting(folder, site, self.url, leader_ttl_ms=TTL_MS, budget_ms=BUDGET_MS)
        made = await controlling.compose(
            setting, lambda notice: None, hands=company.hands(), targets=company.targets(sites, site)
        )
        self.made[site] = made
        await made.seen.begin()

        async def work() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(made.controller.run(), name="controller")
                tasks.create_task(made.seen.follow(), name="seen")

        self.tasks[site] = asyncio.create_task(work(), name=f"controller of {site}")

    async def _story(self, company: Company) -> None:
        """Print what happens, line by line, and each step that is the visitor's."""
        store = open_store(self.url)
        story = _Story(self, company, store)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(story.tell())
                tasks.create_task(story.guide())
        except* EvacError as group:
            error = group.exceptions[0]
            self.say(f"the story stopped: {getattr(error, 'message', error)}; the pages keep working")
        finally:
            await store.close()


@dataclass(slots=True)
class _Story:
    """The fire, and what an operator does about it."""

    demo: _Demo
    company: Company
    store: Store

    async def tell(self) -> None:
        say = self.demo.say
        await _until(self._room_is_ready, "the war room to show the company")
        address = f"http://{self.demo.place}"
        say(f"DEMO, a simulated company: open {address}/now")
        plan = await _until(self._plan, f"a plan for the loss of {LOST}")
        say(f"a plan for the loss of {LOST} is ready: {address}/plans")
        await asyncio.sleep(CALM_S / self.demo.speed)
        # The site goes dark, and its controller with it.
        self.company.burnt.add(LOST)
        self.demo.tasks[LOST].cancel()
        say(f"{LOST} is on fire; the other sites vote on whether it is lost")
        await _until(self._believed, f"{LOST} to count as lost")
        plan = await _until(self._plan, "the plan to be ready again")
        await self._approve(await self._apply(plan))
        await _until(self._resolved, "the incident to be resolved", patience_s=float("inf"))
        await self._credit()
        say("look around, then press Ctrl-C to end the demo")

    async def guide(self) -> None:
        """Print each step when it becomes the visitor's next one."""
        await _until(self._room_is_ready, "the war room to show the company")
        folds, shown = incidents.Folds(), None
        while True:
            dossier, about = None, None
            waits: dict[str, int] = {}
            with contextlib.suppress(RunError):
                now_ms = self.demo.clock.now_ms()
                dossier = await incidents.dossier(self.store, INCIDENT, now_ms, fold_of=folds.of)
                about = folds.summary_of(dossier)
                waits = {
                    one.run: len(one.events)
                    for one in dossier.runs
                    if waiting(folds.of(one.run, INCIDENT).view)
                }
            if (step := step_of(dossier, about, waits)) != shown:
                self.demo.say(step.line(f"http://{self.demo.place}"))
                shown = step
            await asyncio.sleep(LOOK_S)

    async def _room_is_ready(self) -> bool:
        """Whether its pages show the company, according to /readyz."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(*self.demo.taken.getsockname())
                try:
                    asked = f"GET /readyz HTTP/1.1\r\nhost: {self.demo.place}\r\nconnection: close\r\n\r\n"
                    writer.write(asked.encode())
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        return False

    async def _plan(self) -> str:
        entry = await self.store.get(library.key_of((LOST,)))
        ready = None if entry is None else library.decode(entry)
        return "" if ready is None else ready.plan

    async def _believed(self) -> bool:
        told = await runs.notices(self.store)
        return any(one.kind == "loss" and one.site == LOST for one in told.values())

    async def _apply(self, digest: str) -> str:
        """Apply the plan as `evac apply` does; retries, because a new leader may not accept it at once."""
        data = await library.get_plan(self.store, digest)
        wanted = runs.proposal_of(data, INCIDENT, "a battery burns in hall 1", (LOST,))
        for _ in range(3):
            with contextlib.suppress(Unavailable):
                run = await runs.propose(self.store, wanted, self.demo.clock.now_ms(), 20)
                break
        else:
            raise Unavailable("no controller accepted the plan")
        await self._note(
            "command",
            "",
            "the demo plays the person on call",
            value="kim" if self.demo.sign_in else "Demo commander",
        )
        await self._note("note", "", "Smoke in the battery room of hall 1; the building has been evacuated.")
        return run

    async def _note(self, kind: str, name: str, text: str, value: str = "") -> None:
        at_ms = self.demo.clock.now_ms()
        note = Note(runs.new_id(at_ms), INCIDENT, kind, WHO, at_ms, text, name, value)  # type: ignore[arg-type]
        await incidents.add_note(self.store, note)

    async def _approve(self, run: str) -> None:
        """Approve the run as a whole, within what its plan needs; a step that may lose writes asks
        separately.
        """
        at_ms = self.demo.clock.now_ms()
        view = await runs.view_of(self.store, run)
        lost = await runs.losses_of(self.store, view, at_ms)
        most = max([view.spec.envelope.most_lost_ms, *(one.most_ms or 0 for one in lost)])
        request = requests.Request(
            runs.new_id(at_ms),
            "approve",
            WHO,
            "the demo plays the person on call",
            at_ms=at_ms,
            envelope=replace(view.spec.envelope, most_lost_ms=most),
        )
        await runs.ask(self.store, run, request)
        await runs.settled(self.store, run, request.id)

    async def _resolved(self) -> bool:
        found = await incidents.dossier(self.store, INCIDENT, self.demo.clock.now_ms())
        return summary(found).ended_ms is not None

    async def _credit(self) -> None:
        """The credit case of the incident; an explanation if what it needs is not installed."""
        if not extras.is_installed("credit"):
            self.demo.say(f"to see what customers are owed: {extras.install('credit')}, then start again")
            return
        from evac.app.demo import credits

        at_ms = self.demo.clock.now_ms()
        found = await incidents.dossier(self.store, INCIDENT, at_ms)
        course = incident_course(found, summary(found))
        await asyncio.to_thread(credits.write_case, self.demo.cases / INCIDENT, course, at_ms)


async def _until(ask: Callable[[], Awaitable[Any]], words: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until the call returns something. Raises Unavailable at the time limit."""
    waited = 0.0
    while not (found := await ask()):
        if waited >= patience_s:
            raise Unavailable(f"timed out after {patience_s:.0f} s waiting for {words}")
        await asyncio.sleep(LOOK_S)
        waited += LOOK_S
    return found
