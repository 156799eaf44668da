"""Papers of incidents: the summary, the timeline, the report; as JSON, Markdown, one page, or a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evac.incident.dora import classify
from evac.incident.incident import Dossier, Summary
from evac.incident.korea import duties
from evac.incident.regulator import basics
from evac.incident.timeline import timeline
from evac.incident.values import Entry
from evac.views import incident_view as views
from evac.views.sheet import Sheet, sheet_markdown, sheet_page

PaperForm = Literal["json", "markdown", "html", "sheet"]
PaperKind = Literal["summary", "timeline", "whole-timeline", "report"]


def list_paper(rows: Sequence[Summary], form: PaperForm) -> str | Sheet:
    """All incidents."""
    if form == "json":
        return views.json_of("evac-incidents", {"incidents": [views.summary_row(one) for one in rows]})
    return written(views.list_sheet(rows), form)


def paper(
    found: Dossier,
    about: Summary,
    kind: PaperKind,
    form: PaperForm,
    now_ms: int,
    entries: Sequence[Entry] | None = None,
) -> str | Sheet:
    """One paper of one incident. entries: its timeline, where it is known already."""
    if kind == "report":
        told = basics(found, about, now_ms)
        parts = told, classify(found, about, told), duties(found, about, told)
        return views.report_json(*parts) if form == "json" else written(views.report_sheet(*parts), form)
    rows = timeline(found, about) if entries is None else entries
    if kind == "summary":
        if form == "json":
            return views.json_of("evac-incident", views.summary_row(about))
        return written(views.show_sheet(about, rows, now_ms), form)
    shown = [entry for entry in rows if kind == "whole-timeline" or entry.weight == "main"]
    return (
        views.timeline_json(about, shown)
        if form == "json"
        else written(views.timeline_sheet(about, shown), form)
    )


def written(sheet: Sheet, form: PaperForm) -> str | Sheet:
    if form == "sheet":
        return sheet
    return sheet_page(sheet) if form == "html" else sheet_markdown(sheet)
