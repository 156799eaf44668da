"""Names between sites, by signed updates (RFC 2136)."""

from evac.drivers.capabilities import RoutesTraffic
from evac.drivers.spec import DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("service",)

DRIVER = DriverSpec(
    "dns",
    "moves names between sites on one authoritative server, by signed updates",
    (RoutesTraffic,),
    (
        Setting("server", "text", "its address; TCP", needed=_ALL, reaches="host"),
        Setting("port", "number", "where it listens", "53", most=65_535),
        Setting("zone", "text", "a zone for which the server has authority", needed=_ALL),
        Setting("records", "list", "`NAME=SITE:ADDRESS,SITE:ADDRESS`", needed=_ALL),
        Setting("key_name", "text", "name of a TSIG key", needed=_ALL),
        Setting("key_secret", "secret", "reference to its base64", needed=_ALL),
        Setting("key_algorithm", "text", "of the key", "`hmac-sha256`"),
        Setting(
            "verify",
            "list",
            "`address:port` of other servers that must answer the same before it is done",
            reaches="host",
        ),
        Setting("ttl", "number", "seconds, of records that are new", "60", most=604_800),
    ),
    "evac.drivers.dns.driver:DnsDriver",
    answers_are_cached=True,
)
