"""The switchgear of a fleet as a Redfish service of its own: one circuit a feed, whose breaker can be moved.

Reads only; moving a breaker is the matter of `changes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from evac_lab.fleet.answers import Json
from evac_lab.fleet.fleet import Fleet
from evac_lab.fleet.power import INRUSH, NO_LIMIT, STEADY
from evac_lab.fleet.resources import SHARED, V1, Reader, collection, fixed, link, named, root_of

FEEDERS: Final = "PowerEquipment/Switchgear/1/Feeders"
BREAKER_ACTION: Final = "Actions/Circuit.BreakerControl"
BREAKER_STATES: Final = ("On", "Off")


def service_root(fleet: Fleet, server: int, _: int) -> Json:
    root = root_of(fleet, server, "Simulated Switchgear")
    return {**root, "PowerEquipment": link("PowerEquipment")}


def equipment(_: Fleet, __: int, ___: int) -> Json:
    return named(
        "PowerEquipment.v1_2_1.PowerEquipment",
        "PowerEquipment",
        "PowerEquipment",
        "Power Equipment",
        Status={"State": "Enabled", "Health": "OK"},
        Switchgear=link("PowerEquipment/Switchgear"),
        Links={"ManagedBy": [link("Managers/1")]},
    )


def switchgear(_: Fleet, __: int, ___: int) -> Json:
    return named(
        "PowerDistribution.v1_3_1.PowerDistribution",
        "PowerEquipment/Switchgear/1",
        "1",
        "Switchgear",
        EquipmentType="Switchgear",
        Manufacturer="Contoso",
        Model="SG1",
        Status={"State": "Enabled", "Health": "OK"},
        Feeders=link(FEEDERS),
        Links={"ManagedBy": [link("Managers/1")]},
    )


def feeds(fleet: Fleet) -> list[int]:
    """The domains that are feeds; the circuit 1 is the first."""
    return [row for row, kind in enumerate(fleet.grid.kinds) if kind == "feed"]


def circuit_path(fleet: Fleet, feed: str) -> str:
    """The path of a feed's circuit."""
    return f"{V1}/{FEEDERS}/{feeds(fleet).index(fleet.grid.number(feed)) + 1}"


def feed_at(fleet: Fleet, circuit: str) -> int | None:
    """The domain of a circuit's id, such as `7`."""
    known = feeds(fleet)
    if not circuit.isascii() or not circuit.isdigit() or len(circuit) > 6:
        return None
    return known[int(circuit) - 1] if 1 <= int(circuit) <= len(known) else None


def feeders(fleet: Fleet, _: int, __: int) -> Json:
    return collection("Circuit", FEEDERS, "Feeders", [str(row + 1) for row in range(len(feeds(fleet)))])


def circuit(fleet: Fleet, id: str, domain: int) -> Json:
    """One feed. Its name is the feed's id; the budget stands as its rating in watts."""
    grid = fleet.grid
    closed, tripped = grid.closed[domain], grid.tripped[domain]
    load, budget = grid.load[domain], grid.budget[domain]
    path = f"{FEEDERS}/{id}"
    found = named(
        "Circuit.v1_7_0.Circuit",
        path,
        id,
        grid.ids[domain],
        UserLabel=grid.ids[domain],
        CircuitType="Feeder",
        PhaseWiringType="ThreePhase5Wire",
        PowerState="On" if closed else "Off",
        BreakerState="Normal" if closed else "Tripped" if tripped else "Off",
        Status={"State": "Enabled" if closed else "Disabled", "Health": "Critical" if tripped else "OK"},
        PowerWatts={"Reading": load[STEADY]},
        Actions={
            "#Circuit.BreakerControl": {
                "target": f"{V1}/{path}/{BREAKER_ACTION}",
                "PowerState@Redfish.AllowableValues": list(BREAKER_STATES),
            }
        },
    )
    budgets = {"InrushWatts": load[INRUSH], "BudgetWatts": _known(budget[STEADY])}
    found["Oem"] = {"Evac": {**budgets, "InrushBudgetWatts": _known(budget[INRUSH])}}
    return found


def _known(watts: int) -> int | None:
    return None if watts == NO_LIMIT else watts


OF_THE_SWITCHGEAR: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        **SHARED,
        V1: service_root,
        f"{V1}/": service_root,
        f"{V1}/PowerEquipment": equipment,
        f"{V1}/PowerEquipment/Switchgear": fixed(
            "PowerDistribution", "PowerEquipment/Switchgear", "Switchgear", "1"
        ),
        f"{V1}/PowerEquipment/Switchgear/1": switchgear,
        f"{V1}/{FEEDERS}": feeders,
    }
)
