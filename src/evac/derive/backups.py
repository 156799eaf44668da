"""The verdict on the backups of a data set, used by audit, plan, pages and commands.

Unknown facts never improve a verdict. A proof counts while it is recent enough, read something, and no later
check found damage; damage counts until a check of at least the same scope passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Final

from evac.derive.domains import Loss, Topology, is_lost, loss, lost_now
from evac.model.backup import (
    COMPARED,
    READ,
    RESTORED,
    SERVED,
    WHOLE,
    BackupFacts,
    CopySeen,
    CopyState,
    DataState,
    DataVerdict,
    Digit,
    DigitName,
    ProofDue,
    ProofRecord,
    State,
)
from evac.model.backup_policy import BackupPolicy
from evac.model.estate import Backup, DataSet, Store
from evac.model.records import dataclass
from evac.model.restore_times import measured_restores
from evac.steps.restore import restoration

ASKED_OF_ALL: Final = BackupPolicy()
"""Requirements for the copies of data without a policy."""
SKEW_MS: Final = 300_000
"""Tolerated clock difference: a time further in the future than this does not count."""
_GIB: Final = 1 << 30
_DAY_MS: Final = 86_400_000
LISTING_MS: Final = 2 * _DAY_MS
"""Age up to which a listing shows what a repository holds: what it named may have been deleted since."""


def verdicts(top: Topology, facts: BackupFacts, now_ms: int | None) -> tuple[DataVerdict, ...]:
    """One for each store, then one for each other data set. now_ms: None if no date is known: then only ages
    stated in the files count. O(copies + proofs), and the losses of sites and groups once.
    """
    seen = {(one.data_set, one.copy): one for one in facts.copies}
    proofs: dict[tuple[str, str], list[ProofRecord]] = {}
    for proof in facts.proofs:
        proofs.setdefault((proof.data_set, proof.copy), []).append(proof)
    changed: dict[tuple[str, str], int] = {}
    for one in facts.credentials:
        changed[one.data_set, one.copy] = max(one.at_ms, changed.get((one.data_set, one.copy), one.at_ms))
    restores = {(one, copy): takes_ms for one, copy, takes_ms in measured_restores(facts)}
    takers = _Takers(top)
    every: tuple[Store | DataSet, ...] = (*top.estate.stores, *top.estate.data_sets)
    return tuple(_verdict(data, takers, seen, proofs, changed, restores, now_ms) for data in every)


def day_ms(day: date) -> int:
    """The start of a day (UTC), which bounds the age of anything that happened on it."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000


class _Takers:
    """Which sites and groups take a place with them when they are lost."""

    def __init__(self, top: Topology) -> None:
        self.top = top
        self._found: dict[str, frozenset[str]] = {}

    def of(self, at: str) -> frozenset[str]:
        if at not in self._found:
            losses = self.top.once("losses of sites and groups", self._losses)
            self._found[at] = frozenset(name for name, lost in losses.items() if is_lost(self.top, lost, at))
        return self._found[at]

    def _losses(self) -> dict[str, Loss]:
        estate = self.top.estate
        names = [*(site.id for site in estate.sites), *(group.id for group in estate.groups)]
        return {name: loss(self.top, (name,)) for name in names}


def _verdict(
    data: Store | DataSet,
    takers: _Takers,
    seen: Mapping[tuple[str, str], CopySeen],
    proofs: Mapping[tuple[str, str], Sequence[ProofRecord]],
    changed: Mapping[tuple[str, str], int],
    restores: Mapping[tuple[str, str], int],
    now_ms: int | None,
) -> DataVerdict:
    policy = data.backup_policy or ASKED_OF_ALL
    if data.backup_policy is None and isinstance(data, Store) and data.rebuilt_from is not None:
        policy = BackupPolicy(waived=f"rebuilt from {data.rebuilt_from}")
    home = _home(data)
    copies = tuple(
        _copy(
            backup,
            takers,
            home,
            seen.get((data.id, backup.name)),
            _proofs(data.id, backup, proofs.get((data.id, backup.name), ()), now_ms),
            policy,
            changed.get((data.id, backup.name)),
            restores.get((data.id, backup.name)),
            now_ms,
        )
        for backup in data.backups
    )
    taken_by = () if home is None else tuple(sorted(takers.of(home)))
    kind = "store" if isinstance(data, Store) else data.kind
    if policy.waived is not None:
        return DataVerdict(data.id, kind, "waived", policy, (), None, None, copies, taken_by)
    digits = _digits(policy, copies)
    rpo, age_ms = _rpo(policy, copies)
    retention = _retention(policy, copies)
    renewals = [one.renewed for one in copies if one.renewed is not None and not one.lost]
    renewed = _worst(renewals) if renewals else None
    rest = (one for one in (rpo, retention, renewed) if one is not None)
    state: DataState = _worst((*(digit.state for digit in digits), *rest))
    if data.backup_policy is None:
        return DataVerdict(data.id, kind, "undecided", policy, (), None, age_ms, copies, taken_by)
    more = (taken_by, retention, renewed)
    return DataVerdict(data.id, kind, state, policy, digits, rpo, age_ms, copies, *more)


def _home(data: Store | DataSet) -> str | None:
    """The site of the original; None if unknown."""
    if isinstance(data, DataSet):
        return data.at
    return None if data.primary is None else data.primary.at


def _proofs(
    data_set: str, backup: Backup, measured: Sequence[ProofRecord], now_ms: int | None
) -> list[ProofRecord]:
    """Proofs, oldest first, including those in the files. A time in our future does not count."""
    found = list(measured)
    if backup.verified is not None:
        level = RESTORED if backup.proven is None else backup.proven
        size = None if backup.size_gib is None else backup.size_gib * _GIB
        found.append(
            ProofRecord(
                data_set, backup.name, level, "passed", day_ms(backup.verified), size, by="the estate files"
            )
        )
    return sorted(
        (one for one in found if now_ms is None or one.at_ms <= now_ms + SKEW_MS), key=lambda one: one.at_ms
    )


def counts(proof: ProofRecord) -> bool:
    """Whether a check proves its level: it passed, and read something if its level requires reading."""
    return proof.outcome == "passed" and (proof.level < READ or bool(proof.bytes_read))


def clears(later: ProofRecord, error: ProofRecord) -> bool:
    """Whether a later check shows that an error is fixed: it has at least the same level, and covered the
    same part or everything. Restoring one backup does not clear damage elsewhere in a repository.
    """
    if not counts(later) or later.level < error.level:
        return False
    if error.outcome != "damaged" or error.level >= RESTORED:
        return True
    same_part = (later.part, later.of) == (error.part, error.of)
    return later.level < RESTORED and (same_part or later.share_read >= WHOLE)


def open_errors(proofs: Sequence[ProofRecord]) -> list[ProofRecord]:
    """Errors that no later check clears, oldest first. proofs: of one copy, oldest first."""
    found = []
    for row, error in enumerate(proofs):
        if error.outcome in ("damaged", "too-slow", "too-old", "answer-differs") and not any(
            clears(later, error) for later in proofs[row + 1 :]
        ):
            found.append(error)
    return found


def _asked(errors: Sequence[ProofRecord], policy: BackupPolicy) -> list[ProofRecord]:
    """The open errors that count under a policy. If it asks for neither a request nor level 5, no test can
    clear a wrong answer.
    """
    asks = policy.request is not None or any(level >= SERVED for level, _ in policy.proofs_asked)
    return [one for one in errors if asks or (one.outcome, one.level) != ("answer-differs", SERVED)]


def _standing(proofs: Sequence[ProofRecord], errors: Sequence[ProofRecord]) -> list[ProofRecord]:
    """The proofs that open errors leave: none up to the last damage, and none of level 5 while the last
    answer was wrong.
    """
    damaged_ms = max((one.at_ms for one in errors if one.outcome == "damaged"), default=None)
    found = [one for one in proofs if damaged_ms is None or one.at_ms > damaged_ms]
    if all(one.outcome != "answer-differs" for one in errors):
        return found
    return [replace(one, level=min(one.level, COMPARED)) if counts(one) else one for one in found]


@dataclass(frozen=True, slots=True)
class _Proven:
    """The proof of each level reached, and how much was read."""

    by_level: Mapping[int, ProofRecord]
    coverage: int


def _proven(proofs: Iterable[ProofRecord]) -> _Proven:
    """Bytes are proven once all parts were read."""
    best: dict[int, ProofRecord] = {}
    parts: dict[int, dict[int, ProofRecord]] = {}
    for proof in proofs:
        if not counts(proof):
            continue
        if proof.level == READ and proof.of > 1:
            parts.setdefault(proof.of, {})[proof.part] = proof
        else:
            best[proof.level] = proof
    coverage = WHOLE if READ in best else 0
    for of, read in parts.items():
        share = sum(one.share_read or WHOLE // of for one in read.values())
        coverage = max(coverage, min(share, WHOLE - (len(read) < of)))
        first = min(read.values(), key=lambda one: one.at_ms)
        if len(read) >= of and (READ not in best or best[READ].at_ms < first.at_ms):
            best[READ], coverage = first, WHOLE
    return _Proven(best, coverage)


def _copy(
    backup: Backup,
    takers: _Takers,
    home: str | None,
    seen: CopySeen | None,
    proofs: Sequence[ProofRecord],
    policy: BackupPolicy,
    changed_ms: int | None,
    restore_ms: int | None,
    now_ms: int | None,
) -> CopyState:
    top = takers.top
    exists: bool | None = True if backup.age_ms is not None else None
    age_ms, size = backup.age_ms, None if backup.size_gib is None else backup.size_gib * _GIB
    deletable = backup.deletable
    if seen is not None:
        exists, size = seen.taken_at_ms is not None, seen.bytes
        # A listing of a repository in which nothing has been proven says nothing about the expected one.
        age_ms = None if seen.expected else _age(seen.taken_at_ms, now_ms)
        if True in (deletable, seen.deletable):
            deletable = True
        elif deletable is None or seen.deletable_why:
            deletable = seen.deletable
    errors = open_errors(proofs)
    error = max(_asked(errors, policy), key=lambda one: (one.outcome == "damaged", one.at_ms), default=None)
    after = _standing(proofs, errors)
    ever = _proven(after)
    due = tuple(_due(level, age_ms, after, ever, now_ms) for level, age_ms in policy.proofs_asked)
    level, proof, coverage = _recent(after, policy, now_ms)
    way = restoration(backup if restore_ms is None else replace(backup, restore_ms=restore_ms))
    last_check = proofs[-1] if proofs else None
    return CopyState(
        backup.name,
        backup.at,
        exists,
        is_lost(top, lost_now(top), backup.at),
        None if home is None else not (takers.of(home) & takers.of(backup.at)),
        deletable,
        backup.system or (seen.tool if seen is not None and seen.tool else None),
        age_ms,
        size,
        None if way is None else way.duration_ms,
        level,
        proof,
        max(ever.by_level.values(), key=lambda one: one.at_ms, default=None),
        error,
        last_check if last_check is not None and last_check.outcome == "could-not-run" else None,
        coverage,
        _worst(one.state for one in due),
        "" if seen is None else seen.deletable_why,
        None if seen is None else seen.count,
        _reach(seen, now_ms),
        0 if seen is None else seen.unusable,
        due,
        *_renewed(_changed(backup, changed_ms), backup, seen, now_ms),
        None if seen is None else _age(seen.at_ms, now_ms),
        seen is not None
        and None not in (seen.taken_at_ms, now_ms)
        and _age(seen.taken_at_ms, now_ms) is None,
        seen is not None and bool(seen.expected),
    )


def _recent(
    proofs: Sequence[ProofRecord], policy: BackupPolicy, now_ms: int | None
) -> tuple[int | None, ProofRecord | None, int]:
    """The highest level for which a proof of at least that level is recent enough, that proof (the newest of
    several), and the share that was read recently enough.
    """
    level: int | None = None
    proof: ProofRecord | None = None
    coverage = 0
    for asked in range(SERVED + 1) if now_ms is not None else ():
        age_ms = policy.proof_age_of(asked)
        recent = _proven(one for one in proofs if (now_ms or 0) - one.at_ms <= age_ms)
        if enough := [one for reached, one in recent.by_level.items() if reached >= asked]:
            level, proof = asked, max(enough, key=lambda one: one.at_ms)
        if asked == READ:
            coverage = recent.coverage
    return level, proof, coverage


def _changed(backup: Backup, recorded_ms: int | None) -> tuple[int, int] | None:
    """The earliest and the latest time of the last change of credentials: a file states a day."""
    moments = [] if recorded_ms is None else [(recorded_ms, recorded_ms)]
    if backup.credentials_changed is not None:
        begins_ms = day_ms(backup.credentials_changed)
        moments.append((begins_ms, begins_ms + _DAY_MS - 1))
    return (max(one for one, _ in moments), max(one for _, one in moments)) if moments else None


def _renewed(
    changed: tuple[int, int] | None, backup: Backup, seen: CopySeen | None, now_ms: int | None
) -> tuple[int | None, State | None]:
    """When the credentials were changed, and whether the newest backup began after that. The age in a file is
    a maximum, so that backup may be newer.
    """
    if changed is None:
        return None, None
    earliest_ms, latest_ms = changed
    if now_ms is not None and earliest_ms > now_ms + SKEW_MS:
        return earliest_ms, "unknown"
    if seen is None:
        stated = backup.age_ms is not None and now_ms is not None
        is_after = stated and (now_ms or 0) - (backup.age_ms or 0) > latest_ms
        return earliest_ms, "met" if is_after else "unknown"
    taken_ms = seen.taken_at_ms
    if taken_ms is None or taken_ms <= earliest_ms:
        return earliest_ms, "missed"
    ahead = now_ms is None or taken_ms > now_ms + SKEW_MS
    return earliest_ms, "unknown" if ahead or taken_ms - SKEW_MS <= latest_ms else "met"


def _reach(seen: CopySeen | None, now_ms: int | None) -> int | None:
    """Age of the oldest backup when it was listed; None for a listing from our future."""
    if seen is None or now_ms is None or seen.at_ms > now_ms + SKEW_MS:
        return None
    return _age(seen.oldest_at_ms, min(seen.at_ms, now_ms))


def _age(at_ms: int | None, now_ms: int | None) -> int | None:
    if at_ms is None or now_ms is None or at_ms > now_ms + SKEW_MS:
        return None
    return max(0, now_ms - at_ms)


def _due(
    level: int, age_ms: int, proofs: Sequence[ProofRecord], ever: _Proven, now_ms: int | None
) -> ProofDue:
    """proofs: those that still count; ever: what they prove, however old."""
    enough = [one for reached, one in ever.by_level.items() if reached >= level]
    last = max(enough, key=lambda one: one.at_ms, default=None)
    state: State = "unknown" if last is None or now_ms is None else "missed"
    if now_ms is not None:
        recent = _proven(one for one in proofs if now_ms - one.at_ms <= age_ms)
        if max(recent.by_level, default=-1) >= level:
            state = "met"
    return ProofDue(level, age_ms, state, last)


def _worst(states: Iterable[State]) -> State:
    found = set(states)
    return "missed" if "missed" in found else "unknown" if "unknown" in found else "met"


def _digits(policy: BackupPolicy, copies: Sequence[CopyState]) -> tuple[Digit, ...]:
    usable = [one for one in copies if one.usable]
    maybe = [one for one in copies if one.usable is None]
    systems = {one.system for one in usable if one.system is not None}
    unnamed = sum(one.system is None for one in usable)
    counted = [one for one in copies if not one.lost]
    broken = any(one.failed is not None or one.proven == "missed" for one in counted)
    proven = sum(one.proven == "met" for one in counted)
    return (
        _digit("copies", policy.copies, 1 + len(usable), len(maybe)),
        _digit("systems", policy.systems, 1 + len(systems), unnamed + len(maybe)),
        _digit(
            "outside",
            policy.outside,
            sum(one.outside is True for one in usable),
            sum(one.outside is None for one in usable) + sum(one.outside is not False for one in maybe),
        ),
        _digit(
            "undeletable",
            policy.undeletable,
            sum(one.deletable is False for one in usable),
            sum(one.deletable is None for one in usable) + sum(one.deletable is not True for one in maybe),
        ),
        Digit(
            "errors",
            "missed" if broken else "met" if counted and proven == len(counted) else "unknown",
            len(counted),
            proven,
            proven + sum(one.proven == "unknown" and one.failed is None for one in counted),
        ),
    )


def _digit(name: DigitName, asked: int, known: int, unknown: int) -> Digit:
    possible = known + unknown
    return Digit(
        name,
        "met" if known >= asked else "missed" if possible < asked else "unknown",
        asked,
        known,
        possible,
    )


def _rpo(policy: BackupPolicy, copies: Sequence[CopyState]) -> tuple[State | None, int | None]:
    """Judged by the newest of the copies that survive the loss of the original, if one is required."""
    able = _surviving(policy, copies)
    known = [one.age_ms for one in able if one.age_ms is not None and _certain(policy, one)]
    age_ms = min(known, default=None)
    if policy.rpo_ms is None:
        return None, age_ms
    if age_ms is not None and age_ms <= policy.rpo_ms:
        return "met", age_ms
    hopeful = any(one.age_ms is None or one.age_ms <= policy.rpo_ms for one in able)
    return "unknown" if hopeful else "missed", age_ms


def _retention(policy: BackupPolicy, copies: Sequence[CopyState]) -> State | None:
    """Judged by the same copies as the RPO: one of them must have both the number and the age."""
    if policy.keep_ms is None and policy.keep_count is None:
        return None
    found = [(_kept_by(policy, one), _certain(policy, one)) for one in _surviving(policy, copies)]
    if ("met", True) in found:
        return "met"
    return "unknown" if any(state != "missed" for state, _ in found) else "missed"


def _kept_by(policy: BackupPolicy, copy: CopyState) -> State:
    """Whether one copy has as many backups, and as old ones, as the policy requires; no one knows what is
    left of an old listing.
    """
    if copy.listed_age_ms is not None and copy.listed_age_ms > LISTING_MS:
        return "unknown"
    states: set[State] = set()
    for asked, known in ((policy.keep_count, copy.count), (policy.keep_ms, copy.reach_ms)):
        if asked is not None:
            states.add("unknown" if known is None else "met" if known >= asked else "missed")
    return _worst(states)


def _surviving(policy: BackupPolicy, copies: Sequence[CopyState]) -> list[CopyState]:
    """The copies that may be usable once the original is lost, if the policy requires such copies."""
    return [
        one for one in copies if one.usable is not False and not (policy.outside and one.outside is False)
    ]


def _certain(policy: BackupPolicy, copy: CopyState) -> bool:
    """Whether one of those is certainly usable then."""
    return copy.usable is True and (copy.outside is True or not policy.outside)
