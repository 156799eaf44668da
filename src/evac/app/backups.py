"""Use cases of backups: the matrix, the data of tools, jobs that a person requests, and the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from evac.backup.evidence import Evidence
from evac.backup.jobs import PLACE, Worker
from evac.backup.known import Job, Known, NotMade
from evac.backup.schedule import Entry, entries_of, entry_for
from evac.backup.scheduler import AT_ONCE, Say, Scheduler
from evac.derive.backups import verdicts
from evac.derive.domains import topology
from evac.drivers.registry import Drivers
from evac.engine.clock import Clock, SystemClock
from evac.engine.runs.dry_run import Kept, read_kept
from evac.engine.stores.guards import read_hold
from evac.model.backup import BackupEvent, BackupFacts, CredentialsChange, DataVerdict
from evac.model.errors import InvalidInput, LockHeld, NotAllowed, Permanent
from evac.model.estate import Backup, DataSet, Estate
from evac.model.estate import Store as Data
from evac.model.restore_times import measured_restores
from evac.model.run_policy import RunPolicy
from evac.model.units import moment_words
from evac.store.opening import open_store
from evac.store.port import Store
from evac.views.backup_view import BackupsDocument, ToolRow, backups_document
from evac.views.words import duration, plural

SCRATCH: Final = "EVAC_RESTORE_TESTS"
RESTORING: Final[tuple[Job, ...]] = ("restore-test", "restore")
SHOWN_EVERY_S: Final = 0.5
MOST_SHOWN: Final = 0.99
"""A forecast is never complete: the job itself says when it is."""


def matrix(estate: Estate, facts: BackupFacts, now_ms: int) -> BackupsDocument:
    """For every data set, what its policy requires and what is proven."""
    return backups_document(estate.name, verdicts(topology(estate), facts, now_ms), facts, now_ms)


def tools(estate: Estate, facts: BackupFacts, now_ms: int) -> list[ToolRow]:
    """What the services needed for recovery depend on, and the value of its backups: none if the audit finds
    that something a restore needs is lost together with the data.
    """
    from evac.audit import audit

    found = {one.data_set: one for one in verdicts(topology(estate), facts, now_ms)}
    findings = audit(estate, backups=facts, at_ms=now_ms).findings
    errors = [one for one in findings if one.severity == "error"]
    lost = {one.subject: one.message for one in errors if any("backup_policy" in at for at in one.paths)}
    rows = []
    for role in sorted(estate.tools):
        for service in sorted({name for group in estate.tool_groups((role,)) for name in group}):
            names = _data_of(estate, service)
            rows += [
                ToolRow(role, service, name, "missed", lost[name])
                if name in lost
                else _tool_row(role, service, found[name])
                for name in names
            ]
            if not names:
                words = "the estate lists no data for it: add it under data_sets, with used_by"
                rows.append(ToolRow(role, service, "", "unknown", words))
    return rows


def _data_of(estate: Estate, service: str) -> list[str]:
    """Stores and data sets that a service hard-needs, directly or through other services."""
    needs = {one.id: one.needs for one in estate.services}
    reached, work, families = {service}, [service], set()
    while work:
        for need in needs.get(work.pop(), ()):
            if not need.hard:
                continue
            if need.kind == "store":
                families.add(need.target)
            else:
                work += [name for name in need.targets if name not in reached]
                reached.update(need.targets)
    stores = [store.id for store in estate.stores if store.family in families]
    return stores + [data.id for data in estate.data_sets if reached & {*data.used_by}]


def _tool_row(role: str, service: str, verdict: DataVerdict) -> ToolRow:
    if verdict.state == "waived":
        words = verdict.policy.waived or ""
    elif not verdict.copies:
        words = "no backup"
    elif verdict.digits:
        missed: list[str] = [one.name for one in verdict.digits if one.state != "met"]
        rest = (("rpo", verdict.rpo), ("retention", verdict.retention), ("credentials", verdict.renewed))
        missed += [name for name, state in rest if state not in (None, "met")]
        words = f"not met: {', '.join(missed)}" if missed else plural(len(verdict.copies), "proven backup")
    else:
        words = "no policy"
    return ToolRow(role, service, verdict.data_set, verdict.state, words)


async def kept_facts(store: Store) -> Kept:
    """What a dry run needs of a store. Raises Corrupt, Unavailable."""
    return replace(await read_kept(store), lacks=await Evidence(store).lacks())


def scratch_folder() -> Path:
    """Folder for restore tests: `EVAC_RESTORE_TESTS`, else a folder of this user."""
    named = os.environ.get(SCRATCH)
    if named:
        return Path(named).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "evac" / "restore-tests"


async def blocked(store: Store, policy: RunPolicy, sites: frozenset[str], now_ms: int) -> tuple[str, str]:
    """Why no backup may start at these sites now: a hold, an open run, maintenance. Raises Unavailable."""
    from evac.engine.runs.open_runs import OPEN  # imported late: read-only commands do not need the engine

    hold = await read_hold(store)
    if hold is not None:
        return "hold", f"{hold['who']} put everything on hold"
    runs = await store.list(OPEN, limit=1)
    if runs:
        return "incident", f"run {runs[0].key.removeprefix(OPEN)} is open"
    for window in policy.windows:
        if window.begin_ms <= now_ms < window.end_ms and (not window.sites or sites & set(window.sites)):
            return "maintenance", window.reason or "maintenance of these sites"
    return "", ""


def scheduler_of(
    estate: Callable[[], Estate],
    policy: Callable[[], RunPolicy],
    store: Store,
    drivers: Drivers,
    clock: Clock,
    owner: str,
    say: Say,
) -> Scheduler:
    """The scheduler of a controller. estate: as its files currently declare it."""
    evidence = Evidence(store)
    made: dict[str, Any] = {"of": None, "table": ()}

    def timetable() -> Sequence[Entry]:
        if made["of"] is not (now := estate()):
            made.update(of=now, table=entries_of(now))
        table: Sequence[Entry] = made["table"]
        return table

    def nothing_stands_against(sites: frozenset[str]) -> Awaitable[tuple[str, str]]:
        return blocked(store, policy(), sites, clock.now_ms())

    worker = Worker(store, evidence, drivers, clock, scratch_folder(), owner)
    return Scheduler(timetable, worker, evidence, clock, nothing_stands_against, say, at_once(estate()))


def scheduled(estate: Estate) -> list[str]:
    """Data sets of which the timetable takes backups, or checks them."""
    return list(dict.fromkeys(entry.data_set for entry in entries_of(estate) if entry.cron))


def at_once(estate: Estate) -> int:
    """Maximum number of concurrent jobs."""
    return estate.limits.backups_at_once or AT_ONCE


async def perform(
    url: str,
    estate: Estate,
    policy: RunPolicy,
    job: Job,
    data_set: str,
    copy: str,
    who: str,
    anyway: bool,
    tell: Callable[[str], None],
    kept: Mapping[str, Any] = MappingProxyType({}),
    shows: Callable[[float, str], None] = lambda share, words: None,
) -> list[BackupEvent]:
    """Run a job on each backup of a data set, or on one of them, here and now.

    kept: for a restore into a person's folder, the settings that `Task` has for it; it uses one backup and
    runs whatever else is running. shows: is called with the expected share while a restore runs whose last
    test was measured. A backup that another process works on does not stop the jobs on the
    others. Raises InvalidInput for things the estate does not have, NotAllowed while something forbids it,
    LockHeld if that prevents every job, Unavailable.
    """
    entries = _asked(estate, job, data_set, copy)
    store, drivers, clock = open_store(url), Drivers(), SystemClock()
    try:
        sites = frozenset(entry.endpoint.at for entry in entries)
        why = ("", "") if anyway or kept else await blocked(store, policy, sites, clock.now_ms())
        if why[0]:
            raise NotAllowed(why[0], f"nothing was started: {why[1]}", "wait for it to end, or use --anyway")
        evidence = Evidence(store)
        if kept:
            entries = [_best(estate, await evidence.facts(), clock.now_ms(), entries)]
        worker = Worker(store, evidence, drivers, clock, scratch_folder(), f"{who}/{os.getpid()}")
        restores = measured_restores(await evidence.facts()) if job in RESTORING else ()
        measured = {(one, name): takes_ms for one, name, takes_ms in restores}
        held: LockHeld | None = None
        events: list[BackupEvent] = []
        busy: dict[str, NotMade] = {}
        for entry in entries:
            known = await evidence.known(entry.data_set)
            takes_ms = measured.get((entry.data_set, entry.copy))
            tell(f"{entry.job} of {entry.data_set} at {entry.copy}{_forecast(entry, takes_ms)}")
            task = replace(entry.task(clock.now_ms(), known, who), **kept)
            if not_made := [busy[name] for name in entry.origins if name in busy]:
                task = replace(task, not_made=not_made[-1])
            try:
                if task.job == "prove" and known.seen(entry.copy) is None:
                    await worker.do(replace(task, job="list"))  # a small repository is read as a whole
                    task = entry.task(clock.now_ms(), await evidence.known(entry.data_set), who)
                async with _shown(shows, entry.copy, takes_ms):
                    events += await worker.events_of(task)
            except LockHeld as error:
                held, busy[entry.copy] = error, NotMade(entry.copy, clock.now_ms(), busy=True)
                events.append(worker.not_started(task, error))
        if held is not None and all(event.code == held.code for event in events):
            raise held
        return events
    finally:
        await drivers.close()
        await store.close()


def _forecast(entry: Entry, takes_ms: int | None) -> str:
    if entry.job not in RESTORING:
        return ""
    if takes_ms is None:
        return ": no test has measured yet how long it takes"
    return f": about {duration(takes_ms)}, by its last test and its growth since"


@asynccontextmanager
async def _shown(
    shows: Callable[[float, str], None], words: str, takes_ms: int | None
) -> AsyncIterator[None]:
    """Show the expected share of something that takes so long; never that it is complete."""

    async def show() -> None:
        began_s = time.monotonic()
        while takes_ms is not None:
            passed_ms = (time.monotonic() - began_s) * 1_000
            late = ", longer than expected" if passed_ms > takes_ms else ""
            shows(min(MOST_SHOWN, passed_ms / takes_ms), f"{words}{late}")
            await asyncio.sleep(SHOWN_EVERY_S)

    showing = asyncio.create_task(show(), name=f"progress of {words}")
    try:
        yield
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


async def record_credentials(
    url: str, estate: Estate, data_set: str, copy: str, who: str, changed_at_ms: int | None
) -> list[BackupEvent]:
    """Record when the credentials of the repositories of a data set, or of one of them, were changed.
    changed_at_ms: None withdraws the record that was added last, so that those before it count again. Raises
    InvalidInput for what the estate does not have, a time in the future or nothing to withdraw, Unavailable,
    Corrupt.
    """
    every: tuple[Data | DataSet, ...] = (*estate.stores, *estate.data_sets)
    data = next((one for one in every if one.id == data_set), None)
    backups = {one.name: one for one in data.backups if copy in ("", one.name)} if data else {}
    names = sorted(backups)
    if data is None or not names:
        what = f"no backup {copy} of {data_set}" if data is not None and copy else f"no backup of {data_set}"
        raise InvalidInput("data-set-unknown", f"the estate has {what}", "evac backup status ESTATE")
    now_ms = SystemClock().now_ms()
    if changed_at_ms is not None and changed_at_ms > now_ms:
        raise InvalidInput("moment-wrong", "--at is in the future", "check the time zone")
    store = open_store(url)
    try:
        if changed_at_ms is None:
            found = _recorded_last(await Evidence(store).known(data_set), backups)
            said = {one.copy: f"withdrawn: {_changed_words(one.at_ms)}" for one in found}
        else:
            said = dict.fromkeys(names, _changed_words(changed_at_ms))
        events = [
            BackupEvent(
                "credentials-changed", now_ms, data_set, name, who, detail=words, changed_at_ms=changed_at_ms
            )
            for name, words in sorted(said.items())
        ]
        for event in events:
            await Evidence(store).add(event)
        return events
    finally:
        await store.close()


def _changed_words(at_ms: int) -> str:
    return f"changed at {moment_words(at_ms // 1_000)}"


def _recorded_last(known: Known, backups: Mapping[str, Backup]) -> list[CredentialsChange]:
    """Of these backups, the record of a change that was added last, one for each. Raises InvalidInput."""
    recorded = [one for one in known.credentials if one.copy in backups]
    if not recorded:
        where = f" of {next(iter(backups))}" if len(backups) == 1 else ""
        words = f"no change of credentials{where} is recorded for {known.data_set}"
        hint = f"evac backup history {known.data_set}"
        if stated := sorted(name for name, one in backups.items() if one.credentials_changed is not None):
            words += f"; the estate states one of {', '.join(stated)}"
            hint = "to withdraw that, remove credentials_changed from the estate"
        raise InvalidInput("nothing-recorded", words, hint)
    last_ms = max(one.recorded_ms for one in recorded)
    return [one for one in recorded if one.recorded_ms == last_ms]


def _best(estate: Estate, facts: BackupFacts, now_ms: int, entries: Sequence[Entry]) -> Entry:
    """The backup with the best proof, the newest of several; a backup given by name is used as it is. Raises
    `Permanent` if none can be used.
    """
    if len(entries) == 1:
        return entries[0]
    if not (able := _by_worth(estate, facts, now_ms, entries)):
        words = f"every backup of {entries[0].data_set} is lost, damaged or empty"
        raise Permanent("backup-unusable", words, "choose one anyway: --copy NAME")
    return able[0]


def _by_worth(estate: Estate, facts: BackupFacts, now_ms: int, entries: Sequence[Entry]) -> list[Entry]:
    """Those of these backups of a data set that can be used, as far as known, the best one first."""
    if not entries:
        return []
    found = {one.data_set: one for one in verdicts(topology(estate), facts, now_ms)}[entries[0].data_set]
    usable = {one.name: one for one in found.copies if one.usable is not False}

    def worth(entry: Entry) -> tuple[int, float, str]:
        state = usable[entry.copy]
        age_ms = float("inf") if state.age_ms is None else state.age_ms
        return -1 if state.level is None else state.level, -age_ms, entry.copy

    return sorted((entry for entry in entries if entry.copy in usable), key=worth, reverse=True)


def instead_of(estate: Estate, facts: BackupFacts, now_ms: int, failed: BackupEvent) -> str:
    """What to restore, or where, after a restore that failed: the best other backup that can be used, of
    another site if there is one, because this site may be gone.
    """
    if failed.code in PLACE:
        return "restore into another folder: --into FOLDER"
    entries = _asked(estate, "restore", failed.data_set, "")
    sites = {entry.endpoint.at for entry in entries if entry.copy == failed.copy}
    able = _by_worth(estate, facts, now_ms, [entry for entry in entries if entry.copy != failed.copy])
    best = next((entry for entry in able if entry.endpoint.at not in sites), able[0] if able else None)
    return "" if best is None else f"restore another backup: --copy {best.copy}"


def _asked(estate: Estate, job: Job, data_set: str, copy: str) -> list[Entry]:
    every = [(one.id, one.backups) for one in estate.stores]
    every += [(one.id, one.backups) for one in estate.data_sets]
    backups = next((backups for name, backups in every if name == data_set), None)
    if backups is None:
        has = ", ".join(name for name, found in every if found) or "none have a backup"
        raise InvalidInput("data-set-unknown", f"the estate has no data set {data_set}", f"it has: {has}")
    names = [backup.name for backup in backups if copy in ("", backup.name)]
    entries = []
    for name in names:
        wanted: Job = job
        origin = next(backup.copied_from for backup in backups if backup.name == name)
        if job == "take" and origin is not None:
            wanted = "copy"
        entry = entry_for(estate, data_set, name, wanted)
        if entry is not None:
            entries.append(entry)
    if not entries:
        known = ", ".join(backup.name for backup in backups if backup.endpoint) or "none have an endpoint"
        raise InvalidInput(
            "backup-not-driven",
            f"no backup {copy + ' ' if copy else ''}of {data_set} can do that",
            f"backups with an endpoint: {known}",
        )
    return sorted(entries, key=lambda entry: entry.after)
