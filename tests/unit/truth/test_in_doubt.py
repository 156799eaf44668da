"""What is known by its site, hall or rack only may be in any lost part of it: no such loss is harmless."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from bench.random_estates import strange_document, strange_estate
from evac.audit import audit
from evac.audit.impacts import planned
from evac.audit.impacts.in_doubt import unjudged
from evac.audit.impacts.losses import losses, presence
from evac.derive.domains import loss, topology
from evac.derive.pools import loose_services, replicas_lost, replicas_running
from evac.derive.tripping import tripped
from evac.estate import load
from evac.model.estate import Estate
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.test_unknown import Verdicts, is_better, verdicts_of
from tests.unit.truth.written import servers, written

REST: Final = "start: 60 s, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}"
ESTATE: Final = f"""
name: n
sites: {{a: {{}}, b: {{}}}}
halls: {{a/h1: {{}}, a/h2: {{}}, b/h: {{}}}}
feeds: {{a/f1: {{}}, a/f2: {{}}}}
racks:
  a/h1/r1: {{feeds: [a/f1]}}
  a/h1/r2: {{}}
  a/h2/r3: {{hall: unknown, feeds: [a/f2]}}
  b/h/r: {{}}
classes: {{c: {{cpu: 8 cores, memory: 64 GiB}}}}
pools:
  pa: {{site: a, cpu: 8 cores, memory: 64 GiB}}
  pb: {{site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  in-pool: {{tier: 0, people: 9, replicas: {{pa: 2}}, {REST}}}
  on-no-feed: {{tier: 0, people: 9, {REST}}}
  on-no-hall: {{tier: 0, people: 9, {REST}}}
  on-no-rack: {{tier: 0, people: 9, {REST}}}
  of-hall: {{tier: 0, people: 9, replicas: {{pb: 1}}, {REST}, needs: [{{store: in-hall}}]}}
  of-rack: {{tier: 0, people: 9, replicas: {{pb: 1}}, {REST}, needs: [{{store: in-rack}}]}}
  of-server: {{tier: 0, people: 9, replicas: {{pb: 1}}, {REST}, needs: [{{store: on-v4}}]}}
stores:
  in-hall: {{engine: x, promote: 1 s, fence: 1 s, members: [{{at: a/h1, mode: primary}}]}}
  in-rack: {{engine: x, promote: 1 s, fence: 1 s, members: [{{at: a/h1/r2, mode: primary}}]}}
  on-v4: {{engine: x, promote: 1 s, fence: 1 s, members: [{{at: v4, mode: primary}}]}}
"""
SERVERS: Final = servers(
    "v1,a,a/h1/r1,c,serving,",
    "v2,a,a/h1/r2,c,serving,",
    "v3,a,a/h2/r3,c,serving,",
    "v4,a,,c,serving,",
    "p1,a,,c,serving,pa",
    "b1,b,b/h/r,c,serving,",
    "p2,b,b/h/r,c,serving,pb",
)
REPLICAS: Final = "service,target,count\non-no-feed,v2,1\non-no-hall,v3,1\non-no-rack,v4,1\n"
ANYWHERE: Final = {"in-pool", "on-no-rack", "of-server"}
"""These have no rack: any lost part of the site may have them."""
OPEN: Final = {
    "a/h1": ANYWHERE | {"on-no-hall"},
    "a/h2": ANYWHERE | {"on-no-hall"},
    "a/f1": ANYWHERE | {"on-no-feed", "of-hall", "of-rack"},
    "a/f2": ANYWHERE | {"on-no-feed", "of-hall", "of-rack"},
    "a/h1/r1": ANYWHERE | {"of-hall"},
    "a/h1/r2": ANYWHERE | {"of-hall"},
    "a/h2/r3": ANYWHERE | {"of-hall"},
}
"""Loss -> what nobody can judge."""


@pytest.mark.parametrize("method", ["plan", "estimate"])
def test_what_may_be_in_the_lost_part_cannot_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    if method == "estimate":
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(planned, most, 0)
    estate = written(tmp_path, ESTATE, servers=SERVERS, replicas=REPLICAS)
    report = audit(estate)
    for domain, doubted in OPEN.items():
        made = plan(estate, lose(domain))
        assert check(estate, made).holds
        assert {one.service for one in made.outcomes if one.state == "unknown"} == doubted, domain
        row = next(row for row in report.rows if row.domain == domain)
        told = {one.service for one in row.fates(report.services) if one.fate == "unknown"}
        assert row.method == method
        assert told == doubted, domain


@pytest.mark.parametrize(("rack", "state"), [("a/h2/r3", "restored"), ("", "unknown")])
@pytest.mark.parametrize("method", ["plan", "estimate"])
def test_what_restarts_on_a_server_that_may_be_lost_too_cannot_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, rack: str, state: str
) -> None:
    if method == "estimate":
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(planned, most, 0)
    text = f"""
name: n
sites: {{a: {{}}}}
halls: {{a/h1: {{}}, a/h2: {{}}}}
racks: {{a/h1/r1: {{}}, a/h2/r3: {{}}}}
classes: {{c: {{cpu: 8 cores, memory: 64 GiB}}}}
services: {{shop: {{tier: 0, people: 9, {REST}}}}}
"""
    table = servers("v1,a,a/h1/r1,c,serving,", f"v2,a,{rack},c,serving,")
    estate = written(tmp_path, text, servers=table, replicas="service,target,count\nshop,v1,1\n")
    made = plan(estate, lose("a/h1"))
    assert check(estate, made).holds
    (shop,) = made.outcomes
    assert shop.state == state
    if state == "unknown":
        assert shop.reason == "cannot be judged: where the servers at a are and what powers them"
    report = audit(estate)
    row = next(row for row in report.rows if row.domain == "a/h1")
    fates = [one.fate for one in row.fates(report.services)]
    known = "recovers" if method == "plan" else "not proved"
    assert (row.method, fates) == (method, ["unknown" if state == "unknown" else known])


@pytest.mark.parametrize("rack", ["a/h2/r2", ""])
def test_what_moves_to_a_server_that_may_be_evacuated_too_cannot_be_judged(tmp_path: Path, rack: str) -> None:
    text = f"""
name: n
sites: {{a: {{}}}}
halls: {{a/h1: {{}}, a/h2: {{}}}}
racks: {{a/h1/r1: {{}}, a/h2/r2: {{}}}}
classes: {{c: {{cpu: 8 cores, memory: 64 GiB}}}}
services: {{shop: {{tier: 0, people: 9, {REST}}}}}
"""
    table = servers("v1,a,a/h1/r1,c,serving,", f"v2,a,{rack},c,serving,")
    estate = written(tmp_path, text, servers=table, replicas="service,target,count\nshop,v1,1\n")
    made = plan(estate, Scenario("evacuate", ("a/h1",)))
    assert [one.state for one in made.outcomes] == ["restored" if rack else "unknown"]
    assert check(estate, made).holds


@pytest.mark.parametrize("state", ["dark", "condemned"])
@pytest.mark.parametrize("method", ["plan", "estimate"])
def test_where_nothing_runs_a_loss_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, state: str
) -> None:
    if method == "estimate":
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(planned, most, 0)
    text = f"""
name: n
sites: {{a: {{}}, b: {{}}}}
halls: {{a/h1: {{}}, b/h: {{}}}}
racks: {{a/h1/r1: {{}}, b/h/r: {{}}}}
classes: {{c: {{cpu: 8 cores, memory: 64 GiB}}}}
pools:
  off: {{site: a, cpu: 8 cores, memory: 64 GiB}}
  on: {{site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  in-pool: {{tier: 0, people: 9, share: "50 %", replicas: {{off: 1, on: 1}}, {REST}}}
  on-server: {{tier: 0, people: 9, share: "50 %", {REST}}}
"""
    table = servers(
        "v1,a,a/h1/r1,c,serving,", f"v2,a,,c,{state},", f"p1,a,,c,{state},off", "b1,b,b/h/r,c,serving,on"
    )
    replicas = "service,target,count\non-server,v2,1\non-server,b1,1\n"
    estate = written(tmp_path, text, servers=table, replicas=replicas)
    report = audit(estate)
    for domain in ("a/h1", "a/h1/r1"):
        made = plan(estate, lose(domain))
        assert check(estate, made).holds
        assert made.unjudged == (), domain
        row = next(row for row in report.rows if row.domain == domain)
        fates = {one.fate for one in row.fates(report.services)}
        assert (row.method, "unknown" in fates) == (method, False), domain


def vaguer(
    document: dict[str, Any], tables: dict[str, str]
) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """The same estate, each time with one place less precise: a rack without feeds, a server without a rack,
    a copy of which only the hall or the site is known.
    """
    for name, rack in document.get("racks", {}).items():
        if rack.get("feeds"):
            less = deepcopy(document)
            del less["racks"][name]["feeds"]
            yield f"feeds of {name}", less, tables
    head, *rows = tables.get("servers", "").splitlines() or [""]
    for number, row in enumerate(rows):
        cells = row.split(",")
        if cells[2]:
            others = [*rows[:number], ",".join([*cells[:2], "", *cells[3:]]), *rows[number + 1 :]]
            yield f"rack of {cells[0]}", document, {**tables, "servers": "\n".join([head, *others, ""])}
    for name, store in document.get("stores", {}).items():
        for number, member in enumerate(store["members"]):
            wider, _, last = member["at"].rpartition("/")
            if wider and last:
                less = deepcopy(document)
                less["stores"][name]["members"][number]["at"] = wider
                yield f"place of copy {number} of {name}", less, tables


def read(folder: Path, document: dict[str, Any], tables: dict[str, str]) -> Estate:
    folder.mkdir()
    (folder / "estate.yaml").write_text(json.dumps(document), "utf-8")
    for name, table in tables.items():
        (folder / f"{name}.csv").write_text(table, "utf-8")
    return load(folder)


@pytest.mark.parametrize("seed", [9, 12, 17, 23])
def test_a_place_that_is_less_precise_never_improves_a_verdict(tmp_path: Path, seed: int) -> None:
    document, tables = strange_document(seed)
    before = verdicts_of(read(tmp_path / "whole", document, tables))
    better: Verdicts = {}
    for number, (what, less, others) in enumerate(vaguer(document, tables)):
        after = verdicts_of(read(tmp_path / f"{number}", less, others))
        found = {at: now for at, now in after.items() if at in before and is_better(now, before[at])}
        better |= {(what, "/".join(at)): now for at, now in found.items()}
    assert better == {}


@pytest.mark.parametrize("seed", [950043, *range(24)])
def test_the_tables_of_the_audit_doubt_what_a_plan_doubts(seed: int) -> None:
    estate = strange_estate(seed)
    top, replicas = topology(estate), replicas_running(topology(estate))
    tried = losses(top)
    table = unjudged(top, presence(top, tried.rows), tried)
    for number, members in enumerate(tried.members):
        lost = loss(top, members)
        doubted, more = loose_services(top, lost, replicas), tripped(top, lost)
        if more is not None:
            doubted |= loose_services(top, more.lost, replicas)
            taken = replicas_lost(top, more.lost) > replicas_lost(top, lost)
            doubted[estate.replicas.service[taken]] = True
        assert np.flatnonzero(table[number]).tolist() == np.flatnonzero(doubted).tolist(), tried.ids[number]
