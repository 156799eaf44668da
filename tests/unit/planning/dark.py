"""A small company with a dark site, written as a user would write it; tests change one fact at a time."""

from __future__ import annotations

from pathlib import Path

from evac.estate import load
from evac.model.estate import Estate

YAML = """evac: 1
name: dark
horizon: 6 h
sites: {a: {POWER_SITE}, b: {}}
halls: {a/h1: {HALL}, a/h2: {}}
feeds:
  a/h1/f1: {FEED}
  a/h1/f2: {FEED}
  a/h2/f1: {FEED}
  a/h2/f2: {FEED}
classes:
  web: {cpu: 8 cores, memory: 32 GiB, watts: 300 W, boot: 2 min, boot_odds: 100 %, inrush: 600 W,
        inrush_hold: 10 s, power_on: dark}
  old: {cpu: 8 cores, memory: 32 GiB, watts: 400 W, boot: 5 min, boot_odds: 100 %, inrush: 800 W,
        inrush_hold: 20 s, power_on: POLICY}
boot_servers: {a-boot: {site: a, boots_at_once: 4, boots: 2 per 10 s}}
limits: {hands_at_once: 2, manual: {power: MANUAL, attest: 3 min, reprotect: 30 min}, LIMITS}
services:
  shop: {tier: 0, people: 1000, share: 50 %, demand: {cpu: 4 cores, memory: 4 GiB},
         start: 30 s, verify: 10 s, needs: [{store: orders}], traffic: {kind: none}, SHOP}
stores:
  orders:
    engine: postgresql
    rpo: 1 h
    fence: 20 s
    promote: 40 s
    members: [{at: a, mode: primary}, {at: b, mode: async, lag: 2 s}]
ENDPOINTS
"""
RACKS = "rack,feeds\n" + "".join(
    f"a/h{hall}/r{rack},a/h{hall}/f1+a/h{hall}/f2\n" for hall in (1, 2) for rack in (1, 2)
)
FACTS = {
    "POWER_SITE": "power_budget: 100 kW",
    "HALL": "cooling: 50 kW",
    "FEED": "inrush_budget: 2 kW",
    "POLICY": "dark",
    "MANUAL": "2 min",
    "LIMITS": "power_margin: 1 %",
    "SHOP": "owner: us",
    "ENDPOINTS": "",
}


def dark_site(folder: Path, per_rack: int = 3, **facts: str) -> Estate:
    """Two halls of two racks each: three `web` and one `old` server a rack, and one server at site b.

    OLD_BMC: whether the old ones have a management controller; OLD_POOL: a pool that owns them; POOLS: YAML.
    """
    text = (
        (YAML + facts.get("POOLS", ""))
        .replace("{a: 0}", "unknown")
        .replace("SHOP}", "}" if "SHOP" not in facts else facts["SHOP"] + "}")
    )
    text = text.replace("LIMITS}", facts.get("LIMITS", "power_margin: 1 %") + "}")
    for name, usual in FACTS.items():
        text = text.replace(name, facts.get(name, usual))
    bmc, owner = facts.get("OLD_BMC", "yes"), facts.get("OLD_POOL", "")
    rows = ["server,site,rack,class,state,boot_server,bmc,pool"]
    for hall in (1, 2):
        for rack in (1, 2):
            rows += [f"a{hall}{rack}w{n},,a/h{hall}/r{rack},web,,a-boot,yes," for n in range(per_rack)]
            rows.append(f"a{hall}{rack}x,,a/h{hall}/r{rack},old,,a-boot,{bmc},{owner}")
    rows += ["b1,b,,web,spare,,yes,", "a11z,,a/h1/r1,web,condemned,a-boot,yes,"]
    (folder / "estate.yaml").write_text(text)
    (folder / "racks.csv").write_text(RACKS)
    (folder / "servers.csv").write_text("\n".join(rows) + "\n")
    replicas = facts.get("REPLICAS", "shop,a11w0,1\nshop,a21w0,1\n")
    (folder / "replicas.csv").write_text("service,target,count\n" + replicas)
    return load(folder)
