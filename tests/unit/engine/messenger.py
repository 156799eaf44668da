"""An estate of one messenger with a database at three sites, for tests of binding."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from evac import estate as estates
from evac.derive.stores import observed
from evac.engine.runs.binding import Bound, bind
from evac.model.estate import Estate
from evac.model.observation import MemberSeen, Observation
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan

ESTATE = """evac: 1
horizon: 1 h
detection: 2 s
sites: {pangyo: {}, anyang: {}, ansan: {}}
pools:
  pangyo-units: {site: pangyo, cpu: 8 cores, memory: 8 GiB}
  anyang-units: {site: anyang, cpu: 8 cores, memory: 8 GiB}
  ansan-units: {site: ansan, cpu: 8 cores, memory: 8 GiB}
services:
  messenger:
    tier: 0
    people: 1000
    demand: {cpu: 1 cores, memory: 1 GiB}
    replicas: {pangyo-units: 2, anyang-units: 1}
    share: 1/3
    needs: [{store: messages}]
    start: 1 s
    verify: 1 s
    traffic: {kind: dns, ttl: 1 s, change: 1 s, settle: 1 s}
stores:
  messages:
    engine: postgresql
    fence: 1 s
    promote: 1 s
    members:
      - {at: pangyo, mode: primary}
      - {at: anyang, mode: sync, lag: 0 s}
      - {at: ansan, mode: async, lag: 2 s}
endpoints:
"""
DATABASES = "".join(
    f"  messages-{site}: {{for: messages, at: {site}, driver: postgres, "
    f"settings: {{host: 127.0.0.{n}, port: 5432, name: dc-{site}}}}}\n"
    for n, site in enumerate(("pangyo", "anyang", "ansan"), 1)
)
NAMES = (
    "server: 127.0.0.{n}, zone: example, records: ['m=pangyo:192.0.2.1'], "
    "key_name: evac, key_secret: 'env:KEY'"
)
PROXY = "host: 127.0.0.{n}, port: 9999, backend: m, servers: ['pangyo=p1']"
UNIT = "agent: 'http://127.0.0.{n}:9', secret: 'env:AGENT{n}', unit: messenger"
TRAFFIC = "".join(
    f"  {name}-{site}: {{for: messenger, at: {site}, driver: {driver}, settings: "
    f"{{{settings.format(n=n)}}}}}\n"
    for name, driver, settings in (
        ("name", "dns", NAMES),
        ("proxy", "haproxy", PROXY),
        ("units", "process", UNIT),
    )
    for n, site in enumerate(("pangyo", "anyang", "ansan"), 1)
)
LAX = RunPolicy(stores={"messages": StorePolicy("messages", ("sync", "attest"), on_sync_loss="next")})


def estate(folder: Path, endpoints: str = DATABASES + TRAFFIC) -> Estate:
    (folder / "estate.yaml").write_text(ESTATE + (endpoints or "  {}"))
    return estates.load(folder)


def bound(of: Estate, scenario: Scenario | None = None, policy: RunPolicy = LAX) -> Bound:
    made = plan(of, scenario or lose("pangyo"))
    return bind(of, made, policy, run="r1", incident="i1", digest="sha256:0")


CAREFUL = RunPolicy(stores={"messages": StorePolicy("messages", ("sync", "attest"), on_sync_loss="ask")})


def confirming(tmp_path: Path, **roles: Any) -> Estate:
    """An estate whose store may lose nothing, with these roles."""
    found = tuple(MemberSeen("messages", site, role) for site, role in sorted(roles.items()))
    now = observed(estate(tmp_path), Observation(0, found))
    return replace(now, stores=(replace(now.stores[0], rpo_ms=0),))
