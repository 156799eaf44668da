"""Servers through IPMI, where there is no Redfish."""

from evac.drivers.capabilities import BootsServers, Fences
from evac.drivers.spec import CONTROLLER, DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("site",)

DRIVER = DriverSpec(
    "ipmi",
    "boots servers through their management controllers, by `ipmitool`",
    (BootsServers, Fences),
    (
        Setting("user", "text", "the account; it needs the right to control power, no more", needed=_ALL),
        Setting("password", "secret", "a reference", needed=_ALL),
        Setting(
            "address",
            "text",
            "of the one controller that a fence switches off",
            needed=("fence",),
            reaches="host",
        ),
        Setting("port", "number", "UDP", "623", most=65_535),
        Setting(
            "privilege", "text", "of the session", "`ADMINISTRATOR`", choices=("ADMINISTRATOR", "OPERATOR")
        ),
        Setting("cipher", "number", "number of a cipher suite", "the best that both know", most=99),
        *CONTROLLER,
        Setting("program", "text", "another path of the program", "`ipmitool`", reaches="program"),
    ),
    "evac.drivers.ipmi.driver:IpmiDriver",
    proofs=("power",),
)
