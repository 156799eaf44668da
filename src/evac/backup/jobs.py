"""One job on one backup, done by its driver: list, take, copy, prove, restore for a test.

Everything that happens becomes an event, also what a driver cannot do: a check that could not run is neither
passed nor failed. A restore test uses a folder of its own, empty before and after it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from evac.backup.evidence import Evidence
from evac.backup.known import (
    Begun,
    Job,
    NotMade,
    Witnessed,
    after_listing,
    begun_copy,
    judged,
    sudden_changes,
    with_incomplete,
)
from evac.backup.listed import (
    chosen_of,
    date_problem,
    differing,
    goes_beyond,
    is_mine,
    judged_by,
    newest_id,
    older_than,
    one_of,
    seen_of,
    source_of,
)
from evac.drivers.capabilities import (
    AsksRestored,
    CopyReport,
    Listing,
    RestoresData,
    Taken,
    TakesBackups,
)
from evac.drivers.places import LOCKED
from evac.drivers.port import Action
from evac.drivers.registry import Drivers, can
from evac.engine.clock import Clock
from evac.model.backup import (
    COMPARED,
    READ,
    RESTORED,
    SERVED,
    STRUCTURE,
    WHOLE,
    BackupEvent,
    Incomplete,
    ProofOutcome,
    ProofRecord,
    Stray,
)
from evac.model.errors import ActionError, LeaseLost, LockHeld, OutcomeUnknown, Retryable, Unavailable
from evac.model.estate import Endpoint
from evac.model.records import dataclass
from evac.model.units import moment_words
from evac.store.port import Lease, Store

SMALL_BYTES: Final = 256 << 20
"""A backup up to this size is read completely: parts of it could be empty and would prove nothing."""
LOCK_MS: Final = 60_000
CONSISTENT_MS: Final = 2_000
"""The longest wait for the end of the second in which a backup became consistent."""
DAMAGE: Final = frozenset({"archive-damaged", "backup-corrupt", "copy-differs", "restore-incomplete"})
"""Error codes of drivers that mean the data read is damaged."""
PLACE: Final = frozenset(
    {
        *("place-foreign", "place-full", "place-in-use", "place-not-empty", "place-record", "place-unusable"),
        *("place-wrong", LOCKED),
    }
)
"""Error codes of drivers that mean a folder cannot be restored into, whatever the backup."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job to do. due_ms: when the schedule requires it, or when a person requested it."""

    job: Job
    data_set: str
    copy: str
    endpoint: Endpoint
    due_ms: int
    origin: Endpoint | None = None
    """For a copy: where it is copied from."""
    part: int = 1
    of: int = 1
    level: int = READ
    rpo_ms: int | None = None
    rto_ms: int | None = None
    timeout_s: float = 4 * 3_600.0
    compare: bool = True
    """For a backup: whether a witness inspects the source, so that restores can be compared with it."""
    who: str = ""
    place: str = ""
    """For a restore to keep: the empty folder for it."""
    snapshot: str = ""
    """For a restore to keep: the tool's id of the backup; empty for the newest."""
    until_s: int | None = None
    """For a restore to keep: the restore point, in seconds since 1970."""
    not_made: NotMade | None = None
    """For a copy: what should have been made before it and was not."""
    request: Endpoint | None = None
    """For a restore test: where a request of the application is put to the restored data."""


class Worker:
    """Runs jobs. scratch: the folder for restore tests."""

    def __init__(
        self, store: Store, evidence: Evidence, drivers: Drivers, clock: Clock, scratch: Path, owner: str
    ) -> None:
        self._store, self._evidence, self._drivers = store, evidence, drivers
        self._clock, self._scratch, self._owner = clock, scratch, owner

    async def do(self, task: Task) -> BackupEvent:
        """Run a job; return the event that ends it. Raises as `events_of`."""
        return (await self.events_of(task))[0]

    async def events_of(self, task: Task) -> list[BackupEvent]:
        """Run a job; return the event that ends it, and then what else a person must see: a listing after it
        that failed, or shows a sudden change. They are already stored. Raises LockHeld while another process
        works on the same copy, LeaseLost when it may no longer run, Unavailable, Corrupt.
        """
        await self._evidence.recall_incomplete()
        async with self._alone(task):
            if task.job == "list":
                return [await self._list(task)]
            if task.job == "prove":
                return [await self._keep(await self._prove(task))]
            if task.job == "restore-test":
                return [await self._keep(await self._restore(task))]
            if task.job == "restore":
                return [await self._keep(await self._restore_to_keep(task))]
            made = await self._make(task)
            listed = await self._list(task)
            return [made, listed] if listed.outcome != "done" or listed.detail else [made]

    @asynccontextmanager
    async def _alone(self, task: Task) -> AsyncIterator[None]:
        """Exclude other processes from the same copy; if the lock is lost, the job is cancelled."""
        lease = await self._store.acquire(f"backup/{quote(task.endpoint.id, safe='')}", self._owner, LOCK_MS)
        mine = asyncio.current_task()
        assert mine is not None
        lost: list[LeaseLost] = []
        renewing = asyncio.create_task(self._renew(lease, mine, lost), name=f"lock {task.endpoint.id}")
        try:
            yield
        except asyncio.CancelledError:
            if lost and not mine.uncancel():
                raise lost[0] from None
            raise
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
            with contextlib.suppress(Unavailable):
                await self._store.release(lease)

    async def _renew(self, lease: Lease, job: asyncio.Task[object], lost: list[LeaseLost]) -> None:
        while True:
            await asyncio.sleep(LOCK_MS / 3_000)
            try:
                await self._store.renew(lease)
            except LeaseLost as error:
                lost.append(error)
                job.cancel()
                return
            except Unavailable:
                continue

    async def _keep(self, event: BackupEvent) -> BackupEvent:
        await self._evidence.add(event)
        return event

    def _event(self, task: Task, **values: object) -> BackupEvent:
        kinds: Mapping[Job, str] = {
            "list": "listed",
            "take": "taken",
            "copy": "copied",
            "restore": "restored",
        }
        event = BackupEvent(
            kinds.get(task.job, "proven"),  # type: ignore[arg-type]
            self._clock.now_ms(),
            task.data_set,
            task.copy,
            task.who,
            tool=task.endpoint.driver,
        )
        return replace(event, **values)  # type: ignore[arg-type]

    async def _list(self, task: Task) -> BackupEvent:
        listed = replace(task, job="list")
        try:
            driver = self._drivers.able(task.endpoint.driver, TakesBackups)
            listing = await driver.list_copies(action_of(task.endpoint), task.timeout_s)
        except ActionError as error:
            return await self._keep(self._failed(listed, error))
        now_ms = self._clock.now_ms()
        known = await self._evidence.known(task.data_set)
        wrong = differing(known, task.copy, listing)
        listing = judged_by(known, task.copy, listing)
        mine = [copy for copy in listing.copies if is_mine(copy, task.endpoint)]
        others = Counter(source_of(copy) for copy in listing.copies if not is_mine(copy, task.endpoint))
        strays = [Stray(task.endpoint.id, source, count, now_ms) for source, count in sorted(others.items())]
        await self._evidence.note_strays(task.endpoint.id, strays)
        seen = seen_of(task.data_set, task.copy, listing, mine, now_ms)
        ids = {copy.id: copy.original for copy in listing.copies}
        facts = {"tool": listing.tool, "version": listing.version, "snapshot": newest_id(mine)}
        sudden = "; ".join(words for _, words in sudden_changes(known.seen(task.copy), seen))
        event = self._event(listed, seen=seen, detail=sudden, **facts)
        await self._evidence.add(
            event, lambda known: with_incomplete(after_listing(known, task.copy, ids), *wrong)
        )
        return event

    def not_started(self, task: Task, error: LockHeld) -> BackupEvent:
        """The event for a job that another process prevented; it is not kept, because nothing happened."""
        return self._event(task, outcome="failed", code=error.code, detail=f"{error}; {error.hint}")

    def _failed(self, task: Task, error: ActionError) -> BackupEvent:
        outcome = "unknown" if isinstance(error, OutcomeUnknown) else "failed"
        return self._event(task, outcome=outcome, code=error.code, detail=_words(error))

    async def _make(self, task: Task) -> BackupEvent:
        """Take a backup of the source, or a copy of another backup; the event is kept."""
        facts: Mapping[str, str | int] = {}
        unseen = ""
        try:
            driver = self._drivers.able(task.endpoint.driver, TakesBackups)
            action = action_of(task.endpoint)
            if task.job == "copy":
                taken = await self._copied(task, driver, action)
            else:
                before, unseen = await _witness(driver, task, action) if task.compare else ({}, "")
                await self._evidence.begin(task.data_set, Begun(task.copy, self._clock.now_ms()))
                taken = await driver.take(action, task.timeout_s)
                # A restore returns to this moment, in whole seconds, so facts must be seen at that moment.
                begins_ms = (taken.copy.consistent_at or 0) * 1_000 - self._clock.now_ms()
                await asyncio.sleep(min(max(begins_ms, 0), CONSISTENT_MS) / 1_000 if before else 0)
                after, unseen = await _witness(driver, task, action) if before else ({}, unseen)
                # Changes during the backup may or may not be in it, so a restore cannot be compared.
                facts = {name: value for name, value in before.items() if after.get(name) == value}
        except ActionError as error:
            return await self._keep(self._failed(task, error))
        known = await self._evidence.known(task.data_set)
        misdated = date_problem(task.job, taken.copy, known.seen(task.copy), self._clock.now_ms() // 1_000)
        event = self._made(task, taken, facts, unseen, misdated)
        wrong = [Incomplete(task.copy, one.id, one.taken_at) for one in taken.wrong]
        await self._evidence.add(event, lambda known: with_incomplete(known, *wrong))
        return event

    async def _copied(self, task: Task, driver: TakesBackups, action: Action) -> Taken:
        """A copy of another backup. It lacks what that one lacks, or may lack. Raises `ActionError`."""
        assert task.origin is not None
        copied: list[CopyReport] = []

        async def begins(source: CopyReport, there: Sequence[CopyReport]) -> None:
            copied.append(source)
            known = await self._evidence.known(task.data_set)
            begun = begun_copy(known, task.copy, self._clock.now_ms(), source, there)
            await self._evidence.begin(task.data_set, begun)

        taken = await driver.copy_on(action_of(task.origin), task.timeout_s, action, begins)
        lacking = (await self._evidence.known(task.data_set)).lacking(task.origin.id)
        lacks = [one.id for one in copied if lacking(one.id, one.original, one.taken_at)]
        return replace(taken, missing=(*taken.missing, f"what {lacks[0]} lacks")) if lacks else taken

    def _made(
        self, task: Task, taken: Taken, facts: Mapping[str, str | int], unseen: str, misdated: str
    ) -> BackupEvent:
        bad = taken.copy.failed or bool(taken.missing)
        code = "backup-incomplete" if taken.missing else "backup-failed" if bad else ""
        detail = f"restores of it cannot be compared with the source: {unseen}" if unseen else ""
        if taken.missing:
            detail = f"not in the backup: {', '.join(taken.missing[:10])}"
        elif bad:
            detail = "the tool reports that it failed, whatever its exit status"
        elif older := older_than(task.not_made, taken.copy):
            code, detail = "copied-older", older
        elif misdated:
            code, detail = "backup-clock", misdated
        if taken.wrong:
            ids = ", ".join(one.id for one in taken.wrong[:3])
            wrong = f"does not count, because its content is not that of the original: {ids}"
            detail = "; ".join(part for part in (detail, wrong) if part)
        return self._event(
            task,
            outcome="failed" if bad else "done",
            snapshot=taken.copy.id,
            bytes_read=taken.bytes_read,
            bytes_stored=taken.bytes_stored,
            took_ms=taken.took_ms,
            facts={} if bad else dict(facts),
            taken_at_ms=taken.copy.taken_at * 1_000,
            code=code,
            detail=detail,
        )

    def _proven(self, task: Task, level: int, outcome: ProofOutcome, **values: object) -> BackupEvent:
        proof = ProofRecord(
            task.data_set,
            task.copy,
            level,
            outcome,
            self._clock.now_ms(),
            0,
            part=task.part,
            of=task.of,
            tool=task.endpoint.driver,
            by=task.who,
        )
        proof = replace(proof, **values)  # type: ignore[arg-type]
        failed = "failed" if outcome == "could-not-run" else "done"
        return self._event(
            task,
            outcome=failed,
            tool=proof.tool,
            version=proof.version,
            snapshot=proof.snapshot,
            bytes_read=proof.bytes_read,
            took_ms=proof.took_ms,
            proof=proof,
            code=proof.code,
            detail=proof.detail,
        )

    async def _prove(self, task: Task) -> BackupEvent:
        level = min(task.level, READ)
        try:
            driver = self._drivers.able(task.endpoint.driver, TakesBackups)
            found = await driver.prove(action_of(task.endpoint), task.timeout_s, level, task.part, task.of)
            await self._notice_another(task, found.repository)
        except ActionError as error:
            return self._proven(task, level, "could-not-run", code=error.code, detail=_words(error))
        at_ms = self._clock.now_ms() if found.checked_at is None else found.checked_at * 1_000
        empty = found.outcome == "passed" and found.level > STRUCTURE and found.bytes_read <= 0
        return self._proven(
            task,
            found.level,
            "could-not-run" if empty else found.outcome,
            at_ms=min(at_ms, self._clock.now_ms()),
            bytes_read=found.bytes_read,
            share_read=WHOLE if task.of == 1 and found.bytes_read else found.share_read,
            took_ms=found.took_ms,
            place=found.place,
            tool=found.tool,
            version=found.version,
            snapshot=found.copy,
            code="nothing-read" if empty else found.code,
            detail="the check read no data, so it proves nothing" if empty else found.detail,
        )

    async def _restore(self, task: Task) -> BackupEvent:
        """Restore into the folder for tests of this copy, which is empty before and removed after, whatever
        happens.
        """
        action, place = action_of(task.endpoint), self.place_of(task)
        try:
            driver = self._drivers.able(task.endpoint.driver, RestoresData)
            self._scratch.mkdir(0o711, parents=True, exist_ok=True)
            await driver.clean_up(action, task.timeout_s, place)
        except (ActionError, OSError) as error:
            return self._not_restored(task, place, error)
        try:
            event = await self._compared(task, driver, action, place)
            event = await self._served(task, event, place)
        except ActionError as error:
            event = self._not_restored(task, place, error)
        finally:
            left = ""
            try:
                await asyncio.shield(driver.clean_up(action, 600.0, place))
            except (ActionError, OSError) as error:
                left = f"{place} could not be removed: {_words(error)}"
        if left:
            words = "; ".join(part for part in (event.detail, left) if part)
            proof = None if event.proof is None else replace(event.proof, detail=words)
            event = replace(event, detail=words, proof=proof)
        return event

    async def _served(self, task: Task, event: BackupEvent, place: str) -> BackupEvent:
        """The event of a restore test after the request of the policy. Without the expected answer, the proof
        keeps its level, and that the request failed is an event of its own, which ends the job.
        """
        proof = event.proof
        if task.request is None or proof is None or proof.outcome != "passed":
            return event
        if proof.level < COMPARED:
            why = "no request was put to it, because its content could not be compared"
            words = "; ".join(part for part in (proof.detail, why) if part)
            return replace(event, detail=words, proof=replace(proof, detail=words))
        try:
            driver = self._drivers.able(task.request.driver, AsksRestored)
            reply = await driver.ask(action_of(task.request), task.timeout_s, place)
        except ActionError as error:
            return await self._not_served(task, event, "could-not-run", error.code, _words(error))
        if not reply.matches:
            words = f"the answer does not contain {reply.expected[:100]!r}: {reply.answer}"
            return await self._not_served(task, event, "answer-differs", "answer-differs", words)
        served = replace(proof, level=SERVED, request=task.request.id, answer=reply.answer)
        return replace(event, proof=served)

    async def _not_served(
        self, task: Task, event: BackupEvent, outcome: ProofOutcome, code: str, why: str
    ) -> BackupEvent:
        assert task.request is not None
        await self._keep(replace(event, goes_on=True))
        return self._proven(
            task,
            SERVED,
            outcome,
            place=self.place_of(task),
            snapshot=event.snapshot,
            code=code,
            detail=f"it was restored and compared, but not served: {why}",
            request=task.request.id,
        )

    async def _restore_to_keep(self, task: Task) -> BackupEvent:
        """Restore into the folder that a person named, and leave it there. Damage found counts as a proof of
        damage.
        """
        action = action_of(task.endpoint)
        try:
            driver = self._drivers.able(task.endpoint.driver, RestoresData)
            listing = await self._listing(task, action)
            chosen = chosen_of(listing, task.snapshot, task.until_s)
            restored = await driver.restore(action, task.timeout_s, chosen, task.place, task.until_s)
        except ActionError as error:
            shown = self._not_restored(task, task.place, error)
            return shown if error.code in DAMAGE else self._failed(task, error)
        copy = one_of(listing, restored.copy)
        witnessed = await self._witnessed(task, restored.copy, copy)
        level, outcome, detail = judged(witnessed, restored.facts)
        if outcome == "damaged" and not goes_beyond(copy, restored):
            return self._proven(
                task,
                level,
                outcome,
                bytes_read=restored.bytes,
                took_ms=restored.took_ms,
                place=task.place,
                snapshot=restored.copy,
                code="witness-disagrees",
                detail=f"{detail}; the restored data was left in {task.place}",
            )
        equal = level == COMPARED and outcome == "passed"
        as_of = "" if restored.as_of is None else f", as of {moment_words(restored.as_of)}"
        return self._event(
            task,
            snapshot=restored.copy,
            bytes_read=restored.bytes,
            took_ms=restored.took_ms,
            detail=f"{restored.copy} is in {task.place}{as_of}"
            + ("; it matches what was recorded when the backup was taken" if equal else "")
            + ("; this backup is incomplete" if copy is not None and copy.failed else ""),
        )

    async def _listing(self, task: Task, action: Action) -> Listing | None:
        """What the repository holds, if its driver can list it. Raises `ActionError`."""
        if not can(task.endpoint.driver, TakesBackups):
            return None
        driver = self._drivers.able(task.endpoint.driver, TakesBackups)
        listing = await driver.list_copies(action, task.timeout_s)
        await self._notice_another(task, listing.repository)
        return judged_by(await self._evidence.known(task.data_set), task.copy, listing)

    async def _notice_another(self, task: Task, repository: str) -> None:
        """List a repository at once if its id is not that of the last listing: what was proven of the other
        one, and what a witness saw for it, no longer counts. Raises `ActionError` if it cannot be listed: a
        proof of it would count for the other one.
        """
        seen = (await self._evidence.known(task.data_set)).seen(task.copy)
        if seen is not None and repository and seen.repository not in ("", repository):
            listed = await self._list(task)
            if listed.outcome != "done":
                words = f"another repository answers, and it could not be listed: {listed.detail}"
                raise Retryable(listed.code, words)

    async def _witnessed(self, task: Task, snapshot: str, copy: CopyReport | None) -> Witnessed | None:
        """What the witness saw when a backup, or the one that it was copied from, was taken."""
        known = await self._evidence.known(task.data_set)
        names = [task.copy, *(one.copy for one in known.copies)]
        original = "" if copy is None else copy.original
        return known.witness(names, snapshot) or (known.witness(names, original) if original else None)

    async def _as_witnessed(
        self, task: Task, driver: RestoresData, copy: CopyReport, place: str, witnessed: Witnessed | None
    ) -> tuple[int, ProofOutcome, str]:
        """As `judged`, at the moment that the witness saw: the log after it contains more. An engine that
        cannot restore to that moment is restored without comparison.
        """
        action = action_of(task.endpoint)
        try:
            await driver.clean_up(action, task.timeout_s, place)
            then = await driver.restore(action, task.timeout_s, copy.id, place, copy.consistent_at)
        except ActionError as error:
            if error.code in DAMAGE:
                raise
            return RESTORED, "passed", f"not compared: {_words(error)}"
        return judged(witnessed, then.facts)

    def place_of(self, task: Task) -> str:
        """Path that is always the same for a copy, so that leftovers of a crash are removed by the next
        test.
        """
        return str(self._scratch / f"{quote(task.data_set, safe='')}--{quote(task.copy, safe='')}")

    def _not_restored(self, task: Task, place: str, error: Exception) -> BackupEvent:
        code = error.code if isinstance(error, ActionError) else "place-unusable"
        outcome: ProofOutcome = "damaged" if code in DAMAGE else "could-not-run"
        return self._proven(task, RESTORED, outcome, place=place, code=code, detail=_words(error))

    async def _compared(self, task: Task, driver: RestoresData, action: Action, place: str) -> BackupEvent:
        listing = await self._listing(task, action)
        chosen = chosen_of(listing, "", None)
        restored = await driver.restore(action, task.timeout_s, chosen, place, None)
        copy = one_of(listing, restored.copy)
        witnessed = await self._witnessed(task, restored.copy, copy)
        level, outcome, detail = judged(witnessed, restored.facts)
        if outcome == "damaged" and copy is not None and goes_beyond(copy, restored):
            level, outcome, detail = await self._as_witnessed(task, driver, copy, place, witnessed)
        taken_ms = None if copy is None else copy.taken_at * 1_000
        newest_ms = max(
            (one for one in (taken_ms, _ms(restored.reached_at)) if one is not None), default=None
        )
        now_ms = self._clock.now_ms()
        if outcome == "passed" and restored.bytes <= 0:
            outcome, detail = "could-not-run", "nothing was restored, so it proves nothing"
        elif outcome == "passed" and task.rto_ms is not None and restored.took_ms > task.rto_ms:
            outcome = "too-slow"
            detail = (
                f"the restore took {restored.took_ms // 1_000} s, longer than the "
                f"allowed {task.rto_ms // 1_000} s"
            )
        elif outcome == "passed" and None not in (task.rpo_ms, newest_ms):
            assert task.rpo_ms is not None
            assert newest_ms is not None
            if now_ms - newest_ms > task.rpo_ms:
                outcome, age_s = "too-old", (now_ms - newest_ms) // 1_000
                detail = f"the newest data is {age_s} s old, older than the allowed {task.rpo_ms // 1_000} s"
        return self._proven(
            task,
            level,
            outcome,
            bytes_read=restored.bytes,
            share_read=WHOLE,
            took_ms=restored.took_ms,
            place=place,
            tool=task.endpoint.driver if listing is None else listing.tool,
            version="" if listing is None else listing.version,
            snapshot=restored.copy,
            code="" if outcome == "passed" else "witness-disagrees" if outcome == "damaged" else outcome,
            detail=detail,
        )


async def _witness(driver: TakesBackups, task: Task, action: Action) -> tuple[Mapping[str, str | int], str]:
    """What a witness sees in the source, or why it sees nothing, which stops no backup."""
    try:
        return await driver.witness(action, task.timeout_s), ""
    except ActionError as error:
        return {}, _words(error)


def action_of(endpoint: Endpoint) -> Action:
    """The driver action for one copy."""
    return Action("verify", endpoint.subject, endpoint.driver, endpoint.at, endpoint.settings)


def _ms(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1_000


def _words(error: Exception) -> str:
    """What went wrong, and what to do."""
    return (error.words if isinstance(error, ActionError) else str(error))[:600]
