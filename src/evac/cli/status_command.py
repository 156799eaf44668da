"""evac status, evac drawer, evac what-if: the current state, the plan library, the effect of a loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evac.cli import completion, console
from evac.cli.console import emit, say, screen, write_whole
from evac.cli.options import ESTATE, FILE, output_option
from evac.cli.target import Where, where_options
from evac.model.errors import EvacError
from evac.model.situation import Situation

if TYPE_CHECKING:
    from evac.control.port import Control
    from evac.model.observation import Observation


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@click.command()
@click.argument("estate", type=ESTATE, required=False)
@where_options
@output_option("text", "json")
def status(estate: Path | None, where: Where, output: str) -> int:
    """Show the current state: leader, hold, lost sites, open runs, standby plans, recent alerts.

    With ESTATE, also shows everything that is not where the files declare it, since when and by which run.
    Exit 17: a store has two writable primaries.
    """
    from evac.views.status_document import StatusDocument, status_text

    async def ask(control: Control) -> tuple[StatusDocument, Observation | None]:
        document = await control.status()
        try:
            return document, await control.facts(None, False)
        except EvacError:  # no leader has published any yet
            return document, None

    document, facts = where.do(ask)
    situation, page = _situation(estate, facts, document.runs[0].run if document.runs else ""), screen()
    if output == "json":
        emit(_json({**document.row, "situation": situation}), None)
    else:
        emit(status_text(document, page.width, page.colour, situation), None)
    return console.TWO_PRIMARIES if facts is not None and facts.rivals else console.DONE


def _situation(estate: Path | None, facts: Observation | None, run: str) -> dict[str, Any] | None:
    """Differences from the files, as data and in words; without files, only what is lost, and rival
    primaries. run: the first open one.
    """
    if facts is None:
        return None
    import time

    from evac import estate as estates
    from evac.derive import situation
    from evac.model.estate import Estate
    from evac.views.situation_view import document, lines_of, next_of
    from evac.views.words import moment

    now_ms, unobserved, observed = time.time_ns() // 1_000_000, list[str](), 0
    if estate is None:
        lost = facts.effects.lost if facts.effects is not None else ()
        found = Situation(Estate(""), Estate(""), facts.at_ms, lost, rivals=facts.rivals, silent=facts.silent)
    else:
        found = situation.of(estates.load(estate), facts)
        unobserved = facts.unobserved(found.estate)
        stores = sum(1 for one in found.estate.stores if one.members) - len(unobserved)
        observed = stores + len({one.service for one in facts.units})
    words = list(lines_of(found, now_ms))
    next_words = next_of(found, str(estate or "ESTATE"), run)
    return {
        "compared": estate is not None,
        "observed": observed,
        "observed_at": moment(facts.at_ms) if facts.at_ms else None,
        "unobserved": unobserved,
        **document(found),
        "words": words,
        "next": next_words,
    }


@click.group()
def drawer() -> None:
    """List and show standby plans."""


@drawer.command(name="list")
@where_options
@output_option("text", "json")
def list_command(where: Where, output: str) -> None:
    """List the standby plan for each scenario: when it was made, or why there is none."""
    from evac.views.status_document import drawer_text

    rows = where.do(lambda control: control.plans())
    page = screen()
    told = {"schema_version": 1, "plans": [row.row for row in rows]}
    emit(_json(told) if output == "json" else drawer_text(rows, page.width, page.colour), None)


@drawer.command()
@click.argument("plan", metavar="DIGEST", shell_complete=completion.plans)
@click.option("-o", "--out", "target", type=FILE, help="Write the plan to a file instead of stdout.")
@where_options
def get(plan: str, target: Path | None, where: Where) -> None:
    """Print a stored plan as evac plan -o writes it. sha256: and the first twelve characters are enough."""
    data = where.do(lambda control: control.plan(plan))
    if target is None:
        emit(data.decode(), None)
        return
    write_whole(target, data)
    say(f"plan written to {target}\nnext: evac apply {target}")


@click.command(name="what-if")
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=completion.domains)
@click.option(
    "--estate", type=click.Path(path_type=Path), help="The estate; not with a server, which has its own."
)
@where_options
@output_option("text", "json")
def what_if(domains: tuple[str, ...], estate: Path | None, where: Where, output: str) -> None:
    """Show the effect of losing these fault domains at the same time, with store roles as last
    observed."""
    from evac.views.small_texts import what_if_text

    if estate is None and not where.server:
        raise click.UsageError("use --estate, or a --server that has an estate")
    where.refuse(_estate=estate)
    document = where.do(lambda control: control.what_if(domains, estate))
    page = screen()
    emit(_json(document) if output == "json" else what_if_text(document, page.width, page.colour), None)
