"""The screens of check, verify, simulate and what-if."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from evac.model.coverage import Coverage, MissingFact
from evac.model.estate import Lead
from evac.model.plan import Plan
from evac.model.reason import fact_words
from evac.planning.simulation.simulate import PERCENTILES, ServiceForecast, Simulation
from evac.views.json_out import Alert, counts
from evac.views.plan_view import assumed_times, unjudged_words
from evac.views.sheet import Page
from evac.views.words import (
    GONE,
    above,
    as_judged,
    assumed_words,
    duration,
    half_judged,
    listed,
    number,
    people,
    percent,
    plural,
    share,
    since,
    time_back,
    user_minutes,
    weighted_words,
)

if TYPE_CHECKING:  # the checker takes a third of a second to load
    from evac.verify import Verdict

Document = Mapping[str, Any]
ROWS: Final = 20
_GRAVE: Final = ("lost", "shed", "unknown", "not proved", "recovers", "degraded")
_UNJUDGED: Final = {"unknown": "cannot be judged", "not proved": "not proved"}


def what_if_text(document: Document, width: int, colour: bool) -> str:
    """What is lost for good, not judged, down and degraded, with the chain behind each; in this order."""
    page = Page(width, colour)
    rows = sorted(
        document["services"],
        key=lambda row: (_GRAVE.index(row["fate"]), row.get("tier") or 0, row["service"]),
    )
    fates = [row["fate"] for row in rows]
    doubts = [f"{number(n)} {words}" for fate, words in _UNJUDGED.items() if (n := fates.count(fate))]
    least = sum(row["fate"] != "unknown" or row["down"] for row in rows)
    most = len(rows)
    affected = plural(most, "service") if least == most else f"{number(least)} to {number(most)} services"
    lost = document["domains"]
    title = f"If {listed(lost)} {'is' if len(lost) == 1 else 'are'} lost: {affected} affected"
    page.title(", ".join((title, *doubts)))
    page.line()
    if not rows:
        page.line("every service continues")
    else:
        heads = ("service", "what happens", "back after", "people", "because")
        page.table(heads, [_fate(row) for row in rows[:ROWS]])
    if len(rows) > ROWS:
        page.line(f"and {number(len(rows) - ROWS)} more: --output json", "dim")
    if rows and (assumed := assumed_words(Lead(**document["lead"]))):
        page.line()
        page.line(f"{assumed[:1].upper()}{assumed[1:]}.", "unknown")
    page.line()
    page.line("next: evac drawer list", "dim")
    return page.text()


def _fate(row: Document) -> tuple[str, str, str, str, str]:
    fate: str = row["fate"]
    back, count = row["recovery_ms"], row.get("people")
    returns = fate == "recovers" or (fate == "degraded" and row["down"])
    return (
        row["service"],
        _UNJUDGED.get(fate, fate),
        time_back(back) if returns else "-",
        "-" if count is None else people(count),
        ", ".join(row["chain"][1:]) or "-",
    )


SHOWN: Final = 12


def check_text(
    title: str,
    contents: str,
    alerts: Sequence[Alert],
    coverage: Coverage | None,
    width: int,
    colour: bool,
) -> str:
    """Problems with their places, then how complete the facts are and which are most worth adding.

    coverage: None if the estate cannot be used.
    """
    page = Page(width, colour)
    found = counts(alerts)
    state = "is well formed"
    if found["error"]:
        state = "cannot be used" if coverage is None else "has errors"
    page.title(
        f"{title} {state}: " + (", ".join(plural(n, s) for s, n in found.items() if n) or "no problem")
    )
    if contents:
        page.line(contents)
    for alert in alerts:
        page.line(f"{alert.place}: {alert.severity}: {alert.message} [{alert.rule}]", alert.severity)
        if alert.fix:
            page.line(f"    {alert.fix}", "dim")
    if coverage is not None:
        _worth_adding(page, coverage)
    page.line()
    page.line(
        "next: evac audit ESTATE"
        if not found["error"]
        else "next: fix these lines, then run evac check again",
        "dim",
    )
    return page.text()


def _worth_adding(page: Page, coverage: Coverage) -> None:
    page.line()
    known = percent(coverage.score_permille)
    page.line(f"coverage: {known} of the facts that results depend on are known", "bold")
    if not coverage.missing:
        return
    rows = [
        (one.what, number(one.count), number(one.verdicts) if one.verdicts else "-", such(one), one.why)
        for one in coverage.missing
    ]
    heads = ("worth adding", "how many", "verdicts", "such as", "why")
    page.table(heads, rows, right=(1, 2), optional=(3,))
    page.line(
        "verdicts: how many depend on it, each on one service and the loss of one site, "
        "and on nothing more basic that is unknown",
        "dim",
    )
    if coverage.left_out:
        page.line(left_out_words(coverage.left_out), "dim")


def such(fact: MissingFact) -> str:
    """The names to begin with; `-` if the facts are about nothing with a name."""
    more = ", ..." if fact.count > len(fact.names) else ""
    return f"{', '.join(fact.names)}{more}" if fact.names else "-"


def worth_words(fact: MissingFact) -> str:
    """A kind of missing fact in one sentence, for the end of an import."""
    names = f" ({such(fact)})" if fact.names else ""
    verb = "depends" if fact.verdicts == 1 else "depend"
    depend = f"{plural(fact.verdicts, 'verdict')} {verb} on it; " if fact.verdicts else ""
    return f"{fact.what}, {fact.count:,}{names}: {depend}{fact.why}"


def left_out_words(count: int) -> str:
    """That more kinds of facts are missing than are listed."""
    rest = plural(count, "more kind of facts is", "more kinds of facts are")
    it = "it is" if count == 1 else "they are"
    return f"{rest} unknown; {it} listed once these are stated"


def verify_text(plan: Plan, digest: str, verdict: Verdict, width: int, colour: bool) -> str:
    """Whether the plan is valid, with every violation by rule."""
    page = Page(width, colour)
    if verdict.holds:
        page.title(
            f"The plan is valid: {plural(verdict.steps, 'step')} checked against the estate, no rule violated"
        )
        if plan.unjudged:
            page.line(f"{plural(len(plan.unjudged), 'service')} {unjudged_words(plan)}", "unknown")
        if plan.estimated:
            words = "estimated from the lost share of the pool"
            page.line(f"Replicas lost, {words}: {listed(list(plan.estimated), 4)}", "unknown")
    else:
        page.title(f"The plan is not valid: {plural(len(verdict.violations), 'violation')}")
        rows = [(v.rule, v.subject, v.message) for v in verdict.violations[: 3 * SHOWN]]
        page.table(("rule", "what", "why"), rows)
        if len(verdict.violations) > 3 * SHOWN:
            page.line(f"and {number(len(verdict.violations) - 3 * SHOWN)} more", "dim")
    page.line()
    proved = verdict.objective if verdict.bound <= 0 else verdict.bound
    gap = -(-(verdict.objective - verdict.bound) * 1000 // proved) if proved > 0 else 0
    page.facts(
        [
            ("objective", f"{weighted_words(plan, verdict.objective)}, tier-weighted, recomputed", ""),
            (
                "bound",
                f"{user_minutes(verdict.bound, plan.tick_ms)}, recomputed from the certificate in integers",
                "",
            ),
            (
                "quality",
                f"at most {above(gap)} the best possible{as_judged(plan)}"
                if verdict.bound > 0
                else "no bound above zero",
                "",
            ),
            ("plan", digest, "dim"),
        ]
    )
    return page.text()


def simulate_text(plan: Plan, found: Simulation, width: int, colour: bool) -> str:
    """Percentiles by tier, the services least likely to meet their RTO, and what determines the duration."""
    page = Page(width, colour)
    page.title(f"{plan.scenario.title}: {number(found.trials)} trials, seed {found.seed}")
    page.line()
    heads = ("", "services", "planned", *(f"p{p}" for p in PERCENTILES))
    rows = [
        (
            f"tier {t.tier}",
            number(t.services),
            *(time_back(x, bool(t.untimed)) for x in (t.planned_ms, *t.last_ms)),
        )
        for t in found.tiers
    ]
    page.line(f"When the last service of a tier is back, {since(plan.scenario.kind)}", "bold")
    page.table(heads, rows, right=range(1, len(heads)))
    page.line()
    costs = ", ".join(
        f"p{p} {user_minutes(z, plan.tick_ms)}" for p, z in zip(PERCENTILES, found.objective, strict=True)
    )
    page.line(f"weighted outage: planned {user_minutes(found.planned_objective, plan.tick_ms)}; {costs}")
    if unknown := untimed_words(plan, found):
        page.line(unknown, "unknown")
    _unlikely(page, plan, found)
    if found.critical:
        page.line()
        page.line("Most often on the critical chain", "bold")
        page.table(
            ("", "of trials"), [(c.name, share(c.permille)) for c in found.critical[:SHOWN]], right=(1,)
        )
    page.line()
    assumed = ", ".join(
        f"{k} fails {u.fail:.1%}, spread {u.spread:g}" for k, u in sorted(found.uncertainty.items())
    )
    page.line(f"assumed: {assumed}", "dim")
    if times := assumed_times(plan):
        page.line(f"{times[:1].upper()}{times[1:]}.", "unknown")
    return page.text()


def untimed_words(plan: Plan, found: Simulation) -> str:
    """Services restored at a time that no trial can determine, and why; then those that cannot be judged;
    empty if there are none.
    """
    unjudged = set(plan.unjudged)
    parts = [_restored_untimed([s for s in found.services if s.untimed and s.service not in unjudged])]
    adds = "; they may add to the weighted outage"
    if unjudged:
        parts.append(f"{plural(len(unjudged), 'service')} {unjudged_words(plan)}{adds}")
    if part := half_judged(plan):
        parts.append(f"the missing replicas of {plural(part, 'degraded service')} cannot be judged{adds}")
    return "; ".join(part for part in parts if part)


def _restored_untimed(open_ones: Sequence[ServiceForecast]) -> str:
    if not open_ones:
        return ""
    facts = listed(sorted({fact_words(s.untimed) for s in open_ones}), 3)
    names = listed([s.service for s in open_ones], 3)
    be = "is" if len(open_ones) == 1 else "are"
    return (
        f"it is unknown when {names} {be} back: the estate does not state {facts};"
        " the weighted outage counts that time as zero"
    )


def at_risk(found: Simulation) -> list[ServiceForecast]:
    """Services that miss their objective in more than one trial of 100, the least likely to meet it first."""
    rows = [s for s in found.services if s.meets_rto_permille is not None and s.meets_rto_permille < 990]
    return sorted(rows, key=lambda s: (s.meets_rto_permille or 0, s.tier, s.service))


def odds_words(plan: Plan, found: Simulation) -> str:
    """How many services almost always meet their objective, out of all that have one, including those that
    stay up, those restored at an unknown time and those not restored.
    """
    stated = sum(o.rto_ms is not None for o in plan.outcomes)
    if not stated:
        return "no affected service has an RTO"
    risky, played = {s.service for s in at_risk(found)}, {s.service for s in found.services}
    timely = {s.service for s in found.services if s.meets_rto_permille is not None} - risky
    congested = {o.service for o in plan.outcomes if o.congested}
    safe = len(timely - congested)
    safe += sum(o.meets_rto is True for o in plan.outcomes if o.service not in played)
    total = plural(stated, "service")
    words = f"{number(safe)} of {total} {'meets its' if stated == 1 else 'meet their'} RTO"
    words += " in at least 99 % of the trials"
    unjudged = set(plan.unjudged)
    unknown = sum(
        bool(s.untimed) and s.rto_ms is not None for s in found.services if s.service not in unjudged
    )
    unknown += len(timely & congested)
    open_ones = sum(o.rto_ms is not None and o.service in unjudged for o in plan.outcomes)
    down = sum(o.rto_ms is not None and o.state in GONE for o in plan.outcomes) - open_ones
    parts = [f"{number(unknown)} unknown"] if unknown else []
    parts += [f"{number(open_ones)} cannot be judged"] if open_ones else []
    parts += [f"{number(down)} not restored by this plan"] if down else []
    return words + (f" ({', '.join(parts)})" if parts else "")


def _unlikely(page: Page, plan: Plan, found: Simulation) -> None:
    page.line()
    page.line(odds_words(plan, found), "bold")
    if risky := at_risk(found):
        rows = [
            (
                s.service,
                f"tier {s.tier}",
                share(s.meets_rto_permille or 0),
                duration(s.recovery_ms[1]),
                duration(s.rto_ms),
            )
            for s in risky[:SHOWN]
        ]
        page.table(("least likely to", "", "odds", "p90", "rto"), rows, right=(2, 3, 4))
