"""evac simulate."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import click

from evac import estate as estates
from evac.app.planner.kernels import kernels, simulation_s
from evac.cli.options import (
    SEED_MAX,
    as_of_option,
    estate_argument,
    file_option,
    output_option,
    plan_argument,
    quiet_option,
)
from evac.cli.output import emit, progress, reporter, screen
from evac.derive.planning_instance import derive
from evac.estate.codecs import plan as plan_codec
from evac.model.digest import estate_digest
from evac.model.errors import StalePlan, UnsafePlan
from evac.model.policy import Policy
from evac.planning.simulation.simulate import parse_faults
from evac.planning.simulation.simulate import simulate as play
from evac.verify import check
from evac.views.json_out import simulate_json
from evac.views.small_texts import simulate_text


@click.command()
@plan_argument
@estate_argument
@as_of_option
@click.option("--trials", type=int, default=1000, show_default=True, help="How often the plan is played.")
@click.option(
    "--seed", type=click.IntRange(0, SEED_MAX), default=0, show_default=True, help="Same seed, same answer."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND:FIELD=NUMBER",
    help="For example boot:fail=0.1 or start:slow=2; may be repeated.",
)
@output_option("text", "json")
@file_option
@quiet_option
def simulate(
    plan: Path,
    estate: Path,
    as_of: date | None,
    trials: int,
    seed: int,
    faults: tuple[str, ...],
    output: str,
    target: Path | None,
    quiet: bool,
) -> None:
    """Play a PLAN with uncertain durations and failing steps, thousands of times.

    Says when each tier is back at the 50th to 99th percentile, how likely each rto is met, and what is
    most often on the critical chain. The plan is verified first.
    """
    uncertainty = parse_faults(faults)
    made, digest = plan_codec.read(plan)
    loaded = estates.load(estate, as_of or made.as_of)
    if estate_digest(loaded) != made.estate_digest:
        raise StalePlan("plan-stale", "the plan was made from another estate", "make it anew: evac plan")
    wrong = check(loaded, made).violations
    if wrong:
        words = f"the plan does not hold: {wrong[0].rule} {wrong[0].subject}: {wrong[0].message}"
        raise UnsafePlan("plan-wrong", words, f"see them all: evac verify {plan} {estate}")
    instance = derive(loaded, made.scenario, Policy(made.waivers, made.tier_weights), made.tick_ms)
    with (
        progress("simulating", quiet) as told,
        kernels(simulation_s(len(made.steps), trials), reporter(told, quiet)),
    ):
        found = play(
            instance,
            made,
            trials=trials,
            seed=seed,
            uncertainty=uncertainty,
            progress=lambda done: told(done, "trials"),
        )
    if output == "json":
        emit(simulate_json(digest, found), target)
    else:
        shown = screen()
        emit(simulate_text(made, found, shown.width, shown.colour), target)
