"""Moves names between sites with signed updates (RFC 2136)."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from evac.drivers.capabilities import ReportsTraffic, RoutesTraffic
from evac.drivers.port import Value
from evac.drivers.spec import NOTHING, ByHand, DriverSpec, Need, Setting, addresses, dig, file_of

_ALL: tuple[Need, ...] = ("service",)


def _moved_by_hand(settings: Mapping[str, Value], parameters: Mapping[str, Value]) -> ByHand:
    names = addresses(settings, str(parameters["to"]))
    if not names:
        return NOTHING
    zone, ttl = str(settings.get("zone", "")).strip("."), str(settings.get("ttl", 60))
    server = str(settings.get("server", ""))
    updates = "".join(
        f"update delete {name} A\\nupdate add {name} {ttl} A {address}\\n" for name, address in names
    )
    key = f"{settings.get('key_algorithm', 'hmac-sha256')}:{settings.get('key_name', '')}"
    secret = f'"{key}:$(cat {shlex.quote(file_of(settings.get("key_secret")) or "KEYFILE")})"'
    script = f"server {server}\\nzone {zone}\\n{updates}send\\n"
    return ByHand(f"printf '{script}' | nsupdate -y {secret}", dig(names, server))


DRIVER = DriverSpec(
    "dns",
    "moves names between sites on one authoritative server, with signed updates",
    (RoutesTraffic, ReportsTraffic),
    (
        Setting("server", "text", "its address", needed=_ALL, reaches="host"),
        Setting("port", "number", "its TCP port", "53", most=65_535),
        Setting("zone", "text", "a zone for which the server is authoritative", needed=_ALL),
        Setting("records", "list", "`NAME=SITE:ADDRESS,SITE:ADDRESS`", needed=_ALL),
        Setting("key_name", "text", "name of a TSIG key", needed=_ALL),
        Setting("key_secret", "secret", "reference to the key, in base64", needed=_ALL),
        Setting("key_algorithm", "text", "algorithm of the key", "`hmac-sha256`"),
        Setting(
            "verify",
            "list",
            "`address:port` of other servers that must give the same answer before the step is done",
            reaches="host",
        ),
        Setting("ttl", "number", "TTL of new records, in seconds", "60", most=604_800),
    ),
    "evac.drivers.dns.driver:DnsDriver",
    answers_are_cached=True,
    by_hand=MappingProxyType({"shift": _moved_by_hand}),
)
