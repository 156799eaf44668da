"""evac plan, evac verify and evac simulate: make, check and simulate a plan."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import click

from evac import __version__
from evac import estate as estates
from evac.app.planner.kernels import kernels, simulation_s
from evac.app.planner.plans import DEFAULT_BUDGET_MS, Made, Question, make_plan, scenario_of
from evac.cli import console
from evac.cli.console import emit, emit_pdf, pdf_possible, progress, reporter, say, screen, write_whole
from evac.cli.options import (
    BUDGET_MOST_S,
    FILE,
    SEED_MAX,
    Length,
    as_of_option,
    estate_argument,
    file_option,
    now_ms,
    observe_option,
    output_option,
    places_option,
    plan_argument,
    quiet_option,
)
from evac.cli.target import Where, facts_of, situation_of, where_options
from evac.cli.target import situation_lines as lines
from evac.derive.planning_instance import derive
from evac.derive.situation import of
from evac.estate.codecs import plan as plan_codec
from evac.model.digest import estate_digest
from evac.model.errors import InvalidInput, StalePlan, UnsafePlan
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.plan import Plan
from evac.model.situation import Situation
from evac.planning.simulation.simulate import parse_faults
from evac.planning.simulation.simulate import simulate as play
from evac.verify import Verdict, check
from evac.verify.waiting import check_waiting
from evac.views.json_out import simulate_json, verify_json
from evac.views.plan_text import diff as plan_diff
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned
from evac.views.situation_view import differences, stale_words
from evac.views.small_texts import simulate_text, verify_text
from evac.views.words import plural


@click.command()
@plan_argument
@estate_argument
@as_of_option
@click.option("--trials", type=int, default=1000, show_default=True, help="Number of simulations.")
@click.option(
    "--seed", type=click.IntRange(0, SEED_MAX), default=0, show_default=True, help="Same seed, same result."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND:FIELD=NUMBER",
    help="For example boot:fail=0.1 or start:slow=2; repeatable.",
)
@observe_option
@where_options
@output_option("text", "json")
@file_option
@quiet_option
def simulate(
    plan: Path,
    estate: Path,
    observe: bool,
    where: Where,
    as_of: date | None,
    trials: int,
    seed: int,
    faults: tuple[str, ...],
    output: str,
    target: Path | None,
    quiet: bool,
) -> None:
    """Simulate a PLAN thousands of times with uncertain durations and failing steps.

    Shows when each tier is restored at the 50th to 99th percentile, how likely each RTO is to be met,
    and which steps are most often on the critical chain. Verifies the plan first.
    """
    uncertainty = parse_faults(faults)
    made, digest = plan_codec.read(plan)
    loaded, _ = _planned_from(made, estates.load(estate, as_of or made.as_of), estate, where, observe, quiet)
    wrong = check(loaded, made).violations
    if wrong:
        words = f"the plan does not verify: {wrong[0].rule} {wrong[0].subject}: {wrong[0].message}"
        raise UnsafePlan("plan-wrong", words, f"to see all of them: evac verify {plan} {estate}")
    instance = derive(loaded, made.scenario, made.policy, made.tick_ms)
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
    """Check everything in a PLAN against the ESTATE, with code that is independent of the planner.

    Exit 0: the plan is valid. Exit 10: it is not. Exit 12: it was made from a different estate.
    """
    made, digest = plan_codec.read(plan)
    declared = estates.load(estate, as_of or made.as_of)
    loaded, facts = _planned_from(made, declared, estate, where, observe)
    verdict = check(loaded, made)
    wrong = check_waiting(declared, facts, loaded)
    verdict = replace(verdict, violations=(*wrong, *verdict.violations))
    if output == "json":
        emit(verify_json(digest, verdict), target)
    else:
        shown = screen()
        emit(verify_text(made, digest, verdict, shown.width, shown.colour), target)
    return console.DONE if verdict.holds else console.REFUSED


def _planned_from(
    made: Plan, declared: Estate, path: Path, where: Where, observe: bool, quiet: bool = False
) -> tuple[Estate, Observation]:
    """The estate as it is now, and the facts beyond its files. Raises StalePlan if the plan is of another."""
    facts = facts_of(declared, path, where, observe, quiet)
    found = of(declared, facts)
    if estate_digest(found.estate) != made.estate_digest:
        by_files = estate_digest(declared) == made.estate_digest
        raise StalePlan("plan-stale", *stale_words(differences(found), by_files))
    return found.estate, facts


@click.command()
@estate_argument
@places_option("--lose", "DOMAIN", "The domain that is lost; repeat for several at once.")
@places_option("--evacuate", "SITE", "Evacuate a site that still works.")
@places_option("--restore", "DOMAIN", "Cold-start a domain after power has returned.")
@places_option("--failback", "SITE", "Move everything back to its home site.")
@click.option(
    "--power",
    multiple=True,
    metavar="DOMAIN=AMOUNT",
    help="With --restore: power available now to a site, hall, feed or rack, like pangyo=90% or 300kW.",
)
@click.option(
    "--seen",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --restore: output of `evac observe --power --output json`; servers that are on "
    "are not booted.",
)
@click.option(
    "--deadline", type=Length(), help="With --evacuate: how long the site will still work, like 15m."
)
@click.option(
    "--budget",
    type=Length(BUDGET_MOST_S),
    default=DEFAULT_BUDGET_MS,
    help="Search effort, like 60s; an amount of work, not time. [default: 20s]",
)
@click.option(
    "--seed", type=click.IntRange(0, SEED_MAX), default=0, show_default=True, help="Same seed, same plan."
)
@click.option(
    "--moment",
    "moments",
    multiple=True,
    metavar="STORE=MOMENT",
    help="With --lose: restore a store, or every store of a recovery group, from backups to a point in time "
    "like 2026-11-25T02:55:00Z. Everything written after it is lost.",
)
@click.option("--waive", multiple=True, metavar="STORE", help="A store that may be promoted beyond its RPO.")
@click.option(
    "--sensitivity",
    is_flag=True,
    help="Also show how the result changes if demand and weights are wrong by 30 %.",
)
@click.option(
    "--diff",
    "older",
    type=click.Path(path_type=Path),
    metavar="PLAN",
    help="Show what changed since an older plan.",
)
@click.option("-o", "--out", "target", type=FILE, help="Write the plan to a file.")
@click.option("--report", type=FILE, help="Also write a report page: HTML, or PDF if it ends in .pdf.")
@observe_option
@where_options
@as_of_option
@output_option("text", "json", "html", "pdf")
@quiet_option
def plan(
    estate: Path,
    lose: tuple[str, ...],
    evacuate: tuple[str, ...],
    restore: tuple[str, ...],
    failback: tuple[str, ...],
    power: tuple[str, ...],
    seen: Path | None,
    deadline: int | None,
    budget: int,
    seed: int,
    moments: tuple[str, ...],
    waive: tuple[str, ...],
    sensitivity: bool,
    older: Path | None,
    target: Path | None,
    report: Path | None,
    observe: bool,
    where: Where,
    as_of: date | None,
    output: str,
    quiet: bool,
) -> int:
    """Plan an evacuation, a cold start or a failback: what goes where, what is shed, in which order, and
    when.

    The plan contains a proof: a bound no plan can beat. Same input, same bytes. The checker verifies
    the plan first; exit 10: it does not accept it.
    """
    _files_possible(output, target, report)
    before = plan_codec.read(older)[0] if older else None
    loaded = estates.load(estate, as_of)
    found = situation_of(loaded, estate, where, observe, quiet)
    for line in lines(found):
        say(line, quiet)
    _may_go_home(found, failback, str(estate))
    loaded = found.estate
    on = _on(seen, restore) if seen is not None else ()
    asked = Question(lose, evacuate, restore, failback, deadline, power, on, moments)
    scenario = scenario_of(loaded, asked, int(time.time()))
    with progress("planning", quiet) as told:
        made = make_plan(
            loaded,
            scenario,
            budget_ms=budget,
            seed=seed,
            waivers=waive,
            sensitivity=sensitivity,
            progress=told,
            report=reporter(told, quiet),
        )
        verdict = check(loaded, made.plan)
    if target is not None:
        write_whole(target, made.data)
        say(f"plan written to {target}", quiet)
    if report is not None:
        (emit_pdf if report.suffix == ".pdf" else emit)(_page(loaded, made, verdict), report)
        say(f"report written to {report}", quiet)
    if before is not None:
        emit("\n".join(plan_diff(before, made.plan)) + "\n", None)
    elif output == "json":
        emit(made.data.decode(), None)
    elif output == "html":
        emit(_page(loaded, made, verdict), None)
    elif output == "pdf":
        emit_pdf(_page(loaded, made, verdict), None)
    else:
        shown = screen()
        emit(plan_text(made.plan, made.digest, shown.width, shown.colour, str(target or "")), None)
    return _accepted(verdict, target, f"{estate} --observe" if observe else str(estate))


def _files_possible(output: str, target: Path | None, report: Path | None) -> None:
    """Raise InvalidInput for a page that cannot be made, or that is asked for as the file of the plan."""
    if target is not None and target.suffix in (".html", ".pdf"):
        hint = f"for a page: --report {target}; for the plan: -o {target.with_suffix('.json')}"
        raise InvalidInput("plan-out", f"-o writes the plan, which is JSON, not a page: {target}", hint)
    pdf_possible(output, report, "--report FILE.pdf, or > FILE")


def _may_go_home(found: Situation, domains: tuple[str, ...], estate: str) -> None:
    """Raise InvalidInput for a failback to what is lost: nothing runs there before it is restored."""
    for one in found.lost:
        if one.domain in domains and one.state == "lost":
            hint = f"restore it first: evac plan {estate} --restore {one.domain}; if it was never lost: "
            hint += f"evac site clear {one.domain} --reason WHY"
            raise InvalidInput("failback-lost", f"{one.domain} is marked as lost: nothing runs there", hint)


def _accepted(verdict: Verdict, target: Path | None, estate: str) -> int:
    """A plan that the checker refuses is still written and shown, but always with a message."""
    from evac.app.accepting import why_not

    words = why_not(verdict)
    if not words:
        return console.DONE
    say(f"error: the checker does not accept this plan: {words} [plan-wrong]")
    say(f"next: evac verify {target or 'PLAN'} {estate}, and report this internal error")
    return console.REFUSED


def _on(seen: Path, restore: tuple[str, ...]) -> tuple[str, ...]:
    """Servers that were seen on. Raises InvalidInput."""
    from evac.app.observing import servers_on

    if not restore:
        raise InvalidInput("plan-seen", "--seen needs --restore", "remove it")
    return servers_on(seen, now_ms())


def _page(estate: Estate, made: Made, verdict: Verdict) -> str:
    title = made.plan.scenario.title
    servers = plural(len(estate.fleet), "server")
    from evac.views.html_report import html_report

    return html_report(
        estate,
        title=title[:1].upper() + title[1:],
        lead=f"{estate.name}, {servers}, as of {estate.as_of or 'an unstated date'}.",
        footer=f"evac {__version__}; plan {made.digest}; times count from the loss unless stated otherwise.",
        planned=Planned(made.plan, made.digest, verdict),
    )
