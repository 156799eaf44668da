"""Random estates as people could write them, of 2 to 40 services, with every feature of the format that a
plan or an audit reads: what holds for all of them holds for a stranger's estate.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from evac.estate import load
from evac.model.estate import Estate

Document = dict[str, Any]
STEPS = (
    "approve",
    "fence",
    "promote",
    "boot",
    "start",
    "verify",
    "shift",
    "shed",
    "force-quorum",
    "start-cycle",
)
ROLES = ("deploy", "registry", "identity", "dns-control", "secrets", "boot", "images", "monitoring")


class Chance:
    """A seeded source of choices, in words."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def often(self, odds: float) -> bool:
        return bool(self._rng.random() < odds)

    def between(self, low: int, high: int) -> int:
        """Both included."""
        return int(self._rng.integers(low, high + 1))

    def one_of(self, *choices: Any) -> Any:
        return choices[int(self._rng.integers(0, len(choices)))]

    def some(self, names: list[str], most: int) -> list[str]:
        count = min(len(names), self.between(0, most))
        return sorted(self._rng.choice(names, count, replace=False).tolist()) if count else []


def random_document(seed: int) -> tuple[Document, str]:
    """The YAML of an estate as data, and its table of servers; the same seed gives the same ones."""
    chance = Chance(seed)
    sites = [f"s{k}" for k in range(chance.between(2, 4))]
    found: Document = {"evac": 1, "name": f"random {seed}", "sites": {site: {} for site in sites}}
    if chance.often(0.5):
        found["detection"], found["approval"] = f"{chance.between(0, 90)} s", f"{chance.between(0, 9)} min"
    if chance.often(0.2):
        found["horizon"] = f"{chance.between(1, 6)} h"
    racks = _grounds(chance, found, sites)
    table = _servers(chance, found, sites, racks)
    pools = _pools(chance, found, sites)
    names = _services(chance, found, sites, pools)
    _stores(chance, found, sites, names)
    _limits(chance, found)
    tools = chance.some(list(ROLES), 3) if chance.often(0.5) else []
    if tools:
        found["tools"] = {role: chance.one_of(*names) for role in tools}
    return found, table


def random_estate(seed: int) -> Estate:
    """The estate of a random document, read as any other."""
    document, table = random_document(seed)
    return _read(document, {"servers": table} if table else {})


def strange_estate(seed: int) -> Estate:
    """A random estate with more of what strangers write: replicas and copies on servers and in racks, pools
    with known servers, replicas without a place, feeds that carry little, alternatives, external services,
    and objectives by class of loss.
    """
    return _read(*strange_document(seed))


def strange_document(seed: int) -> tuple[Document, dict[str, str]]:
    """The YAML of a strange estate as data, and its tables by name."""
    found, table = random_document(seed)
    chance = Chance(seed + 2**32)
    servers = [line.split(",") for line in table.splitlines()[1:]]
    _weak_feeds(chance, found, servers)
    tables = {}
    if servers:
        pools = found.get("pools", {})
        share = chance.one_of(0.0, 0.3, 0.9)
        rows = [
            [*row, f"p-{row[1]}" if f"p-{row[1]}" in pools and chance.often(share) else ""] for row in servers
        ]
        lines = ["server,site,rack,class,state,bmc,pool", *(",".join(row) for row in rows)]
        tables["servers"] = "\n".join(lines) + "\n"
    replicas = _places(chance, found, servers)
    if replicas:
        tables["replicas"] = "service,target,count\n" + "".join(
            f"{service},{target},{count}\n" for (service, target), count in sorted(replicas.items())
        )
    _copies(chance, found, servers)
    _outside(chance, found)
    return found, tables


def _read(document: Document, tables: dict[str, str]) -> Estate:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "estate.yaml").write_text(json.dumps(document), "utf-8")
        for name, table in tables.items():
            Path(folder, f"{name}.csv").write_text(table, "utf-8")
        return load(folder)


def _weak_feeds(chance: Chance, found: Document, servers: list[list[str]]) -> None:
    """Most racks on two feeds, whose budgets may not carry what the other leaves."""
    feeds: Document = found.get("feeds", {})
    if not servers or not feeds or chance.often(0.4):
        return
    for one in found["classes"].values():
        one["watts"] = "400 W"
    for name, rack in found["racks"].items():
        mine = [feed for feed in feeds if feed.startswith(name.split("/")[0] + "/")]
        if mine and chance.often(0.8):
            rack["feeds"] = mine
    for feed in feeds.values():
        if chance.often(0.8):
            feed["power_budget"] = chance.one_of("600 W", "900 W", "1300 W", "3 kW")


def _places(chance: Chance, found: Document, servers: list[list[str]]) -> dict[tuple[str, str], int]:
    """(service, target) -> replicas, for services that a table places; some others get no place at all."""
    table: dict[tuple[str, str], int] = {}
    on = [row[0] for row in servers if row[4] == "serving"]
    for name, service in found["services"].items():
        kind = chance.one_of("table", "table", "yaml", "yaml", "yaml")
        kind = "nowhere" if chance.often(0.03) else kind
        if kind == "table" and on:
            del service["replicas"]
            for target in chance.some(on, 3) or [chance.one_of(*on)]:
                table[name, target] = chance.between(1, 2)
            service["spread"] = service.get("spread", {}) | {"per_server": 2}
        elif kind == "nowhere":
            del service["replicas"]
            if chance.often(0.5):
                service["sites"] = [chance.one_of(*found["sites"])]
    return table


def _copies(chance: Chance, found: Document, servers: list[list[str]]) -> None:
    """Copies of stores in racks, in halls and on servers of the sites where they are."""
    places = [*found.get("halls", {}), *found.get("racks", {})]
    for store in found.get("stores", {}).values():
        for member in store["members"]:
            site = member["at"]
            here = [place for place in places if place.startswith(f"{site}/")]
            here += [row[0] for row in servers if row[1] == site and row[4] != "dark"]
            if here and chance.often(0.6):
                member["at"] = chance.one_of(*here)
        if chance.often(0.2):
            store["objectives"] = {chance.one_of("rack", "hall", "site", "region"): {"rpo": "1 min"}}


def _outside(chance: Chance, found: Document) -> None:
    """External services, alternatives, and objectives by class of loss."""
    names = list(found["services"])
    if chance.often(0.4):
        found["providers"] = {"cloud": {}}
        found["services"]["ext"] = {"external": True, "provider": "cloud"}
    for number, name in enumerate(names):
        service = found["services"][name]
        if number > 1 and chance.often(0.2):
            group = chance.some(names[:number], 2) + (["ext"] if "ext" in found["services"] else [])
            if len(group) > 1:
                hard = {} if chance.often(0.8) else {"hard": False}
                service.setdefault("needs", []).append({"any_of": group, **hard})
        if chance.often(0.2):
            service["objectives"] = {chance.one_of("rack", "hall", "site", "region"): {"rto": "5 min"}}


def _grounds(chance: Chance, found: Document, sites: list[str]) -> list[str]:
    """Halls, feeds, racks and groups; the racks by name."""
    halls: Document = {}
    feeds: Document = {}
    racks: Document = {}
    for site in sites:
        if not chance.often(0.6):
            continue
        mine = [f"{site}/h{k}" for k in range(chance.between(1, 2))]
        halls |= {hall: {"power_budget": "40 kW"} if chance.often(0.2) else {} for hall in mine}
        power = [f"{site}/f{k}" for k in range(chance.between(1, 2))] if chance.often(0.5) else []
        for feed in power:
            feeds[feed] = {"power_budget": "30 kW"} if chance.often(0.4) else {}
            if chance.often(0.3):
                feeds[feed]["boots_at_once"] = chance.between(1, 3)
        for number in range(chance.between(1, 3)):
            rack = f"{chance.one_of(*mine)}/r{number}"
            racks[rack] = {"feeds": chance.some(power, 2)} if power else {}
    if halls:
        found["halls"] = halls
    if feeds:
        found["feeds"] = feeds
    if racks:
        found["racks"] = racks
    domains = [*halls, *racks]
    if domains and chance.often(0.3):
        members = chance.some(domains, 3)
        if members:
            found["groups"] = {"g0": {"kind": "spine", "members": members}}
    return list(racks)


def _servers(chance: Chance, found: Document, sites: list[str], racks: list[str]) -> str:
    """Classes, and the table of servers; empty where there is none."""
    if chance.often(0.25):
        return ""
    classes: Document = {}
    for number in range(chance.between(1, 2)):
        one: Document = {
            "cpu": f"{chance.one_of(4, 8, 16)} cores",
            "memory": f"{chance.one_of(16, 32, 64)} GiB",
        }
        if chance.often(0.7):
            one["boot"] = f"{chance.one_of(60, 120, 300)} s"
        if chance.often(0.3):
            one |= {"watts": "400 W", "inrush": "600 W", "inrush_hold": "10 s"}
        if chance.often(0.2):
            one["boot_odds"] = "90 %"
        classes[f"c{number}"] = one
    found["classes"] = classes
    lines = ["server,site,rack,class,state,bmc"]
    for site in sites:
        here = [rack for rack in racks if rack.startswith(f"{site}/")]
        for number in range(chance.between(0, 5)):
            state = chance.one_of("serving", "serving", "serving", "spare", "dark", "dark")
            rack = chance.one_of("", *here, *here)
            bmc = chance.one_of("yes", "yes", "no", "")
            lines.append(f"{site}-v{number},{site},{rack},{chance.one_of(*classes)},{state},{bmc}")
    return "\n".join(lines) + "\n"


def _pools(chance: Chance, found: Document, sites: list[str]) -> list[str]:
    pools: Document = {}
    for site in sites:
        if chance.often(0.6):
            one: Document = {"site": site}
            if chance.often(0.9):
                one |= {"cpu": f"{chance.between(2, 24)} cores", "memory": f"{chance.between(8, 96)} GiB"}
            if chance.often(0.2):
                one["quota"] = "80 %"
            if chance.often(0.2):
                one["starts"] = f"{chance.between(1, 4)} per {chance.one_of(10, 60)} s"
            pools[f"p-{site}"] = one
    if pools:
        found["pools"] = pools
    return list(pools)


def _services(chance: Chance, found: Document, sites: list[str], pools: list[str]) -> list[str]:
    names = [f"x{k}" for k in range(chance.one_of(2, 3, 4, 6, 8, 12, 20, 40))]
    services: Document = {}
    targets = [*pools, *pools, *sites] if pools else sites
    for number, name in enumerate(names):
        one: Document = {}
        if chance.often(0.9):
            one["tier"] = chance.between(0, 3)
        if chance.often(0.9):
            one["people"] = chance.one_of(10, 100, 1_000, 25_000)
        if chance.often(0.8):
            one["demand"] = {"cpu": f"{chance.between(1, 4)} cores", "memory": f"{chance.between(1, 8)} GiB"}
        placed = {chance.one_of(*targets): chance.between(1, 3) for _ in range(chance.between(1, 2))}
        one["replicas"] = placed if chance.often(0.95) else chance.between(1, 3)
        if chance.often(0.5):
            one["share"] = chance.one_of("50 %", "34 %", "2/3")
        _spread(chance, one, sites, found)
        if chance.often(0.5):
            one["sheddable"] = chance.often(0.8)
        if chance.often(0.5):
            one["rto"] = f"{chance.one_of(2, 10, 30, 60)} min"
        for key, odds in (("start", 0.85), ("verify", 0.5), ("shed_time", 0.3), ("warm", 0.1)):
            if chance.often(odds):
                one[key] = f"{chance.one_of(5, 20, 60, 180)} s"
        one["traffic"] = _traffic(chance)
        needs: list[Any] = []
        for other in chance.some(names[:number], 2) if number else []:
            kind = {"service": other, "needed_to": "start"} if chance.often(0.3) else other
            needs.append({"service": other, "hard": False} if chance.often(0.2) else kind)
        if chance.often(0.05) and number + 1 < len(names):
            needs.append({"service": names[number + 1], "needed_to": chance.one_of("start", "serve")})
        if needs:
            one["needs"] = needs
        services[name] = one
    found["services"] = services
    return names


def _spread(chance: Chance, one: Document, sites: list[str], found: Document) -> None:
    spread: Document = {}
    if chance.often(0.2):
        spread["per_server"] = chance.between(1, 3)
    for key in ("per_rack", "per_feed", "per_site"):
        if chance.often(0.12):
            spread[key] = chance.one_of("50 %", "60 %", "100 %")
    if spread:
        one["spread"] = spread
    if chance.often(0.1):
        one["conflict_group"] = chance.one_of("left", "right")
    if chance.often(0.1):
        one["eligible_sites"] = sorted({chance.one_of(*sites), chance.one_of(*sites)})
    if "classes" in found and chance.often(0.1):
        one["eligible_classes"] = [chance.one_of(*found["classes"])]


def _traffic(chance: Chance) -> Document:
    kind = chance.one_of("dns", "load_balancer", "anycast", "none")
    found: Document = {"kind": kind}
    if kind == "dns" and chance.often(0.7):
        found["ttl"] = "60 s"
    if kind in ("dns", "load_balancer") and chance.often(0.7):
        found |= {"change": f"{chance.one_of(5, 20)} s", "settle": f"{chance.one_of(0, 60)} s"}
    return found


def _stores(chance: Chance, found: Document, sites: list[str], names: list[str]) -> None:
    stores: Document = {}
    for number in range(chance.between(0, 3)):
        modes = ["primary", *(chance.one_of("sync", "async") for _ in range(chance.between(0, 2)))]
        members: list[Document] = []
        for mode in modes:
            member: Document = {"at": chance.one_of(*sites), "mode": mode}
            if mode == "async" and chance.often(0.7):
                member["lag"] = f"{chance.one_of(1, 30, 600)} s"
            members.append(member)
        if len({member["at"] for member in members}) < len(members):
            members = members[:1]
        one: Document = {"engine": "postgresql", "members": members}
        if chance.often(0.3):
            one["quorum"] = True
        if chance.often(0.4):
            one["automatic"] = chance.often(0.5)
        if chance.often(0.6):
            one["rpo"] = f"{chance.one_of(0, 5, 60)} s"
        for key, odds in (("fence", 0.5), ("promote", 0.8), ("elect", 0.2)):
            if chance.often(odds):
                one[key] = f"{chance.one_of(5, 30)} s"
        if "sync" in modes and chance.often(0.7):
            one["sync_timeout"] = chance.one_of("0 s", "10 s", "10 min", "never")
        if chance.often(0.3):
            one["backups"] = [
                {"at": chance.one_of(*sites), "size": "10 GiB", "age": "1 h", "restore": "1 Gbit/s"}
            ]
        stores[f"d{number}"] = one
        for user in chance.some(names, 3):
            need: Document = {"store": f"d{number}"}
            if chance.often(0.3):
                need["needed_to"] = "start"
            found["services"][user].setdefault("needs", []).append(need)
    if stores:
        found["stores"] = stores


def _limits(chance: Chance, found: Document) -> None:
    limits: Document = {}
    for key in ("approvals", "fences", "promotions", "sheds", "traffic_changes", "hands"):
        if chance.often(0.25):
            limits[f"{key}_at_once"] = chance.between(1, 2)
    if chance.often(0.3):
        limits["starts"] = f"{chance.between(1, 4)} per {chance.one_of(10, 60)} s"
    if chance.often(0.5):
        limits["manual"] = {kind: f"{chance.one_of(1, 5, 30)} min" for kind in chance.some(list(STEPS), 4)}
    if limits:
        found["limits"] = limits
