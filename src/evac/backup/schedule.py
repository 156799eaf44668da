"""The timetable of backups: cron expressions of the estate, and the next moment of each.

Pure: the current time is a parameter. Expressions are in UTC, so that no hour repeats or is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from cronsim import CronSim

from evac.backup.jobs import SMALL_BYTES, Task
from evac.backup.known import MAKING, Job, Known
from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.registry import can
from evac.model.backup import COMPARED, READ
from evac.model.backup_policy import BackupPolicy
from evac.model.estate import Backup, DataSet, Endpoint, Estate, Store
from evac.model.records import dataclass

LIST_EVERY_MS: Final = 3_600_000
"""Repositories are listed once an hour, each copy at a minute of its own."""
RANK: Final[Mapping[Job, int]] = {"take": 0, "copy": 1, "restore-test": 2, "prove": 3, "list": 4}
"""Priority among jobs due at the same moment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timetable."""

    data_set: str
    copy: str
    job: Job
    endpoint: Endpoint
    cron: str = ""
    """Empty for listings, which have no expression of their own."""
    origin: Endpoint | None = None
    origins: tuple[str, ...] = ()
    """For a copy: the copies that it is made from, the nearest first."""
    parts: int = 1
    rpo_ms: int | None = None
    rto_ms: int | None = None
    compare: bool = False
    request: Endpoint | None = None
    """Where a request is sent to what a test restored."""

    @property
    def after(self) -> int:
        """The number of copies that must be made before this one."""
        return len(self.origins) if self.job in MAKING else 0

    @property
    def offset_ms(self) -> int:
        """For listings: spreads them over the hour, equally in every controller."""
        return sum(f"{self.data_set}/{self.copy}".encode()) * 7_919_000 % LIST_EVERY_MS

    def next_after(self, moment_ms: int) -> int:
        """The first moment of this line after a given one."""
        if not self.cron:
            return (
                (moment_ms - self.offset_ms) // LIST_EVERY_MS * LIST_EVERY_MS + LIST_EVERY_MS + self.offset_ms
            )
        return _ms(next(CronSim(self.cron, _minute(moment_ms))))

    def last_before(self, moment_ms: int) -> int:
        """The last moment of this line up to a given one."""
        if not self.cron:
            return self.next_after(moment_ms) - LIST_EVERY_MS
        return _ms(next(CronSim(self.cron, _minute(moment_ms + 60_000), reverse=True)))

    def moments_between(self, after_ms: int, until_ms: int, most: int = 100) -> int:
        """Number of moments after one and up to another, counted up to a maximum."""
        count, at = 0, after_ms
        while count < most and (at := self.next_after(at)) <= until_ms:
            count += 1
        return count

    def task(self, due_ms: int, known: Known, who: str = "") -> Task:
        """The job to do now. A partial check continues with the part after the last one read."""
        part, of = 1, 1
        if self.job == "prove":
            seen, last = known.seen(self.copy), known.run(self.copy, "prove")
            small = seen is not None and seen.bytes is not None and seen.bytes <= SMALL_BYTES
            empty = any(one.copy == self.copy and one.code == "nothing-read" for one in known.proofs)
            of = 1 if small or empty else self.parts
            part = 1 if last is None or of == 1 else last.part % of + 1
        return Task(
            self.job,
            self.data_set,
            self.copy,
            self.endpoint,
            due_ms,
            self.origin,
            part,
            of,
            READ,
            self.rpo_ms,
            self.rto_ms,
            compare=self.compare,
            who=who,
            not_made=known.failed(self.origins),
            request=self.request,
        )


def entries_of(estate: Estate) -> tuple[Entry, ...]:
    """The timetable: every line of every backup that has an endpoint and whose policy is not waived."""
    endpoints = {endpoint.id: endpoint for endpoint in estate.endpoints}
    rto_ms = _strictest(estate)
    every: tuple[Store | DataSet, ...] = (*estate.stores, *estate.data_sets)
    return tuple(
        entry
        for data in every
        for backup in data.backups
        if backup.endpoint in endpoints and (data.backup_policy is None or data.backup_policy.waived is None)
        for entry in _lines(data, backup, endpoints, rto_ms.get(data.id))
    )


def entry_for(estate: Estate, data_set: str, copy: str, job: Job) -> Entry | None:
    """A job that a person may request for a backup, scheduled or not; None if it cannot be done."""
    endpoints = {endpoint.id: endpoint for endpoint in estate.endpoints}
    every: tuple[Store | DataSet, ...] = (*estate.stores, *estate.data_sets)
    for data in every:
        for backup in data.backups:
            if (data.id, backup.name) == (data_set, copy) and backup.endpoint in endpoints:
                return _line(data, backup, endpoints, job, "", _strictest(estate).get(data_set))
    return None


def _lines(
    data: Store | DataSet, backup: Backup, endpoints: Mapping[str, Endpoint], rto_ms: int | None
) -> Iterator[Entry]:
    policy = data.backup_policy or BackupPolicy()
    makes: Job = "take" if backup.copied_from is None else "copy"
    crons: tuple[tuple[Job, str | None], ...] = (
        (makes, backup.schedule or policy.schedule),
        ("prove", policy.prove),
        ("restore-test", policy.restore_test),
        ("list", ""),
    )
    for job, cron in crons:
        if cron is not None and (entry := _line(data, backup, endpoints, job, cron, rto_ms)) is not None:
            yield entry


def _line(
    data: Store | DataSet,
    backup: Backup,
    endpoints: Mapping[str, Endpoint],
    job: Job,
    cron: str,
    rto_ms: int | None,
) -> Entry | None:
    endpoint = endpoints[backup.endpoint or ""]
    if not can(endpoint.driver, RestoresData if job in ("restore", "restore-test") else TakesBackups):
        return None
    policy = data.backup_policy or BackupPolicy()
    origin = endpoints.get(backup.copied_from) if backup.copied_from is not None else None
    if job == "copy" and origin is None:
        return None
    return Entry(
        data.id,
        backup.name,
        job,
        endpoint,
        cron,
        origin,
        _origins(data, backup),
        policy.parts,
        policy.rpo_ms,
        rto_ms,
        policy.request is not None or max(policy.proofs_asked)[0] >= COMPARED,
        endpoints.get(policy.request or ""),
    )


def _origins(data: Store | DataSet, backup: Backup) -> tuple[str, ...]:
    """The copies that a backup is made from, the nearest first."""
    origin = {one.endpoint: one.copied_from for one in data.backups}
    found: list[str] = []
    above = backup.copied_from
    while above is not None and above not in found:
        found.append(above)
        above = origin.get(above)
    return tuple(found)


def _strictest(estate: Estate) -> dict[str, int]:
    """Store or data set -> the strictest RTO of the services that hard-need it."""
    family: dict[str, list[str]] = {}
    for store in estate.stores:
        family.setdefault(store.family, []).append(store.id)
    found: dict[str, int] = {}

    def note(name: str, rto_ms: int) -> None:
        found[name] = min(rto_ms, found.get(name, rto_ms))

    for service in estate.services:
        if service.rto_ms is None:
            continue
        for need in service.needs:
            if need.kind == "store" and need.hard:
                for name in family.get(need.target, ()):
                    note(name, service.rto_ms)
        for data in estate.data_sets:
            if service.id in data.used_by:
                note(data.id, service.rto_ms)
    return found


def _minute(moment_ms: int) -> datetime:
    return datetime.fromtimestamp(moment_ms // 60_000 * 60, UTC)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000
