"""Controls a site's servers behind HAProxy through its runtime API."""

from evac.drivers.capabilities import Fences, ReportsTraffic, RoutesTraffic
from evac.drivers.spec import DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("service", "fence")

DRIVER = DriverSpec(
    "haproxy",
    "removes the servers of a site from one backend, puts them back, and splits traffic between sites",
    (RoutesTraffic, ReportsTraffic, Fences),
    (
        Setting(
            "socket",
            "text",
            "path of the socket of the runtime API, instead of `host` and `port`",
            reaches="socket",
        ),
        Setting(
            "host", "text", "where the runtime API listens", needed=_ALL, unless="socket", reaches="host"
        ),
        Setting("port", "number", "its port", needed=_ALL, unless="socket", most=65_535),
        Setting("backend", "text", "whose servers", needed=_ALL),
        Setting("servers", "list", "`SITE=SERVER+SERVER` for each site", needed=_ALL),
    ),
    "evac.drivers.haproxy.driver:HaproxyDriver",
    proofs=("network",),
    agent_may=True,
)
