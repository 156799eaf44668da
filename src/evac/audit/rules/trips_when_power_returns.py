"""EV130: more servers that power on by themselves when power returns than their feeds can carry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.derive.domains import loss
from evac.derive.energising import energise
from evac.derive.limits import PowerTable, limits_of, power_table
from evac.model.fleet import CONDEMNED
from evac.model.reason import OffReason
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.model.units import TICK_MS

_FIX = "Set the power-on policy of these classes to dark, so that the plan decides what boots when."


def check(context: Context) -> Iterator[Finding]:
    """Error if a rack trips its feed even alone; warning if racks must be switched on one by one; note if the
    behaviour of a class when power returns is unknown.
    """
    estate = context.estate
    known = {c.id for c in estate.classes if c.power_on in ("on", "last")}
    unknown = [row for row, c in enumerate(estate.classes) if c.power_on is None]
    power = power_table(context.impacts.top, Scenario("restore", ())) if known else None
    for number, site in enumerate(estate.sites):
        losses = [n for n in (context.impacts.losses.index.get(site.id),) if n is not None]
        if power is not None and site.role == "full":
            yield from _site(context, number, _returning(context, site.id, power), losses)
        here = (estate.fleet.site == number) & (estate.fleet.state != CONDEMNED)
        silent = int((here & np.isin(estate.fleet.server_class, unknown)).sum()) if unknown else 0
        if silent:
            names = [estate.classes[row].id for row in unknown]
            yield RULE.finding(
                context,
                "note",
                site.id,
                f"it is unknown what {counted(silent, 'server')} of {site.id} will do when power returns",
                f"State `power_on: dark`, `on` or `last` for {listed(names)}.",
                losses=losses,
                paths=(f"classes/{names[0]}/power_on", f"classes/{names[0]}"),
            )


@dataclass(frozen=True, slots=True)
class _Returning:
    """What happens when power returns to a site. classes: of servers that power on by themselves; staged:
    racks that must be switched on one by one; refused: racks that trip their feed even alone; why: cause of
    the first of them.
    """

    classes: tuple[str, ...]
    staged: int
    refused: tuple[str, ...]
    why: OffReason | None


def _returning(context: Context, site: str, power: PowerTable) -> _Returning:
    top, estate = context.impacts.top, context.estate
    limits, scenario = limits_of(estate, TICK_MS), Scenario("restore", (site,))
    energy = energise(top, loss(top, (site,)), scenario, limits, power, TICK_MS, set())
    racks = {rack.id for rack in estate.racks}
    rising = np.unique(estate.fleet.server_class[energy.by_itself]).tolist()
    return _Returning(
        tuple(sorted({estate.classes[row].id for row in rising})),
        sum(step.target in racks for step in energy.steps),
        tuple(estate.racks[rack].id for rack in sorted(energy.refused)),
        energy.refused[min(energy.refused)] if energy.refused else None,
    )


def _site(context: Context, number: int, found: _Returning, losses: list[int]) -> Iterator[Finding]:
    site = context.estate.sites[number].id
    paths = (*(f"classes/{name}/power_on" for name in found.classes), f"sites/{site}")
    if found.why is not None:
        yield RULE.finding(
            context,
            "error",
            site,
            f"{counted(len(found.refused), 'rack')} of {site} would trip their feed when power returns, "
            f"even when switched on alone: {listed(found.refused)}: {found.why.words}",
            _FIX,
            losses=losses,
            paths=paths,
        )
    if found.staged:
        yield RULE.finding(
            context,
            "warning",
            site,
            f"feeds of {site} would trip when power returns: {counted(found.staged, 'rack')} that power on "
            "by themselves must be switched on one by one, by hand",
            _FIX,
            losses=losses,
            paths=paths,
        )


RULE = Rule(
    "trips-when-power-returns",
    "EV130",
    "Feeds would trip when power returns",
    check,
    per_loss=False,
)
