"""evac observe: dated facts from the real systems."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from evac.cli.options import estate_argument, output_option
from evac.cli.output import emit, screen
from evac.cli.run_command import now_ms


@click.command()
@estate_argument
@output_option("text", "json")
def observe(estate: Path, output: str) -> None:
    """Ask every copy of every store what it is now: primary, synchronous, how far behind."""
    from evac import estate as estates
    from evac.actions.registry import Drivers
    from evac.app.observing import observe as look
    from evac.model.observation import Observation
    from evac.report.run_report import moment
    from evac.report.screen import Page

    async def work() -> Observation:
        drivers = Drivers()
        try:
            return await look(estates.load(estate), drivers, now_ms())
        finally:
            await drivers.close()

    seen = asyncio.run(work())
    if output == "json":
        rows = [{"store": m.store, "site": m.site, "role": m.role, "lag_ms": m.lag_ms} for m in seen.members]
        document = {"schema_version": 1, "observed_at": moment(seen.at_ms), "members": rows}
        emit(json.dumps(document, indent=2) + "\n", None)
        return
    shown = screen()
    page = Page(shown.width, shown.colour)
    if seen.members:
        rows_text = [
            (m.store, m.site, m.role, "-" if m.lag_ms is None else f"{m.lag_ms} ms") for m in seen.members
        ]
        page.table(("store", "site", "role", "lag"), rows_text)
    else:
        page.line("the estate names no endpoint of a store; add some under endpoints:")
    emit(page.text(), None)
