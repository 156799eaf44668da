"""How things stand, the drawer, and the answer to a what-if: documents as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from evac.views.screen import Page
from evac.views.words import duration, listed, number, people, plural

Document = Mapping[str, Any]
SHOWN: Final = 20
_DIGEST: Final = 19
_GRAVE: Final = ("lost", "recovers", "degraded")


def _generation(document: Document) -> list[tuple[str, str, str]]:
    """Only where there was more than the first one."""
    own, newer = document.get("generation", 0), document.get("newer_generation", 0)
    if newer:
        words = f"{own}, and {newer} was opened elsewhere: nothing of this store acts any more"
        return [("generation", words, "error")]
    return [("generation", str(own), "")] if own else []


def status_text(document: Document, width: int, colour: bool) -> str:
    """One screen: who leads, what is held, sites that are marked, open runs, the drawer, the last notices."""
    page = Page(width, colour)
    leader, hold, runs = document["leader"], document["hold"], document["runs"]
    page.title(f"{plural(len(runs), 'run')} under way; {leader or 'nobody'} leads")
    page.line()
    rows = [
        ("leader", leader or "nobody: nothing moves until a controller runs", "" if leader else "error"),
        ("store", document["store"], ""),
        *_generation(document),
        (
            "hold",
            f"by {hold['who']} since {hold['at']}: {hold['reason']}" if hold else "none",
            "warning" if hold else "",
        ),
        *((site, mark, "" if mark == "active" else "warning") for site, mark in document["sites"].items()),
    ]
    page.facts(rows)
    if runs:
        page.line()
        page.table(
            ("run", "state", "question"),
            [(row["run"], row["state"].replace("_", " "), row["scenario"]) for row in runs[:SHOWN]],
            whole=(0,),
        )
    if document["plans"]:
        page.line()
        page.line("Plans that lie ready", "bold")
        page.table(_DRAWER, [_drawn(row) for row in document["plans"][:SHOWN]])
    if document["notices"]:
        page.line()
        page.line("Last notices", "bold")
        page.table(("when", "what"), [((one["at"] or "-")[:19], one["words"]) for one in document["notices"]])
    page.line()
    page.line(f"next: evac run show {runs[0]['run']}" if runs else "next: evac drawer list", "dim")
    return page.text()


_DRAWER: Final = ("if lost", "plan", "made, UTC", "")


def _drawn(row: Document) -> tuple[str, str, str, str]:
    made = (row["at"] or "-")[:19].replace("T", " ")
    return listed(row["lost"]), row["plan"][:_DIGEST] or "none", made, row["problem"]


def drawer_text(rows: Sequence[Document], width: int, colour: bool) -> str:
    """One line a scenario."""
    page = Page(width, colour)
    if not rows:
        page.line("no plan lies ready; a controller that leads makes them: evac serve")
        return page.text()
    page.table(_DRAWER, [_drawn(row) for row in rows])
    page.line()
    page.line("next: evac drawer get sha256:..., or evac apply sha256:... ESTATE", "dim")
    return page.text()


def what_if_text(document: Document, width: int, colour: bool) -> str:
    """What is down, degraded and lost for good, with the chain behind each; the gravest first."""
    page = Page(width, colour)
    rows = [row for row in document["services"] if row["fate"] in _GRAVE]
    rows.sort(key=lambda row: (_GRAVE.index(row["fate"]), row.get("tier") or 0, row["service"]))
    page.title(f"If {listed(document['domains'])} is lost: {plural(len(rows), 'service')} touched")
    page.line()
    if not rows:
        page.line("every service goes on")
    else:
        heads = ("service", "what happens", "back after", "people", "because")
        page.table(heads, [_fate(row) for row in rows[:SHOWN]])
    if len(rows) > SHOWN:
        page.line(f"and {number(len(rows) - SHOWN)} more: --output json", "dim")
    page.line()
    page.line("next: evac drawer list", "dim")
    return page.text()


def _fate(row: Document) -> tuple[str, str, str, str, str]:
    back, count = row["recovery_ms"], row.get("people")
    return (
        row["service"],
        row["fate"],
        "-" if back is None else duration(back),
        "-" if count is None else people(count),
        ", ".join(row["chain"][1:]) or "-",
    )
