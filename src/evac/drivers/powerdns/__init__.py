"""Moves names between sites through the PowerDNS API."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from evac.drivers.capabilities import ReportsTraffic, RoutesTraffic
from evac.drivers.port import Value
from evac.drivers.spec import NOTHING, ByHand, DriverSpec, Need, Setting, addresses, dig

_ALL: tuple[Need, ...] = ("service",)


def _moved_by_hand(settings: Mapping[str, Value], parameters: Mapping[str, Value]) -> ByHand:
    names = addresses(settings, str(parameters["to"]))
    if not names:
        return NOTHING
    zone, ttl = str(settings.get("zone", "")).strip("."), str(settings.get("ttl", 60))
    lines = [
        shlex.join(["pdnsutil", "replace-rrset", zone, name.removesuffix(f".{zone}"), "A", ttl, address])
        for name, address in names
    ]
    return ByHand("\n".join(lines), dig(names))


DRIVER = DriverSpec(
    "powerdns",
    "moves names between sites through the API of one PowerDNS server",
    (RoutesTraffic, ReportsTraffic),
    (
        Setting("url", "text", "where the API listens", needed=_ALL, reaches="host"),
        Setting("key", "secret", "a reference to the API key", needed=_ALL),
        Setting("server_id", "text", "the server's ID in the API", "`localhost`"),
        Setting("zone", "text", "a zone for which the server is authoritative", needed=_ALL),
        Setting("records", "list", "`NAME=SITE:ADDRESS,SITE:ADDRESS`", needed=_ALL),
        Setting("ttl", "number", "TTL of new records, in seconds", "60", most=604_800),
    ),
    "evac.drivers.powerdns.driver:PowerDnsDriver",
    answers_are_cached=True,
    by_hand=MappingProxyType({"shift": _moved_by_hand}),
)
