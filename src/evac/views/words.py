"""Words that a tired person can read without counting: quantities, short, rounded, with units; and
commands to type. Commands are in backticks in text, and in code elements in HTML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

from evac.model.estate import Lead
from evac.model.plan import Plan, Relocation
from evac.model.scenario import ScenarioKind
from evac.model.wall_clock import WallClock, wall_clock

_TYPED: Final = re.compile(r"`([^`]+)`")


def spelled(text: str) -> Markup:
    """A sentence as HTML, with everything else in it escaped."""
    found = _TYPED.split(text)
    parts = [
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(found)
    ]
    return Markup("").join(parts)


NEVER_WORD: Final = "not within the horizon"
NO_LEADER: Final = "no one: nothing happens until a controller runs and can use the store"
OUTCOME_WORDS: Final[Mapping[str, str]] = {
    "restored": "restored",
    "running": "stays up",
    "degraded": "restored in part",
    "shed": "shed",
    "unplaced": "not restored",
    "unknown": "cannot be judged",
}
"""State of a service after a plan, for people."""


def duration(milliseconds: int | None) -> str:
    """`45 s`, `12 min 30 s`, `3 h 05 min`, `2 d 04 h`; None is never."""
    if milliseconds is None:
        return NEVER_WORD
    if milliseconds < 1000:
        return f"{milliseconds} ms" if milliseconds else "0 s"
    seconds = milliseconds // 1000
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h" if hours else f"{days} d"


def time_back(milliseconds: int | None, unknown: bool = True) -> str:
    """When something is restored. `unknown`: None means an unknown time, not one after the horizon."""
    return "unknown" if milliseconds is None and unknown else duration(milliseconds)


def why_words(reason: str, moved: Relocation | None) -> str:
    """Why a service is not restored; of one that stops and starts elsewhere, where and when after the loss.
    Empty for the others.
    """
    if reason or moved is None:
        return reason
    stops = f"stops in {listed(moved.stops, 3)} after {duration(moved.stop_ms)}"
    starts = f"starts in {listed(moved.starts, 3)} after {duration(moved.start_ms)}"
    serves = f"serves there after {duration(moved.serves_ms)}"
    return ", ".join((starts, serves, stops) if moved.stops_last else (stops, starts, serves))


def assumed_words(lead: Lead, alone: bool = False) -> str:
    """`detection 1 min and approval 5 min assumed: the estate does not state them`; empty if both are
    stated. alone: whether something comes back sooner, because it recovers by itself.
    """
    times = {"detection": lead.detection_ms, "approval": lead.approval_ms}
    words = " and ".join(f"{name} {duration(times[name])}" for name in lead.assumed)
    them = "it" if len(lead.assumed) == 1 else "them"
    but = f"; a service that comes back by itself does not wait for {them}" if alone else ""
    return f"{words} assumed: the estate does not state {them}{but}" if words else ""


def moment(at_ms: int, timespec: str = "milliseconds") -> str | None:
    """UTC; None for never."""
    if at_ms <= 0:
        return None
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def moment_ms(at: str | None) -> int:
    """Reads what `moment` wrote; 0 for never."""
    return 0 if at is None else round(datetime.fromisoformat(at).timestamp() * 1_000)


def since(kind: ScenarioKind) -> str:
    """The start of the times in a plan."""
    words = {"lose": "the loss", "restore": "power is back", "evacuate": "the deadline"}
    return f"after {words.get(kind, 'the start')}"


def number(value: int) -> str:
    """Thousands with commas."""
    return f"{value:,}"


def people(value: int | None, unstated: int = 0) -> str:
    """`47 million`, `1.2 million`, `32,000`; None is unknown. unstated: services that are not included,
    because they do not state their users: `at least 32,000`, `unknown`.
    """
    if value is None or (unstated and not value):
        return "unknown"
    return " ".join(filter(None, ("at least" if unstated else "", *figure_and_unit(value))))


def people_words(value: int, unstated: int = 0) -> str:
    """The same in a sentence: `at least 32,000 people`."""
    return "an unknown number of people" if unstated and not value else f"{people(value, unstated)} people"


def people_between(least: int, most: int, unstated: int) -> str:
    """For several services that may share users: `9 million to 12 million`, `at least 9`."""
    if unstated or least == most:
        return people(least, unstated)
    return f"{people(least)} to {people(most)}"


def figure_and_unit(value: int) -> tuple[str, str]:
    """(`1.2`, `million`), (`32,000`, ``)."""
    if value < 1_000_000:
        return f"{value:,}", ""
    tenths = (value + 50_000) // 100_000
    return (f"{tenths // 10:,}" if tenths % 10 == 0 else f"{tenths // 10:,}.{tenths % 10}"), "million"


def percent(permille: int | None) -> str:
    """`3.2 %`; None if the divisor is zero."""
    if permille is None:
        return "no gap to measure"
    return f"{permille // 10}.{permille % 10} %" if permille % 10 else f"{permille // 10} %"


TIMES_FROM_PERMILLE: Final = 2_000


def above_parts(permille: int) -> tuple[str, str]:
    """How far above something a number is: `3.2 %` and `above`, or `21 times` and nothing."""
    if permille < TIMES_FROM_PERMILLE:
        return percent(permille), "above"
    return f"{-(-(1_000 + permille) // 1_000):,} times", ""


def above(permille: int) -> str:
    """The same in one: `3.2 % above`, `21 times`."""
    return " ".join(filter(None, above_parts(permille)))


def share(permille: int) -> str:
    """Odds as a whole percentage, never rounded up to 100 or down to 0."""
    if 0 < permille < 10:
        return "under 1 %"
    return "over 99 %" if 990 < permille < 1000 else f"{permille // 10} %"


def user_minutes(person_ticks: int, tick_ms: int) -> str:
    """Weighted or plain person-ticks as user-minutes, rounded to whole ones above a thousand."""
    return f"{user_minutes_number(person_ticks, tick_ms)} user-minutes"


def user_minutes_number(person_ticks: int, tick_ms: int) -> str:
    """The same without its unit."""
    minutes = person_ticks * tick_ms / 60_000
    if minutes >= 1e9:
        return f"{minutes / 1e9:,.2f} billion"
    if minutes >= 1e6:
        return f"{minutes / 1e6:,.1f} million"
    return f"{minutes:,.0f}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 service`, `12 services`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    """`a, b, c and 12 more`."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"


GONE: Final = ("shed", "unplaced", "unknown")
"""States in which a service does not serve at the end, or it is unknown whether it does."""
ZONE: Final = "EVAC_TIME_ZONE"
"""Environment variable with the name of the readers' time zone, like Asia/Seoul."""


def wall_clock_here() -> WallClock:
    """The clock of the people who read this process's output. Raises InvalidInput."""
    return wall_clock(os.environ.get(ZONE, ""))


def untimed(plan: Plan) -> int:
    """Number of services restored at an unknown time."""
    return sum(one.is_untimed for one in plan.outcomes)


def half_judged(plan: Plan) -> int:
    """Number of services that serve in part, without it being known whether the rest comes back."""
    return sum(one.is_half_judged for one in plan.outcomes)


def outage_words(plan: Plan) -> tuple[str, str]:
    """User-minutes of outage from the loss, as a number or a range, and its parts: what has passed before the
    plan begins, what the plan determines, and what the upper end of the range counts.
    """
    before, whole, doubt = plan.unweighted_before or 0, duration(plan.horizon_ms), outage_doubt(plan)
    least, worst = plan.unweighted * plan.tick_ms + before, plan.worst
    most = None if worst is None else worst.unweighted + worst.unweighted_before
    number_of, rest = (
        _between(least, most, doubt),
        "".join(f"; {one}" for one in (doubt, _after(plan)) if one),
    )
    if not before:
        return number_of, f"user-minutes in {whole}{rest}"
    parts = user_minutes_number(before, 1), user_minutes_number(plan.unweighted, plan.tick_ms)
    at_best = "at best " if doubt else ""
    return (
        number_of,
        f"user-minutes: {at_best}{parts[0]} until the plan begins, then {parts[1]} in {whole}{rest}",
    )


def weighted_words(plan: Plan, objective: int | None = None) -> str:
    """The weighted outage of a plan, in user-minutes: a range if it depends on something unknown. objective:
    what the checker finds that it is, in person-ticks.
    """
    least = (plan.objective if objective is None else objective) * plan.tick_ms
    most = None if plan.worst is None else plan.worst.objective
    return f"{_between(least, most, outage_doubt(plan))} user-minutes"


def _between(least: int, most: int | None, doubt: str) -> str:
    """An outage in user-milliseconds as user-minutes. Plans of earlier versions do not say the most."""
    shown = user_minutes_number(least, 1)
    if not doubt:
        return shown
    if most is None:
        return f"{shown} or more"
    high = user_minutes_number(most, 1)
    return shown if high == shown else f"{shown} to {high}"


def stops_at_horizon(plan: Plan) -> int:
    """Number of services without another place that an evacuation stops at the horizon or later, because the
    site still works until then: their outage begins where the plan ends.
    """
    late = plan.scenario.kind == "evacuate" and plan.grace_ms >= plan.horizon_ms
    return sum(late and one.state == "unplaced" and not one.base_outage_ms for one in plan.outcomes)


def _after(plan: Plan) -> str:
    """What is down once the plan ends; empty if that counts already."""
    after = stops_at_horizon(plan)
    be = "is" if after == 1 else "are"
    return f"{plural(after, 'service')} without another place {be} down after that" if after else ""


def outage_doubt(plan: Plan) -> str:
    """What only the upper end of a plan's outage counts: services that cannot be judged, as down all the
    time; those that come back at an unknown time, as never back. Empty if it depends on nothing unknown.
    """
    parts = []
    if plan.unjudged:
        parts.append(f"{plural(len(plan.unjudged), 'service')} cannot be judged")
    if part := half_judged(plan):
        parts.append(f"the missing replicas of {plural(part, 'degraded service')} cannot be judged")
    if late := untimed(plan):
        parts.append(f"no one knows when {plural(late, 'service')} will be back")
    return "; ".join(parts)


def as_judged(plan: Plan) -> str:
    """What limits a claim about the whole outage of a plan; empty if everything can be judged."""
    return ", as far as it can be judged" if plan.unjudged or half_judged(plan) else ""


def best_possible(plan: Plan) -> tuple[int | None, str]:
    """How far above the best possible a plan is at most, in permille, and what that rests on; None if it is
    not known, and why. Every text and page of a plan says this.
    """
    gone = [o for o in plan.outcomes if o.state in GONE]
    if plan.objective == 0 and (plan.unjudged or half_judged(plan)):
        return None, "the loss cannot be judged"
    if plan.objective == 0 and (late := untimed(plan)):
        return None, f"no one knows when {plural(late, 'service')} will be back"
    if plan.objective == 0 and not all(o.people for o in gone):
        return None, "the estate states no users of the services that are not restored"
    if plan.objective == 0 and stops_at_horizon(plan):
        return None, "the outage of what has no other place begins only after the horizon"
    if plan.objective == 0:
        better = "no plan can be better"
        return 0, better if gone or plan.unweighted_before else f"nothing is lost; {better}"
    if plan.gap_permille is None:
        return None, "no bound above zero is known for this loss"
    if plan.proof != "full":
        return plan.gap_permille, f"proof partial: facts are unknown{as_judged(plan)}"
    if plan.unjudged or plan.gap_permille:
        return plan.gap_permille, f"the bound holds for every possible plan{as_judged(plan)}"
    return 0, "proven: no plan can do better"
