"""A runbook as pages of paper: a cover with questions and contacts, then a block for each step with room for
initials and a time.

The body is the same in the war room and in the self-contained page, which prints on A4 with page numbers.
"""

from __future__ import annotations

from itertools import count

from markupsafe import Markup

from evac.incident.runbook import Runbook, RunbookService, RunbookStep
from evac.views import rendered
from evac.views.words import duration, listed, number, plural

_BACK = frozenset({"restored", "degraded", "running"})


def runbook_page(book: Runbook) -> str:
    """One self-contained page without scripts. Same input, same bytes."""
    return rendered("runbook.html.j2", title=title_of(book), body=runbook_body(book), book=book)


def runbook_body(book: Runbook) -> Markup:
    """What is printed, as HTML without styles of its own."""
    parts = [(part.title, list(map(_block, part.steps))) for part in book.parts if part.steps]
    numbers = count(1)
    for _, blocks in parts:
        for block in blocks:
            block["no"] = str(next(numbers))
    text = rendered(
        "runbook_body.html.j2",
        book=book,
        title=title_of(book),
        lead=_lead(book),
        questions=_questions(book),
        contacts=list(book.people.items()),
        owners=_owners(book),
        parts=parts,
        services=[_service(one) for one in book.services],
    )
    return Markup(text)


def title_of(book: Runbook) -> str:
    return f"{book.title[:1].upper()}{book.title[1:]}"


def _lead(book: Runbook) -> str:
    """What it restores, and when a person uses it."""
    back = [one for one in book.services if one.state in _BACK]
    gone = [one.service for one in book.services if one.state not in _BACK]
    last = max((one.recovery_ms or 0 for one in back), default=0)
    words = f"Restores {number(len(back))} of {plural(len(book.services), 'affected service')}"
    words += f" in {duration(last)} with evac; by hand it takes longer." if last else "."
    if gone:
        words += f" Not restored: {listed(gone)}."
    return f"{words} Use this runbook only if evac cannot run."


def _questions(book: Runbook) -> list[tuple[str, tuple[str, str], tuple[str, str]]]:
    """(question, (answer, what to do), (other answer, what to do)); empty where nothing is lost."""
    if book.kind != "lose" or not book.lost:
        return []
    lost = listed(book.lost)
    be = "Is" if len(book.lost) == 1 else "Are"
    who = next((book.people[name] for name in book.lost if name in book.people), "people at that site")
    confirm = " ".join(name for name in book.lost if "/" not in name)
    command = f"evac apply {book.digest[:19]} ESTATE --execute{f' --confirm {confirm}' if confirm else ''}"
    return [
        (
            f"{be} {lost} really lost?",
            (
                "Yes",
                "two people at two other sites can't reach it, over different networks. Continue.",
            ),
            ("Not sure", f"stop. Call {who}. Two active primaries are worse than an outage."),
        ),
        (
            "Is evac running at another site?",
            ("Yes", f"use it: {command} --reason WHY. Put this runbook away."),
            ("No", "continue by hand from the first step."),
        ),
        (
            f"Can {lost} still write to its databases?",
            ("No: every fence is signed off", "you may promote."),
            ("Unknown", "do not promote anything. Fence first."),
        ),
    ]


def _owners(book: Runbook) -> list[tuple[str, str]]:
    """(team, the services it answers for)."""
    found: dict[str, list[str]] = {}
    for one in book.services:
        if one.owner:
            found.setdefault(one.owner, []).append(one.service)
    return [(owner, listed(names, 8)) for owner, names in sorted(found.items())]


def _block(step: RunbookStep) -> dict[str, str]:
    who = ", ".join(part for part in (step.owner, step.takes_part) if part)
    before = step.before
    if step.after:
        after = f"{listed(step.after, 4)} signed"
        before = f"{after}. {before[:1].upper()}{before[1:]}" if before else after
    return {
        "id": step.id,
        "words": f"{step.words[:1].upper()}{step.words[1:]}",
        "where": step.where,
        "do": step.do,
        "before": before or "-",
        "done": step.done_when or "-",
        "back": step.roll_back or "-",
        "who": who or "-",
        "takes": duration(step.end_ms - step.start_ms),
        "manual": "by hand" if step.manual else "",
    }


def _service(one: RunbookService) -> tuple[str, ...]:
    return (
        one.service,
        str(one.tier),
        one.owner or "-",
        one.state,
        duration(one.recovery_ms),
        duration(one.rto_ms) if one.rto_ms else "-",
        one.reason or "-",
    )
