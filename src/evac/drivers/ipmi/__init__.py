"""Servers through IPMI, if they have no Redfish."""

from evac.drivers.capabilities import BootsServers, Fences
from evac.drivers.spec import CONTROLLER, DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("site",)

DRIVER = DriverSpec(
    "ipmi",
    "boots servers through their management controllers, with `ipmitool`",
    (BootsServers, Fences),
    (
        Setting(
            "user", "text", "the account; it needs permission to control power, and nothing else", needed=_ALL
        ),
        Setting("password", "secret", "a reference to the password", needed=_ALL),
        Setting(
            "address",
            "text",
            "address of the one controller that a fence switches off",
            needed=("fence",),
            reaches="host",
        ),
        Setting("port", "number", "UDP", "623", most=65_535),
        Setting(
            "privilege",
            "text",
            "privilege level of the session",
            "`ADMINISTRATOR`",
            choices=("ADMINISTRATOR", "OPERATOR"),
        ),
        Setting(
            "cipher", "number", "number of a cipher suite", "the best one that both sides support", most=99
        ),
        *CONTROLLER,
        Setting("program", "text", "path of the program", "`ipmitool`", reaches="program"),
    ),
    "evac.drivers.ipmi.driver:IpmiDriver",
    proofs=("power",),
)
