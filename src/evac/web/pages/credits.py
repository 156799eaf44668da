"""The page Credits: cases after outages with windows, totals, approvals and tranches, and what one
customer gets and why.

Two people approve the totals here or on the command line, which does everything else.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import Depends, Query, Request, Response

from evac.credit.formulas import money_words
from evac.model.access import Proven
from evac.model.errors import EvacError, InvalidInput, NotAllowed
from evac.model.records import dataclass
from evac.views.credit_view import case_sheet, summary_of, sums_of, to_type, tranche_rows
from evac.views.svg import Card
from evac.views.words import duration, number, plural
from evac.web.access.port import Actor, need
from evac.web.api.requests import check_may, check_reason, record, refuse_program
from evac.web.pages import frame
from evac.web.room import WarRoom, room_of

PAGE: Final = frame.Page("/credits", "Credits", icon="credits", group="Respond", key="c")
CASES_MOST: Final = 200
FIELDS_MOST: Final = 8
REASON_MOST: Final = 2_000
JOURNAL: Final = "journal.jsonl"
Account = Annotated[str, Query(max_length=200)]
Language = Annotated[Literal["en", "ko"], Query()]
Approver = Annotated[Actor, Depends(need("approver"))]
Operator = Annotated[Actor, Depends(need("operator"))]


@dataclass(frozen=True, slots=True)
class CaseLine:
    """One case, as a row of the list."""

    name: str
    words: str
    trouble: bool = False
    missing: int = 0
    """How many more people must approve."""


def names_of(folder: Path | None) -> list[str]:
    """The cases in the folder, in reverse order of their names."""
    if folder is None or not folder.is_dir():
        return []
    found = (path.name for path in folder.iterdir() if (path / JOURNAL).is_file())
    return sorted(found, reverse=True)[:CASES_MOST]


def _rules(folder: Path, document: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rules of the last ledger in words."""
    from evac.app.credit.case import Case
    from evac.app.credit.showing import rules_in_words

    return [] if document["ledger"] is None else rules_in_words(Case(folder), document["ledger"])


def _document(folder: Path) -> dict[str, Any]:
    from evac.app.credit.case import Case
    from evac.app.credit.showing import case_document

    return case_document(Case(folder))


def lines_of(folder: Path, names: list[str]) -> list[CaseLine]:
    """One row for each case; a case that cannot be read is listed with the reason."""
    found = []
    for name in names:
        try:
            document = _document(folder / name)
            found.append(CaseLine(name, summary_of(document), missing=_missing(document)))
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
        start = f"evac credit windows {shlex.quote(str(folder / 'CASE'))} --incident NAME" if folder else ""
        context = {"answer": answer_of(folder, lines), "lines": lines, "start": start, "case": None}
        return frame.render("credits.html.j2", PAGE.path, now_ms, **context)

    return frame.answer(request, "page credits", stamp, make)


def _stamp(folder: Path) -> tuple[int, int]:
    """A version of the case: every change adds a line to its journal."""
    seen = (folder / JOURNAL).stat()
    return seen.st_mtime_ns, seen.st_size


def answer_of(folder: Path | None, lines: list[CaseLine]) -> tuple[str, str]:
    """Return (one sentence, style)."""
    if folder is None:
        return "No case folder is configured: start evac serve with --credits DIR.", "note"
    if not lines:
        return "There are no cases yet. Resolve an incident, then start a case with its outages.", "note"
    troubles = sum(line.trouble for line in lines)
    if troubles:
        return f"{plural(troubles, 'case')} cannot be read.", "error"
    waiting = sum(line.missing > 0 for line in lines)
    if waiting:
        need_it = "needs" if waiting == 1 else "need"
        return f"{plural(len(lines), 'case')}: {number(waiting)} {need_it} approval.", "warning"
    return f"{plural(len(lines), 'case')}: none needs approval.", "ok"


def _folder_of(room: WarRoom, case: str) -> Path:
    """The folder of a case. Raises InvalidInput if there is no such case here."""
    folder = room.setting.credits
    if folder is None or case not in names_of(folder):
        raise InvalidInput("not-found", f"no such case: {case[:80]}", "see the Credits page")
    return folder / case


@PAGE.router.get(PAGE.path + "/{case}")
async def one_case(request: Request, case: str, account: Account = "", language: Language = "en") -> Response:
    """One case, and one customer in it."""
    room = room_of(request)
    folder, now_ms = _folder_of(room, case), room.office.clock.now_ms()
    document = await asyncio.to_thread(_document, folder)
    rules = await asyncio.to_thread(_rules, folder, document)
    sentences, problem = await asyncio.to_thread(_explained, folder, document, account.strip(), language)

    def make() -> bytes:
        return frame.render(
            "credits.html.j2",
            PAGE.path,
            now_ms,
            answer=(summary_of(document), state_of(document)),
            lines=[],
            case=case,
            sheet=case_sheet(document),
            cards=cards_of(document),
            tranches=[] if document["ledger"] is None else tranche_rows(document),
            approvals=document["approvals"],
            more_approvals=_missing(document),
            claims=document["claims"],
            rules=rules,
            next=document["next"],
            account=account.strip(),
            language=language,
            sentences=sentences,
            problem=problem,
        )

    stamp = (_stamp(folder), account, language)
    return frame.answer(request, f"page credits {case}", stamp, make)


def state_of(document: Mapping[str, Any]) -> str:
    """The style of the sentence: a ledger that waits for people is a warning."""
    if document["ledger"] is None:
        return "note"
    return "warning" if _missing(document) else "ok"


def _missing(document: Mapping[str, Any]) -> int:
    """How many more people must approve; 0 if there is nothing to approve yet."""
    if document["ledger"] is None:
        return 0
    return max(0, int(document["approvals_needed"]) - len(document["approvals"]))


def cards_of(document: Mapping[str, Any]) -> list[Card]:
    """The figures of a case, the total first."""
    windows = [row for row in document["windows"]["list"] if row["kind"] == "outage"]
    longest = max(windows, key=lambda row: row["to_ms"] - row["from_ms"], default=None)
    outage = Card("Longest outage", "-", "no windows count as an outage")
    if longest is not None:
        outage = Card("Longest outage", duration(longest["to_ms"] - longest["from_ms"]), longest["service"])
    ledger = document["ledger"]
    if ledger is None:
        return [outage]
    owed = list(sums_of(ledger["envelope"]))
    accounts, review = ledger["accounts"], sum(t["lines"] for t in ledger["totals"] if t["state"] == "review")
    needed, have = document["approvals_needed"], len(document["approvals"])
    return [
        Card(
            "Total",
            owed[0] if owed else "nothing",
            ", ".join(owed[1:]) or "computed twice, with the same result",
        ),
        Card("Accounts", number(accounts["credited"]), f"{plural(ledger['lines'], 'line')}"),
        outage,
        Card("Not decided", number(review), "claims in this ledger", "warning" if review else ""),
        Card("Approvals", f"{have} of {needed}", "people", "warning" if have < needed else ""),
    ]


def _explained(
    folder: Path, document: Mapping[str, Any], account: str, language: Literal["en", "ko"]
) -> tuple[list[str], str]:
    """Return (sentences, why there are none)."""
    if not account or document["ledger"] is None:
        return [], ""
    from evac.app.credit.case import Case
    from evac.app.credit.showing import explain, templates_of

    try:
        _, found = explain(Case(folder), account, language, templates_of(None))
    except InvalidInput as error:
        return [], frame.sentence(error)
    return [sentence for one in found for sentence in one.sentences], ""


@PAGE.router.get(PAGE.path + "/{case}/approve")
async def approve_form(request: Request, case: str, actor: Approver) -> Response:
    """The form to approve the totals, with what the approval covers."""
    return await _form(request, case, actor, {})


@PAGE.router.post(PAGE.path + "/{case}/approve")
async def approve(request: Request, case: str, actor: Approver) -> Response:
    """Record one person's approval of the totals that the form showed."""
    fields = frame.fields_of(await request.body(), FIELDS_MOST)
    room = room_of(request)
    folder = _folder_of(room, case)
    try:
        who = _who(room, case, actor, fields)
        more = await asyncio.to_thread(_approve, folder, fields, who, actor.proven or Proven())
    except EvacError as error:
        return await _form(request, case, actor, fields | {"problem": frame.sentence(error)}, 422)
    record(request, actor, "asked", f"approve credits {case}")
    path = f"{PAGE.path}/{quote(case, safe='')}"
    return frame.back_to(path, "credits-first" if more else "credits")


def _who(room: WarRoom, case: str, actor: Actor, fields: Mapping[str, str]) -> str:
    """The name of the approver. Raises NotAllowed if that person may not approve or has not proven the
    name.
    """
    check_may(actor, "approve", case, case)
    check_reason(fields.get("reason", ""))
    who = actor.name if actor.named else fields.get("who", "").strip() or actor.name
    approvers = room.office.rules.approvers if room.office.rules is not None else ()
    if approvers and (not actor.named or who not in approvers):
        names = ", ".join(approvers)
        raise NotAllowed("approver-unknown", f"{who[:80]} may not approve", f"sign in as one of: {names}")
    return who


def _approve(folder: Path, fields: Mapping[str, str], who: str, proof: Proven) -> int:
    """Approve, and return how many more must. Raises EvacError."""
    from evac.app.credit import deliveries
    from evac.app.credit.case import Case

    case = Case(folder)
    with case.changing():
        document = _document(folder)
        ledger = document["ledger"]
        if ledger is None or ledger["ledger"] != fields.get("ledger", ""):
            raise InvalidInput(
                "ledger-changed", "the totals have changed since this page was shown", "review them again"
            )
        wanted, typed = to_type(document), fields.get("typed", "")
        if "".join(typed.split()).replace(",", "") != wanted:
            raise InvalidInput("not-confirmed", f"type {wanted} to confirm", "nothing was approved")
        reason = fields.get("reason", "").strip()[:REASON_MOST]
        deliveries.approve(case, who, reason, None, None, time.time_ns() // 1_000_000, proof)
        return _missing(_document(folder))


async def _form(
    request: Request, case: str, actor: Actor, fields: Mapping[str, str], status: int = 200
) -> Response:
    room = room_of(request)
    folder = _folder_of(room, case)
    document = await asyncio.to_thread(_document, folder)
    if document["ledger"] is None:
        raise InvalidInput("not-found", f"case {case[:80]} has no ledger to approve", "evac credit compute")
    shown = {name: fields.get(name, "") for name in ("reason", "who", "typed", "problem")}
    body = frame.render(
        "credits_approve.html.j2",
        PAGE.path,
        room.office.clock.now_ms(),
        actor=actor,
        case=case,
        ledger=document["ledger"],
        answer=summary_of(document),
        owed=", ".join(sums_of(document["ledger"]["envelope"])) or "nothing",
        tranches=tranche_rows(document),
        approvals=document["approvals"],
        more_approvals=_missing(document),
        wanted=to_type(document),
        fields=shown,
    )
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)


@PAGE.router.get(PAGE.path + "/{case}/claims/{claim}")
async def claim_form(request: Request, case: str, claim: str, actor: Operator) -> Response:
    """One claim that waits for a person, with the form that decides it."""
    return await _claim_form(request, case, claim, actor, {})


@PAGE.router.post(PAGE.path + "/{case}/claims/{claim}")
async def decide(request: Request, case: str, claim: str, actor: Operator) -> Response:
    """Accept or refuse a claim."""
    refuse_program(actor, "decide a claim")
    fields = frame.fields_of(await request.body(), FIELDS_MOST)
    folder = _folder_of(room_of(request), case)
    who = actor.name if actor.named else fields.get("who", "").strip() or actor.name
    try:
        check_reason(fields.get("reason", ""))
        await asyncio.to_thread(_decide, folder, claim, fields, who)
    except EvacError as error:
        return await _claim_form(
            request, case, claim, actor, fields | {"problem": frame.sentence(error)}, 422
        )
    record(request, actor, "asked", f"{fields.get('answer', '')} claim {claim} of {case}")
    return frame.back_to(f"{PAGE.path}/{quote(case, safe='')}", "claim")


def _decide(folder: Path, claim: str, fields: Mapping[str, str], who: str) -> None:
    """Record the decision. Raises EvacError."""
    from evac.app.credit.case import Case
    from evac.credit.ledger import Decision
    from evac.estate.codecs.credit_rules import read_money
    from evac.estate.format.quantities import QuantityError

    granted, currency = 0, ""
    if fields.get("answer") != "refuse":
        try:
            money = read_money(fields.get("amount", "").strip())
        except QuantityError as error:
            raise InvalidInput(error.code, error.message, error.hint) from error
        if not money.minor:
            raise InvalidInput(
                "granted-nothing", "nothing is granted", "to refuse the claim, press Refuse claim"
            )
        granted, currency = money.minor, money.currency
    reason = fields.get("reason", "").strip()[:REASON_MOST]
    now_ms = time.time_ns() // 1_000_000
    Case(folder).decide(Decision(claim, who, reason, now_ms, granted), currency)


async def _claim_form(
    request: Request, case: str, claim: str, actor: Actor, fields: Mapping[str, str], status: int = 200
) -> Response:
    room = room_of(request)
    document = await asyncio.to_thread(_document, _folder_of(room, case))
    queue = document["claims"]["queue"] if document["claims"] is not None else []
    found = next((row for row in queue if row["id"] == claim), None)
    if found is None:
        raise InvalidInput("not-found", f"claim {claim[:80]} is not waiting for a person", "see the case")
    body = frame.render(
        "credits_claim.html.j2",
        PAGE.path,
        room.office.clock.now_ms(),
        actor=actor,
        case=case,
        claim=found,
        reported=money_words(found["loss"], found["currency"]),
        fields={name: fields.get(name, "") for name in ("reason", "amount", "who", "problem")},
    )
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)
