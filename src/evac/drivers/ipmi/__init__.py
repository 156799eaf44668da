"""Servers through IPMI, where there is no Redfish."""

from evac.drivers.capabilities import BootsServers, Fences
from evac.drivers.spec import DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("site",)

DRIVER = DriverSpec(
    "ipmi",
    "boots servers through their management controllers, by `ipmitool`",
    (BootsServers, Fences),
    (
        Setting("user", "text", "the account; it needs the right to control power, no more", needed=_ALL),
        Setting("password", "secret", "a reference", needed=_ALL),
        Setting("address", "text", "of the one controller that a fence switches off", needed=("fence",)),
        Setting("port", "number", "UDP", "623", most=65_535),
        Setting(
            "privilege", "text", "of the session", "`ADMINISTRATOR`", choices=("ADMINISTRATOR", "OPERATOR")
        ),
        Setting("cipher", "number", "number of a cipher suite", "the best that both know", most=99),
        Setting(
            "boot_source", "text", "from where it boots, this once", "left as it is", choices=("disk", "pxe")
        ),
        Setting("requests_at_once", "number", "in one management network (a hall)", "64", most=4_096),
        Setting(
            "refusals_at_most",
            "number",
            "in a row, then nothing more is sent with this password",
            "5",
            most=100,
        ),
        Setting("answer_s", "number", "seconds that one request may take", "10", most=120),
        Setting("program", "text", "another path of the program", "`ipmitool`"),
    ),
    "evac.drivers.ipmi.driver:IpmiDriver",
    proofs=("power",),
)
