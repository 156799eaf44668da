"""evac incident: what happened, in order; notes of people; the report for a regulator; the public status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evac.cli.options import estate_argument, file_option, output_option, plan_argument, quiet_option
from evac.cli.output import emit, say, screen, write_whole
from evac.cli.run_command import now_ms
from evac.cli.run_options import store_option, who_option, with_store
from evac.model.errors import InvalidInput

if TYPE_CHECKING:
    from evac.report.sheet import Sheet

_KINDS = ("note", "command", "draft", "update", "state", "fact", "resolved")
incident_argument = click.argument("incident", metavar="INCIDENT")


@click.group()
def incident() -> None:
    """Incidents: what happened, who commands, what is told to users and to a regulator."""


def _show(sheet: Sheet, output: str, target: Path | None) -> None:
    from evac.report.sheet import sheet_markdown, sheet_page, sheet_text

    if output == "markdown":
        emit(sheet_markdown(sheet), target)
    elif output == "html":
        emit(sheet_page(sheet), target)
    else:
        page = screen()
        emit(sheet_text(sheet, page.width, page.colour and target is None), target)


@incident.command(name="list")
@store_option
@output_option("text", "json", "markdown")
def list_command(store: str | None, output: str) -> None:
    """All incidents, oldest first."""
    from evac.app import incidents
    from evac.report.incident_view import json_of, list_sheet, summary_row

    found = [about for _, about in with_store(store, lambda opened: incidents.all_of(opened, now_ms()))]
    if output == "json":
        emit(json_of("evac-incidents", {"incidents": [summary_row(about) for about in found]}), None)
    else:
        _show(list_sheet(found), output, None)


@incident.command()
@incident_argument
@store_option
@output_option("text", "json", "markdown", "html")
def show(incident: str, store: str | None, output: str) -> None:
    """Where an incident stands: since when, what is down, who commands."""
    from evac.app import incidents
    from evac.incident.incident import summary
    from evac.incident.timeline import timeline
    from evac.report.incident_view import json_of, show_sheet, summary_row

    at_ms = now_ms()
    found = with_store(store, lambda opened: incidents.dossier(opened, incident, at_ms))
    about = summary(found)
    if output == "json":
        emit(json_of("evac-incident", summary_row(about)), None)
    else:
        _show(show_sheet(about, timeline(found, about), at_ms), output, None)


@incident.command(name="timeline")
@incident_argument
@click.option("--all", "whole", is_flag=True, help="Every record; else what the story needs.")
@store_option
@output_option("text", "json", "markdown", "html")
@file_option
def timeline_command(incident: str, whole: bool, store: str | None, output: str, target: Path | None) -> None:
    """What happened, in order; each line names the record that proves it."""
    from evac.app import incidents
    from evac.incident.incident import summary
    from evac.incident.timeline import timeline
    from evac.report.incident_view import timeline_json, timeline_sheet

    found = with_store(store, lambda opened: incidents.dossier(opened, incident, now_ms()))
    about = summary(found)
    entries = [entry for entry in timeline(found, about) if whole or entry.weight == "main"]
    if output == "json":
        emit(timeline_json(about, entries), target)
    else:
        _show(timeline_sheet(about, entries), output, target)


@incident.command()
@incident_argument
@store_option
@output_option("text", "json", "markdown", "html")
@file_option
def report(incident: str, store: str | None, output: str, target: Path | None) -> None:
    """The report for a regulator: start, cause, services, people, duration, actions; Korea and EU DORA.

    What no record and no person says is said to be not known; people say it: evac incident note --kind fact.
    """
    from evac.app import incidents
    from evac.incident.dora import classify
    from evac.incident.incident import summary
    from evac.incident.korea import duties
    from evac.incident.regulator import basics
    from evac.report.incident_view import report_json, report_sheet

    at_ms = now_ms()
    found = with_store(store, lambda opened: incidents.dossier(opened, incident, at_ms))
    about = summary(found)
    told = basics(found, about, at_ms)
    classified, owed = classify(found, about, told), duties(found, about, told)
    if output == "json":
        emit(report_json(told, classified, owed), target)
    else:
        _show(report_sheet(told, classified, owed), output, target)


@incident.command()
@incident_argument
@click.argument("text", default="")
@click.option("--kind", type=click.Choice(_KINDS), default="note", show_default=True, help="What it is.")
@click.option("--name", default="", help="The component, the fact, or the title of an update.")
@click.option("--value", default="", help="The state, the fact itself, or who commands.")
@click.option("--new", is_flag=True, help="The incident has no run and no note yet.")
@who_option
@store_option
@quiet_option
def note(
    incident: str, text: str, kind: str, name: str, value: str, new: bool, who: str | None, store: str | None,
    quiet: bool,
) -> None:  # fmt: skip
    """Write something down. An update is public; a draft is not."""
    from evac.app import incidents, runs
    from evac.incident.notes import Note

    at_ms = now_ms()
    made = Note(runs.new_id(at_ms), incident, kind, who or runs.who_am_i(), at_ms, text, name, value)  # type: ignore[arg-type]
    key = with_store(store, lambda opened: incidents.add_note(opened, made, new))
    say(f"{key} is written\nnext: evac incident show {incident}", quiet)


@incident.command(name="status-page")
@estate_argument
@click.option(
    "-o", "--out", "target", required=True, type=click.Path(path_type=Path, file_okay=False),
    help="Folder for index.html, feed.xml and status.json.",
)  # fmt: skip
@click.option("--title", default="", help="Whose page it is. [default: the name of the estate]")
@click.option(
    "--url", default="https://status.example/", show_default=True, help="Its address, for the feed."
)
@store_option
@quiet_option
def status_page(estate: Path, target: Path, title: str, url: str, store: str | None, quiet: bool) -> None:
    """The public status page as static files: no script, no request; put them outside all sites."""
    from evac import estate as estates
    from evac.app import incidents
    from evac.incident.components import public_names
    from evac.report.status_feed import status_feed
    from evac.report.status_page import status_html, status_json

    if not url.startswith(("https://", "http://")):
        raise InvalidInput("url-invalid", f"{url[:60]} is no address of a page", "begin it with https://")
    loaded = estates.load(estate)
    page = with_store(
        store,
        lambda opened: incidents.public_status(opened, title or loaded.name, public_names(loaded), now_ms()),
    )
    write_whole(target / "status.json", status_json(page).encode())
    write_whole(target / "feed.xml", status_feed(page, url).encode())
    write_whole(target / "index.html", status_html(page).encode())
    say(f"{target}: {page.overall}, {len(page.components)} components", quiet)


@incident.command()
@plan_argument
@click.option("--estate", type=click.Path(path_type=Path), help="Says who answers for what.")
@output_option("text", "json", "markdown", "html")
@file_option
def runbook(plan: Path, estate: Path | None, output: str, target: Path | None) -> None:
    """A plan for paper, with the same ids of steps, for the day when no screen works."""
    from evac import estate as estates
    from evac.estate import plan_codec
    from evac.incident import runbook as books
    from evac.report.incident_view import runbook_json, runbook_sheet

    made, digest = plan_codec.read(plan)
    book = books.runbook(made, digest, estates.load(estate) if estate is not None else None)
    if output == "json":
        emit(runbook_json(book), target)
    else:
        _show(runbook_sheet(book), output, target)
