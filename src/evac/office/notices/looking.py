"""Finds what people may need to be alerted to in what the leader, the runs and the audit recorded.

Everything is read from the store, so it does not depend on the controller that it runs alongside. What could
not be read is left out and changes nothing. Whatever depends on the estate (its errors, where its tools run,
what its stores promise) is computed in a separate process, because an audit uses a whole core for seconds;
only small results are passed back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import orjson

from evac.app.estates.copies import edition_of
from evac.app.incidents import EXPORTED, NOTED, published
from evac.app.published import KEY as OBSERVED
from evac.app.published import Published, digest_in
from evac.app.side_process import Apart
from evac.backup.evidence import NO_BACKUPS, BackupsReader, BackupsSeen
from evac.derive.objectives import rpos
from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import REPAIR
from evac.engine.lead.watch_journal import STREAM as WATCH
from evac.engine.lead.watch_journal import decode as decode_record
from evac.engine.plans import library
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import SITES_KEY, marks_in
from evac.engine.stores.sightings import read_sightings
from evac.model.errors import Corrupt, EvacError, InvalidInput, Unavailable
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.notices import rule
from evac.notices.rule import Drawn, Lag
from evac.notices.values import Concern, Kind, Known, News, State
from evac.office.runs import OPEN_MOST, Register
from evac.office.values import Hub
from evac.store.journal import last_of, records_after
from evac.store.port import Entry, Store, all_entries
from evac.views.situation_view import rivals_hint, rivals_words, silent_hint, silent_words
from evac.views.wait_words import words_of

ERRORS_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class AlertFacts:
    """What alerts need to know about the estate."""

    errors: tuple[tuple[str, str, str, str], ...]
    """(fingerprint, code, message, fix) of each audit finding that triggers an alert."""
    tools: Mapping[str, tuple[str, ...]]
    """Service -> sites where it has replicas."""
    rpos: Mapping[str, int]
    """Store -> RPO in milliseconds, if it has one."""


class NoticeReckoner:
    """One worker process. `apart`: False computes in this process, for tests."""

    def __init__(self, path: Path, as_of: date | None = None, *, apart: bool = True) -> None:
        self._where = (str(path), as_of)
        self._apart = Apart() if apart else None

    async def reckon(self, observation: Observation, backups: BackupsSeen = NO_BACKUPS) -> AlertFacts:
        """Raises InvalidInput with the message of the code that found the problem, and Unavailable."""
        path, as_of = edition_of(self._where[0]), self._where[1]
        if self._apart is None:
            found = _reckon(path, as_of, observation, backups)
        else:
            try:
                found = await self._apart.ask(_reckon, path, as_of, observation, backups)
            except BrokenProcessPool as error:
                raise Unavailable("the what-if process ended; it is being restarted") from error
        if isinstance(found, tuple):
            raise InvalidInput(*found)
        return found

    def close(self) -> None:
        if self._apart is not None:
            self._apart.close()


_worked_out: dict[tuple[str, date | None], Any] = {}
"""Runs in the worker: the estate as in its files, and the last audit."""


def _reckon(
    path: str, as_of: date | None, observation: Observation, backups: BackupsSeen
) -> AlertFacts | tuple[str, str, str]:
    from evac import estate as estates
    from evac.audit import audit
    from evac.derive import situation
    from evac.model.digest import estate_digest

    key = (path, as_of)
    try:
        files, report, known = _worked_out.get(key) or (estates.load(path, as_of), None, backups)
        seen = situation.of(files, observation).estate
        digest = estate_digest(seen)
        if report is None or report.digest != digest or known != backups:
            report = audit(seen, digest=digest, backups=backups.facts, at_ms=backups.at_ms)
        _worked_out.clear()
        _worked_out[key] = (files, report, backups)
        return reckoned(report, backups.at_ms is not None)
    except EvacError as error:
        return error.code, error.message, error.hint


def reckoned(report: Any, watches_backups: bool = False) -> AlertFacts:
    """What alerts need from an audit."""
    impacts = report.impacts
    estate, index, per_site = impacts.estate, impacts.graph.index, impacts.presence.per_site
    from evac.audit.rules import RULES

    alerted = {rule.code for rule in RULES if rule.alerts and watches_backups}
    grave = (one for one in report.findings if one.severity == "error" or one.code in alerted)
    errors = [(one.fingerprint, one.code, one.message, one.fix) for one in grave]
    tools = {
        " or ".join(group): tuple(
            site.id
            for n, site in enumerate(estate.sites)
            if any(per_site[n, index[name]] > 0 for name in group)
        )
        for group in estate.tool_groups(estate.tools)
    }
    limits = zip(estate.stores, rpos(impacts.top, "site"), strict=True)
    allowed = {store.id: rpo.limit_ms for store, rpo in limits if rpo.limit_ms is not None}
    return AlertFacts(tuple(errors[:ERRORS_MOST]), {k: v for k, v in tools.items() if v}, allowed)


BACK: Final = 2_000
"""Watch records that the first look goes back to find verdicts that still hold."""
RECORDS_MOST: Final = 5_000
PLANS_AT_ONCE: Final = 4
"""Plans whose cost is read per look; the rest follow in the next ones."""
PLANS_MS: Final = 10_000
"""How often the plan library is read: it may have thousands of entries."""
COSTS_KEPT: Final = 10_000
AGAIN_S: Final = 5.0
_ACTIVE: Final = "active"
_BEYOND: Final = "run/beyond/unread"
Looked = TypeVar("Looked")


class AlertReckoner(Protocol):
    """Computes what alerts need from the estate. Raises EvacError."""

    async def reckon(self, observation: Observation, backups: BackupsSeen = NO_BACKUPS) -> AlertFacts: ...

    def close(self) -> None: ...


class Looker:
    """One per process. `run` follows the estate; `look` returns what is known now. `edition`: name of the
    estate files in use.
    """

    def __init__(
        self, store: Store, reckoner: AlertReckoner, clock: Clock, edition: Callable[[], str] = lambda: ""
    ) -> None:
        self._edition = edition
        self._store, self._reckoner, self._clock = store, reckoner, clock
        self._register = Register(store, Hub(), lambda: None)
        self._observation: Observation | None = None
        self._situations = Published(store)
        self._backups = BackupsReader(store, clock)
        self._reckoned_of: tuple[Observation, str, BackupsSeen] | None = None
        self.reckoned: AlertFacts | None = None
        self._costs: OrderedDict[str, int] = OrderedDict()
        self._ready: list[library.Ready] = []
        self._ready_ms: int | None = None
        self._noted: tuple[int, Mapping[str, int]] | None = None

    async def run(self) -> None:
        """Audits again whenever roles of stores, the estate, or facts about backups change, until cancelled.
        Retries after errors.
        """
        while True:
            await self.reckon()
            await asyncio.sleep(AGAIN_S)

    async def reckon(self) -> None:
        wanted, edition = self._observation or Observation(0), self._edition()
        known, backups = self._reckoned_of, await self._backups.read()
        if known is not None and known[0].facts == wanted.facts and known[1:] == (edition, backups):
            return
        with contextlib.suppress(EvacError):
            self.reckoned = await self._reckoner.reckon(wanted, backups)
            self._reckoned_of = wanted, edition, backups

    async def look(self, state: State) -> tuple[State, Known]:
        """What is known now, and the state including what was read. Raises Unavailable."""
        state, news = await self._watched(state)
        seen = await self._store.get(OBSERVED)
        if seen is not None:
            with contextlib.suppress(Corrupt):
                self._observation = await self._situations.read(seen.value)
        references, plans = rule.of_plans(state.references, await self._drawn(seen))
        known = self._observation or Observation(0)
        lost = () if known.effects is None else known.effects.lost
        told = [(one.store, rivals_words(one), rivals_hint(one, lost)) for one in known.rivals]
        mute = [(one.store, silent_words(one), silent_hint(one)) for one in known.silent]
        sites = (*rule.of_sites(state.verdicts), *rule.of_rivals(told), *rule.of_silent(mute))
        holds: dict[Kind, tuple[Concern, ...]] = {"site": sites, "plan": plans}
        parts: dict[Kind, Callable[[], Awaitable[tuple[Concern, ...] | None]]] = {
            "finding": self._findings,
            "tool": lambda: self._tools(state),
            "lag": self._lags,
            "run": lambda: self._runs(state),
            "status-page": self._exports,
        }
        for kind, part in parts.items():
            found = await _looked(part)
            if found is not None:
                holds[kind] = found
        state, updates = await self._published(state)
        return replace(state, references=references), Known(holds, (*news, *updates))

    async def _published(self, state: State) -> tuple[State, tuple[News, ...]]:
        """New updates for users. Notes are read again whenever someone wrote one, and if the state is not
        that of the last look.
        """
        entry = await self._store.get(NOTED)
        revision = 0 if entry is None else entry.revision
        if self._noted is not None and self._noted[0] == revision and self._noted[1] is state.published:
            return state, ()
        known, news = rule.of_updates(state.published, await published(self._store), self._clock.now_ms())
        self._noted = revision, known
        return replace(state, published=known), news

    async def _watched(self, state: State) -> tuple[State, list[News]]:
        """What is new in the watch journal, even if its chain is broken: alerts prove nothing, and must
        arrive.

        Of records before the first look only verdicts count. The same applies if the journal now ends before
        the last record read: someone deleted its end, and which records are new is unknown.
        """
        end = await last_of(self._store, WATCH)
        records = end.records if end else 0
        first, begin = not 0 <= state.watched <= records, state.watched
        verdicts, news = dict(state.verdicts), list[News]()
        if first:
            begin = max(0, records - BACK)
            if state.watched > records:
                words = (
                    f"someone truncated the journal watch: it ends at record {records}, not {state.watched}"
                )
                news.append(News("trouble", "error", words, REPAIR))
        async for number, record in records_after(self._store, WATCH, begin, RECORDS_MOST, proven=False):
            begin = number
            with contextlib.suppress(Corrupt):
                one = decode_record(record)
                if one.kind == "verdict":
                    _judge(verdicts, one.site, one.data)
                found = None if first else rule.of_watching(one.kind, one.words, one.data)
                news += [found] if found is not None else []
        return replace(state, watched=max(0, begin), verdicts=verdicts), news

    async def _findings(self) -> tuple[Concern, ...] | None:
        return None if self.reckoned is None else rule.of_findings(self.reckoned.errors)

    async def _tools(self, state: State) -> tuple[Concern, ...] | None:
        """Without sites that cannot be relied on: lost by the verdict, or evacuated."""
        if self.reckoned is None:
            return None
        gone = {site for site, (verdict, _) in state.verdicts.items() if verdict == "lost"}
        entry = await self._store.get(SITES_KEY)
        marks = {} if entry is None else marks_in(entry.value) or {}
        gone |= {site for site, mark in marks.items() if mark != _ACTIVE}
        return rule.of_tools(self.reckoned.tools, gone)

    async def _lags(self) -> tuple[Concern, ...] | None:
        """How far each copy was behind when the leader last recorded it; by the leader's clock alone. One
        that confirms every commit has all that was acknowledged: a look may meet it before the newest write.
        """
        if self.reckoned is None:
            return None
        found, rpos = [], self.reckoned.rpos
        members = () if self._observation is None else self._observation.members
        confirms = {(member.store, member.site) for member in members if member.role == "sync"}
        for name, sighting in (await read_sightings(self._store)).items():
            for copy in sighting.copies:
                if name in rpos and copy.holds_ms and (name, copy.site) not in confirms:
                    found.append(Lag(name, copy.site, max(0, sighting.at_ms - copy.holds_ms), rpos[name]))
        return rule.of_lags(found)

    async def _drawn(self, seen: Entry | None) -> list[Drawn]:
        estate = ""
        if seen is not None:
            with contextlib.suppress(Corrupt):
                estate = digest_in(seen.value)
        now_ms = self._clock.monotonic_ms()
        if self._ready_ms is None or now_ms - self._ready_ms >= PLANS_MS:
            rows = [library.decode(entry) for entry in await all_entries(self._store, library.PREFIX)]
            self._ready, self._ready_ms = [one for one in rows if one is not None], now_ms
        ready = self._ready
        # A plan for which a better one is still looked for says nothing of how good plans are.
        unread = [one.plan for one in ready if one.plan and one.searched and one.plan not in self._costs]
        for digest in unread[:PLANS_AT_ONCE]:
            await self._read_cost(digest)
        return [
            Drawn(
                "+".join(one.lost),
                self._costs.get(one.plan) if one.searched else None,
                "" if one.plan else one.problem,
                not estate or one.estate == estate,
            )
            for one in ready
        ]

    async def _read_cost(self, digest: str) -> None:
        """Weighted outage of a plan; an incomplete plan has none, and is read again."""
        try:
            data = await library.get_plan(self._store, digest)
            self._costs[digest] = await asyncio.to_thread(lambda: int(orjson.loads(data)["objective"]))
        except (Corrupt, ValueError, KeyError, TypeError):
            return
        while len(self._costs) > COSTS_KEPT:
            self._costs.popitem(last=False)

    async def _runs(self, state: State) -> tuple[Concern, ...]:
        """What waits for a person. If an open run was not read, what was known about it still holds; a run
        that cannot be read is a concern itself.
        """
        await self._register.look()
        open_runs = {entry.key.removeprefix(OPEN) for entry in await all_entries(self._store, OPEN)}
        waits = {run: wants for run, wants in self._register.waits.items() if run in open_runs}
        problems = {run: why for run, why in self._register.problems.items() if run in open_runs}
        unread = open_runs - waits.keys()
        beyond = sum(1 for run in unread if not self._register.follows(run))
        kept = _kept(state, unread)
        told = {run: [(wait.key, words_of(wait)) for wait in wants] for run, wants in waits.items()}
        return *rule.of_runs(told), *kept, *_unread(problems, beyond)

    async def _exports(self) -> tuple[Concern, ...]:
        found = []
        for entry in await all_entries(self._store, EXPORTED):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told = orjson.loads(entry.value)
                site = entry.key.removeprefix(EXPORTED)
                found.append((site, int(told["since_ms"]), str(told["problem"])))
        return rule.of_pages(found, self._clock.now_ms())

    async def close(self) -> None:
        self._reckoner.close()
        await self._register.close()


async def _looked(part: Callable[[], Awaitable[Looked]]) -> Looked | None:
    """The result of one part of a look; None if that part could not be read. Raises Unavailable."""
    try:
        return await part()
    except Unavailable:
        raise
    except EvacError:
        return None


def _kept(state: State, runs: set[str]) -> list[Concern]:
    """Concerns about these runs from the last look, except that they cannot be read."""
    return [
        held.concern
        for key, held in sorted(state.memory.open.items())
        if held.concern.kind == "run"
        and held.gone_ms is None
        and held.concern.run in runs
        and key != _unread_key(held.concern.run)
    ]


def _unread_key(run: str) -> str:
    return f"run/{run}/unread"


def _unread(problems: Mapping[str, str], beyond: int) -> list[Concern]:
    """Open runs that trigger no alerts: run -> why its journal cannot be read, and how many exceed the
    limit.
    """
    found = [
        Concern(
            _unread_key(run),
            "run",
            "error",
            rule.short(f"{run}: its journal cannot be read, so no alerts are sent for it: {why}"),
            f"evac run verify {run}",
            rule.WAITS_MS,
            run,
        )
        for run, why in sorted(problems.items())
    ]
    if beyond:
        words = f"{beyond} open runs are not watched: at most {OPEN_MOST} are"
        found.append(Concern(_BEYOND, "run", "error", words, "evac run list", rule.WAITS_MS))
    return found


def _judge(verdicts: dict[str, tuple[str, str]], site: str, verdict: Mapping[str, Any]) -> None:
    """A site whose state is unknown keeps its last known state."""
    state = str(verdict.get("state", ""))
    if state not in ("", "unknown"):
        verdicts[site] = (state, str(verdict.get("reason", "")))
