"""The page Credits: cases after outages with windows, totals, approvals and tranches, and what one customer
gets and why. It only reads; the command line computes, approves and releases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Request, Response

from evac.model.errors import EvacError, InvalidInput
from evac.views.credit_view import case_sheet, summary_of
from evac.views.words import plural
from evac.web.pages import frame
from evac.web.room import room_of

PAGE: Final = frame.Page("/credits", "Credits", icon="credits", group="Respond")
CASES_MOST: Final = 200
JOURNAL: Final = "journal.jsonl"
Account = Annotated[str, Query(max_length=200)]
Language = Annotated[Literal["en", "ko"], Query()]


@dataclass(frozen=True, slots=True)
class CaseLine:
    """One case, as a row of the list."""

    name: str
    words: str
    trouble: bool = False


def names_of(folder: Path | None) -> list[str]:
    """Cases in the folder, the last ones by name first."""
    if folder is None or not folder.is_dir():
        return []
    found = (path.name for path in folder.iterdir() if (path / JOURNAL).is_file())
    return sorted(found, reverse=True)[:CASES_MOST]


def _document(folder: Path) -> dict[str, Any]:
    from evac.app.credit.case import Case
    from evac.app.credit.showing import case_document

    return case_document(Case(folder))


def lines_of(folder: Path, names: list[str]) -> list[CaseLine]:
    """A case that cannot be read is listed with the reason."""
    found = []
    for name in names:
        try:
            found.append(CaseLine(name, summary_of(_document(folder / name))))
        except (EvacError, OSError, ValueError, KeyError) as error:
            found.append(CaseLine(name, f"cannot be read: {error}", True))
    return found


@PAGE.router.get(PAGE.path)
async def credits(request: Request) -> Response:
    """All cases."""
    room = room_of(request)
    folder, now_ms = room.setting.credits, room.office.clock.now_ms()
    names = names_of(folder)
    stamp = tuple((name, _stamp(folder / name)) for name in names) if folder is not None else ()
    lines = [] if folder is None else await asyncio.to_thread(lines_of, folder, names)

    def make() -> bytes:
        return frame.render(
            "credits.html.j2", PAGE.path, now_ms, answer=answer_of(folder, lines), lines=lines, case=None
        )

    return frame.answer(request, "page credits", stamp, make)


def _stamp(folder: Path) -> tuple[int, int]:
    """Every change of a case is a line of its journal."""
    seen = (folder / JOURNAL).stat()
    return seen.st_mtime_ns, seen.st_size


def answer_of(folder: Path | None, lines: list[CaseLine]) -> tuple[str, str]:
    """(one sentence, how it is shown)."""
    if folder is None:
        return "No folder of cases is named: start evac serve with --credits DIR.", "note"
    if not lines:
        return "No case yet. Begin with evac credit windows CASE --import FILE.", "note"
    troubles = sum(line.trouble for line in lines)
    if troubles:
        return f"{plural(troubles, 'case')} cannot be read.", "error"
    return f"{plural(len(lines), 'case')}.", "ok"


@PAGE.router.get(PAGE.path + "/{case}")
async def one_case(request: Request, case: str, account: Account = "", language: Language = "en") -> Response:
    """One case, and one customer of it."""
    room = room_of(request)
    folder, now_ms = room.setting.credits, room.office.clock.now_ms()
    if folder is None or case not in names_of(folder):
        raise InvalidInput("not-found", f"there is no case {case[:80]}", "see the page Credits")
    document = await asyncio.to_thread(_document, folder / case)
    sentences, problem = await asyncio.to_thread(
        _explained, folder / case, document, account.strip(), language
    )

    def make() -> bytes:
        return frame.render(
            "credits.html.j2",
            PAGE.path,
            now_ms,
            answer=(summary_of(document), state_of(document)),
            lines=[],
            case=case,
            sheet=case_sheet(document),
            next=document["next"],
            account=account.strip(),
            language=language,
            sentences=sentences,
            problem=problem,
        )

    stamp = (_stamp(folder / case), account, language)
    return frame.answer(request, f"page credits {case}", stamp, make)


def state_of(document: Mapping[str, Any]) -> str:
    """How the sentence is shown: a ledger that waits for persons is a warning."""
    if document["ledger"] is None:
        return "note"
    return "ok" if len(document["approvals"]) >= document["approvals_needed"] else "warning"


def _explained(
    folder: Path, document: Mapping[str, Any], account: str, language: Literal["en", "ko"]
) -> tuple[list[str], str]:
    """(sentences, why there are none)."""
    if not account or document["ledger"] is None:
        return [], ""
    from evac.app.credit.case import Case
    from evac.app.credit.showing import explain, templates_of

    try:
        _, found = explain(Case(folder), account, language, templates_of(None))
    except InvalidInput as error:
        return [], frame.sentence(error)
    return [sentence for one in found for sentence in one.sentences], ""
