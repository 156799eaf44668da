"""Moves names between sites through a provider of octoDNS: Route 53, Cloudflare and others."""

from evac.drivers.capabilities import RoutesTraffic
from evac.drivers.spec import DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("service",)

DRIVER = DriverSpec(
    "octodns",
    "moves names between sites through an octoDNS provider",
    (RoutesTraffic,),
    (
        Setting("config", "text", "path of the octoDNS configuration", needed=_ALL, reaches="folder"),
        Setting("provider", "text", "the provider in that configuration that hosts the zone", needed=_ALL),
        Setting("zone", "text", "a zone that the provider already has", needed=_ALL),
        Setting("records", "list", "`NAME=SITE:ADDRESS,SITE:ADDRESS`", needed=_ALL),
        Setting("ttl", "number", "TTL of new records, in seconds", "60", most=604_800),
        Setting(
            "env",
            "list",
            "`NAME=value` or `NAME=reference`, for `env/NAME` of the configuration",
            reaches="variable",
        ),
        Setting(
            "python",
            "list",
            "the Python interpreter that has octoDNS and the provider installed",
            "evac's own interpreter",
            reaches="program",
        ),
    ),
    "evac.drivers.octodns.driver:OctoDnsDriver",
    answers_are_cached=True,
)
