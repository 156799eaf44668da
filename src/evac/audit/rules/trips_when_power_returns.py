"""EV130: servers that come on by themselves when power returns, more of them than their feeds stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from evac.audit.closure import RowNumbers
from evac.audit.context import Context, Maker, Rule
from evac.audit.findings import Finding
from evac.audit.words import counted, listed
from evac.derive.energising import energise
from evac.derive.limits import limits_of
from evac.derive.power import PowerTable, power_table
from evac.model.domain import Loss, Topology, loss
from evac.model.fleet import CONDEMNED, SERVING, SPARE, BoolColumn, IntColumn
from evac.model.scenario import Scenario
from evac.model.units import TICK_MS

_MAKER = Maker("trips-when-power-returns", "EV130")
_FIX = "Set the power-on policy of these classes to dark, so that the plan decides what boots when."


def check(context: Context) -> Iterator[Finding]:
    """Error where a rack trips its feed even alone; warning where racks must be switched on one by one; note
    where it is not known what a class does when power returns."""
    estate = context.estate
    known = {c.id for c in estate.classes if c.power_on in ("on", "last")}
    unknown = [row for row, c in enumerate(estate.classes) if c.power_on is None]
    drawn = _drawn(context) if known else None
    for number, site in enumerate(estate.sites):
        losses = [n for n in (context.impacts.losses.index.get(site.id),) if n is not None]
        if drawn is not None and site.role == "full":
            yield from _site(context, number, _returning(context, number, drawn), losses)
        here = (estate.fleet.site == number) & (estate.fleet.state != CONDEMNED)
        silent = int((here & np.isin(estate.fleet.server_class, unknown)).sum()) if unknown else 0
        if silent:
            names = [estate.classes[row].id for row in unknown]
            yield _MAKER.make(
                context,
                "note",
                site.id,
                f"what {counted(silent, 'server')} of {site.id} do when power returns is not known",
                f"Say it: `power_on: dark`, `on` or `last` of {listed(names)}.",
                losses=losses,
                paths=(f"classes/{names[0]}/power_on", f"classes/{names[0]}"),
            )


@dataclass(frozen=True, slots=True)
class _Returning:
    """What happens when power returns to a site. classes: of what comes on by itself; staged: racks that must
    be switched on one by one; refused: racks that trip their feed even alone; why: the first of them does."""

    classes: tuple[str, ...]
    staged: int
    refused: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A site and what hangs on it: what is lost with it, its servers, and (budgets,) those it draws of."""

    lost: Loss
    servers: RowNumbers
    budgets: BoolColumn


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Budgets, and who hangs on them. keys (5, V): site and budget of each server as one number, budgets and
    one more for none a site; places: sites by number, those alone where servers may come on."""

    power: PowerTable
    keys: IntColumn
    places: dict[int, _Place]


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """grid; load (sites, budgets): what servers of each site draw today."""

    grid: _Grid
    load: IntColumn

    def elsewhere(self, number: int) -> tuple[bytes, bytes]:
        """Watts that other servers draw of budgets on which a site hangs, and which of all they exceed."""
        load = self.load.sum(axis=0) - self.load[number]
        over = load > np.array(self.grid.power.watts, np.int64)
        return load[self.grid.places[number].budgets].tobytes(), over.tobytes()


def _drawn(context: Context) -> _Drawn:
    estate, fleet = context.estate, context.estate.fleet
    parts = (estate.limits, fleet.rack, fleet.site)
    grid = context.impacts.kept.of((_MAKER.rule,), parts, partial(_grid, context))
    on = ((fleet.state == SERVING) | (fleet.state == SPARE)) & fleet.watts_known
    watts = np.where(on, fleet.watts, 0).astype(np.float64)
    shape = len(estate.sites), len(grid.power.names) + 1
    load = np.zeros(shape[0] * shape[1], np.int64)
    for keys in grid.keys:
        load += np.bincount(keys, watts, len(load)).astype(np.int64)
    return _Drawn(grid, load.reshape(shape)[:, :-1])


def _grid(context: Context) -> _Grid:
    estate, fleet, top = context.estate, context.estate.fleet, context.impacts.top
    power = power_table(top, Scenario("restore", ()))
    budgets = len(power.names)
    of_server = power.of_servers(fleet.rack, fleet.site)
    of_server = np.where(of_server >= 0, of_server, np.int32(budgets))
    places = {}
    for number, site in enumerate(estate.sites):
        if site.role == "full":
            lost = loss(top, (site.id,))
            here = np.flatnonzero(lost.servers)
            mine = np.zeros(budgets + 1, np.bool_)
            mine[of_server[here]] = True
            mine[power.of_rack[:-1][lost.racks]] = True
            places[number] = _Place(lost, here, mine[:-1])
    keys = of_server.T + fleet.site.astype(np.int64) * (budgets + 1)
    return _Grid(power, np.ascontiguousarray(keys), places)


def _returning(context: Context, number: int, drawn: _Drawn) -> _Returning:
    """Kept while the servers of the site are as they are, and what others draw of the same budgets."""
    top, estate, place = context.impacts.top, context.estate, drawn.grid.places[number]
    fleet, scenario = estate.fleet, Scenario("restore", (estate.sites[number].id,))
    columns = (fleet.state, fleet.server_class, fleet.watts, fleet.watts_known)
    parts = (
        *(column[place.servers].tobytes() for column in columns),
        *drawn.elsewhere(number),
        estate.limits,
        estate.horizon_ms,
    )
    work = partial(_energised, top, place.lost, scenario, drawn.grid.power)
    return context.impacts.kept.of((_MAKER.rule, *scenario.domains), parts, work)


def _energised(top: Topology, lost: Loss, scenario: Scenario, power: PowerTable) -> _Returning:
    estate = top.estate
    limits = limits_of(estate, TICK_MS)
    energy = energise(top, lost, scenario, limits, power, TICK_MS, set())
    racks = {rack.id for rack in estate.racks}
    rising = np.unique(estate.fleet.server_class[energy.by_itself]).tolist()
    return _Returning(
        tuple(sorted({estate.classes[row].id for row in rising})),
        sum(step.target in racks for step in energy.steps),
        tuple(estate.racks[rack].id for rack in sorted(energy.refused)),
        energy.refused[min(energy.refused)] if energy.refused else "",
    )


def _site(context: Context, number: int, found: _Returning, losses: list[int]) -> Iterator[Finding]:
    site = context.estate.sites[number].id
    paths = (*(f"classes/{name}/power_on" for name in found.classes), f"sites/{site}")
    if found.refused:
        yield _MAKER.make(
            context,
            "error",
            site,
            f"{counted(len(found.refused), 'rack')} of {site} trip their feed when power returns, "
            f"each alone: {listed(found.refused)}: {found.why}",
            _FIX,
            losses=losses,
            paths=paths,
        )
    if found.staged:
        yield _MAKER.make(
            context,
            "warning",
            site,
            f"feeds of {site} would trip when power returns: {counted(found.staged, 'rack')} of what comes "
            "on by itself must be switched on one by one, by hand",
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
    reads=("caps", "limits", "fleet"),
)
