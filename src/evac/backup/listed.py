"""What a listing shows of one data set: which backups belong to it, which count, and which to restore."""

from __future__ import annotations

from typing import Final

from evac.backup.known import Job, Known, NotMade, with_incomplete
from evac.drivers.backups import AHEAD_S, newest, refuse_ahead, without
from evac.drivers.capabilities import CopyReport, Listing, Restored
from evac.model.backup import WHOLE, CopySeen, Incomplete
from evac.model.estate import Endpoint
from evac.model.units import moment_words

USUAL: Final = 30
"""Number of earlier backups that define what is usual."""
TELLING_BYTES: Final = 1 << 18
"""With less new data than this, its compression ratio means nothing."""


def judged_by(known: Known, name: str, listing: Listing) -> Listing:
    """A listing in which the backups found incomplete count as failed: their tool may not show that."""
    return without(listing, with_incomplete(known, *differing(known, name, listing)).lacking(name))


def differing(known: Known, name: str, listing: Listing) -> list[Incomplete]:
    """The backups of a copy that state the same original as a complete one there, or name it as their
    original, and have other content: a rewritten backup does.
    """
    whole = set(known.whole(name))
    trees = {id_: one.tree for one in listing.copies if one.id in whole for id_ in (one.id, one.original)}
    return [
        Incomplete(name, one.id, one.taken_at)
        for one in listing.copies
        if one.original and one.id not in whole and one.tree != trees.get(one.original, one.tree)
    ]


def chosen_of(listing: Listing | None, snapshot: str, until_s: int | None) -> str:
    """The id to restore. A driver restores the newest backup that its tool lists as complete, so an older one
    is named if that one was found incomplete. Raises `Permanent` if none is complete.
    """
    if snapshot or listing is None or not any(copy.failed for copy in listing.copies):
        return snapshot
    found = newest(listing, "", until_s)
    refuse_ahead(found)
    return found.id


def older_than(not_made: NotMade | None, copy: CopyReport) -> str:
    """What was copied instead of the backup that was not made; empty if that one, or a newer one, was."""
    if not_made is None or copy.taken_at * 1_000 >= not_made.at_ms:
        return ""
    copied = f"this is a copy of the backup of {moment_words(copy.taken_at)}"
    then = moment_words(not_made.at_ms // 1_000)
    if not_made.busy:
        return f"{copied}: another process was working on the one at {not_made.copy} at {then}"
    return f"{copied}: the one at {not_made.copy} failed at {then}"


def date_problem(job: Job, taken: CopyReport, before: CopySeen | None, now_s: int) -> str:
    """Why a backup that was just taken is not what a restore uses unless it is named: a clock is wrong. Empty
    if its date is plausible, and for a copy, which has the date of its original. before: the listing before.
    """
    if job != "take":
        return ""
    ahead_s = taken.taken_at - now_s
    if ahead_s > AHEAD_S:
        words = f"it is dated {ahead_s:,} s ahead of this clock, so it is restored only if you name it"
        return f"{words}; correct the clock, and take another one"
    if before is None or before.taken_at_ms is None:
        return ""
    behind_s = before.taken_at_ms // 1_000 - taken.taken_at
    if behind_s <= 0:
        return ""
    words = (
        f"it is dated {behind_s:,} s before the newest backup there, which restores use unless you name this"
    )
    return f"{words}; correct the clock, and take another one once it has passed that date"


def one_of(listing: Listing | None, copy: str) -> CopyReport | None:
    return None if listing is None else next((one for one in listing.copies if one.id == copy), None)


def goes_beyond(copy: CopyReport | None, restored: Restored) -> bool:
    """Whether the log was replayed past the moment that the witness saw. Times are whole seconds, so the last
    second of a backup is not compared.
    """
    if copy is None or copy.consistent_at is None or restored.reached_at is None:
        return False
    return restored.reached_at >= copy.consistent_at - 1


def is_mine(copy: CopyReport, endpoint: Endpoint) -> bool:
    """Whether a backup belongs to the data set of the endpoint: it contains what the endpoint names."""
    asked = endpoint.settings.get("paths")
    paths = set(asked) if isinstance(asked, tuple) else {asked} if isinstance(asked, str) else set()
    return not paths or not copy.paths or not paths.isdisjoint(copy.paths)


def source_of(copy: CopyReport) -> str:
    return " ".join(part for part in (copy.source, *copy.paths[:3]) if part) or "an unknown source"


def seen_of(data_set: str, copy: str, listing: Listing, mine: list[CopyReport], now_ms: int) -> CopySeen:
    good = [copy for copy in mine if not copy.failed]
    good.sort(key=lambda copy: copy.taken_at)
    last = good[-1] if good else None
    # In the first backup, everything is new.
    shares = [_share(copy.added, copy.bytes) for copy in good[1:]]
    packings = [copy for copy in good if copy.added and copy.packed is not None]
    return CopySeen(
        data_set,
        copy,
        now_ms,
        None if last is None else last.taken_at * 1_000,
        None if last is None else last.bytes,
        len(good),
        min((copy.taken_at * 1_000 for copy in good), default=None),
        listing.deletable,
        listing.tool,
        listing.version,
        listing.repository,
        shares[-1] if shares else None,
        max((one for one in shares[:-1][-USUAL:] if one is not None), default=None),
        _packing(packings[-1:] if packings and packings[-1] is last else []),
        _packing([one for one in packings if one is not last][-USUAL:]),
        listing.refused,
        listing.deletable_why,
        unusable=len(mine) - len(good),
    )


def _share(part: int | None, whole: int | None) -> int | None:
    return None if part is None or not whole else min(part, whole) * WHOLE // whole


def _packing(copies: list[CopyReport]) -> int | None:
    """Ratio to which new data in these was compressed; None if there was too little."""
    added, packed = (sum(getattr(one, name) for one in copies) for name in ("added", "packed"))
    return packed * WHOLE // added if added >= TELLING_BYTES else None


def newest_id(copies: list[CopyReport]) -> str:
    """Of several that began within one second, the one listed last, as drivers choose it."""
    whole = sorted((copy for copy in copies if not copy.failed), key=lambda copy: copy.taken_at)
    return whole[-1].id if whole else ""
