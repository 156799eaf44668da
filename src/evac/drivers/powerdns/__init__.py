"""Names between sites, by the API of PowerDNS."""

from evac.drivers.capabilities import RoutesTraffic
from evac.drivers.spec import DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("service",)

DRIVER = DriverSpec(
    "powerdns",
    "moves names between sites by the API of one PowerDNS server",
    (RoutesTraffic,),
    (
        Setting("url", "text", "where the API listens", needed=_ALL, reaches="host"),
        Setting("key", "secret", "a reference to the key of the API", needed=_ALL),
        Setting("server_id", "text", "which server the API knows it as", "`localhost`"),
        Setting("zone", "text", "a zone for which the server has authority", needed=_ALL),
        Setting("records", "list", "`NAME=SITE:ADDRESS,SITE:ADDRESS`", needed=_ALL),
        Setting("ttl", "number", "seconds, of records that are new", "60", most=604_800),
    ),
    "evac.drivers.powerdns.driver:PowerDnsDriver",
    answers_are_cached=True,
)
