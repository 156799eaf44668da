"""Backups as documents: the matrix of data sets and copies, the history of one data set, and the data of
tools.

Text, JSON, Markdown and the page are made from these values. Times are ISO 8601, UTC; null for never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from evac.model.backup import BackupEvent, BackupFacts, CopyState, DataVerdict, ProofDue, ProofRecord
from evac.model.records import dataclass
from evac.views.sheet import Sheet, SheetPart
from evac.views.words import duration, moment, plural

SCHEMA_VERSION: Final = 1
LEVELS: Final = ("exists", "structure checked", "read", "restored", "compared", "served")
STATES: Final = ("missed", "unknown", "undecided", "met", "waived")
"""Worst first."""
OUTCOMES: Final = {
    "passed": "passed",
    "too-slow": "too slow",
    "too-old": "too old",
    "answer-differs": "wrong answer",
    "damaged": "damaged",
    "could-not-run": "could not run",
}


@dataclass(frozen=True, slots=True)
class ProofRow:
    """One check of a copy."""

    level: int
    level_words: str
    outcome: str
    at: str | None
    age_ms: int | None
    bytes_read: int | None
    """null: nothing measured it."""
    share_read: int
    """Share of the repository, in parts per million."""
    took_ms: int
    place: str
    tool: str
    version: str
    snapshot: str
    detail: str
    by: str
    """Who requested it; empty for the schedule."""
    request: str = ""
    """For level 5: the endpoint whose request was answered."""
    answer: str = ""
    """For level 5: the beginning of the answer."""


@dataclass(frozen=True, slots=True)
class DueRow:
    """A proof level that the policy requires."""

    level: int
    level_words: str
    age_ms: int
    """Maximum age."""
    state: str
    last_at: str | None
    """When it, or a higher level, was last reached."""


@dataclass(frozen=True, slots=True)
class CopyRow:
    """One backup of a data set."""

    copy: str
    at: str
    exists: bool | None
    outside: bool | None
    """Whether no loss of a single domain destroys both it and the original."""
    deletable: bool | None
    """Whether the credentials of the source can delete it."""
    system: str | None
    age_ms: int | None
    bytes: int | None
    restore_ms: int | None
    level: int | None
    """Highest proof level that counts now; null: nothing is proven."""
    coverage: int
    """Share that was read recently enough, in parts per million."""
    proof: ProofRow | None
    """The proof that reached that level."""
    last_proof: ProofRow | None
    """The last one that passed, however old."""
    error: ProofRow | None
    """The last error that no later check has cleared."""
    not_run: ProofRow | None
    """The last check, if it could not run; it counts neither for nor against the backup."""
    words: str
    deletable_why: str = ""
    """How `deletable` was determined, or why it could not be; empty if the repository was not asked."""
    count: int | None = None
    """Number of backups that can be restored; null: no tool listed them."""
    reach_ms: int | None = None
    """Age of the oldest of them when they were listed."""
    unusable: int = 0
    """Number of backups that failed, are incomplete, or are not known to be complete."""
    due: tuple[DueRow, ...] = ()
    """Every proof level that the policy requires."""
    credentials_changed: str | None = None
    """When the credentials of its repository were last changed, at the earliest; null: no change is known."""
    renewed: str | None = None
    """Whether its newest backup began after that."""


@dataclass(frozen=True, slots=True)
class DigitRow:
    """One digit of 3-2-1-1-0."""

    name: str
    state: str
    asked: int
    known: int
    possible: int


@dataclass(frozen=True, slots=True)
class DataRow:
    """One data set."""

    data_set: str
    kind: str
    state: str
    """met, missed, unknown, undecided (no policy) or waived."""
    waived: str
    """Why no backup is needed."""
    digits: tuple[DigitRow, ...]
    rpo: str | None
    rpo_ms: int | None
    age_ms: int | None
    copies: tuple[CopyRow, ...]
    retention: str | None = None
    """Whether enough old backups exist; null if the policy does not require it."""
    keep_ms: int | None = None
    """Required age of the oldest backup."""
    keep_count: int | None = None
    """Required number of backups."""
    renewed: str | None = None
    """Whether every copy has a backup from after the last change of its credentials; null if no change is
    known.
    """


@dataclass(frozen=True, slots=True)
class StrayRow:
    """Backups of something that is not in the estate."""

    endpoint: str
    source: str
    count: int


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """A sudden change of a backup: an attack or a mistake."""

    data_set: str
    copy: str
    code: str
    at: str | None
    words: str


@dataclass(frozen=True, slots=True)
class BackupsDocument:
    """The matrix."""

    schema_version: int
    estate: str
    at: str | None
    counts: dict[str, int]
    """State -> data sets."""
    data_sets: tuple[DataRow, ...]
    """The worst first."""
    strays: tuple[StrayRow, ...]
    alarms: tuple[AlarmRow, ...] = ()
    """Of the last weeks."""


@dataclass(frozen=True, slots=True)
class ToolRow:
    """Data needed by a recovery tool."""

    role: str
    service: str
    data_set: str
    """Empty if the estate names no data for the service."""
    state: str
    words: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event of a history."""

    at: str | None
    kind: str
    copy: str
    outcome: str
    level: int | None
    who: str
    tool: str
    version: str
    snapshot: str
    bytes_read: int | None
    took_ms: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class HistoryDocument:
    """Backup events of one data set, newest first."""

    schema_version: int
    data_set: str
    events: tuple[EventRow, ...]


def backups_document(
    name: str, verdicts: Sequence[DataVerdict], facts: BackupFacts, now_ms: int
) -> BackupsDocument:
    """`name`: of the estate."""
    rows = [_data_row(one, now_ms) for one in verdicts]
    rows.sort(key=lambda row: (STATES.index(row.state), row.data_set))
    counts = Counter(row.state for row in rows)
    return BackupsDocument(
        SCHEMA_VERSION,
        name,
        moment(now_ms, "seconds"),
        {state: counts[state] for state in STATES},
        tuple(rows),
        tuple(StrayRow(one.endpoint, one.source, one.count) for one in facts.strays),
        tuple(
            AlarmRow(one.data_set, one.copy, one.code, moment(one.at_ms, "seconds"), one.words)
            for one in facts.alarms
        ),
    )


def history_document(data_set: str, events: Iterable[BackupEvent]) -> HistoryDocument:
    rows = (
        EventRow(
            moment(event.at_ms, "seconds"),
            event.kind,
            event.copy,
            event.proof.outcome if event.proof is not None else event.outcome,
            None if event.proof is None else event.proof.level,
            event.who,
            event.tool,
            event.version,
            event.snapshot,
            event.bytes_read,
            event.took_ms,
            event.code,
            event.detail,
        )
        for event in events
    )
    return HistoryDocument(SCHEMA_VERSION, data_set, tuple(rows))


def _data_row(verdict: DataVerdict, now_ms: int) -> DataRow:
    return DataRow(
        verdict.data_set,
        verdict.kind,
        verdict.state,
        verdict.policy.waived or "",
        tuple(DigitRow(one.name, one.state, one.asked, one.known, one.possible) for one in verdict.digits),
        verdict.rpo,
        verdict.policy.rpo_ms,
        verdict.age_ms,
        tuple(_copy_row(one, now_ms) for one in verdict.copies),
        verdict.retention,
        verdict.policy.keep_ms,
        verdict.policy.keep_count,
        verdict.renewed,
    )


def _copy_row(copy: CopyState, now_ms: int) -> CopyRow:
    return CopyRow(
        copy.name,
        copy.at,
        copy.exists,
        copy.outside,
        copy.deletable,
        copy.system,
        copy.age_ms,
        copy.bytes,
        copy.restore_ms,
        copy.level,
        copy.coverage,
        _proof_row(copy.proof, now_ms),
        _proof_row(copy.last, now_ms),
        _proof_row(copy.failed, now_ms),
        _proof_row(copy.not_run, now_ms),
        copy_words(copy, now_ms),
        copy.deletable_why,
        copy.count,
        copy.reach_ms,
        copy.unusable,
        tuple(_due_row(one) for one in copy.due),
        None if copy.credentials_ms is None else moment(copy.credentials_ms, "seconds"),
        copy.renewed,
    )


def _due_row(due: ProofDue) -> DueRow:
    last_at = None if due.last is None else moment(due.last.at_ms, "seconds")
    return DueRow(due.level, LEVELS[due.level], due.age_ms, due.state, last_at)


def _proof_row(proof: ProofRecord | None, now_ms: int) -> ProofRow | None:
    if proof is None:
        return None
    return ProofRow(
        proof.level,
        LEVELS[proof.level],
        proof.outcome,
        moment(proof.at_ms, "seconds"),
        max(0, now_ms - proof.at_ms),
        proof.bytes_read,
        proof.share_read,
        proof.took_ms,
        proof.place,
        proof.tool,
        proof.version,
        proof.snapshot,
        proof.detail,
        proof.by,
        proof.request,
        proof.answer,
    )


def copy_words(copy: CopyState, now_ms: int) -> str:
    """The state of a copy in a few words: `restored 3 d ago`, `damaged: pack 17 differs`."""
    if copy.lost:
        words = "its location is lost"
    elif copy.failed is not None:
        detail = f": {copy.failed.detail}" if copy.failed.detail else ""
        words = OUTCOMES[copy.failed.outcome] + detail
    elif copy.exists is False:
        words = "the repository is empty"
    elif copy.proof is not None:
        words = f"{LEVELS[copy.level or 0]} {ago(now_ms - copy.proof.at_ms)}"
        if 0 < copy.coverage < 1_000_000:
            words += f", {copy.coverage // 10_000} % read"
        late = [one for one in copy.due if one.state == "missed"]
        words += "".join(f"; not {LEVELS[one.level]} within {duration(one.age_ms)}" for one in late)
    elif copy.last is not None:
        words = f"{LEVELS[copy.last.level]} {ago(now_ms - copy.last.at_ms)}: too long ago"
    elif copy.coverage:
        words = f"{copy.coverage // 10_000} % read"
    else:
        words = "never checked"
    if copy.is_another:
        words += "; another repository answers, so its age is unknown"
    elif copy.is_ahead:
        words += "; its newest backup is dated in the future, so its age is unknown"
    if copy.not_run is not None:
        words += f"; last check could not run{': ' + copy.not_run.detail if copy.not_run.detail else ''}"
    return words


def ago(age_ms: int) -> str:
    """`3 d ago`; `just now` for less than a minute."""
    return "just now" if age_ms < 60_000 else f"{duration(age_ms)} ago"


def size(count: int | None) -> str:
    """`1.2 GiB`; a dash if it is not known."""
    if count is None:
        return "-"
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1_024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1_024
    return "-"


def backups_sheet(document: BackupsDocument, only: str = "") -> Sheet:
    """`only`: one data set, with everything known about its copies."""
    rows = [row for row in document.data_sets if not only or row.data_set == only]
    parts = [_matrix(rows)]
    alarms = [
        (one.at or "-", one.data_set, one.copy, one.words)
        for one in document.alarms
        if only in ("", one.data_set)
    ]
    if alarms:
        words = "Check the source, and keep older backups until you know why."
        head = ("at", "data", "copy", "what")
        parts.append(SheetPart("Sudden changes", words, head=head, rows=alarms))
    if only:
        parts += [SheetPart(copy.copy, facts=copy_facts(copy)) for row in rows for copy in row.copies]
    elif document.strays:
        cells = [(one.endpoint, one.source, f"{one.count:,}") for one in document.strays]
        words = "Repositories contain these, but no data set in the estate matches."
        parts.append(SheetPart("Unknown backups", words, head=("endpoint", "source", "backups"), rows=cells))
    footer = "next: evac backup history " + (only or "DATA_SET")
    return Sheet(f"Backups of {document.estate}", lead_words(document), tuple(parts), footer)


def lead_words(document: BackupsDocument) -> str:
    """One sentence: how many data sets there are, and how many miss their policy."""
    counts, words = document.counts, []
    total = sum(counts.values())
    for state, one, many in (
        ("missed", "misses its policy", "miss their policy"),
        ("unknown", "cannot be judged", "cannot be judged"),
        ("undecided", "has no policy", "have no policy"),
    ):
        if counts[state]:
            words.append(f"{counts[state]:,} {one if counts[state] == 1 else many}")
    if not words:
        return f"{plural(total, 'data set')}: every policy is met."
    return f"{plural(total, 'data set')}: {', '.join(words)}."


def _matrix(rows: Sequence[DataRow]) -> SheetPart:
    cells: list[tuple[str, ...]] = []
    for row in rows:
        digits = "-".join(_digit(one) for one in row.digits) or "-"
        state = f"waived: {row.waived}" if row.state == "waived" else state_words(row)
        if not row.copies:
            cells.append((row.data_set, state, digits, "-", "-", "no backup"))
        for number, copy in enumerate(row.copies):
            head = (row.data_set, state, digits) if number == 0 else ("", "", "")
            age = duration(copy.age_ms) if copy.age_ms is not None else "?"
            cells.append((*head, copy.copy, age, copy.words))
    words = (
        "3-2-1-1-0: copies, systems, offsite backups, undeletable backups, copies without proof. "
        "+ means there may be more."
    )
    return SheetPart("", words, head=("data", "state", "3-2-1-1-0", "copy", "age", "proof"), rows=cells)


def state_words(row: DataRow) -> str:
    """The state and its reason: `missed: undeletable, rpo`."""
    if row.state not in ("missed", "unknown"):
        return "no policy" if row.state == "undecided" else row.state
    return f"{row.state}: {behind(row)}"


def behind(row: DataRow) -> str:
    """Why a data set misses its policy, or what is unknown: `undeletable, rpo`."""
    names = {"errors": "proof"}
    found = [names.get(one.name, one.name) for one in row.digits if one.state == row.state]
    rest = (("rpo", row.rpo), ("retention", row.retention), ("credentials", row.renewed))
    return ", ".join([*found, *(name for name, state in rest if state == row.state)])


def _digit(digit: DigitRow) -> str:
    count = digit.asked - digit.known if digit.name == "errors" else digit.known
    unknown = digit.possible > digit.known and digit.name != "errors"
    return f"{count}{'+' if unknown else ''}"


def copy_facts(copy: CopyRow) -> list[tuple[str, str]]:
    """(name, value) of everything known about one backup."""
    known = {True: "yes", False: "no", None: "not known"}
    facts = [
        ("place", copy.at),
        ("system", copy.system or "not known"),
        ("newest", _newest_words(copy)),
        ("backups", kept_words(copy)),
        ("size", size(copy.bytes)),
        ("outside the domain", known[copy.outside]),
        (
            "the source can delete it",
            ": ".join(part for part in (known[copy.deletable], copy.deletable_why) if part),
        ),
        ("proof", copy.words),
    ]
    if copy.credentials_changed is not None:
        newer = {"met": "the newest backup is newer", "missed": "no backup is newer"}
        words = newer.get(copy.renewed or "", "it is unknown whether a backup is newer")
        facts.append(("credentials changed", f"{copy.credentials_changed}; {words}"))
    if len(copy.due) > 1:
        due = (f"{one.level_words} every {duration(one.age_ms)}: {one.state}" for one in copy.due)
        facts.append(("required proofs", "; ".join(due)))
    for title, proof in (("proven by", copy.proof), ("error", copy.error), ("not run", copy.not_run)):
        if proof is not None:
            tool = " ".join(part for part in (proof.tool, proof.version) if part) or proof.by
            read = f"{size(proof.bytes_read)} read" if proof.bytes_read is not None else "stated by a person"
            where = f" at {proof.place}" if proof.place else ""
            facts.append((title, f"{tool}{where}, {read}, {proof.at}"))
    if copy.proof is not None and copy.proof.request:
        facts.append(("answer", f"{copy.proof.answer} ({copy.proof.request})"))
    if copy.restore_ms is not None:
        facts.append(("restore takes", duration(copy.restore_ms)))
    return facts


def _newest_words(copy: CopyRow) -> str:
    if copy.age_ms is not None:
        return f"{duration(copy.age_ms)} old"
    # A tool that lists backups dates each of them.
    return "dated in the future: correct the clocks, and take another one" if copy.count else "not known"


def kept_words(copy: CopyRow) -> str:
    """`12, the oldest 34 d old; 1 more failed, is incomplete or is not known to be complete`."""
    if copy.count is None:
        return "not known"
    reach = f"{duration(copy.reach_ms)} old" if copy.reach_ms is not None else "of unknown age"
    words = f"{copy.count:,}, the oldest {reach}" if copy.count else "none"
    if copy.unusable:
        verbs = "failed, is incomplete or is" if copy.unusable == 1 else "failed, are incomplete or are"
        words += f"; {copy.unusable:,} more {verbs} not known to be complete"
    return words


def history_sheet(document: HistoryDocument, footer: str = "", *, is_report: bool = False) -> Sheet:
    """Events, newest first; of a job that just ended, with their details in full above them."""
    cells = [
        (
            row.at or "-",
            row.kind if row.level is None else LEVELS[row.level],
            row.copy,
            OUTCOMES.get(row.outcome, row.outcome),
            size(row.bytes_read),
            row.who or "schedule",
            f"{row.tool} {row.version}".strip(),
            row.detail or (row.snapshot[:12] if len(row.snapshot) == 64 else row.snapshot),
        )
        for row in document.events
    ]
    lead = f"{plural(len(cells), 'event')}, newest first." if cells else "Nothing has happened yet."
    head = ("at", "what", "copy", "outcome", "read", "by", "tool", "detail")
    parts = [SheetPart("", head=head, rows=cells, whole=(0,))]
    said = [(row.copy, row.detail) for row in document.events if row.detail] if is_report else []
    if said:
        parts = [SheetPart("", head=head[:-1], rows=[cell[:-1] for cell in cells], whole=(0,))]
        parts.append(SheetPart("", head=("copy", "detail"), rows=said, whole=(0,)))
    footer = footer or "next: evac backup status ESTATE"
    return Sheet(f"History of {document.data_set}", lead, tuple(parts), footer)


def tools_sheet(name: str, rows: Sequence[ToolRow]) -> Sheet:
    """Whether what recovery itself needs could be restored."""
    cells = [(row.role, row.service, row.data_set or "-", row.state, row.words) for row in rows]
    bad = sum(row.state not in ("met", "waived") for row in rows)
    if not rows:
        lead = "The estate names no recovery tools, so evac knows nothing about their backups."
        footer = "next: list the services that recovery needs, such as: tools: {identity: login, deploy: git}"
    else:
        lead, footer = "Everything recovery needs is backed up and proven.", ""
        if bad:
            lead = f"{plural(bad, 'tool')} may not be restorable."
    head = ("role", "service", "data", "state", "backups")
    return Sheet(f"Tools of {name}", lead, (SheetPart("", head=head, rows=cells),), footer)
