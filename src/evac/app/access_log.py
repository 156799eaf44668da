"""The log of access and approvals: what war rooms saw, and what people asked of runs by any way.

Chapters of the journal of access are also kept in files, before policy has them deleted from the store. A
file is the chapter as it was: one line a segment, which anyone can check without evac's store.

    <folder>/<chapter>.jsonl    {"segment", "value"}    value: of the segment, whose SHA-256 is its hash
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from evac.app import runs
from evac.engine.lead import access_chapters as chapters
from evac.engine.lead.access_journal import access_records
from evac.model.access import AccessRecord, Proven
from evac.model.errors import Corrupt, InvalidInput, RunError
from evac.run.values import Event
from evac.store.anchors import Anchor, Segment, decode, key_of
from evac.store.port import Entry, Store

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
"""Kinds of events that a person caused."""


async def access_log(store: Store, since_ms: int = 0, until_ms: int = 2**53) -> list[AccessRecord]:
    """Records of that time, oldest first. Raises Corrupt, Unavailable."""
    found = await access_records(store)
    for row in await runs.list_runs(store):
        with contextlib.suppress(Corrupt, RunError):
            events = await runs.events_of(store, row.run)
            found += [_act(row.run, one) for one in events if one.kind in ACTS and one.data.get("who")]
    inside = (one for one in found if since_ms <= one.at_ms < until_ms)
    return sorted(inside, key=lambda one: (one.at_ms, one.run, one.kind))


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
    """One chapter in a file. problems empty: its chain is whole, and follows from the file before."""

    chapter: str
    head: Anchor
    problems: tuple[str, ...] = ()


async def archive(store: Store, folder: Path) -> list[Archived]:
    """Writes every chapter that is in the store to its file; a file that has the beginning of it goes on.
    Raises InvalidInput for a file that has something else, and changes none.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in await chapters.chapters_of(store):
        if one.deleted is not None:
            continue
        path, kept = folder / f"{one.stream}{SUFFIX}", list[bytes]()
        if path.exists():
            kept = path.read_bytes().splitlines()
        lines, number = list[bytes](), 0
        while (entry := await store.get(key_of(one.stream, number + 1))) is not None:
            number += 1
            lines.append(_line(number, entry))
        if lines[: len(kept)] != kept:
            raise InvalidInput(
                "archive-differs",
                f"{path} is not the beginning of {one.stream} in the store",
                "keep it, and find out which of the two has changed: evac run verify access --estate ESTATE",
            )
        if len(lines) > len(kept):
            _append(path, lines[len(kept) :])
    return check_archive(folder)


def _line(number: int, entry: Entry) -> bytes:
    return orjson.dumps({"segment": number, "value": entry.value.decode()})


def _append(path: Path, lines: list[bytes]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as target:
        target.write(b"".join(line + b"\n" for line in lines))
        target.flush()
        os.fsync(target.fileno())


def check_archive(folder: Path) -> list[Archived]:
    """Every file of the folder, oldest chapter first: its chain, and whether it follows from the one before.
    Needs no store. Raises InvalidInput where there is none.
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
        problems.append(f"changed: {before.stream} does not end where this one says it does")
    return Archived(chapter, head, tuple(problems))
