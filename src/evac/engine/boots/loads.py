"""Servers that a run would power on behind budgets whose load is not fully known, and the approvals that they
wait for: one for each site.

Another plan of the run that has other such servers, or other budgets, is another load, and asks again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b

from evac.derive.domains import Topology
from evac.derive.energising import Energy
from evac.derive.hidden_power import unplaced_servers
from evac.derive.limits import BUDGETED, PowerTable, unknown_loads
from evac.drivers import manual
from evac.drivers.port import Action
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn, np
from evac.model.records import dataclass
from evac.model.step_id import StepId
from evac.run.values import RunStep
from evac.steps.load import Load


@dataclass(frozen=True, slots=True)
class UnsureLoad:
    """Servers of a site that would draw from budgets whose load is not fully known."""

    site: str
    budgets: tuple[tuple[str, int], ...]
    """Each such budget, with how many of the servers may draw from it."""
    digest: str
    """Of the servers and of the budgets with what they carry."""


@dataclass(frozen=True, slots=True, eq=False)
class UnsureLoads:
    """Every such server."""

    sites: tuple[UnsureLoad, ...]
    """By row of the site."""
    rows: BoolColumn
    """(V,) the servers, those that power on by themselves included."""
    supplies: Mapping[str, tuple[str, ...]]
    """Feed or rack whose power may switch some of these servers on by itself -> their sites."""

    def of_server(self, estate: Estate, row: int) -> tuple[str, ...]:
        """The approval that the power of a server needs."""
        return (load_step(estate.sites[int(estate.fleet.site[row])].id),) if self.rows[row] else ()

    def of_supply(self, supply: str) -> tuple[str, ...]:
        """The approvals that the power of a feed or rack needs."""
        return tuple(load_step(site) for site in self.supplies.get(supply, ()))


def load_step(site: str) -> StepId:
    return StepId(Load.name, site)


def unsure_loads(
    top: Topology, power: PowerTable, on: BoolColumn, energy: Energy, boots: IndexColumn
) -> UnsureLoads:
    """boots: rows of the servers to be booted. on: servers that no boot switches on."""
    fleet, unsure = top.estate.fleet, np.zeros(len(top.estate.fleet), np.bool_)
    asked = np.union1d(boots, np.flatnonzero(energy.by_itself)).astype(np.int32)
    loads = unknown_loads(top, power, on, asked)
    rows = asked[loads.first >= 0]
    unsure[rows] = True
    found = []
    for site in np.unique(fleet.site[rows]).tolist():
        mine = rows[fleet.site[rows] == site]
        counts = np.where(loads.doubted, _more_servers(top, power, mine), 0)
        numbers = np.flatnonzero(counts).tolist()
        told = [f"{power.names[number]} {power.watts[number]}".encode() for number in numbers]
        digest = blake2b(b"\n".join([*told, b"", *fleet.name[mine].tolist()]), digest_size=6).hexdigest()
        budgets = tuple((power.names[number], int(counts[number])) for number in numbers)
        found.append(UnsureLoad(top.estate.sites[site].id, budgets, digest))
    return UnsureLoads(tuple(found), unsure, _supplies(top, energy, unsure))


def _more_servers(top: Topology, budgets: PowerTable, rows: IndexColumn) -> IntColumn:
    """(budgets,) how many of some servers (N,) may draw from each. One for which the files name no hall, feed
    or rack counts on all of its site.
    """
    fleet = top.estate.fleet
    counts = budgets.sums(
        budgets.of_servers(fleet.rack[rows], fleet.site[rows]), np.ones(len(rows), np.int64)
    )
    for kind, loose in unplaced_servers(top).items():
        some = np.bincount(fleet.site[rows[loose[rows]]], minlength=len(top.estate.sites))
        counts += np.where(budgets.kinds == BUDGETED.index(kind), some[budgets.sites], 0)
    return counts


def _supplies(top: Topology, energy: Energy, unsure: BoolColumn) -> dict[str, tuple[str, ...]]:
    """A rack whose outlets are opened first gets its power from its own step, any other from whichever of its
    feeds is closed first.
    """
    fleet, targets = top.estate.fleet, [step.target for step in energy.steps]
    rows = np.flatnonzero(unsure & energy.by_itself)
    found: dict[str, set[str]] = {}
    for number, site in np.unique(np.stack([fleet.rack[rows], fleet.site[rows]], axis=1), axis=0).tolist():
        rack, step = top.estate.racks[number], int(energy.step_of[number])
        alone = step >= 0 and targets[step] == rack.id
        for supply in (rack.id,) if alone else rack.feeds:
            found.setdefault(supply, set()).add(top.estate.sites[site].id)
    return {supply: tuple(sorted(sites)) for supply, sites in sorted(found.items())}


def approved_loads(loads: UnsureLoads) -> Iterator[tuple[RunStep, Action]]:
    """For each site with budgets whose load is not fully known a step that a person approves, because evac
    cannot tell whether they carry its servers. Nothing is done for it.
    """
    for load in loads.sites:
        step = RunStep(
            load_step(load.site),
            Load.name,
            load.site,
            0,
            0,
            site=load.site,
            gate=Load().approval_of(load.budgets),
            act=load.digest,
        )
        yield step, Action("start", load.site, manual.NOOP.name, load.site)
