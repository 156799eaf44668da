"""evac run quarantine: the list of servers for the people on the floor."""

from __future__ import annotations

from pathlib import Path

import click

from evac.cli.options import output_option
from evac.cli.output import emit, screen
from evac.cli.target import Where, where_options


@click.command()
@click.argument("run", metavar="RUN")
@where_options
@output_option("text", "csv", "json", "html")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="A file instead of the screen.")
def quarantine(run: str, where: Where, output: str, to: Path | None) -> None:
    """Servers that did not come up: hall, rack, position, serial, why, and what to do there.

    Sorted as one walks; html prints on A4. Servers that came up degraded are listed apart.
    """
    from evac.views import quarantine as lists

    if output in ("csv", "html"):
        emit(where.do(lambda control: control.quarantine(run, "csv" if output == "csv" else "html")), to)
        return
    told = where.do(lambda control: control.quarantine(run, "json"))
    if output == "json":
        emit(told, to)
    else:
        shown = screen()
        emit(lists.quarantine_text(lists.quarantine_read(told), shown.width, shown.colour and to is None), to)
