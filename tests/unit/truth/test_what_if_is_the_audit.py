"""A loss that is asked about alone has the answer that the audit of all losses gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.random_estates import random_estate
from evac.audit import audit
from evac.audit.auditing import audit_together
from evac.model.estate import Estate
from evac.office.reckoning import what_if_of
from evac.views.small_texts import what_if_text
from tests.unit.truth.written import servers, written


def test_one_loss_is_judged_as_among_all() -> None:
    report = audit(random_estate(9))
    for row in report.rows:
        alone = audit_together(report, row.members).rows[0]
        assert list(alone.fates(report.services)) == list(row.fates(report.services))


def test_audit_and_what_if_of_a_small_estate_compile_nothing() -> None:
    code = """
import sys
from bench.random_estates import random_estate
from evac.audit import audit
from evac.office.reckoning import what_if_of
for seed in (1, 9):
    report = audit(random_estate(seed))
    sites = tuple(site.id for site in report.impacts.estate.sites)
    for lost in ((sites[0],), sites[:2]):
        what_if_of(report, lost)
print("numba" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"


VAGUE = """
sites: {a: {}, b: {}}
classes: {std: {cpu: 8 cores, memory: 8 GiB}}
services:
  vault: {tier: 0, people: 10, replicas: {a: 1}, demand: {cpu: 1 core, memory: 1 GiB}, start: 10 s}
  shop: {tier: 1, people: 20, replicas: 1, demand: {cpu: 1 core, memory: 1 GiB}}
"""
PLACES = {
    "servers": servers("a1,a,a/h1/r1,std,serving,", "a2,a,a/h2/r2,std,serving,", "b1,b,b/h/r,std,serving,"),
    "racks": "rack\na/h1/r1\na/h2/r2\nb/h/r\n",
    "replicas": "service,target,count\nshop,a1,1\n",
}


def vague(folder: Path) -> Estate:
    """It is unknown on which server vault runs, and how long shop takes to start."""
    halls = "halls: {a/h1: {}, a/h2: {}, b/h: {}}"
    return written(folder, f"{VAGUE}{halls}", **PLACES)


@pytest.mark.parametrize("seed", [None, 2, 9, 17, 41])
def test_the_screen_of_a_what_if_names_every_service_that_may_not_continue(
    tmp_path: Path, seed: int | None
) -> None:
    report = audit(vague(tmp_path / "vague") if seed is None else random_estate(seed))
    for row in report.rows:
        answer = what_if_of(report, row.members)
        screen = what_if_text(asdict(answer), 400, colour=False)
        lines = {line.split()[0]: line for line in screen.splitlines() if line.startswith("  ")}
        fates = list(row.fates(report.services))
        assert ("every service continues" in screen) == (not fates)
        assert {one.service for one in fates[:20]} <= lines.keys() or len(fates) > 20
        unjudged = sum(one.fate == "unknown" for one in fates)
        assert (f"{unjudged} cannot be judged" in screen.splitlines()[0]) == bool(unjudged)
        assert not row.down or ": 0 " not in screen.splitlines()[0]


def test_a_service_whose_database_is_lost_is_affected_wherever_its_replicas_are(tmp_path: Path) -> None:
    stores = "stores: {users: {engine: x, fence: 1 s, promote: 1 s, members: MEMBERS}}"
    text = VAGUE.replace("start: 10 s}", "start: 10 s, needs: [{store: users}]}")
    halls = "halls: {a/h1: {}, a/h2: {}, b/h: {}}"
    stores = stores.replace("MEMBERS", "[{at: a/h1, mode: primary}, {at: b, mode: sync}]")
    report = audit(written(tmp_path, f"{text}{halls}\n{stores}", **PLACES))
    screens = [
        what_if_text(asdict(what_if_of(report, (hall,))), 200, colour=False).splitlines()[0]
        for hall in ("a/h1", "a/h2")
    ]
    assert screens == [
        "If a/h1 is lost: 2 services affected, 1 cannot be judged",
        "If a/h2 is lost: 0 to 1 services affected, 1 cannot be judged",
    ]


def test_a_service_that_is_back_at_an_unknown_time_does_not_look_like_one_that_never_is(
    tmp_path: Path,
) -> None:
    screen = what_if_text(asdict(what_if_of(audit(vague(tmp_path / "v")), ("a/h1",))), 200, colour=False)
    shop = next(line for line in screen.splitlines() if line.startswith("  shop"))
    assert shop.split()[1:3] == ["recovers", "unknown"]
