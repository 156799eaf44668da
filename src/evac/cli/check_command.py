"""evac check and evac schema."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import click

from evac import __version__
from evac.cli import exits
from evac.cli.options import as_of_option, estate_argument, fail_on_option, file_option, output_option
from evac.cli.output import emit, screen
from evac.estate import CheckResult
from evac.estate import check as check_estate
from evac.views.json_out import check_json
from evac.views.problems import Alert, alerts_markdown, github, junit, of_diagnostics, sarif
from evac.views.small_texts import check_text
from evac.views.words import plural


@click.command()
@estate_argument
@as_of_option
@fail_on_option("error")
@output_option("text", "json", "sarif", "junit", "github", "markdown")
@file_option
def check(estate: Path, as_of: date | None, fail_on: str, output: str, target: Path | None) -> int:
    """Is the estate well formed? Names every problem with file, line and column.

    Also says how much of what a verdict depends on is known, and the ten facts most worth adding.
    """
    found = check_estate(estate, as_of)
    alerts = of_diagnostics(found.diagnostics)
    emit(_render(estate, found, alerts, output), target)
    if found.estate is None:
        return exits.USAGE
    order = ("error", "warning", "note")
    if fail_on == "never":
        return exits.DONE
    return (
        exits.FINDINGS if any(order.index(a.severity) <= order.index(fail_on) for a in alerts) else exits.DONE
    )


def _render(estate: Path, found: CheckResult, alerts: tuple[Alert, ...], output: str) -> str:
    missing = [(m.path, m.what, m.why, m.count) for m in found.coverage.missing] if found.coverage else []
    score = found.coverage.score_permille if found.coverage else None
    if output == "json":
        return check_json(str(estate), alerts, score, missing)
    if output == "sarif":
        return sarif(alerts, __version__)
    if output == "junit":
        return junit(alerts, "evac check")
    if output == "github":
        return github(alerts)
    if output == "markdown":
        return alerts_markdown(f"evac check {estate}", alerts)
    shown = screen()
    return check_text(str(estate), _contents(found), alerts, score, missing, shown.width, shown.colour)


def _contents(found: CheckResult) -> str:
    if found.estate is None:
        return ""
    e = found.estate
    parts = (
        plural(len(e.sites), "site"),
        plural(len(e.services), "service"),
        plural(len(e.stores), "store"),
        plural(len(e.fleet), "server"),
        plural(int(e.replicas.count.sum()), "replica"),
        *([plural(len(e.intervals), "fact") + " within bounds"] if e.intervals else []),
    )
    return ", ".join(parts)


@click.command()
@click.argument("what", type=click.Choice(["estate", "plan", "audit", "access", "notices"]), default="estate")
@file_option
def schema(what: str, target: Path | None) -> None:
    """Print a JSON Schema: of the estate, of access or notices files (for editors), of plan files, or of the
    audit's JSON.
    """
    from evac.estate import schema as estate_schema
    from evac.estate.codecs.access import access_schema
    from evac.estate.codecs.notices import notices_schema
    from evac.views.json_out import AUDIT_SCHEMA, PLAN_SCHEMA

    made = {
        "plan": lambda: PLAN_SCHEMA,
        "audit": lambda: AUDIT_SCHEMA,
        "access": access_schema,
        "notices": notices_schema,
    }
    found = made.get(what, estate_schema)()
    emit(json.dumps(found, indent=2, ensure_ascii=False) + "\n", target)
