"""evac observe: dated facts from the real systems."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evac.cli.options import estate_argument, output_option
from evac.cli.output import emit, screen
from evac.cli.run_command import now_ms

if TYPE_CHECKING:
    from evac.app.power_observing import PowerFacts
    from evac.model.observation import Observation
    from evac.report.screen import Page


@click.command()
@estate_argument
@click.option("--power", is_flag=True, help="Ask every management controller too: which servers are on?")
@output_option("text", "json")
def observe(estate: Path, power: bool, output: str) -> None:
    """Ask every copy of every store what it is now: primary, synchronous, how far behind."""
    from evac.report.run_report import moment
    from evac.report.screen import Page

    seen, facts = asyncio.run(_look(estate, power))
    if output == "json":
        rows = [{"store": m.store, "site": m.site, "role": m.role, "lag_ms": m.lag_ms} for m in seen.members]
        document: dict[str, Any] = {
            "schema_version": 1, "observed_at": moment(seen.at_ms), "members": rows,
        }  # fmt: skip
        if facts is not None:
            document["power"] = {"observed_at": moment(facts.at_ms), "sites": _power_rows(facts)}
        emit(json.dumps(document, indent=2) + "\n", None)
        return
    shown = screen()
    page = Page(shown.width, shown.colour)
    if seen.members:
        rows_text = [
            (m.store, m.site, m.role, "-" if m.lag_ms is None else f"{m.lag_ms} ms") for m in seen.members
        ]
        page.table(("store", "site", "role", "lag"), rows_text)
    elif facts is None:
        page.line("the estate names no endpoint of a store; add some under endpoints:")
    if facts is not None:
        _power_page(page, facts)
    emit(page.text(), None)


async def _look(estate: Path, power: bool) -> tuple[Observation, PowerFacts | None]:
    from evac import estate as estates
    from evac.actions.registry import Drivers
    from evac.app.observing import observe as look
    from evac.app.power_observing import observe_power

    drivers, loaded = Drivers(), estates.load(estate)
    try:
        seen = await look(loaded, drivers, now_ms())
        return seen, await observe_power(loaded, drivers, now_ms()) if power else None
    finally:
        await drivers.close()


def _power_rows(facts: PowerFacts) -> list[dict[str, Any]]:
    return [
        {
            "site": site.site, "asked": site.asked, "cannot_be_asked": site.beside, "counts": site.counts(),
            "servers": [one._asdict() for one in site.seen],
        }
        for site in facts.sites
    ]  # fmt: skip


def _power_page(page: Page, facts: PowerFacts) -> None:
    """How many servers of each site are on, off, or not known, and why."""
    from evac.model.boot_codes import BOOT_CODES

    rows = []
    for site in facts.sites:
        for key, count in site.counts().items():
            why = BOOT_CODES[key].words if key in BOOT_CODES else ""
            rows.append((site.site, "unknown" if why else key, f"{count:,}", why))
        if site.beside:
            rows.append((site.site, "unknown", f"{site.beside:,}", "no endpoint, or no address known"))
    if rows:
        page.table(("site", "power", "servers", "why"), rows)
    else:
        page.line("the estate has no servers of its own")
