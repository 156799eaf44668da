"""evac incident: timeline, people's notes, the report for a regulator, the public status."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evac.cli import console, options
from evac.cli.console import emit, emit_pdf, say, screen, write_whole
from evac.cli.target import Where, where_options
from evac.model.errors import InvalidInput

if TYPE_CHECKING:
    from evac.app.incidents import PaperForm, PaperKind
    from evac.incident.records import Note
    from evac.views.sheet import Sheet

_KINDS = ("note", "command", "draft", "update", "state", "fact")
incident_argument = click.argument("incident", metavar="INCIDENT")


@click.group()
def incident() -> None:
    """Record an incident, update users, write reports."""


def _show(paper: str | Sheet, target: Path | None) -> None:
    """Show a document as it is, and a sheet at the width of the screen."""
    from evac.views.sheet import sheet_text

    if isinstance(paper, str):
        emit(paper, target)
    else:
        page = screen()
        emit(sheet_text(paper, page.width, page.colour and target is None), target)


def _form(output: str) -> Any:
    return "sheet" if output == "text" else output


@incident.command(name="list")
@where_options
@options.output_option("text", "json", "markdown")
def list_command(where: Where, output: str) -> None:
    """List all incidents, oldest first."""
    _show(where.do(lambda control: control.incidents(_form(output))), None)


@incident.command()
@incident_argument
@where_options
@options.output_option("text", "json", "markdown", "html")
def show(incident: str, where: Where, output: str) -> None:
    """Show an incident: when it started, what is down, the commander."""
    _show(where.do(lambda control: control.paper(incident, "summary", _form(output))), None)


@incident.command(name="timeline")
@incident_argument
@click.option("--all", "whole", is_flag=True, help="Show every record, not only the important ones.")
@where_options
@options.output_option("text", "json", "markdown", "html")
@options.file_option
def timeline_command(incident: str, whole: bool, where: Where, output: str, target: Path | None) -> None:
    """Show what happened, in order; each line names the record behind it."""
    kind: PaperKind = "whole-timeline" if whole else "timeline"
    _show(where.do(lambda control: control.paper(incident, kind, _form(output))), target)


@incident.command()
@incident_argument
@where_options
@options.output_option("text", "json", "markdown", "html", "pdf")
@options.file_option
def report(incident: str, where: Where, output: str, target: Path | None) -> None:
    """Write a regulator report (Korea, EU DORA): start, cause, services, people, duration, actions.

    Unknown values are marked as such; enter them with evac incident note --kind fact.
    """
    form: PaperForm = "html" if output == "pdf" else _form(output)
    made = where.do(lambda control: control.paper(incident, "report", form))
    if output == "pdf":
        emit_pdf(str(made), target)
    else:
        _show(made, target)


@incident.command()
@incident_argument
@click.argument("text", default="")
@click.option(
    "--kind", type=click.Choice(_KINDS), default="note", show_default=True, help="The kind of note."
)
@click.option("--name", default="", help="The component, the fact, or the title of an update.")
@click.option("--value", default="", help="The state, the fact, or the commander.")
@click.option(
    "--due", type=options.Length(), default=0, help="For an update: when the next one is due, like 30m."
)
@click.option("--other-title", default="", help="An update's title in the status page's other language.")
@click.option("--other-text", default="", help="An update's text in the status page's other language.")
@click.option("--new", is_flag=True, help="Create an incident that has no run or note yet.")
@options.who_option
@where_options
@options.quiet_option
def note(
    incident: str,
    text: str,
    kind: str,
    name: str,
    value: str,
    due: int,
    other_title: str,
    other_text: str,
    new: bool,
    who: str | None,
    where: Where,
    quiet: bool,
) -> None:
    """Add a note. An update is public; a draft is not."""
    from evac.incident.records import Note

    due_ms = options.now_ms() + due if due else 0
    other = other_title, other_text
    made = Note("", incident, kind, who or "", 0, text, name, value, due_ms, *other)  # type: ignore[arg-type]
    key = where.do(lambda control: control.note(made, new))
    say(f"{key} was written\nnext: evac incident show {incident}", quiet)


def _write(where: Where, note: Note, quiet: bool, done: str) -> int:
    where.do(lambda control: control.note(note, False))
    say(f"{done}\nnext: evac incident show {note.incident}", quiet)
    return console.DONE


@incident.command()
@incident_argument
@options.reason_option
@click.option("--confirm", metavar="INCIDENT", default="", help="The name of the incident, to confirm.")
@options.who_option
@where_options
@options.quiet_option
def resolve(incident: str, reason: str, confirm: str, who: str | None, where: Where, quiet: bool) -> int:
    """Resolve an incident. Lists what is still down; marks no service or component as operational.

    Without --confirm it only lists, and exits with 10.
    """
    from evac.incident.records import Note
    from evac.views.incident_view import still_down_words

    told = json.loads(str(where.do(lambda control: control.paper(incident, "summary", "json"))))
    say(still_down_words(told), quiet and bool(confirm))
    name = str(told["incident"])
    if not confirm:
        say(f"next: evac incident resolve {name} --reason {shlex.quote(reason)} --confirm {name}")
        return console.REFUSED
    made = Note("", name, "resolved", who or "", 0, reason, value=confirm)
    return _write(where, made, quiet, f"{name} is resolved; to reopen it: evac incident reopen {name}")


@incident.command()
@incident_argument
@options.reason_option
@options.who_option
@where_options
@options.quiet_option
def reopen(incident: str, reason: str, who: str | None, where: Where, quiet: bool) -> int:
    """Reopen a resolved incident. Its timeline keeps both events."""
    from evac.incident.records import Note

    told = json.loads(str(where.do(lambda control: control.paper(incident, "summary", "json"))))
    name = str(told["incident"])
    made = Note("", name, "reopened", who or "", 0, reason)
    return _write(where, made, quiet, f"{name} is reopened")


@incident.command(name="status-page")
@click.argument("estate", type=options.ESTATE, required=False)
@click.option(
    "-o",
    "--out",
    "target",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for index.html, feed.xml and status.json.",
)
@click.option("--title", default="", help="Title of the page. [default: the name of the estate]")
@click.option(
    "--url", default="https://status.example/", show_default=True, help="Its address, for the feed."
)
@click.option(
    "--languages",
    default="en",
    show_default=True,
    metavar="LIST",
    help="Languages of the page, its own first: en,ko. Others are written to index.ko.html and feed.ko.xml.",
)
@options.time_zone_option
@where_options
@options.quiet_option
def status_page(
    estate: Path | None, target: Path, title: str, url: str, languages: str, where: Where, quiet: bool
) -> None:
    """Write the public status page as static files without scripts; host them outside all sites.

    ESTATE names the components; with a server it is rejected, because the server has its own.
    """
    from evac.control.port import StatusAbout
    from evac.incident.components import languages_of

    if estate is None and not where.server:
        raise click.UsageError("give the ESTATE (its services have public names), or use --server")
    where.refuse(ESTATE=estate)
    if not url.startswith(("https://", "http://")):
        raise InvalidInput("url-invalid", f"{url[:60]} is not a web address", "start it with https://")
    languages_of(languages)
    files = where.do(lambda control: control.status_page(StatusAbout(estate, title, url, languages)))
    for name, text in files.files.items():
        write_whole(target / name, text.encode(), 0o644)
    say(f"{target}: {files.overall}, {files.components} components", quiet)


@incident.command()
@options.plan_argument
@click.option("--estate", type=click.Path(path_type=Path), help="Names of the contacts.")
@options.output_option("text", "json", "markdown", "html", "pdf")
@options.file_option
def runbook(plan: Path, estate: Path | None, output: str, target: Path | None) -> None:
    """Write a printable runbook of a plan, with the same step IDs, for when no screen works."""
    from evac import estate as estates
    from evac.estate.codecs import plan as plan_codec
    from evac.incident import runbook as books
    from evac.views.incident_view import runbook_json, runbook_page, runbook_sheet

    made, digest = plan_codec.read(plan)
    book = books.runbook(made, digest, estates.load(estate) if estate is not None else None)
    from evac.app.incidents import written

    if output == "json":
        _show(runbook_json(book), target)
    elif output == "html":
        _show(runbook_page(book), target)
    elif output == "pdf":
        emit_pdf(runbook_page(book), target)
    else:
        _show(written(runbook_sheet(book), _form(output)), target)
