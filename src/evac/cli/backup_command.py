"""evac backup: the state of every backup; take, check and restore them now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from evac.cli import console
from evac.cli.console import emit, progress, say, screen
from evac.cli.options import (
    FILE,
    estate_argument,
    file_option,
    now_ms,
    output_option,
    quiet_option,
    who_option,
)
from evac.cli.target import Where, where_options
from evac.model.errors import InvalidInput

if TYPE_CHECKING:
    from evac.backup.known import Job
    from evac.model.backup import BackupEvent, BackupFacts
    from evac.model.estate import Estate
    from evac.views.sheet import Sheet

data_argument = click.argument("data_set", metavar="DATA_SET")
copy_option = click.option("--copy", default="", help="Only this backup: its endpoint, or its place.")
anyway_option = click.option("--anyway", is_flag=True, help="Also run during a hold, a run or maintenance.")
policy_option = click.option("--policy", type=FILE, help="Policy file. [default: next to ESTATE]")
output = output_option("text", "json", "markdown")


@click.group()
def backup() -> None:
    """Show what every backup is worth; take, check and restore backups."""


def _loaded(path: Path) -> Estate:
    from evac import estate as estates

    return estates.load(path)


def _facts(where: Where) -> BackupFacts:
    """Empty if there is no store yet: facts in the files still count."""
    from evac.model.backup import NOTHING_SEEN

    if where.exists:
        return where.do(lambda control: control.backup_facts())
    return NOTHING_SEEN


def _show(document: object, sheet: Sheet, output: str, target: Path | None) -> None:
    from evac.views.documents import document_json
    from evac.views.sheet import sheet_markdown, sheet_text

    if output == "json":
        emit(document_json(document), target)
    elif output == "markdown":
        emit(sheet_markdown(sheet), target)
    else:
        page = screen()
        emit(sheet_text(sheet, page.width, page.colour and target is None), target)


@backup.command()
@estate_argument
@click.argument("data_set", required=False, default="")
@click.option(
    "--fail-on",
    type=click.Choice(["missed", "unknown", "never"]),
    default="never",
    show_default=True,
    help="Exit with 3 if a data set misses its policy or cannot be judged.",
)
@where_options
@output
@file_option
def status(estate: Path, data_set: str, fail_on: str, where: Where, output: str, target: Path | None) -> int:
    """Show each data set, its copies, their age and what is proven about them.

    Name a DATA_SET to see everything known about its copies.
    """
    from evac.app.backups import matrix
    from evac.views.backup_view import backups_sheet

    document = matrix(_loaded(estate), _facts(where), now_ms())
    if data_set and data_set not in {row.data_set for row in document.data_sets}:
        raise InvalidInput(
            "data-set-unknown", f"the estate has no data set {data_set}", "evac backup status ESTATE"
        )
    _show(document, backups_sheet(document, data_set), output, target)
    bad = {"never": (), "missed": ("missed",), "unknown": ("missed", "unknown")}[fail_on]
    rows = [row for row in document.data_sets if data_set in ("", row.data_set)]
    return console.FINDINGS if any(row.state in bad for row in rows) else console.DONE


@backup.command()
@data_argument
@click.option(
    "--most", type=click.IntRange(1, 1_000), default=50, show_default=True, help="Maximum number of events."
)
@where_options
@output
@file_option
def history(data_set: str, most: int, where: Where, output: str, target: Path | None) -> None:
    """Show what happened to the backups of a DATA_SET: who, when, with which tool."""
    from evac.views.backup_view import history_document, history_sheet

    events = where.do(lambda control: control.backup_history(data_set, most))
    document = history_document(data_set, events)
    _show(document, history_sheet(document), output, target)


@backup.command()
@estate_argument
@where_options
@output
@file_option
def tools(estate: Path, where: Where, output: str, target: Path | None) -> int:
    """Show whether the tools that recovery needs could themselves be restored.

    Exit 3: at least one is not certain to be restorable.
    """
    from evac.app.backups import tools as tools_of
    from evac.views.backup_view import tools_sheet

    loaded = _loaded(estate)
    rows = tools_of(loaded, _facts(where), now_ms())
    _show(rows, tools_sheet(loaded.name, rows), output, target)
    return console.FINDINGS if any(row.state not in ("met", "waived") for row in rows) else console.DONE


def _perform(
    job: Job,
    estate: Path,
    data_set: str,
    copy: str,
    anyway: bool,
    policy: Path | None,
    who: str | None,
    where: Where,
    quiet: bool,
    kept: Mapping[str, Any] = MappingProxyType({}),
) -> list[BackupEvent]:
    import asyncio

    from evac.app.backups import perform
    from evac.app.controlling import read_policy
    from evac.app.default_store import default_store
    from evac.app.runs import who_am_i

    if where.server:
        raise InvalidInput(
            "backup-needs-store",
            "this starts programs on this machine, which a server cannot do for you",
            "use the store instead: --store",
        )
    loaded = _loaded(estate)
    found = read_policy(estate, policy, loaded)
    with progress(f"{job} of {data_set}", quiet) as shows:
        work = perform(
            where.store or default_store(),
            loaded,
            found,
            job,
            data_set,
            copy,
            who or who_am_i(),
            anyway,
            lambda words: say(words, quiet),
            kept,
            shows,
        )
        return asyncio.run(work)


def _report(
    data_set: str, events: list[BackupEvent], output: str, target: Path | None, footer: str = ""
) -> int:
    """Exit 1 if a job failed or could not run, 3 if it found an error."""
    from evac.views.backup_view import history_document, history_sheet

    document = history_document(data_set, reversed(events))
    _show(document, history_sheet(document, footer, is_report=True), output, target)
    outcomes = {event.outcome if event.proof is None else event.proof.outcome for event in events}
    if outcomes & {"damaged", "too-slow", "too-old", "answer-differs"}:
        return console.FINDINGS
    return console.DONE if outcomes <= {"done", "passed"} else console.FAILED


def _job(name: str, job: Job, words: str) -> None:
    """Add a command that runs one kind of job now."""

    @backup.command(name, help=words)
    @estate_argument
    @data_argument
    @copy_option
    @anyway_option
    @policy_option
    @who_option
    @where_options
    @output
    @file_option
    @quiet_option
    def command(estate: Path, data_set: str, output: str, target: Path | None, **given: Any) -> int:
        return _report(data_set, _perform(job, estate, data_set, **given), output, target)


_job(
    "list",
    "list",
    "Ask the backup tools of a DATA_SET which backups they have.\n\nThe answers are kept as evidence.",
)
_job(
    "run",
    "take",
    "Take a backup of a DATA_SET now and make its copies.\n\n"
    "Exit 1: it failed, is incomplete, or could not be listed afterwards.",
)
_job(
    "prove",
    "prove",
    "Read and check the next part of each backup of a DATA_SET.\n\n"
    "Exit 3: it is damaged. Exit 1: the check could not run, which says nothing about the backup.",
)
_job(
    "restore-test",
    "restore-test",
    "Restore each backup of a DATA_SET into an empty place and check its content.\n\n"
    "The restored copy is then removed. Exit 3: damaged, too slow or too old. Exit 1: it could not run.",
)


@backup.command()
@estate_argument
@data_argument
@click.option(
    "--into",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Empty or new folder to restore into. Nothing is ever overwritten.",
)
@copy_option
@click.option(
    "--backup", "snapshot", default="", metavar="ID", help="ID of the backup in its tool. [default: newest]"
)
@click.option(
    "--until",
    metavar="TIME",
    help="Restore to a point in time like 2026-11-25T02:55:00Z, if the tool supports it.",
)
@policy_option
@who_option
@where_options
@output
@file_option
@quiet_option
def restore(
    estate: Path,
    data_set: str,
    into: Path,
    snapshot: str,
    until: str | None,
    output: str,
    target: Path | None,
    **given: Any,
) -> int:
    """Restore a backup of a DATA_SET into your folder and leave it there.

    Without --copy, evac uses the backup with the best proof. Nothing is started: a database is recovered,
    checked and stopped. Exit 3: the backup is damaged. Exit 1: it could not be restored.
    """
    until_s = None if until is None else _moment("--until", until) // 1_000
    if until_s is not None and until_s * 1_000 > now_ms():
        hint = "check the time zone, or omit --until to restore everything that was backed up"
        raise InvalidInput("moment-wrong", f"--until: {until} is in the future", hint)
    kept = {"place": str(into.absolute()), "snapshot": snapshot, "until_s": until_s}
    events = _perform("restore", estate, data_set, anyway=True, kept=kept, **given)
    is_there = all(event.proof is None and event.outcome == "done" for event in events)
    footer = f"next: check the data in {kept['place']}, then start what uses it"
    if not is_there:
        footer = _after_failure(estate, given["where"], events[0])
    return _report(data_set, events, output, target, footer)


@backup.command("credentials-changed")
@estate_argument
@data_argument
@copy_option
@click.option("--at", metavar="TIME", help="When, like 2026-11-25T02:55:00Z. [default: now]")
@click.option(
    "--withdraw", is_flag=True, help="Withdraw the record that was added last; those before it count again."
)
@who_option
@where_options
@output
@file_option
def credentials_changed(
    estate: Path,
    data_set: str,
    copy: str,
    at: str | None,
    withdraw: bool,
    who: str | None,
    where: Where,
    output: str,
    target: Path | None,
) -> int:
    """Record that the credentials of the repositories of a DATA_SET were changed.

    Anyone who had the old ones may have changed older backups. Until a newer backup exists, evac raises an
    alert.
    """
    import asyncio

    from evac.app.backups import record_credentials
    from evac.app.default_store import default_store
    from evac.app.runs import who_am_i

    if where.server:
        raise InvalidInput(
            "backup-needs-store", "a server cannot record this for you", "use the store instead: --store"
        )
    if withdraw and at is not None:
        raise InvalidInput("options-conflict", "--withdraw takes no --at", "omit one of them")
    changed_at_ms = None if withdraw else now_ms() if at is None else _moment("--at", at)
    url, name = where.store or default_store(), who or who_am_i()
    events = asyncio.run(record_credentials(url, _loaded(estate), data_set, copy, name, changed_at_ms))
    footer = f"next: evac backup run ESTATE {data_set}" if not withdraw else ""
    return _report(data_set, events, output, target, footer)


def _moment(option: str, text: str) -> int:
    """Milliseconds since 1970. Raises InvalidInput."""
    from evac.estate.format.quantities import QuantityError, parse_moment

    try:
        return parse_moment(text.strip())
    except QuantityError as error:
        raise InvalidInput("moment-wrong", f"{option}: {error}", error.hint) from error


def _after_failure(estate: Path, where: Where, failed: BackupEvent) -> str:
    from evac.app.backups import instead_of
    from evac.model.errors import StoreError

    try:
        facts = _facts(where)
    except StoreError:  # what failed must be shown all the same
        return ""
    instead = instead_of(_loaded(estate), facts, now_ms(), failed)
    return f"next: fix that, or {instead}" if instead else ""
