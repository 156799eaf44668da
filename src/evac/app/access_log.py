"""The log of access and approvals: sign-ins, refusals, and everything people requested of runs.

Chapters of the access journal are also archived in files before policy deletes them from the store. A file is
an exact copy of its chapter: one line a segment, which anyone can verify without evac's store.

<folder>/<chapter>.jsonl    {"segment", "value"}    value: of the segment, whose SHA-256 is its hash
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson

from evac.app import runs
from evac.backup.evidence import STREAM as BACKUPS
from evac.engine.lead import access_chapters as chapters
from evac.engine.lead.access_journal import access_records
from evac.engine.lead.watch_journal import STREAM as WATCH
from evac.engine.plans.journal import STREAM as PLANS
from evac.engine.runs.reading import decode_all
from evac.model.access import AccessRecord, Proven
from evac.model.errors import Corrupt, InvalidInput
from evac.model.records import dataclass
from evac.notices.values import STREAM as NOTICES
from evac.run.values import CORRUPT, Event
from evac.store.anchors import Anchor, Segment, decode, key_of, verify_chain
from evac.store.journal import readable
from evac.store.port import Store

READ_ON: Final = (NOTICES, PLANS, chapters.STREAM, BACKUPS)
JOURNALS: Final = (WATCH, *READ_ON)
"""Journals that belong to no run, except months of the access log."""
ACTS: Final = frozenset(
    {
        "approved",
        "gate_opened",
        "paused",
        "resumed",
        "step_attested",
        "step_skipped",
        "step_retried",
        "undo_asked",
        "rollback_started",
        "cancelled",
        "limit_changed",
        "released",
        "request_refused",
    }
)
"""Kinds of events caused by people."""


def is_of_no_run(journal: str) -> bool:
    """Whether a journal is one of `JOURNALS`, or a month of the access log, none of which belongs to a
    run.
    """
    return journal in JOURNALS or bool(chapters.Chapter(journal).from_month_ms)


@dataclass(frozen=True, slots=True)
class AccessLog:
    """Who signed in, who was refused, what people requested and how they proved their identity."""

    items: list[AccessRecord]
    """Oldest first."""
    problems: list[str]
    """Damage, each with the name of its journal: records there may be missing or changed."""


async def access_log(store: Store, since_ms: int = 0, until_ms: int = 2**53) -> AccessLog:
    """Records of a period, and problems of their journals. Damage in one journal hides no other.

    Raises Unavailable.
    """
    _, problems = await chapters.verify_chapters(store, ())
    found = await access_records(store, problems.append)
    for row in await runs.list_runs(store):
        broken = [f"{row.run}: {one}" for one in await verify_chain(store, row.run)]
        async for segment in readable(store, row.run):
            try:
                events = decode_all(segment.records)
            except Corrupt as error:
                broken.append(f"{row.run}: unreadable: segment {segment.number}: {error.message}")
                continue
            found += [_act(row.run, one) for one in events if one.kind in ACTS and one.data.get("who")]
        if row.state == CORRUPT and not broken:
            broken.append(f"{row.run}: unreadable: the store's entries for this run")
        problems += broken
    inside = (one for one in found if since_ms <= one.at_ms < until_ms)
    return AccessLog(sorted(inside, key=lambda one: (one.at_ms, one.run, one.kind)), problems)


def _act(run: str, event: Event) -> AccessRecord:
    proof = ""
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        proof = Proven.from_data(event.data["proof"]).words if "proof" in event.data else ""
    why = str(event.data.get("reason") or event.data.get("why") or "")
    what = f"{event.step}: {why}" if event.step else why
    kind = event.kind.replace("_", "-")
    return AccessRecord(event.at_ms, kind, str(event.data["who"]), proof, what=what, run=run)


SUFFIX: Final = ".jsonl"


@dataclass(frozen=True, slots=True)
class Archived:
    """One archived chapter. No problems: its chain is complete and continues the previous file."""

    chapter: str
    head: Anchor
    problems: tuple[str, ...] = ()


async def archive(store: Store, folder: Path) -> list[Archived]:
    """Write every chapter in the store to its file, continuing a partial file.

    A damaged chapter is archived up to the damage, without affecting the others. Raises InvalidInput, and
    changes nothing, if a file has different content.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    damaged = dict[str, list[str]]()
    for one in await chapters.chapters_of(store):
        if one.deleted is not None:
            continue
        path, kept = folder / f"{one.stream}{SUFFIX}", list[bytes]()
        if path.exists():
            kept = path.read_bytes().splitlines()
        lines = await _lines_of(store, one.stream)
        if wrong := await verify_chain(store, one.stream):
            damaged[one.stream] = [f"damaged in the store: {problem}" for problem in wrong]
        if lines[: len(kept)] != kept and (one.stream not in damaged or kept[: len(lines)] != lines):
            raise InvalidInput(
                "archive-differs",
                f"{path} is not the beginning of {one.stream} in the store",
                "keep it, and find out which of the two has changed: evac run verify access --estate ESTATE",
            )
        if len(lines) > len(kept):
            _append(path, lines[len(kept) :])
    found = {one.chapter: one for one in check_archive(folder)}
    for chapter, problems in damaged.items():
        kept_of = found.get(chapter, Archived(chapter, Anchor(chapter, 0, 0, "")))
        found[chapter] = replace(kept_of, problems=(*kept_of.problems, *problems))
    return [found[chapter] for chapter in sorted(found)]


async def _lines_of(store: Store, stream: str) -> list[bytes]:
    """The segments of a chapter as lines of its file, up to the first one that breaks the chain."""
    lines, before = list[bytes](), ""
    with contextlib.suppress(Corrupt, UnicodeDecodeError):
        while (entry := await store.get(key_of(stream, len(lines) + 1))) is not None:
            segment = decode(stream, len(lines) + 1, entry.value)
            if segment.previous != before:
                break
            before = segment.hash
            lines.append(orjson.dumps({"segment": len(lines) + 1, "value": entry.value.decode()}))
    return lines


def _append(path: Path, lines: list[bytes]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as target:
        target.write(b"".join(line + b"\n" for line in lines))
        target.flush()
        os.fsync(target.fileno())


def check_archive(folder: Path) -> list[Archived]:
    """Verify every file of the folder, oldest chapter first: its chain, and whether it continues the previous
    one.

    Needs no store. Raises InvalidInput if there are no files.
    """
    found = list[Archived]()
    for path in sorted(folder.glob(f"{chapters.STREAM}*{SUFFIX}")):
        found.append(_checked(path, found[-1].head if found else None))
    if not found:
        raise InvalidInput(
            "archive-empty", f"{folder} contains no chapter of the access log", "evac access archive DIR"
        )
    return found


def _checked(path: Path, before: Anchor | None) -> Archived:
    chapter, head, problems = path.stem, Anchor(path.stem, 0, 0, ""), list[str]()
    first: Segment | None = None
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            segment = decode(chapter, number, orjson.loads(line)["value"].encode())
            if (segment.previous, segment.first) != (head.hash, head.records + 1):
                problems.append(f"changed: segment {number} does not follow from the one before")
            first = first or segment
            head = Anchor(chapter, number, segment.last, segment.hash)
        link = chapters.linked_to(first.records[0]) if first is not None and first.records else None
    except (Corrupt, ValueError, KeyError, TypeError, AttributeError) as error:
        return Archived(chapter, head, (*problems, f"unreadable after segment {head.segment}: {error}"))
    if before is not None and link is None:
        problems.append(f"changed: it does not follow {before.stream}")
    elif before is not None and link is not None and link.stream != before.stream:
        problems.append(f"missing: the file for {link.stream}, which it follows")
    elif before is not None and link != before:
        problems.append(f"changed: {before.stream} ends at a different record than this file expects")
    return Archived(chapter, head, tuple(problems))
