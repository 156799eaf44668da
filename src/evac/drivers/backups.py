"""Common parts of backup drivers: running their programs, and restoring a copy into an empty folder.

A tool is a program on this machine. Its secrets are in the environment of that one process; its output is
read up to a limit and never trusted: what it omits is unknown. A restore in a run and a restore test do the
same: fill the partial folder, check the result, give it its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from evac.drivers import parameters
from evac.drivers.bandwidth import apart
from evac.drivers.capabilities import (
    EXPECTED,
    Begins,
    CopyReport,
    Listing,
    Proof,
    ProofOutcome,
    Restored,
    Taken,
)
from evac.drivers.lacking import lacking_of
from evac.drivers.places import Record, RestorePlace, place_at, refuse_older
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.programs import Ended, Takes, environment, run_program
from evac.model.backup import Lacking
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.model.units import moment_words
from evac.net import secrets
from evac.net.secrets import Secret

OUTPUT_BYTES: Final = 32 << 20
"""Limit of one output; a listing of 50,000 copies is smaller."""
COPIES_MOST: Final = 100_000
WORDS_MOST: Final = 600
UNREAD_MOST: Final = 10
"""Files that could not be read and are named."""
SHORT_ID: Final = 8
"""Minimum length of an abbreviated id."""
AHEAD_S: Final = 300
"""How far in the future a copy may be dated."""
SPARE_BYTES: Final = 64 << 20
"""Space that must stay free beyond the restored data."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program with its environment. hidden: secrets that are removed from its output."""

    program: str
    env: Mapping[str, str]
    hidden: tuple[Secret, ...] = ()
    reasons: Sequence[tuple[str, ActionError]] = ()
    """Texts in its output, and the errors that they mean; the first match counts."""
    cwd: str = "/"
    account: Any = None
    first: tuple[str, ...] = ()
    """Arguments before those of every call, for example to select the server."""
    hopeless: Sequence[str] = ()
    """As in `run_program`."""

    async def run(
        self,
        *argv: str,
        timeout_s: float,
        allowed: Sequence[int] = (0,),
        changes: bool = False,
        keeps: Sequence[int] = (),
        most: int = OUTPUT_BYTES,
        takes: Takes | None = None,
        hears: Callable[[bytes], None] | None = None,
        reads: int = asyncio.subprocess.DEVNULL,
        writes: int = asyncio.subprocess.PIPE,
    ) -> Ended:
        """Run it. changes: after a timeout it may have done its work. reads, writes: as in `run_program`.
        Raises `ActionError` if it is missing, too slow, writes too much, or exits with a code that is not
        allowed.
        """
        name = Path(self.program).name
        if (found := shutil.which(self.program)) is None:
            words = f"{self.program} is not installed, or evac has no permission to run it"
            raise Permanent("backup-tool-missing", words, f"install {name} on the machine where evac runs it")
        ended = await run_program(
            (str(Path(found).absolute()), *self.first, *argv),  # PATH may contain relative folders
            env=environment(self.env),
            timeout_s=max(timeout_s, 0.1),
            cwd=self.cwd,
            most=most,
            apart=True,
            account=self.account,
            keeps=keeps,
            hopeless=self.hopeless,
            takes=takes,
            hears=hears,
            reads=reads,
            writes=writes,
        )
        if not ended.whole:
            raise Permanent("backup-output", f"{name} wrote more than {most:,} bytes", "check its repository")
        if ended.code in allowed:
            return ended
        known = self.reason(ended)
        if ended.code is None or ended.code < 0:
            how = f"{name} was killed by signal {-(ended.code or 0)}"
            if ended.code is None:
                how = f"{name} {argv[0] if argv else ''} did not finish within {timeout_s:.0f} s"
            if changes and ended.lost and known is not None:  # what it left behind is unknown
                why = f"{known.message}; it did not end when it was interrupted"
                raise OutcomeUnknown(known.code, why, known.hint)
            if changes:
                why = "" if known is None else f": {known.message}"
                raise OutcomeUnknown("backup-unknown", f"{how}{why}", "list the backups first")
            if known is None and ended.code is None:
                raise Retryable("backup-silent", how, "check that the repository answers")
            if known is None:
                raise Retryable("backup-killed", how, "to find the reason, run: dmesg")
        if known is not None:
            raise known
        said = secrets.scrub(f"{ended.errors}\n{ended.output}", self.hidden)
        tail = " ".join(said.split())[-WORDS_MOST:]
        raise Permanent("backup-refused", f"{name} ended with {ended.code}: {tail}")

    def reason(self, ended: Ended) -> ActionError | None:
        """The error for its output, if it matches a known one."""
        whole = f"{ended.errors}\n{ended.output}".lower()  # a short password may be one of these words
        for words, error in self.reasons:
            if words.lower() in whole:
                return error.said_as(error.code, f"{Path(self.program).name}: {error.message}")
        return None

    async def json(self, *argv: str, timeout_s: float, allowed: Sequence[int] = (0,)) -> Any:
        """The JSON document that it prints. Raises the errors of `run`."""
        ended = await self.run(*argv, timeout_s=timeout_s, allowed=allowed)
        return document(ended.output, Path(self.program).name)


def document(text: str, name: str) -> Any:
    """A JSON document, at most as deep as the parser allows. Raises `Permanent`."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise unreadable(name, "no JSON") from error


def unreadable(name: str, why: str) -> Permanent:
    """The error for output that does not have the tool's documented form."""
    return Permanent("backup-output", f"{name} returned {why}", f"check the version of {name}")


def objects(found: object, name: str) -> list[Mapping[str, Any]]:
    """A list of objects of limited length. Raises `Permanent` for anything else."""
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise unreadable(name, "something other than a list of objects")
    if len(found) > COPIES_MOST:
        raise unreadable(name, f"more than {COPIES_MOST:,} copies")
    return found


def number(found: object, name: str) -> int:
    """A non-negative integer. Raises `Permanent`."""
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 2**63:
        raise unreadable(name, "something other than a number")
    return int(found)


def word(found: object, name: str, most: int = 4_096) -> str:
    """A text of limited length. Raises `Permanent`."""
    if not isinstance(found, str) or len(found) > most:
        raise unreadable(name, "something other than text")
    return found


def unread(found: Iterable[str]) -> tuple[str, ...]:
    """What an incomplete backup lacks, from the first files that its tool names, if it names any."""
    return tuple(one[:WORDS_MOST] for one in islice(found, UNREAD_MOST)) or ("files that could not be read",)


@dataclass(slots=True)
class Stopwatch:
    """Remaining and elapsed time of a call."""

    timeout_s: float
    began_s: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        return max(0.0, self.began_s + self.timeout_s - time.monotonic())

    @property
    def took_ms(self) -> int:
        return max(1, int((time.monotonic() - self.began_s) * 1_000))


@dataclass(frozen=True, slots=True)
class Filled:
    """What was restored: its size, the newest time in it, and facts for a witness."""

    bytes: int
    reached_at: int | None
    """None if no log was replayed: the data is that of the backup."""
    facts: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Filling:
    """An empty folder to restore a copy into. lock: held while any program that fills it is running."""

    action: Action
    copy: CopyReport
    folder: Path
    until: int | None
    watch: Stopwatch
    lock: int


def newest(listing: Listing, copy: str, until: int | None) -> CopyReport:
    """The copy with an id or unique abbreviation; without an id, the newest complete one that can be
    recovered to `until`. Raises `Permanent`.
    """
    whole = [one for one in listing.copies if one.id == copy or (not copy and not one.failed)]
    if not whole and len(copy) >= SHORT_ID:
        whole = [one for one in listing.copies if one.id.startswith(copy)]
    if not whole or (copy and len(whole) > 1):
        what = f"no copy {copy}" if copy else "no complete backup"
        words = f"the repository contains {what} of it"
        if not copy and listing.copies:
            words += f": all {len(listing.copies):,} are incomplete or failed"
        hint = "see which there are: evac backup status ESTATE"
        if not copy:
            hint = "check the setting `repository`; if it is right, take one: evac backup run ESTATE DATA_SET"
        raise Permanent("copy-unknown", words, hint)
    found = [one for one in whole if until is None or _reaches_back_to(one) <= until]
    if not found:
        first = moment_words(min(map(_reaches_back_to, whole)))
        words = f"no backup goes back to {moment_words(until or 0)}: the earliest point in time is {first}"
        raise Permanent("moment-uncovered", words, "choose a later point in time")
    return found[-1]


def without(listing: Listing, lacks: Lacking) -> Listing:
    """A listing in which the backups that lack something, or may, count as failed: their tool may not show
    that.
    """
    if not lacks:
        return listing
    copies = tuple(
        replace(copy, failed=True) if lacks(copy.id, copy.original, copy.taken_at) else copy
        for copy in listing.copies
    )
    return replace(listing, copies=copies)


def refuse_ahead(found: CopyReport) -> None:
    """Raise `Permanent` if a copy that no one named is dated in the future."""
    ahead_s = found.taken_at - int(time.time())
    if ahead_s > AHEAD_S:
        words = f"the newest copy, {found.id}, is dated {ahead_s:,} s ahead of this clock"
        raise Permanent("backup-clock", words, "correct the clock, or name an older copy by its ID")


def _reaches_back_to(copy: CopyReport) -> int:
    return copy.taken_at if copy.consistent_at is None else copy.consistent_at


class BackupDriver(ABC):
    """Restores for runs and tests; each tool implements how a folder is filled and its engine started."""

    name: str
    verbs: frozenset[Verb] = frozenset({"restore"})

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        return await self._list(action, timeout_s)

    async def copy_on(self, action: Action, timeout_s: float, to: Action, begins: Begins) -> Taken:
        words = f"{self.name} cannot copy between repositories"
        raise Permanent("copy-unsupported", words, "take a backup through the other repository's endpoint")

    def _proof(
        self,
        action: Action,
        watch: Stopwatch,
        level: int,
        outcome: ProofOutcome,
        version: str = "",
        *,
        read: int = 0,
        share: int = 0,
        code: str = "",
        detail: str = "",
        repository: str = "",
    ) -> Proof:
        """Result of a check of the whole repository."""
        facts = (level, outcome, read, share, watch.took_ms, action.at, self.name, version)
        return Proof("", *facts, code, detail[:WORDS_MOST], repository=repository)

    def _unproven(self, action: Action, watch: Stopwatch, level: int, error: ActionError) -> Proof:
        """Result of a check that ended in an error: damage only if the error says so."""
        outcome: ProofOutcome = "damaged" if error.code == "backup-corrupt" else "could-not-run"
        return self._proof(action, watch, level, outcome, code=error.code, detail=error.words)

    async def restore(
        self, action: Action, timeout_s: float, copy: str, place: str, until: int | None
    ) -> Restored:
        found = await self._restore(action, Stopwatch(timeout_s), place_at(place), copy, until, None)
        facts = (found.bytes, found.took_ms, found.reached_at, found.facts, found.as_of)
        return Restored(found.copy, place, *facts)

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        """Nothing, unless a driver can query the source independently of its tool."""
        return {}

    async def clean_up(self, action: Action, timeout_s: float, place: str) -> None:
        at, watch = place_at(place), Stopwatch(timeout_s)
        if not (at.lock.exists() or at.record.exists() or at.partial.exists()):
            if at.path.is_dir() and any(at.path.iterdir()):
                raise Permanent("place-foreign", f"{place} was not created by a restore, so it is left alone")
            return
        if at.partial.is_dir():
            await self._stop(action, at.partial, watch)
        with at.held():
            record = at.read()
            if record.complete and record.key:
                raise Permanent(
                    "place-in-use", f"{place} was restored by a run and may be in use, so it is left alone"
                )
            if at.path.is_dir() and not record.complete:
                at.refuse()  # a folder without a complete record is not ours
            if at.path.is_dir():
                await self._stop(action, at.path, watch)
            await asyncio.to_thread(at.remove)

    async def check(self, action: Action, order: Order) -> Checked:
        """Check that the folder is empty and has enough space, and that the repository responds and has what
        is requested: a complete copy, and the log up to the restore point.
        """
        watch = Stopwatch(order.timeout_s)
        try:
            at, copy, until = self._asked(action)
            record = at.read()
            refuse_older(at, record, order)
            if not self._is_ours(at, record, order):
                at.refuse()
            found = newest(await self._expected(action, watch), copy, until)
            problems = [self._too_small(at, found)]
            if until is not None and not self._is_ours(at, record, order):
                await self._refuse_uncovered(action, until, watch)
        except ActionError as error:
            return Checked((error.message,), error=error)
        evidence: Evidence = {"copy": found.id, "taken_at": found.taken_at, "bytes": found.bytes or 0}
        return Checked(tuple(one for one in problems if one), evidence)

    async def execute(self, action: Action, order: Order) -> Evidence:
        self._refuse_others(action)
        at, copy, until = self._asked(action)
        if order.dry_run:
            checked = await self.check(action, order)
            words = f"would restore {action.target} into {at.path}"
            return {**checked.evidence, "dry_run": words, "problems": "; ".join(checked.problems)[:900]}
        watch = Stopwatch(order.timeout_s)
        record = at.read()
        refuse_older(at, record, order)
        if self._is_ours(at, record, order):
            if not await self._runs(action, at.path, watch):
                await self._start(action, at.path, watch)
        else:
            record = await self._restore(action, watch, at, copy, until, order)
        return self._evidence(at, record)

    async def observe(self, action: Action, order: Order) -> Observed:
        """Done once the folder is complete and its engine responds; unclear during the restore."""
        try:
            self._refuse_others(action)
            at, _, _ = self._asked(action)
            record = at.read()
            if self._is_ours(at, record, order):
                if await self._runs(action, at.path, Stopwatch(order.timeout_s)):
                    return Observed("done", self._evidence(at, record))
                return Observed("absent", {"place": str(at.path), "engine": "stopped"})
            if at.lock.exists() and at.is_held():
                return Observed("unclear", {"why": f"{at.path} is being restored to"})
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})
        return Observed("absent", {"place": str(at.path)})

    async def undo(self, action: Action, order: Order) -> Evidence:
        raise Permanent(
            "not-undone", "a restore is not rolled back, because users may have written to it since"
        )

    async def close(self) -> None:
        """Nothing to close: no connection outlives a call."""
        return

    async def _restore(
        self,
        action: Action,
        watch: Stopwatch,
        at: RestorePlace,
        copy: str,
        until: int | None,
        order: Order | None,
    ) -> Record:
        at.refuse()
        found = newest(await self._expected(action, watch), copy, until)
        if order is None and not copy:  # a run continues: its own clock may be wrong
            refuse_ahead(found)
        if problem := self._too_small(at, found):
            raise Permanent("place-full", problem, "free some space, or choose another place")
        if until is not None:
            await self._refuse_uncovered(action, until, watch)
        with at.held() as lock:
            at.refuse()
            began = Record() if order is None else Record(order.key, order.token, order.epoch)
            if order is not None:
                refuse_older(at, at.read(), order)
            at.write(began)
            again = at.partial.exists()
            if again:  # the process that filled it is gone, because we hold its lock
                await self._stop(action, at.partial, watch)
                await asyncio.to_thread(shutil.rmtree, at.partial)
            at.partial.mkdir(mode=0o700)
            try:
                with _named(at.partial):
                    filled = await self._fill(Filling(action, found, at.partial, until, watch, lock))
                if until is not None and (filled.reached_at or 0) > until:
                    words = f"the restored data contains writes made after {moment_words(until)}"
                    raise Permanent("restore-incomplete", words, "restore an older backup")
                done = _done(began, found, filled, until, watch.took_ms, again)
                at.write(done)
                at.complete()
            except BaseException:
                with contextlib.suppress(ActionError, OSError):
                    at.write(began)  # of a run's attempt, the token must stay
                    await self._stop(action, at.partial, Stopwatch(20.0))
                    await asyncio.to_thread(shutil.rmtree, at.partial)
                    if order is None:
                        at.record.unlink(missing_ok=True)
                raise
        if order is not None:  # a test leaves nothing running
            await self._start(action, at.path, watch)
        return done

    async def _expected(self, action: Action, watch: Stopwatch) -> Listing:
        """The copies; those that evac found incomplete count as failed. Raises `Permanent` if they are in
        another repository than the expected one, or if its id is unknown: none of its backups has been
        proven.
        """
        listing = await self._list(action, watch.left_s)
        expected = parameters.text(action.parameters, EXPECTED, "")
        if expected and listing.repository != expected:
            words = f"the listing names no repository, and {expected[-36:]} is expected"
            if listing.repository:
                ids = f"{listing.repository[-36:]}, not {expected[-36:]}"
                words = f"this is the repository {ids}, and none of its backups has been proven"
            hint = (
                "check the setting `repository`; if this repository is the right one: "
                f"evac backup prove ESTATE {action.target} --anyway, then plan again"
            )
            raise Permanent("backup-other-repository", words, hint)
        return without(listing, lacking_of(action.parameters))

    def _asked(self, action: Action) -> tuple[RestorePlace, str, int | None]:
        """The folder, copy and restore point that a step of a run requests."""
        both = {**action.settings, **action.parameters}
        until = parameters.whole(both, "until", 0, 2**40)
        return place_at(parameters.text(both, "place")), parameters.text(both, "copy", ""), until or None

    def _is_ours(self, at: RestorePlace, record: Record, order: Order) -> bool:
        """Whether the folder contains what this same step restored. If what was restored was never renamed,
        the folder contains something else.
        """
        renamed = at.is_filled and not at.partial.exists()
        return bool(record.complete and record.key == order.key and renamed)

    def _too_small(self, at: RestorePlace, found: CopyReport) -> str:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(at.path.parent).free
            if found.bytes is not None and free < found.bytes + SPARE_BYTES:
                return f"{at.path.parent} has {free:,} bytes free; the backup needs {found.bytes:,}"
        return ""

    def _refuse_others(self, action: Action) -> None:
        if action.verb not in self.verbs:
            raise Permanent("verb-unknown", f"the driver {self.name} cannot {action.verb}")

    def _evidence(self, at: RestorePlace, record: Record) -> Evidence:
        found: dict[str, str | int | bool] = dict(record.facts)
        if record.as_of is not None:
            found["as_of"] = record.as_of
        if record.reached_at is not None:
            found |= {"reached_at": record.reached_at, "reached": moment_words(record.reached_at)}
        found |= {"copy": record.copy, "place": str(at.path)}
        return found | {"bytes": record.bytes, "took_ms": record.took_ms}

    @abstractmethod
    async def _list(self, action: Action, timeout_s: float) -> Listing: ...

    @abstractmethod
    async def _fill(self, into: Filling) -> Filled:
        """Restore into an empty folder, check that it is complete, and leave nothing running."""

    async def _refuse_uncovered(self, action: Action, until: int, watch: Stopwatch) -> None:
        """Raise `Permanent` for a restore point after the end of the log; a copy without a log stays as it
        was taken.
        """
        return

    async def _start(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        """Start the engine of a complete folder; a folder of files has none."""
        return

    async def _stop(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        """Stop the engine in a folder, if one runs."""
        return

    async def _runs(self, action: Action, folder: Path, watch: Stopwatch) -> bool:
        """Whether the engine of a complete folder responds and accepts writes."""
        return True


def _done(
    began: Record, found: CopyReport, filled: Filled, until: int | None, took_ms: int, again: bool
) -> Record:
    """The record of a restored backup. again: whether an earlier attempt had begun to fill the folder."""
    as_of = filled.reached_at or found.taken_at
    if until is not None and found.consistent_at is not None:
        as_of = until  # even if the newest write is much older
    return replace(
        began,
        copy=found.id,
        bytes=filled.bytes,
        took_ms=took_ms,
        reached_at=filled.reached_at,
        as_of=as_of,
        complete=True,
        facts={**filled.facts, **({"started_over": 1} if again else {})},
    )


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Convert errors of writing or reading a restored folder: these are not damage, and verify nothing."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Permanent("place-full", f"{folder.parent} has no space left", "free some space") from error
        words = f"{error.filename or folder} cannot be written or read: {error.strerror or error}"
        hint = "check its disk, and that evac's account may read the restored data"
        raise Retryable("restore-unread", words, hint) from error


async def in_time(work: Callable[[], Any], watch: Stopwatch, what: str) -> Any:
    """The result of a blocking function. Raises `Retryable` if it exceeds the remaining time."""
    try:
        return await asyncio.wait_for(apart(work), max(watch.left_s, 0.1))
    except TimeoutError as error:
        raise Retryable("backup-silent", f"{what} did not finish within {watch.timeout_s:.0f} s") from error
