"""evac status, evac drawer, evac what-if: how things stand, which plans lie ready, what a loss would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from evac.cli.console import emit, say, screen, write_whole
from evac.cli.options import output_option
from evac.cli.target import Where, where_options


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@click.command()
@where_options
@output_option("text", "json")
def status(where: Where, output: str) -> None:
    """How things stand: who leads, what is held, open runs, plans that lie ready, the last notices."""
    from evac.views.small_texts import status_text

    document = where.do(lambda control: control.status())
    page = screen()
    emit(_json(document) if output == "json" else status_text(document, page.width, page.colour), None)


@click.group()
def drawer() -> None:
    """Plans that lie ready before a fire."""


@drawer.command(name="list")
@where_options
@output_option("text", "json")
def list_command(where: Where, output: str) -> None:
    """For each scenario the plan that lies ready, when it was made, or why there is none."""
    from evac.views.small_texts import drawer_text

    rows = where.do(lambda control: control.plans())
    page = screen()
    told = {"schema_version": 1, "plans": rows}
    emit(_json(told) if output == "json" else drawer_text(rows, page.width, page.colour), None)


@drawer.command()
@click.argument("plan", metavar="DIGEST")
@click.option(
    "-o",
    "--out",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the plan to a file instead of stdout.",
)
@where_options
def get(plan: str, target: Path | None, where: Where) -> None:
    """A plan that is kept, as evac plan -o writes it; sha256: and the first twelve letters will do."""
    data = where.do(lambda control: control.plan(plan))
    if target is None:
        emit(data.decode(), None)
        return
    write_whole(target, data)
    say(f"plan written to {target}\nnext: evac apply {target}")


@click.command(name="what-if")
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN...")
@click.option("--estate", type=click.Path(path_type=Path), help="The estate; a server has its own.")
@where_options
@output_option("text", "json")
def what_if(domains: tuple[str, ...], estate: Path | None, where: Where, output: str) -> None:
    """What the loss of these fault domains at once would do, by the roles of stores as last seen."""
    from evac.views.small_texts import what_if_text

    if estate is None and not where.server:
        raise click.UsageError("name the --estate, or a --server that has one")
    where.refuse(_estate=estate)
    document = where.do(lambda control: control.what_if(domains, estate))
    page = screen()
    emit(_json(document) if output == "json" else what_if_text(document, page.width, page.colour), None)
