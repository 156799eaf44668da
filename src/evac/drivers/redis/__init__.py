"""Redis servers without another manager."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from evac.drivers.capabilities import AnswersProbe, Follows, Promotes, Protects, ReportsRole
from evac.drivers.port import Value
from evac.drivers.spec import ByHand, DriverSpec, Setting


def _promoted_by_hand(settings: Mapping[str, Value], parameters: Mapping[str, Value]) -> ByHand:
    cli = shlex.join(
        ["redis-cli", "-h", str(settings.get("host", "")), "-p", str(settings.get("port", 6379))]
    )
    return ByHand(f"{cli} REPLICAOF NO ONE", f"{cli} ROLE begins with master")


DRIVER = DriverSpec(
    "redis",
    "promotes, demotes, protects and rejoins Redis servers",
    (ReportsRole, Promotes, Follows, Protects, AnswersProbe),
    (
        Setting(
            "host", "text", "where it accepts connections, without TLS", needed=("store",), reaches="host"
        ),
        Setting("port", "number", "its port", "6379", most=65_535),
        Setting("password", "secret", "a reference to the default user's password", "none"),
        Setting(
            "name", "text", "the name by which evac counts it among the copies that confirm writes", "none"
        ),
    ),
    "evac.drivers.redis.driver:RedisDriver",
    extra="redis",
    probe="data",
    agent_may=True,
    by_hand=MappingProxyType({"promote": _promoted_by_hand}),
)
