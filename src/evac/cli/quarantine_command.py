"""evac run quarantine: the list of servers for the people on the floor."""

from __future__ import annotations

from pathlib import Path

import click

from evac.cli.options import output_option
from evac.cli.output import emit, screen
from evac.cli.run_options import store_option, with_store


@click.command()
@click.argument("run", metavar="RUN")
@store_option
@output_option("text", "csv", "json", "html")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="A file instead of the screen.")
def quarantine(run: str, store: str | None, output: str, to: Path | None) -> None:
    """Servers that did not come up: hall, rack, position, serial, why, and what to do there.

    Sorted as one walks; html prints on A4. Servers that came up degraded are listed apart.
    """
    import time

    from evac.app import quarantine as floor
    from evac.report import quarantine as lists
    from evac.report.run_report import moment

    found = with_store(store, lambda opened: floor.quarantine(opened, run))
    if output == "csv":
        emit(lists.quarantine_csv(found), to)
    elif output == "json":
        emit(lists.quarantine_json(found), to)
    elif output == "html":
        from evac.report.quarantine_page import quarantine_page

        emit(quarantine_page(found, moment(time.time_ns() // 1_000_000) or ""), to)
    else:
        shown = screen()
        emit(lists.quarantine_text(found, shown.width, shown.colour and to is None), to)
