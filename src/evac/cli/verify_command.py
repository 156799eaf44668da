"""evac verify."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import click

from evac import estate as estates
from evac.cli import exits
from evac.cli.options import as_of_option, estate_argument, file_option, output_option, plan_argument
from evac.cli.output import emit, screen
from evac.estate import plan_codec
from evac.report.json_out import verify_json
from evac.report.small_texts import verify_text
from evac.verify import check


@click.command()
@plan_argument
@estate_argument
@as_of_option
@output_option("text", "json")
@file_option
def verify(plan: Path, estate: Path, as_of: date | None, output: str, target: Path | None) -> int:
    """Re-derive everything a PLAN says from the ESTATE, with code that shares nothing with the planner.

    Exit 0: the plan holds. Exit 10: it does not. Exit 12: it was made from another estate.
    """
    made, digest = plan_codec.read(plan)
    verdict = check(estates.load(estate, as_of or made.as_of), made)
    if output == "json":
        emit(verify_json(digest, verdict), target)
    else:
        shown = screen()
        emit(verify_text(made, digest, verdict, shown.width, shown.colour), target)
    if verdict.holds:
        return exits.DONE
    stale = any(v.rule == "F1" and "another estate" in v.message for v in verdict.violations)
    return exits.STALE if stale else exits.REFUSED
