"""evac example, evac check, evac estate and evac schema: create and check the files of an estate."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Final

import click

from evac import estate as estates
from evac.cli import console, options
from evac.cli.console import emit, say, screen, write_whole
from evac.estate import CheckResult
from evac.estate import check as check_estate
from evac.views.json_out import Alert, check_json, in_format, of_diagnostics
from evac.views.small_texts import check_text
from evac.views.words import plural

_EXAMPLES: Final = {"pangyo": False, "pangyo-mended": True}
"""Name of an example -> whether its flaws are fixed."""
_DAY: Final = date(2026, 11, 1)


@click.command()
@click.argument("name", type=click.Choice(tuple(_EXAMPLES)))
@click.option(
    "-o", "--out", "target", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option(
    "--servers", type=int, default=90_000, show_default=True, help="Size of the estate, 1,000 to 1,000,000."
)
@click.option(
    "--seed", type=click.IntRange(0), default=20_221_015, show_default=True, help="Same seed, same company."
)
@click.option(
    "--as-of", type=options.Day(), default=_DAY, show_default=True, help="Date for which the example is made."
)
@click.option("--tables", type=click.Choice(["csv", "parquet"]), default="parquet", show_default=True)
@click.option("--replace", is_flag=True, help="Replace the files of an existing estate.")
@options.quiet_option
def example(
    name: str, target: Path, servers: int, seed: int, as_of: date, tables: str, replace: bool, quiet: bool
) -> None:
    """Write an example estate: NAME is pangyo or pangyo-mended.

    pangyo is a company like the one hit in October 2022, with its published flaws; pangyo-mended is the same
    company after the fixes. For each number, the files state whether it was published or assumed.
    """
    from evac.estate.examples import describe, pangyo

    made = pangyo(servers=servers, seed=seed, mended=_EXAMPLES[name], as_of=as_of)
    estates.write(made, target, tables="parquet" if tables == "parquet" else "csv", replace=replace)
    for line in describe(made):
        say(line, quiet)
    say(f"written to {target}", quiet)
    say(f"next: evac audit {target}", quiet)


@click.command()
@options.estate_argument
@options.as_of_option
@options.fail_on_option("error")
@options.output_option("text", "json", "sarif", "junit", "github", "markdown")
@options.file_option
def check(estate: Path, as_of: date | None, fail_on: str, output: str, target: Path | None) -> int:
    """Check that the estate is well formed. Lists every problem with file, line and column.

    Also shows how complete the facts behind the results are, and the ten facts most worth adding.
    """
    found = check_estate(estate, as_of)
    alerts = of_diagnostics(found.diagnostics)
    emit(_render(estate, found, alerts, output), target)
    if found.estate is None:
        return console.USAGE
    order = ("error", "warning", "note")
    if fail_on == "never":
        return console.DONE
    return (
        console.FINDINGS
        if any(order.index(a.severity) <= order.index(fail_on) for a in alerts)
        else console.DONE
    )


def _render(estate: Path, found: CheckResult, alerts: tuple[Alert, ...], output: str) -> str:
    if output == "json":
        return check_json(str(estate), alerts, found.coverage)
    if (problems := in_format(output, alerts, "evac check", f"evac check {estate}")) is not None:
        return problems
    shown = screen()
    return check_text(str(estate), _contents(found), alerts, found.coverage, shown.width, shown.colour)


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


@click.group("estate")
def estate_group() -> None:
    """Keep the files of an estate in the newest format."""


@estate_group.command()
@options.estate_argument
@click.option("--write", is_flag=True, help="Write the files; without it, the changes are only shown.")
@options.quiet_option
def upgrade(estate: Path, write: bool, quiet: bool) -> None:
    """Rewrite an estate of version 1 in version 2 of the format.

    Only the words that change are replaced: comments, order and layout stay. Estates of version 1 stay
    valid, so this is never urgent.
    """
    from evac.estate.format.problems import Problems
    from evac.estate.format.versions import upgrade as upgraded
    from evac.model.errors import EstateError

    problems = Problems()
    files = upgraded(estate, problems)
    if problems.has_errors:
        raise EstateError(problems.all())
    for file in files:
        for one in file.changes:
            emit(f"{one.place}: {one.old} -> {one.new}\n", None)
    if not files:
        say(f"{estate} is in the newest format", quiet)
        return
    if not write:
        say(f"nothing is written yet\nnext: evac estate upgrade {estate} --write", quiet)
        return
    for file in files:
        write_whole(file.path, file.data)
    say(f"{plural(len(files), 'file')} upgraded\nnext: evac check {estate}", quiet)


@click.command()
@click.argument("what", type=click.Choice(["estate", "plan", "audit", "access", "notices"]), default="estate")
@options.file_option
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
