"""Servers and power circuits, through Redfish."""

from evac.drivers.capabilities import BootsServers, Fences, SwitchesPower
from evac.drivers.spec import CONTROLLER, DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("site", "feed")

DRIVER = DriverSpec(
    "redfish",
    "boots servers through their management controllers, and switches the circuits of feeds",
    (BootsServers, SwitchesPower, Fences),
    (
        Setting(
            "user", "text", "the account; it needs permission to control power, and nothing else", needed=_ALL
        ),
        Setting("password", "secret", "a reference to the password", needed=_ALL),
        Setting("login", "text", "how it signs in", "`basic`", choices=("basic", "session")),
        Setting("scheme", "text", "`http` is for laboratories", "`https`", choices=("https", "http")),
        Setting("port", "number", "TCP", "443", most=65_535),
        Setting("ca", "text", "`file:/path`: the CAs to trust", "the machine's"),
        Setting("tls_name", "text", "the name that must be in the certificate", "the address"),
        Setting(
            "pin", "text", "the sha256 of the certificate, or `file:/path` with lines `address=hex`", "none"
        ),
        Setting("insecure", "text", "the reason for not checking the certificate", "none"),
        *CONTROLLER,
        Setting(
            "address",
            "text",
            "address of a feed's switchgear, or of the one controller that a fence switches off",
            needed=("feed", "fence"),
            reaches="host",
        ),
        Setting("circuit", "text", "for a feed: the Redfish path of its circuit", needed=("feed",)),
        Setting("label", "text", "for a feed: the name that its circuit must have"),
    ),
    "evac.drivers.redfish.driver:RedfishDriver",
    extra="redfish",
    proofs=("power",),
)
