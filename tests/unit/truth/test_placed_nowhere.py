"""A service whose replicas the files do not place may run anywhere: no loss of a site leaves it out, and what
is free next to it is not known.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.random_estates import random_document
from evac.audit import audit
from evac.estate import load
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning.plan import foresee, plan
from evac.verify import check
from tests.unit.truth.written import written

ESTATE = """
sites: {a: {}, b: {}, c: {}}
halls: {a/h: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
providers: {net: {}}
services:
  calls: {people: 9, start: 1 s, PLACE demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  desk: {people: 9, start: 1 s, replicas: {pb: 1}, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}, needs: [calls]}
  wiki: {people: 9, start: 1 s, replicas: {pa: 1}, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
  mail: {external: true, provider: net}
"""
CASES = [
    ("replicas: 2,", {"a": True, "a/h": True, "b": True, "provider:net": False}),
    ("", {"a": True, "a/h": True, "b": True, "provider:net": False}),
    ("sites: [a],", {"a": True, "a/h": True, "b": False, "provider:net": False}),
    ("replicas: 0,", {"a": False, "a/h": False, "b": False, "provider:net": False}),
]


def fates(estate: Estate, loss: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Method -> fate of each service."""
    found = {}
    for _ in range(2):
        report = audit(estate)
        row = next(row for row in report.rows if row.domain == loss)
        told = {one.service: one.fate for one in row.fates(report.services)}
        found[row.method] = {name: told.get(name, "unaffected") for name in report.services}
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            monkeypatch.setattr(f"evac.audit.impacts.planned.{most}", 0)
    return found


@pytest.mark.parametrize(("place", "losses"), CASES)
def test_a_service_without_a_place_cannot_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, losses: dict[str, bool]
) -> None:
    estate = written(tmp_path, ESTATE.replace("PLACE", place))
    for loss, is_open in losses.items():
        made = plan(estate, lose(loss))
        assert check(estate, made).holds
        states = {one.service: one.state for one in made.outcomes}
        assert (states.get("calls") == "unknown") == is_open
        uncounted = place in ("", "sites: [a],")
        assert ("services/calls/placement" in made.unknown) == (is_open or uncounted)
        with monkeypatch.context() as patch:
            for told in fates(estate, loss, patch).values():
                assert (told["calls"] == "unknown") == is_open
                assert (told["desk"] == "unknown") == (is_open or (loss == "b" and place == "sites: [a],"))


@pytest.mark.parametrize(("placed", "is_open"), [(1, True), (9, True), (10, False), (11, False)])
def test_a_service_that_is_placed_in_part_cannot_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: int, is_open: bool
) -> None:
    """Nine of ten replicas that the files do not place may all be at the other site."""
    text = ESTATE.replace("PLACE", "replicas: 10, share: 50 %,")
    estate = written(tmp_path, text, replicas=f"service,target,count\ncalls,pb,{placed}\n")
    for loss in ("a", "b"):
        made = plan(estate, lose(loss))
        assert check(estate, made).holds
        states = {one.service: one.state for one in made.outcomes}
        assert (states.get("calls") == "unknown") == is_open
        with monkeypatch.context() as patch:
            assert {(told["calls"] == "unknown") for told in fates(estate, loss, patch).values()} == {is_open}


def wiki_after(folder: Path, place: str, cores: int) -> str:
    text = ESTATE.replace("PLACE", place).replace("cpu: 8 cores", f"cpu: {cores} cores")
    text = text.replace(", c: {}", "")
    made = plan(written(folder, text), lose("a"))
    return {one.service: one.state for one in made.outcomes}["wiki"]


def test_what_is_free_next_to_it_is_not_known(tmp_path: Path) -> None:
    """`wiki` starts in pb, which `calls` may fill."""
    assert wiki_after(tmp_path / "placed", "replicas: {pb: 1},", 3) == "restored"
    assert wiki_after(tmp_path / "nowhere", "replicas: 2,", 3) == "unknown"


@pytest.mark.parametrize(("cores", "state"), [(3, "unknown"), (4, "restored"), (8, "restored")])
def test_a_pool_that_holds_everything_has_enough_free(tmp_path: Path, cores: int, state: str) -> None:
    """Wherever the two replicas of `calls` are: with 4 cores, each place leaves one for `wiki`."""
    assert wiki_after(tmp_path / "nowhere", "replicas: 2,", cores) == state
    assert wiki_after(tmp_path / "uncounted", "", cores) == "unknown", "there may be any number"
    places = ("replicas: {pb: 2},", "replicas: {pa: 1, pb: 1},", "replicas: {pa: 2},")
    found = {wiki_after(tmp_path / str(n), place, cores) for n, place in enumerate(places)}
    assert (found == {"restored"}) == (state == "restored")


@pytest.mark.parametrize(("cores", "is_open"), [(3, True), (4, False)])
def test_the_estimate_knows_too_what_a_pool_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, is_open: bool
) -> None:
    text = ESTATE.replace("PLACE", "replicas: 2,").replace("cpu: 8 cores", f"cpu: {cores} cores")
    found = fates(written(tmp_path, text.replace(", c: {}", "")), "a", monkeypatch)
    assert {method: told["wiki"] == "unknown" for method, told in found.items()} == {
        "plan": is_open,
        "estimate": is_open,
    }


@pytest.mark.parametrize(("cores", "is_open"), [(6, True), (8, False)])
def test_what_a_loss_leaves_of_a_pool_may_not_hold_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, is_open: bool
) -> None:
    """pb loses half of its servers; four replicas of one core each may be there."""
    text = ESTATE.replace("PLACE", "replicas: 2,").replace(
        "pb: {site: b, cpu: 8", f"pb: {{site: b, cpu: {cores}"
    )
    more = "halls: {a/h: {}, b/h1: {}, b/h2: {}}\nracks: {b/h1/r: {}, b/h2/r: {}}\nclasses: {k: {}}\n"
    more += "groups: {g: {kind: campus, members: [a, b/h1]}}"
    text = text.replace(", c: {}", "").replace("halls: {a/h: {}}", more)
    table = "server,site,rack,class,state,pool\nq1,b,b/h1/r,k,serving,pb\nq2,b,b/h2/r,k,serving,pb\n"
    found = fates(written(tmp_path, text, servers=table), "g", monkeypatch)
    assert {method: told["wiki"] == "unknown" for method, told in found.items()} == {
        "plan": is_open,
        "estimate": is_open,
    }


@pytest.mark.parametrize("seed", range(40, 52))
def test_no_site_of_a_random_estate_is_lost_without_it(tmp_path: Path, seed: int) -> None:
    document, table = random_document(seed)
    for name, service in document["services"].items():
        placed = service.pop("replicas")
        folder = tmp_path / name
        folder.mkdir()
        (folder / "estate.yaml").write_text(json.dumps(document), "utf-8")
        if table:
            (folder / "servers.csv").write_text(table, "utf-8")
        estate = load(folder)
        for site in estate.sites:
            assert {o.service: o.state for o in foresee(estate, lose(site.id)).outcomes}.get(name) in (
                "unknown",
                "unplaced",
            )
        service["replicas"] = placed
