"""Direct access to the store, for commands that can reach it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from evac.app import runs
from evac.backup.evidence import Evidence
from evac.control import port
from evac.engine.clock import Clock, SystemClock
from evac.engine.plans.library import find_plan, get_plan
from evac.engine.runs import effects, refused_takeovers
from evac.engine.runs.reading import decode_all
from evac.engine.runs.releases import proof_needed
from evac.engine.runs.requests import Request
from evac.incident.records import Note
from evac.model.backup import BackupEvent, BackupFacts
from evac.model.errors import EvacError, InvalidInput, NotAllowed
from evac.model.observation import Observation
from evac.office import logins, status_summary
from evac.run.view import RunView
from evac.store.anchors import Anchor
from evac.store.journal import records_after
from evac.store.opening import check_store, open_store
from evac.store.port import Store
from evac.views.decisions import Decision
from evac.views.documents import DryRun, RunDocument, RunShown, run_document
from evac.views.quarantine import quarantine_csv, quarantine_json, quarantine_page
from evac.views.run_report import event_row
from evac.views.sheet import Sheet
from evac.views.status_document import PlanLine, RunLine, StatusDocument
from evac.views.words import moment

if TYPE_CHECKING:
    from evac.app.incidents import PaperForm, PaperKind

# Modules that start controllers, query real systems or write papers take 250 ms to import: methods
# that only read the store avoid them.
PAUSE_S: Final = 0.3
LEAD_AGAIN_S: Final = 1.0


class StoreControl:
    """url: of the store, opened on first use. log: where a started controller writes its log. Must be
    closed.
    """

    def __init__(self, url: str, log: Path, clock: Clock | None = None) -> None:
        check_store(url)
        self._url, self._log, self._clock = url, log, clock or SystemClock()
        self._opened: Store | None = None

    @property
    def store(self) -> Store:
        if self._opened is None:
            self._opened = open_store(self._url)
        return self._opened

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def name(self, who: str) -> str:
        return who or runs.who_am_i()

    async def runs(self) -> Sequence[RunLine]:
        return await runs.list_runs(self.store)

    async def run(self, name: str, most: int | None = None) -> RunDocument:
        return await self._document(await runs.view_of(self.store, name), most)

    async def _document(self, view: RunView, most: int | None) -> RunDocument:
        now_ms = self._clock.now_ms()
        told = await runs.loss_rows(self.store, view, now_ms)
        untaken = await refused_takeovers.words_of(self.store, view.spec.run)
        shown = RunShown(view, await runs.leader_of(self.store), now_ms, told, untaken=untaken)
        return run_document(shown, most)

    async def decision(self, name: str, step: str) -> Decision:
        return await runs.decision(self.store, name, step, self._clock.now_ms())

    async def follow(self, name: str, most: int | None = None) -> AsyncGenerator[RunDocument, None]:
        await self._tend()
        tending = asyncio.create_task(self._tend(again=True))
        try:
            async for view in runs.follow(self.store, name):
                yield await self._document(view, most)
        finally:
            tending.cancel()

    async def _tend(self, again: bool = False) -> None:
        """Restart the controller of an embedded store if it ended; again: every time it does."""
        from evac.app import applying

        while True:
            with contextlib.suppress(EvacError):
                await applying.go_on(self.store, self._url, self._log)
            if not again:
                return
            await asyncio.sleep(PAUSE_S)

    async def events(self, name: str, follow: bool = False) -> AsyncGenerator[port.Document, None]:
        run, last, over = await runs.resolve(self.store, name), 0, not follow
        while True:
            fresh = False
            async for number, record in records_after(self.store, run, last):
                event = decode_all([record])[0]
                last, fresh = number, True
                over = over or event.kind == "run_ended"
                yield event_row(number, event)
            if over and not (follow and fresh):
                return
            await asyncio.sleep(PAUSE_S)

    async def ask(self, name: str, request: Request) -> port.Taken:
        return (await self.ask_all(name, (request,)))[0]

    async def ask_all(self, name: str, asked: Sequence[Request]) -> list[port.Taken]:
        from evac.app import applying

        now_ms, who = self._clock.now_ms(), runs.who_am_i()
        found = await runs.resolve(self.store, name)
        await applying.go_on(self.store, self._url, self._log)
        ids = []
        for number, request in enumerate(asked):
            ids.append(runs.new_id(now_ms + number))
            one = replace(request, id=ids[-1], who=request.who or who, at_ms=now_ms)
            await runs.ask(self.store, found, one, name)
        left = await runs.unsettled(self.store, found, ids)
        refused = {
            str(event.data.get("request", "")): (
                str(event.data.get("why", "refused")),
                str(event.data.get("hint", "")),
            )
            for event in await runs.events_of(self.store, found)
            if event.kind == "request_refused"
        }
        told = []
        for key in ids:
            said = ("", "") if key in left else refused.get(key) or await runs.answered(self.store, key)
            told.append(port.Taken(key not in left, *said))
        return told

    async def proof(self, name: str, heads: Sequence[Anchor]) -> port.Document:
        from evac.app.access_log import is_of_no_run

        found = name if is_of_no_run(name) else await runs.resolve(self.store, name)
        return asdict(await runs.verify(self.store, found, list(heads)))

    async def quarantine(self, name: str, form: port.QuarantineForm) -> str:
        found = await runs.quarantine(self.store, name)
        if form == "csv":
            return quarantine_csv(found)
        if form == "html":
            return quarantine_page(found, moment(self._clock.now_ms()) or "")
        return quarantine_json(found)

    async def plan(self, named: str) -> bytes:
        return await get_plan(self.store, await find_plan(self.store, named))

    async def plans(self) -> Sequence[PlanLine]:
        return await status_summary.plan_lines(self.store)

    async def rehearse(self, plan: port.PlanGiven) -> DryRun:
        from evac.app.applying import rehearse
        from evac.app.backups import kept_facts

        estate, known = _estate(plan.estate), await self.facts(plan.estate, True)
        now_ms = self._clock.now_ms()
        kept = await kept_facts(self.store)
        return await rehearse(plan.data, plan.digest, estate, plan.policy, now_ms, known, kept)

    async def ready(self, plan: port.PlanGiven) -> str:
        from evac.app import applying, lost_store

        estate = _estate(plan.estate)
        known = await self.facts(plan.estate, True)
        now_ms = self._clock.now_ms()
        await applying.check_fit(plan.data, plan.digest, estate, plan.policy, now_ms, known)
        await lost_store.check_not_replaced(self.store, estate, now_ms)
        return await self._lead(plan)

    async def _lead(self, plan: port.PlanGiven) -> str:
        """Starts a controller where no one leads, also in place of one that was killed meanwhile."""
        from evac.app.applying import ensure_controller

        estate = _estate(plan.estate).absolute()
        return await ensure_controller(self.store, self._url, estate, plan.policy, self._log)

    async def propose(
        self,
        plan: port.PlanGiven,
        incident: str,
        reason: str,
        typed: tuple[str, ...],
        abandoned: tuple[str, ...] = (),
        key: Path | None = None,
        who: str = "",
    ) -> str:
        proposal = replace(runs.proposal_of(plan.data, incident, reason, typed, who), abandoned=abandoned)
        leading = asyncio.ensure_future(self._keep_led(plan))
        try:
            return await runs.propose(self.store, proposal, self._clock.now_ms(), key=key)
        finally:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)

    async def _keep_led(self, plan: port.PlanGiven) -> None:
        """Whatever prevents a start, the proposal stands until it is answered or withdrawn, and that is
        said.
        """
        while not self.store.quorum:
            await asyncio.sleep(LEAD_AGAIN_S)
            with contextlib.suppress(EvacError, OSError):
                await self._lead(plan)

    async def backup_facts(self) -> BackupFacts:
        return await Evidence(self.store).facts()

    async def backup_history(self, data_set: str, most: int) -> Sequence[BackupEvent]:
        return await Evidence(self.store).history(data_set, most)

    async def access_log(self, since_ms: int) -> port.Document:
        from evac.app.access_log import access_log

        return asdict(await access_log(self.store, since_ms))

    async def logins(self) -> Sequence[port.Document]:
        return [one for _, one in await logins.kept(self.store)]

    async def end_logins(self, name: str, login: str = "") -> int:
        return await logins.end(self.store, name, login)

    async def facts(self, estate: Path | None, look: bool) -> Observation:
        from evac import estate as estates
        from evac.app.situations import facts_now
        from evac.drivers.registry import Drivers

        now_ms = self._clock.now_ms()
        if not look:
            return await facts_now(None, self.store, None, now_ms)
        loaded, drivers = estates.load(_estate(estate)), Drivers()
        try:
            return await facts_now(loaded, self.store, drivers, now_ms)
        finally:
            await drivers.close()

    async def clear_site(self, domain: str, who: str, reason: str, key: Path | None = None) -> None:
        name, now_ms = await self.name(who), self._clock.now_ms()
        if key is not None:
            await self._must_lead()
            await runs.clear_mark(self.store, domain, name, reason, now_ms, key)
            return
        await self._must_not_need_proof(
            name, "clearing a mark", "sign with --key FILE, or go through the war room: --server URL"
        )
        await effects.clear(self.store, domain, name, reason, now_ms)

    async def _must_lead(self) -> None:
        """Ensure a leader for operations that need one: that of an embedded store ends when it has nothing
        left to do.
        """
        from evac.app import applying

        await applying.go_on(self.store, self._url, self._log, asked=True)

    async def hold(self, who: str, reason: str) -> port.Held:
        standing = await runs.held(self.store)
        if standing is not None:
            return port.Held(standing.who, standing.reason, True)
        name = await self.name(who)
        await runs.hold(self.store, name, reason, self._clock.now_ms())
        return port.Held(name, reason, False)

    async def release(self, who: str, reason: str, key: Path | None = None) -> bool:
        name, why = await self.name(who), reason or port.RELEASED
        if key is not None and await runs.held(self.store) is not None:
            await self._must_lead()
        return await runs.release(self.store, name, why, self._clock.now_ms(), key)

    async def status(self) -> StatusDocument:
        return await status_summary.status(self.store)

    async def what_if(self, domains: Sequence[str], estate: Path | None) -> port.Document:
        return await status_summary.what_if(self.store, domains, _estate(estate))

    async def incidents(self, form: PaperForm) -> str | Sheet:
        from evac.app import incidents

        found = await incidents.all_of(self.store, self._clock.now_ms())
        return incidents.list_paper(found, form)

    async def paper(self, name: str, kind: PaperKind, form: PaperForm) -> str | Sheet:
        from evac.app import incidents
        from evac.incident.incident import summary

        now_ms = self._clock.now_ms()
        found = await incidents.dossier(self.store, name, now_ms)
        return incidents.paper(found, summary(found), kind, form, now_ms)

    async def _must_not_need_proof(
        self, who: str, what: str, ways: str = "go through the war room: --server URL"
    ) -> None:
        """Raise NotAllowed if the last leader accepts no typed names."""
        if await proof_needed(self.store):
            raise NotAllowed(
                "unproven",
                f"{who[:80]} is a typed name; {what} needs a verified identity",
                ways,
            )

    async def note(self, note: Note, new: bool) -> str:
        from evac.app import incidents

        if note.kind in ("resolved", "reopened"):
            await self._must_not_need_proof(await self.name(note.who), f"an incident that is {note.kind}")
        now_ms = self._clock.now_ms()
        made = replace(note, id=runs.new_id(now_ms), who=await self.name(note.who), at_ms=now_ms)
        return await incidents.add_note(self.store, made, new)

    async def status_page(self, about: port.StatusAbout) -> port.StatusFiles:
        from evac import estate as estates
        from evac.app import incidents
        from evac.incident.components import languages_of, public_names
        from evac.views.status_page import status_files

        loaded = estates.load(_estate(about.estate))
        title, names = about.title or loaded.name, public_names(loaded)
        page = await incidents.public_status(self.store, title, names, self._clock.now_ms())
        files = status_files(page, about.url, languages_of(about.languages))
        return port.StatusFiles(files, page.overall, len(page.components))


def _estate(path: Path | None) -> Path:
    """The estate's path. Raises InvalidInput if missing: without a war room the estate is read here."""
    if path is None:
        raise InvalidInput("estate-missing", "no estate was given", "give ESTATE, or use --server")
    return path


@contextlib.asynccontextmanager
async def through_store(url: str, log: Path) -> AsyncIterator[StoreControl]:
    control = StoreControl(url, log)
    try:
        yield control
    finally:
        await control.close()
