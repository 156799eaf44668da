"""EV152: links and ingress that are too small for the traffic of today."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.derive.traffic import states_no_peak
from evac.model.plan import MEASURES, Congestion, Measure
from evac.model.units import traffic


def check(context: Context) -> Iterator[Finding]:
    """Error if a link or the ingress of a site carries less than what comes through it at peak, without any
    loss; warning if it may, or if it is not known.
    """
    today = context.impacts.crowding.today
    for one in today:
        if one.is_too_small:
            yield _too_small(context, one)
    for measure in MEASURES:
        if unknown := [one for one in today if one.measure == measure and not one.is_too_small]:
            yield _unknown(context, measure, unknown)


def _too_small(context: Context, one: Congestion) -> Finding:
    verb, name = "may come" if one.at_most else "comes", one.name[0].upper() + one.name[1:]
    return RULE.finding(
        context,
        "error" if one.is_certain else "warning",
        f"{' - '.join(one.at)}: {one.measure}",
        f"{name} can carry {traffic(one.measure, one.limit or 0)};"
        f" at peak, {one.arriving_words} {verb} through it today",
        "Add capacity, or send the traffic to several sites.",
        paths=_paths(context, one),
    )


def _unknown(context: Context, measure: Measure, found: list[Congestion]) -> Finding:
    """It is unknown whether the traffic fits: a peak or a limit is not stated."""
    key, through = "peak" if measure == "bandwidth" else "connections", {n for o in found for n in o.services}
    silent = zip(context.estate.services, states_no_peak(context.impacts.top, measure).tolist(), strict=True)
    services = [one.id for one, states_none in silent if states_none and one.id in through]
    open_ones = [one for one in found if one.limit is None]
    why, fix, paths = list[str](), list[str](), list[str]()
    if services:
        worst = max(found, key=lambda one: one.unstated)
        why.append(worst.unstated_words)
        fix.append(
            f"State {key} in the traffic of {listed(services)}, or kind: none if no users are sent there."
        )
        paths += [path for name in services[:3] for path in (f"services/{name}/traffic", f"services/{name}")]
    if open_ones:
        names = listed([one.name for one in open_ones])
        why.append(f"the limit of {names} is not stated, but those of others are")
        fix.append(f"State what {names} can carry.")
        paths += [path for one in open_ones[:3] for path in _paths(context, one)]
    return RULE.finding(
        context,
        "warning",
        f"services/*/traffic/{key}" if services else f"{' - '.join(open_ones[0].at)}: {measure}",
        f"it is unknown whether {listed([one.name for one in found])} can carry the traffic of today:"
        f" {'; '.join(why)}",
        " ".join(fix),
        paths=paths,
    )


def _paths(context: Context, one: Congestion) -> tuple[str, ...]:
    if len(one.at) == 1:
        return f"sites/{one.at[0]}/ingress", f"sites/{one.at[0]}"
    of = next((row for row, link in enumerate(context.estate.links) if link.ends == one.at), 0)
    return (f"links/{of}",)


RULE = Rule(
    "too-small-today",
    "EV152",
    "Links or ingress are too small for the traffic of today",
    check,
    per_loss=False,
)
