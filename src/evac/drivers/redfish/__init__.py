"""Servers and power circuits, through Redfish."""

from evac.drivers.capabilities import BootsServers, Fences, SwitchesPower
from evac.drivers.spec import CONTROLLER, DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("site", "feed")

DRIVER = DriverSpec(
    "redfish",
    "boots servers through their management controllers, and switches the circuits of feeds",
    (BootsServers, SwitchesPower, Fences),
    (
        Setting("user", "text", "the account; it needs the right to control power, no more", needed=_ALL),
        Setting("password", "secret", "a reference", needed=_ALL),
        Setting("login", "text", "how it signs in", "`basic`", choices=("basic", "session")),
        Setting("scheme", "text", "`http` is for laboratories", "`https`", choices=("https", "http")),
        Setting("port", "number", "TCP", "443", most=65_535),
        Setting(
            "ca", "text", "`file:/path`: the authorities whose certificates are believed", "the machine's"
        ),
        Setting("tls_name", "text", "the name that the certificate must bear", "the address"),
        Setting(
            "pin", "text", "the sha256 of the certificate, or `file:/path` with lines `address=hex`", "none"
        ),
        Setting("insecure", "text", "why the certificate is not checked", "none"),
        *CONTROLLER,
        Setting(
            "address",
            "text",
            "of the switchgear of a feed, or of the one controller that a fence switches off",
            needed=("feed", "fence"),
            reaches="host",
        ),
        Setting("circuit", "text", "of a feed: the path of its circuit", needed=("feed",)),
        Setting("label", "text", "of a feed: the name that its circuit must bear"),
    ),
    "evac.drivers.redfish.driver:RedfishDriver",
    extra="redfish",
    proofs=("power",),
)
