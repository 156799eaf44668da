"""Facts have a source and a shelf life; what is past it counts as unknown."""

from datetime import date
from pathlib import Path

import numpy as np

from evac.estate import check, load
from evac.model.digest import estate_digest
from evac.model.estate import Fact

TEXT = """evac: 1
sites: {a: {ingress: {value: 5 Gbit/s, source: router, observed: 2026-01-01, good_for: 30 d}}}
classes: {web: {cpu: 8 cores, memory: 16 GiB, watts: 200 W}}
services:
  x:
    people: {value: 30 M, source: "billing report", observed: 2026-10-01, good_for: 90 d}
    rto: 30 min
    share: 50 %
    traffic: {kind: dns, ttl: 60 s, settle: 60 s}
    replicas: {value: 3, source: cmdb}
    eligible_sites: {value: [a], source: lawyers}
stores:
  s: {engine: e, members: [{at: a, mode: primary}, {at: a, mode: async, lag: 5 s}]}
facts:
  services/x/rto: {source: contract, observed: 2026-10-01, good_for: 2 w}
  services/x/traffic: {observed: 2026-10-01, good_for: 10 d}
  stores/s/members/1: {observed: 2026-10-01, good_for: 10 d}
  services/x/share: {observed: 2026-10-01, good_for: 10 d}
  servers/watts: {observed: 2026-10-01, good_for: 20 d}
"""


def write(folder: Path) -> Path:
    (folder / "estate.yaml").write_text(TEXT)
    (folder / "servers.csv").write_text("server,site,class,bmc\nv1,a,web,yes\n")
    return folder


def test_facts_in_their_shelf_life_are_known(tmp_path: Path) -> None:
    estate = load(write(tmp_path), date(2026, 10, 5))
    service = estate.services[0]
    assert (service.people, service.rto_ms, service.traffic.ttl_ms) == (30_000_000, 1_800_000, 60_000)
    assert (service.replicas, service.eligible_sites) == (3, ("a",))
    assert estate.fleet.watts.tolist() == [200]
    facts = {fact.path: fact for fact in estate.facts}
    assert facts["services/x/people"] == Fact("services/x/people", "billing report", date(2026, 10, 1), 90)
    assert facts["services/x/rto"].good_for_days == 14
    assert [path for path, fact in facts.items() if fact.expired] == ["sites/a/ingress"]


def test_the_last_day_still_counts(tmp_path: Path) -> None:
    assert load(write(tmp_path), date(2026, 12, 30)).services[0].people == 30_000_000
    assert load(write(tmp_path), date(2026, 12, 31)).services[0].people is None


def test_expired_facts_are_unknown(tmp_path: Path) -> None:
    result = check(write(tmp_path), date(2027, 1, 1))
    estate = result.estate
    assert estate is not None
    service = estate.services[0]
    assert (service.people, service.rto_ms, estate.sites[0].ingress_mbps) == (None, None, None)
    assert (service.traffic.kind, service.traffic.ttl_ms, service.traffic.settle_ms) == (None, None, 0)
    assert service.share == 1
    assert estate.stores[0].members[1].lag_ms is None
    assert estate.stores[0].members[1].mode == "async"
    assert not estate.fleet.watts_known.any()
    assert estate.fleet.capacity_known[0].tolist() == [True, True, False, False]
    assert sum(d.code == "fact-expired" for d in result.diagnostics) == 7
    assert all(d.severity == "note" for d in result.diagnostics)


def test_expiry_changes_the_digest(tmp_path: Path) -> None:
    write(tmp_path)
    early, late = load(tmp_path, date(2026, 1, 2)), load(tmp_path, date(2026, 1, 31))
    assert estate_digest(early) == estate_digest(late)
    assert estate_digest(early) != estate_digest(load(tmp_path, date(2026, 2, 1)))


def test_the_day_given_wins_over_the_day_of_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "day.yaml").write_text("as_of: 2026-10-05\n")
    assert load(tmp_path).as_of == date(2026, 10, 5)
    assert load(tmp_path).services[0].people == 30_000_000
    assert load(tmp_path, date(2028, 1, 1)).as_of == date(2028, 1, 1)
    assert load(tmp_path, date(2028, 1, 1)).services[0].people is None


def test_without_a_day_nothing_expires_and_a_note_says_so(tmp_path: Path) -> None:
    result = check(write(tmp_path))
    assert result.estate is not None
    assert not any(fact.expired for fact in result.estate.facts)
    assert [d.code for d in result.diagnostics] == ["facts-never-expire"]


def test_the_end_of_the_calendar_is_no_problem(tmp_path: Path) -> None:
    text = (
        "evac: 1\nservices: {x: {people: {value: 3, observed: 9999-12-31, good_for: 9007199254740992 d}}}\n"
    )
    (tmp_path / "estate.yaml").write_text(text)
    assert load(tmp_path, date(9999, 12, 31)).services[0].people == 3


def test_expired_replicas_leave_no_binding(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "replicas.csv").write_text("service,target,count\nx,v1,1\n")
    (tmp_path / "more.yaml").write_text("facts: {replicas: {observed: 2026-10-01, good_for: 1 d}}\n")
    estate = load(tmp_path, date(2026, 11, 1))
    assert len(estate.replicas) == 0
    assert len(load(tmp_path, date(2026, 10, 1)).replicas) == 1
    assert estate.fleet.bmc.dtype == np.uint8
