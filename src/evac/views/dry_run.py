"""A dry run: every step with what would be done and what would keep it from working now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evac.views.screen import Page
from evac.views.words import number, plural

Row = tuple[str, tuple[str, ...], tuple[str, ...], bool, str]
"""Step, actions in words, problems, by hand, gate."""

SHOWN = 20


def dry_run_document(
    digest: str, title: str, rows: Sequence[Row], needs_approval: Sequence[str]
) -> dict[str, Any]:
    """For programs."""
    return {
        "schema_version": 1,
        "plan_digest": digest,
        "question": title,
        "ready": not any(row[2] for row in rows),
        "needs_approval": list(needs_approval),
        "steps": [
            {"id": step, "actions": list(words), "problems": list(problems), "manual": manual, "gate": gate}
            for step, words, problems, manual, gate in rows
        ],
    }


def dry_run_text(document: Mapping[str, Any], saved_as: str, width: int, colour: bool) -> str:
    """One screen: what stands in the way first, then the steps, then what an approval must cover."""
    rows: list[Row] = [
        (one["id"], tuple(one["actions"]), tuple(one["problems"]), one["manual"], one["gate"])
        for one in document["steps"]
    ]
    needs_approval = document["needs_approval"]
    page = Page(width, colour)
    stuck = [row for row in rows if row[2]]
    by_hand = sum(1 for row in rows if row[3])
    verdict = "could begin now" if not stuck else f"{plural(len(stuck), 'step')} could not begin now"
    page.title(f"Dry run, {document['question']}: {verdict}")
    page.line()
    words = f"{plural(len(rows), 'step')}, {number(by_hand)} by hand; nothing was changed"
    page.line(words)
    if stuck:
        page.line()
        page.line("In the way", "bold")
        for step, _, problems, _, _ in stuck[:SHOWN]:
            page.line(f"{step}: {'; '.join(problems)}", "error")
    page.line()
    page.table(("step", "what"), [(row[0], "; ".join(row[1])) for row in rows[:SHOWN]])
    if len(rows) > SHOWN:
        page.line(f"and {plural(len(rows) - SHOWN, 'step')} more: --output json", "dim")
    gates = [row for row in rows if row[4]]
    if gates or needs_approval:
        page.line()
        page.line("A person must agree", "bold")
        for reason in needs_approval:
            page.line(f"it {reason}", "warning")
        for step, _, _, _, gate in gates[:SHOWN]:
            page.line(f"{step}: {gate}", "warning")
    page.line()
    page.line(f"next: evac apply {saved_as} ESTATE --execute --reason WHY", "dim")
    return page.text()
