"""Random estates with links, ingress and peaks near what the traffic needs, so that some are too small."""

from __future__ import annotations

import json
from pathlib import Path

from bench.random_estates import Chance, Document, strange_document
from evac.estate import load
from evac.model.estate import Estate


def networked_document(seed: int, stated: float = 0.8) -> tuple[Document, dict[str, str]]:
    """A strange estate with a network. stated: the odds that a peak or a limit is stated."""
    found, tables = strange_document(seed)
    chance = Chance(seed + 2**33)
    sites = list(found["sites"])
    for name in sites:
        found["sites"][name] = {"role": chance.one_of("full", "full", "full", "full", "edge", "witness")}
    found["sites"][sites[0]]["role"] = "full"
    for store in found.get("stores", {}).values():
        for member in store["members"]:  # a witness site holds no data
            site = found["sites"][member["at"].partition("/")[0].partition("-v")[0]]
            if site["role"] == "witness" and member.get("mode") != "none":
                site["role"] = "edge"
    for service in found["services"].values():
        if not service.get("external"):
            if chance.often(stated):
                service["traffic"]["peak"] = f"{chance.between(0, 300)} Mbit/s"
            if chance.often(0.2):
                service["movable"] = True
    most = 60 * len(found["services"])
    for name in sites:
        if chance.often(stated):
            found["sites"][name]["ingress"] = f"{chance.between(1, 4 * most)} Mbit/s"
    pairs = [[one, other] for one in sites for other in sites if one < other]
    wide = {"bandwidth": f"{chance.between(1, most)} Mbit/s"}
    found["links"] = [{"ends": ends} | (wide if chance.often(stated) else {}) for ends in pairs]
    return found, tables


def networked(folder: Path, seed: int, stated: float = 0.8) -> Estate:
    """That estate, read as any other."""
    document, tables = networked_document(seed, stated)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "estate.yaml").write_text(json.dumps(document), "utf-8")
    for name, table in tables.items():
        (folder / f"{name}.csv").write_text(table, "utf-8")
    return load(folder)
