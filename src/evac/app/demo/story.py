"""The main workflow for a newcomer: example, audit, plan, proof, simulation, report.

Run by `make demo`; all its files are in one folder, so that each command can be tried on them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from evac import __version__
from evac import estate as estates
from evac.app.planner.plans import Made, make_plan
from evac.audit import AuditReport, audit, headline
from evac.derive.planning_instance import derive
from evac.estate.examples import pangyo
from evac.estate.importers import import_estate
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.model.scenario import lose
from evac.planning.simulation.simulate import Simulation, simulate
from evac.verify import Verdict, check
from evac.views.audit_view import audit_context
from evac.views.html_report import html_report
from evac.views.plan_view import Planned, recovery_times, tally
from evac.views.words import duration, number, percent, plural

SOURCE: Final = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "wikimedia"


@dataclass(frozen=True, slots=True)
class Story:
    """Results of one company's part of the demonstration."""

    estate: Estate
    report: AuditReport
    made: Made
    verdict: Verdict
    simulation: Simulation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 when every part did its job."""
    parser = argparse.ArgumentParser(
        prog="python -m evac.app.demo.story", description="The main job, from start to finish."
    )
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for all output")
    parser.add_argument("--servers", type=int, default=90_000)
    parser.add_argument("--budget", type=int, default=10, help="search time for each plan, in seconds")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    print(f"evac {__version__}: a company like the one hit on 15 October 2022, {options.servers:,} servers\n")
    flawed = _company("pangyo", False, options.out, options.servers, options.budget)
    _tell(flawed)
    mended = _company("pangyo-mended", True, options.out, options.servers, options.budget)
    _tell(mended)
    _wikimedia(options.out)
    page = options.out / "pangyo-mended.html"
    print(f"\nTotal time: {time.monotonic() - begun:.0f} s. Open {page}, or continue with:")
    print(f"  .venv/bin/evac audit {options.out / 'pangyo'}")
    print(f"  .venv/bin/evac plan {options.out / 'pangyo-mended'} --lose gasan")
    print("  .venv/bin/evac serve --demo    a smaller company loses a site, and you make the decisions")
    return 0 if flawed.verdict.holds and mended.verdict.holds else 1


@contextmanager
def _step(words: str) -> Iterator[None]:
    """Print what is being done, and how long it took."""
    print(f"  {words:<58}", end="", flush=True)
    begin = time.monotonic()
    yield
    print(f"{time.monotonic() - begin:6.1f} s", flush=True)


def _company(name: str, mended: bool, out: Path, servers: int, budget: int) -> Story:
    folder = out / name
    print(f"{name}: {'the same company after the fixes' if mended else 'the company as it was'}")
    with _step("create the company and write its files"):
        estates.write(pangyo(servers=servers, mended=mended), folder, tables="parquet", replace=True)
    with _step("read and check them"):
        estate = estates.load(folder)
    with _step("audit every fault domain"):
        report = audit(estate, digest=estate_digest(estate))
    with _step(f"plan the loss of Pangyo (search for {budget} s, then prove)"):
        made = make_plan(estate, lose("pangyo"), budget_ms=budget * 1000)
        (out / f"{name}.plan.json").write_bytes(made.data)
    with _step("verify the plan independently"):
        verdict = check(estate, made.plan)
    with _step("simulate it 1,000 times with delays and failures"):
        plan = made.plan
        instance = derive(estate, plan.scenario, plan.policy, plan.tick_ms)
        simulation = simulate(instance, plan, trials=1000)
    story = Story(estate, report, made, verdict, simulation)
    with _step(f"write the report to {out / name}.html"):
        (out / f"{name}.html").write_text(_page(name, story), encoding="utf-8")
    return story


def _page(name: str, story: Story) -> str:
    return html_report(
        story.estate,
        title=f"{name}: the loss of Pangyo",
        lead=_verdict(story),
        footer=f"evac {__version__}; plan {story.made.digest}",
        planned=Planned(story.made.plan, story.made.digest, story.verdict, story.simulation),
        audit=audit_context(story.report, story.report.findings),
    )


def _verdict(story: Story) -> str:
    words, times = (
        tally(story.made.plan).back_words,
        recovery_times(story.made.plan, story.made.plan.outcomes),
    )
    last = f", the last after {duration(times[-1])}" if times else ""
    return f"{words[:1].upper()}{words[1:]}{last}."


def _tell(story: Story) -> None:
    """Print what the day would have looked like, in ten lines."""
    plan, report = story.made.plan, story.report
    errors = [f for f in report.findings if f.severity == "error"]
    tools = [f for f in errors if f.rule == "recovery-tool-lost"]
    left = [o for o in plan.outcomes if o.state in ("shed", "unplaced")]
    late = sum(1 for o in plan.outcomes if o.meets_rto is False and o not in left)
    row = next(r for r in report.rows if r.domain == "pangyo")
    gone = len(plan.gone_stores)
    kinds = {kind: sum(s.count for s in plan.steps if s.kind == kind) for kind in ("boot", "start")}
    likely = next((t for t in story.simulation.tiers if t.tier == 0), None)
    losses = plural(len(report.rows), "loss", "losses")
    p90 = likely.last_ms[1] if likely else 0
    whole = (
        "is not fully back within a day in 9 of 10 simulations"
        if p90 is None
        else f"is fully back within {duration(p90)} in 9 of 10 simulations"
    )
    print(f"""
  Without a plan, the audit estimates: {headline(report, row).text}.
  The audit tried {losses} and found {plural(len(errors), "error")} to fix.
  Recovery tools lost with what they must recover: {number(len(tools))}.
  With the plan: {_verdict(story)}
  Later than promised: {number(late)}. Shed, or without capacity or data: {number(len(left))}.
  Stores whose data is not restored: {number(gone)}.
  Servers booted: {number(kinds["boot"])}. Replicas started elsewhere: {number(kinds["start"])}.
  The plan is at most {percent(plan.gap_permille)} above the best possible; {_proved(story)}.
  What the plan restores of tier 0 {whole}.
""")


def _proved(story: Story) -> str:
    if story.verdict.holds:
        return f"the checker went through {plural(story.verdict.steps, 'step')} and agrees"
    return f"the checker found {plural(len(story.verdict.violations), 'violation')}"


def _wikimedia(out: Path) -> None:
    if not SOURCE.is_dir():
        print("wikimedia: its data is not available, so this part is skipped")
        return
    print("wikimedia (real data: two core sites)")
    with _step("import it"):
        import_estate("wikimedia", SOURCE, out / "wikimedia")
    with _step("audit it"):
        report = audit(estates.load(out / "wikimedia"))
    for rule in ("single-site-service", "hidden-single-site"):
        found = [f for f in report.findings if f.rule == rule]
        print(f"  {rule}: {number(len(found))}, for example {found[0].message if found else 'none'}")


if __name__ == "__main__":
    sys.exit(main())
