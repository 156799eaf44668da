"""The documents of a Redfish service that are no resources: the OData metadata and the message registry."""

from __future__ import annotations

import functools
from typing import Final

import orjson

from evac_lab.fleet.answers import MESSAGES, REGISTRY, SCHEMAS, Json

REGISTRY_FILE: Final = f"{REGISTRY}.0.json"
_VERSIONED: Final = (
    "ServiceRoot.v1_15_0",
    "ComputerSystem.v1_20_0",
    "Storage.v1_15_0",
    "Drive.v1_17_0",
    "Chassis.v1_22_0",
    "Power.v1_7_2",
    "PowerSubsystem.v1_1_0",
    "PowerSupply.v1_5_0",
    "EnvironmentMetrics.v1_3_0",
    "Manager.v1_17_0",
    "ManagerNetworkProtocol.v1_9_0",
    "SessionService.v1_1_8",
    "Session.v1_5_0",
    "AccountService.v1_12_0",
    "ManagerAccount.v1_10_0",
    "Role.v1_3_1",
    "EventService.v1_9_0",
    "EventDestination.v1_13_0",
    "TaskService.v1_2_0",
    "MessageRegistryFile.v1_1_3",
    "PowerEquipment.v1_2_1",
    "PowerDistribution.v1_3_1",
    "Circuit.v1_7_0",
)
_COLLECTIONS: Final = (
    "ComputerSystem",
    "Storage",
    "Chassis",
    "PowerSupply",
    "Manager",
    "Session",
    "ManagerAccount",
    "Role",
    "EventDestination",
    "Task",
    "MessageRegistryFile",
    "PowerDistribution",
    "Circuit",
)
_DOCUMENT: Final = """<?xml version="1.0" encoding="UTF-8"?>
<edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0">
{references}
  <edmx:DataServices>
    <Schema xmlns="http://docs.oasis-open.org/odata/ns/edm" Namespace="Service">
      <EntityContainer Name="Service" Extends="ServiceRoot.v1_15_0.ServiceContainer"/>
    </Schema>
  </edmx:DataServices>
</edmx:Edmx>
"""


@functools.cache
def metadata() -> bytes:
    """$metadata: which schemas describe the resources."""
    found = [_reference(name.partition(".")[0], name) for name in _VERSIONED]
    found += [_reference(f"{name}Collection", f"{name}Collection") for name in _COLLECTIONS]
    found += [
        _reference("RedfishExtensions", "RedfishExtensions.v1_0_0", alias="Redfish"),
        _reference("Message", "Message.v1_1_2"),
        _reference("Resource", "Resource.v1_0_0"),
    ]
    return _DOCUMENT.format(references="\n".join(found)).encode()


def _reference(schema: str, namespace: str, alias: str = "") -> str:
    also = f'\n    <edmx:Include Namespace="{schema}"/>' if namespace != schema and not alias else ""
    named = f' Alias="{alias}"' if alias else ""
    return (
        f'  <edmx:Reference Uri="{SCHEMAS}/{schema}_v1.xml">{also}\n'
        f'    <edmx:Include Namespace="{namespace}"{named}/>\n  </edmx:Reference>'
    )


@functools.cache
def registry() -> bytes:
    """The messages this service uses, as a message registry."""
    messages: Json = {
        key: {
            "Description": one.words,
            "Message": one.words,
            "MessageSeverity": one.severity,
            "Severity": one.severity,
            "NumberOfArgs": one.arguments,
            "Resolution": one.resolution,
            **({"ParamTypes": ["string"] * one.arguments} if one.arguments else {}),
        }
        for key, one in MESSAGES.items()
    }
    return orjson.dumps(
        {
            "@odata.type": "#MessageRegistry.v1_6_0.MessageRegistry",
            "Id": f"{REGISTRY}.0",
            "Name": "Base Message Registry",
            "Language": "en",
            "Description": "The messages that this service uses",
            "RegistryPrefix": "Base",
            "RegistryVersion": f"{REGISTRY.partition('.')[2]}.0",
            "OwningEntity": "Evac",
            "Messages": messages,
        }
    )
