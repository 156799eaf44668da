"""EV130: servers that come on by themselves when power returns, more of them than their feeds stand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Maker, Rule
from evac.audit.findings import Finding
from evac.audit.words import counted, listed
from evac.model.derive_limits import limits_of
from evac.model.domain import loss
from evac.model.energising import Energy, energise
from evac.model.fleet import CONDEMNED
from evac.model.power import power_table
from evac.model.scenario import Scenario
from evac.model.units import TICK_MS

_MAKER = Maker("trips-when-power-returns", "EV130")
_FIX = "Set the power-on policy of these classes to dark, so that the plan decides what boots when."


def check(context: Context) -> Iterator[Finding]:
    """Error where a rack trips its feed even alone; warning where racks must be switched on one by one; note
    where it is not known what a class does when power returns."""
    top, estate = context.impacts.top, context.estate
    known = {c.id for c in estate.classes if c.power_on in ("on", "last")}
    unknown = [row for row, c in enumerate(estate.classes) if c.power_on is None]
    racks = {rack.id for rack in estate.racks}
    for number, site in enumerate(estate.sites):
        losses = [n for n in (context.impacts.losses.index.get(site.id),) if n is not None]
        if known and site.role == "full":
            scenario = Scenario("restore", (site.id,))
            energy = energise(
                top, loss(top, (site.id,)), scenario, limits_of(estate, TICK_MS), power_table(top, scenario),
                TICK_MS, set(),
            )  # fmt: skip
            staged = [step.target for step in energy.steps if step.target in racks]
            yield from _site(context, number, energy, staged, losses)
        here = (estate.fleet.site == number) & (estate.fleet.state != CONDEMNED)
        silent = int((here & np.isin(estate.fleet.server_class, unknown)).sum()) if unknown else 0
        if silent:
            names = [estate.classes[row].id for row in unknown]
            yield _MAKER.make(
                context, "note", site.id,
                f"what {counted(silent, 'server')} of {site.id} do when power returns is not known",
                f"Say it: `power_on: dark`, `on` or `last` of {listed(names)}.",
                losses=losses, paths=(f"classes/{names[0]}/power_on", f"classes/{names[0]}"),
            )  # fmt: skip


def _site(
    context: Context, number: int, energy: Energy, staged: list[str], losses: list[int]
) -> Iterator[Finding]:
    estate = context.estate
    site = estate.sites[number].id
    classes = sorted({estate.classes[c].id for c in np.unique(estate.fleet.server_class[energy.by_itself])})
    paths = (*(f"classes/{name}/power_on" for name in classes), f"sites/{site}")
    if energy.refused:
        names = [estate.racks[rack].id for rack in sorted(energy.refused)]
        yield _MAKER.make(
            context, "error", site,
            f"{counted(len(names), 'rack')} of {site} trip their feed when power returns, each alone: "
            f"{listed(names)}: {energy.refused[min(energy.refused)]}",
            _FIX, losses=losses, paths=paths,
        )  # fmt: skip
    if staged:
        yield _MAKER.make(
            context, "warning", site,
            f"feeds of {site} would trip when power returns: {counted(len(staged), 'rack')} of what comes on "
            "by itself must be switched on one by one, by hand",
            _FIX, losses=losses, paths=paths,
        )  # fmt: skip


RULE = Rule(
    "trips-when-power-returns",
    "EV130",
    "Feeds would trip when power returns",
    check,
    per_loss=False,
    reads=("caps", "fleet"),
)
