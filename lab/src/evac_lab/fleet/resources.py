"""Resources of a controller and the switchgear as JSON, and Redfish errors.

Names and shapes follow the Redfish schemas; values come from the machines. Read-only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac.model.records import dataclass
from evac_lab.fleet.fleet import SESSION_IDLE_MS, Fleet
from evac_lab.fleet.ground import INRUSH, NO_LIMIT, STEADY, Kind
from evac_lab.fleet.machines import (
    BOOT_TARGETS,
    OFF,
    OVERRIDES,
    POWER_STATES,
)

REGISTRY: Final = "Base.1.18"


Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. headers: lower-case names."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """status, JSON, and headers in addition to the common ones."""

    status: int = 200
    body: Json | None = None
    headers: tuple[tuple[str, str], ...] = ()
    allow: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the Base registry. words: `%1` is the first argument."""

    words: str
    severity: str
    resolution: str
    arguments: int = 0


MESSAGES: Final = MappingProxyType(
    {
        "GeneralError": Message("A general error has occurred.", "Critical", "Try again."),
        "MalformedJSON": Message("The body is not a JSON object.", "Critical", "Send a valid body."),
        "ResourceMissingAtURI": Message(
            "There is no resource at %1.", "Critical", "Request another resource.", 1
        ),
        "OperationNotAllowed": Message(
            "The method is not allowed.", "Critical", "Use a method listed in Allow."
        ),
        "ActionParameterMissing": Message("The action %1 needs %2.", "Critical", "Send the parameter.", 2),
        "ActionParameterNotSupported": Message("%1 is not a parameter of %2.", "Warning", "Remove it.", 2),
        "ActionParameterValueNotInList": Message(
            "%1 is not a value of %2 of %3.", "Warning", "Use an allowed value.", 3
        ),
        "PropertyMissing": Message("The property %1 is missing.", "Warning", "Send the property.", 1),
        "PropertyNotWritable": Message("The property %1 cannot be written.", "Warning", "Remove it.", 1),
        "PropertyValueNotInList": Message(
            "%1 is not a value of %2.", "Warning", "Use a value from the list.", 2
        ),
        "PropertyValueTypeError": Message(
            "%1 has the wrong type for %2.", "Warning", "Use the correct type.", 2
        ),
        "InsufficientPrivilege": Message(
            "The user is not allowed to do this.", "Critical", "Use another account."
        ),
        "NoValidSession": Message("There is no valid session.", "Critical", "Log in first."),
        "SessionLimitExceeded": Message(
            "The maximum number of user sessions is reached.", "Critical", "Close one, or wait."
        ),
        "InternalError": Message("The service encountered an internal error.", "Critical", "Reset it."),
    }
)
"""Our short names for the keys of the registry."""


def information(key: str, *arguments: str) -> Json:
    """One entry of @Message.ExtendedInfo."""
    message = MESSAGES[key]
    words = message.words
    for place, argument in enumerate(arguments, 1):
        words = words.replace(f"%{place}", argument)
    return {
        "@odata.type": "#Message.v1_1_2.Message",
        "MessageId": f"{REGISTRY}.{key}",
        "Message": words,
        "MessageArgs": list(arguments),
        "MessageSeverity": message.severity,
        "Resolution": message.resolution,
    }


def refused(
    status: int,
    key: str,
    *arguments: str,
    allow: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """A Redfish error response."""
    return refusals(status, [information(key, *arguments)], allow, headers)


def refusals(
    status: int, entries: list[Json], allow: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> Answer:
    first = entries[0]
    error = {"code": first["MessageId"], "message": first["Message"], "@Message.ExtendedInfo": entries}
    return Answer(status, {"error": error}, headers, allow=allow)


def encode(answer: Answer, head_only: bool, keep_alive: bool) -> bytes:
    """The bytes of an answer."""
    content = b"" if answer.body is None else orjson.dumps(answer.body)
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        "OData-Version: 4.0",
        "Cache-Control: no-cache",
    ]
    if answer.allow:
        lines.append(f"Allow: {answer.allow}")
    if content:
        lines.append("Content-Type: application/json;charset=utf-8")
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if answer.status != 204:
        lines.append(f"Content-Length: {len(content)}")
    if not keep_alive:
        lines.append("Connection: close")
    head = "\r\n".join((*lines, "\r\n")).encode("latin-1")
    return head if head_only else head + content


V1: Final = "/redfish/v1"
RESETS: Final = (
    "On",
    "ForceOn",
    "ForceOff",
    "GracefulShutdown",
    "GracefulRestart",
    "ForceRestart",
    "PowerCycle",
    "PushPowerButton",
    "Nmi",
)
RESET_TARGET: Final = f"{V1}/Systems/1/Actions/ComputerSystem.Reset"
SESSIONS: Final = f"{V1}/SessionService/Sessions"
DRIVES: Final = 2
_OK: Final = MappingProxyType({"State": "Enabled", "Health": "OK"})


def link(path: str) -> Json:
    return {"@odata.id": f"{V1}/{path}"}


def named(kind: str, path: str, id: str, name: str, **rest: object) -> Json:
    """A resource, annotations first. kind: `Chassis.v1_22_0.Chassis`."""
    return {"@odata.type": f"#{kind}", "@odata.id": f"{V1}/{path}", "Id": id, "Name": name, **rest}


def collection(kind: str, path: str, name: str, members: list[str]) -> Json:
    """kind: `ComputerSystem`; members: last parts of their paths."""
    return {
        "@odata.type": f"#{kind}Collection.{kind}Collection",
        "@odata.id": f"{V1}/{path}",
        "Name": name,
        "Members": [link(f"{path}/{one}") for one in members],
        "Members@odata.count": len(members),
    }


def versions(_: Fleet, __: int, ___: int) -> Json:
    return {"v1": f"{V1}/"}


def root_of(fleet: Fleet, server: int, product: str) -> Json:
    """The parts of a service root common to all controllers."""
    found = named(
        "ServiceRoot.v1_15_0.ServiceRoot",
        "",
        "RootService",
        "Root Service",
        RedfishVersion="1.15.0",
        UUID=fleet.uuid_of(server, "root"),
        Vendor="Contoso",
        Product=product,
    )
    found |= {name: link(name) for name in ("Managers", "SessionService")}
    found["Links"] = {"Sessions": link("SessionService/Sessions")}
    return found


def service_root(fleet: Fleet, server: int, _: int) -> Json:
    root = root_of(fleet, server, "Simulated Server")
    return {**root, "Systems": link("Systems"), "Chassis": link("Chassis")}


def _kind(fleet: Fleet, server: int) -> Kind:
    return fleet.ground.kinds[int(fleet.ground.kind[server])]


def serial_of(fleet: Fleet, server: int) -> str:
    """The serial that the machine reports; a swapped one differs from the inventory."""
    serial = fleet.ground.serial_of(server)
    if fleet.machines.has_fault(server, "wrong-serial"):
        return f"X{serial[1:]}" if serial[:1] != "X" else f"Y{serial[1:]}"
    return serial


def host_name(fleet: Fleet, server: int) -> str | None:
    """Reported by the running system; another server's name if it got the wrong image."""
    if not fleet.machines.up[server]:
        return None
    other = (server + 1) % len(fleet.ground) if fleet.machines.has_fault(server, "wrong-image") else server
    return fleet.ground.name_of(other)


def health(fleet: Fleet, server: int) -> str:
    return "Warning" if fleet.machines.has_fault(server, "degraded") else "OK"


def status(fleet: Fleet, server: int) -> Json:
    machines = fleet.machines
    on = machines.state[server] != OFF
    state = "Enabled" if machines.up[server] else "Starting" if on else "StandbyOffline"
    word = health(fleet, server)
    return {"State": state, "Health": word, "HealthRollup": word}


def watts(fleet: Fleet, server: int) -> int:
    """Present power draw."""
    if fleet.machines.state[server] == OFF:
        return 0
    kind = _kind(fleet, server)
    return kind.inrush_watts if fleet.grid.rushing[server] else int(fleet.ground.watts[server])


def system(fleet: Fleet, server: int, now: int) -> Json:
    machines, kind = fleet.machines, _kind(fleet, server)
    reset_at = int(machines.reset_at[server])
    found = named(
        "ComputerSystem.v1_20_0.ComputerSystem",
        "Systems/1",
        "1",
        fleet.ground.name_of(server),
        SystemType="Physical",
        Manufacturer="Contoso",
        Model=kind.id,
        SerialNumber=serial_of(fleet, server),
        UUID=fleet.uuid_of(server, "system"),
        HostName=host_name(fleet, server),
        BiosVersion="1.4.2",
        PowerState=POWER_STATES[machines.state[server]],
        Status=status(fleet, server),
        BootProgress={"LastState": machines.progress(server, now)},
        Boot=_boot(fleet, server),
        ProcessorSummary={"Count": 2, "Status": dict(_OK)},
        MemorySummary={"TotalSystemMemoryGiB": kind.memory_gib, "Status": dict(_OK)},
        Storage=link("Systems/1/Storage"),
        Links={"Chassis": [link("Chassis/1")], "ManagedBy": [link("Managers/1")]},
        Actions={
            "#ComputerSystem.Reset": {
                "target": RESET_TARGET,
                "ResetType@Redfish.AllowableValues": list(RESETS),
            }
        },
    )
    if reset_at >= 0:
        found["LastResetTime"] = fleet.clock.words(reset_at)
    return found


def _boot(fleet: Fleet, server: int) -> Json:
    machines = fleet.machines
    return {
        "BootSourceOverrideEnabled": OVERRIDES[machines.override[server]],
        "BootSourceOverrideTarget": BOOT_TARGETS[machines.target[server]],
        "BootSourceOverrideTarget@Redfish.AllowableValues": list(BOOT_TARGETS),
        "BootSourceOverrideMode": "UEFI",
        "BootSourceOverrideMode@Redfish.AllowableValues": ["UEFI"],
    }


def storage(fleet: Fleet, server: int, _: int) -> Json:
    word = health(fleet, server)
    return named(
        "Storage.v1_15_0.Storage",
        "Systems/1/Storage/1",
        "1",
        "Local Storage",
        Status={"State": "Enabled", "Health": word, "HealthRollup": word},
        Drives=[link(f"Systems/1/Storage/1/Drives/{row}") for row in range(DRIVES)],
        **{"Drives@odata.count": DRIVES},
    )


def drive(fleet: Fleet, server: int, row: int) -> Json:
    failed = row == 1 and fleet.machines.has_fault(server, "degraded")
    return named(
        "Drive.v1_17_0.Drive",
        f"Systems/1/Storage/1/Drives/{row}",
        str(row),
        f"Drive {row}",
        Manufacturer="Contoso",
        Model="D2",
        SerialNumber=f"{fleet.ground.serial_of(server)}D{row}",
        CapacityBytes=_kind(fleet, server).disk_gib * 2**30 // DRIVES,
        MediaType="SSD",
        Protocol="NVMe",
        FailurePredicted=failed,
        Status={"State": "Enabled", "Health": "Critical" if failed else "OK"},
    )


def chassis(fleet: Fleet, server: int, _: int) -> Json:
    ground = fleet.ground
    place = ground.racks[int(ground.rack[server])]
    position = ground.position_of(server)
    placement: Json = {"Row": place.hall, "Rack": place.id, "RackOffsetUnits": "EIA_310"}
    if position.isdigit():
        placement["RackOffset"] = int(position)
    return named(
        "Chassis.v1_22_0.Chassis",
        "Chassis/1",
        "1",
        "Chassis",
        ChassisType="RackMount",
        Manufacturer="Contoso",
        Model=_kind(fleet, server).id,
        SerialNumber=serial_of(fleet, server),
        PowerState=POWER_STATES[fleet.machines.state[server]],
        Status=dict(_OK),
        Location={"Placement": placement},
        Power=link("Chassis/1/Power"),
        Links={"ComputerSystems": [link("Systems/1")], "ManagedBy": [link("Managers/1")]},
    )


def power(fleet: Fleet, server: int, _: int) -> Json:
    """The older resource, which many clients still read."""
    own = f"{V1}/Chassis/1/Power"
    return named(
        "Power.v1_7_2.Power",
        "Chassis/1/Power",
        "Power",
        "Power",
        PowerControl=[
            {
                "@odata.id": f"{own}#/PowerControl/0",
                "MemberId": "0",
                "Name": "Server",
                "PowerConsumedWatts": watts(fleet, server),
                "PowerCapacityWatts": 2 * _kind(fleet, server).watts,
            }
        ],
        PowerSupplies=[
            {
                "@odata.id": f"{own}#/PowerSupplies/{row}",
                "MemberId": str(row),
                "Name": f"Supply {row + 1}",
                "Status": dict(_OK),
            }
            for row in range(2)
        ],
    )


def manager(fleet: Fleet, server: int, now: int) -> Json:
    found = named(
        "Manager.v1_17_0.Manager",
        "Managers/1",
        "1",
        "Management Controller",
        ManagerType="BMC",
        Model="Simulated BMC",
        FirmwareVersion="2.11.0",
        UUID=fleet.uuid_of(server, "manager"),
        ServiceEntryPointUUID=fleet.uuid_of(server, "root"),
        DateTime=fleet.clock.words(now),
        DateTimeLocalOffset="+00:00",
        PowerState="On",
        Status=dict(_OK),
    )
    if server >= 0:
        links = {"ManagerForServers": [link("Systems/1")], "ManagerForChassis": [link("Chassis/1")]}
        found["Links"] = {**links, "ManagerInChassis": link("Chassis/1")}
    return found


def session_service(_: Fleet, __: int, ___: int) -> Json:
    return named(
        "SessionService.v1_1_8.SessionService",
        "SessionService",
        "SessionService",
        "Session Service",
        ServiceEnabled=True,
        SessionTimeout=SESSION_IDLE_MS // 1_000,
        Status=dict(_OK),
        Sessions=link("SessionService/Sessions"),
    )


def sessions(fleet: Fleet, server: int, now: int) -> Json:
    held = list(fleet.accounts.sessions(server, now))
    return collection("Session", "SessionService/Sessions", "Sessions", held)


def session(id: str, user: str) -> Json:
    return named(
        "Session.v1_5_0.Session",
        f"SessionService/Sessions/{id}",
        id,
        "Session",
        UserName=user,
        SessionType="Redfish",
    )


Reader = Callable[[Fleet, int, int], Json]


def fixed(kind: str, path: str, name: str, *members: str) -> Reader:
    """A constant collection."""
    found = collection(kind, path, name, list(members))
    return lambda _, __, ___: found


SHARED: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        "/redfish": versions,
        f"{V1}/SessionService": session_service,
        SESSIONS: sessions,
        f"{V1}/Managers": fixed("Manager", "Managers", "Managers", "1"),
        f"{V1}/Managers/1": manager,
    }
)
"""Path -> its reader, on every controller."""

OF_A_SERVER: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        **SHARED,
        V1: service_root,
        f"{V1}/": service_root,
        f"{V1}/Systems": fixed("ComputerSystem", "Systems", "Systems", "1"),
        f"{V1}/Systems/1": system,
        f"{V1}/Systems/1/Storage": fixed("Storage", "Systems/1/Storage", "Storage", "1"),
        f"{V1}/Systems/1/Storage/1": storage,
        f"{V1}/Systems/1/Storage/1/Drives/0": lambda fleet, server, _: drive(fleet, server, 0),
        f"{V1}/Systems/1/Storage/1/Drives/1": lambda fleet, server, _: drive(fleet, server, 1),
        f"{V1}/Chassis": fixed("Chassis", "Chassis", "Chassis", "1"),
        f"{V1}/Chassis/1": chassis,
        f"{V1}/Chassis/1/Power": power,
    }
)


FEEDERS: Final = "PowerEquipment/Switchgear/1/Feeders"
BREAKER_ACTION: Final = "Actions/Circuit.BreakerControl"
BREAKER_STATES: Final = ("On", "Off")


def switchgear_root(fleet: Fleet, server: int, _: int) -> Json:
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
    """Domains that are feeds; circuit 1 is the first."""
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
    """One feed. Its name is the feed's id; its rating is the budget in watts."""
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
        V1: switchgear_root,
        f"{V1}/": switchgear_root,
        f"{V1}/PowerEquipment": equipment,
        f"{V1}/PowerEquipment/Switchgear": fixed(
            "PowerDistribution", "PowerEquipment/Switchgear", "Switchgear", "1"
        ),
        f"{V1}/PowerEquipment/Switchgear/1": switchgear,
        f"{V1}/{FEEDERS}": feeders,
    }
)
