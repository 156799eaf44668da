"""evac verify."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import click

from evac import estate as estates
from evac.cli import exits
from evac.cli.options import (
    as_of_option,
    estate_argument,
    file_option,
    observe_option,
    output_option,
    plan_argument,
)
from evac.cli.output import emit, screen
from evac.cli.situation import situation_of
from evac.cli.target import Where, where_options
from evac.estate.codecs import plan as plan_codec
from evac.model.digest import estate_digest
from evac.model.errors import StalePlan
from evac.verify import check
from evac.views.json_out import verify_json
from evac.views.situation_view import differences, stale_words
from evac.views.small_texts import verify_text


@click.command()
@plan_argument
@estate_argument
@observe_option
@where_options
@as_of_option
@output_option("text", "json")
@file_option
def verify(
    plan: Path,
    estate: Path,
    observe: bool,
    where: Where,
    as_of: date | None,
    output: str,
    target: Path | None,
) -> int:
    """Check everything a PLAN says against the ESTATE, with code that never sees the search of the planner.

    Exit 0: the plan holds. Exit 10: it does not. Exit 12: it was made from another estate.
    """
    made, digest = plan_codec.read(plan)
    loaded = estates.load(estate, as_of or made.as_of)
    declared, found = loaded, situation_of(loaded, estate, where, observe)
    loaded = found.estate
    if estate_digest(loaded) != made.estate_digest:
        by_files = estate_digest(declared) == made.estate_digest
        raise StalePlan("plan-stale", *stale_words(differences(found), by_files))
    verdict = check(loaded, made)
    if output == "json":
        emit(verify_json(digest, verdict), target)
    else:
        shown = screen()
        emit(verify_text(made, digest, verdict, shown.width, shown.colour), target)
    return exits.DONE if verdict.holds else exits.REFUSED
