"""Names between sites, by a provider of octoDNS: Route 53, Cloudflare and whatever else it speaks to."""

from evac.drivers.capabilities import RoutesTraffic
from evac.drivers.spec import DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("service",)

DRIVER = DriverSpec(
    "octodns",
    "moves names between sites by a provider of octoDNS",
    (RoutesTraffic,),
    (
        Setting("config", "text", "path of the configuration of octoDNS", needed=_ALL, reaches="folder"),
        Setting("provider", "text", "the one of its providers that holds the zone", needed=_ALL),
        Setting("zone", "text", "a zone that the provider holds already", needed=_ALL),
        Setting("records", "list", "`NAME=SITE:ADDRESS,SITE:ADDRESS`", needed=_ALL),
        Setting("ttl", "number", "seconds, of records that are new", "60", most=604_800),
        Setting("env", "list", "`NAME=value` or `NAME=reference`, for `env/NAME` of the configuration"),
        Setting(
            "python",
            "list",
            "the interpreter that has octoDNS and the provider",
            "that of evac",
            reaches="program",
        ),
    ),
    "evac.drivers.octodns.driver:OctoDnsDriver",
    answers_are_cached=True,
)
