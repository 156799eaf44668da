"""PostgreSQL managed by Patroni."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from evac.drivers.capabilities import Fences, Follows, Promotes, Protects, ReportsRole
from evac.drivers.port import Value
from evac.drivers.spec import ByHand, DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("store",)


def _promoted_by_hand(settings: Mapping[str, Value], parameters: Mapping[str, Value]) -> ByHand:
    scope, name = shlex.quote(str(settings.get("scope", ""))), shlex.quote(str(settings.get("name", "")))
    patronictl = "patronictl -c /etc/patroni.yml"
    return ByHand(
        f"{patronictl} failover {scope} --candidate {name} --force",
        f"{patronictl} list {scope} shows {name} as Leader",
    )


DRIVER = DriverSpec(
    "patroni",
    "asks Patroni for an orderly switchover; after a fence, frees its leader key in etcd",
    (ReportsRole, Promotes, Fences, Follows, Protects),
    (
        Setting("scope", "text", "the cluster", needed=_ALL),
        Setting("name", "text", "this member", needed=_ALL),
        Setting("url", "text", "its REST API", needed=_ALL, reaches="host"),
        Setting("etcd", "list", "client URLs", needed=_ALL, reaches="host"),
        Setting("etcd_user", "text", "of etcd", "none"),
        Setting("etcd_password", "secret", "a reference to the password", "none"),
        Setting("etcd_ca", "secret", "`file:/path`: CA to trust for etcd", "the machine's"),
        Setting("etcd_cert", "secret", "`file:/path`: certificate to present to etcd", "none"),
        Setting("etcd_key", "secret", "`file:/path`: private key of that certificate", "none"),
        Setting("namespace", "text", "as in Patroni's configuration", "`/service`"),
        Setting("rest_user", "text", "user of the REST API", "none"),
        Setting(
            "rest_password",
            "secret",
            "a reference to the password; without it, the user is not sent either",
            "none",
        ),
    ),
    "evac.drivers.patroni.driver:PatroniDriver",
    extra="postgres",
    proofs=("lease",),
    copies_follow_by_themselves=True,
    agent_may=True,
    by_hand=MappingProxyType({"promote": _promoted_by_hand}),
)
