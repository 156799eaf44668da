"""What may be lost already is in doubt after every later loss: it is no sure survivor, no sure copy and no
sure capacity, in audits, plans and standby plans alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pytest

from bench.random_estates import strange_document, strange_estate
from evac.app.planner import desk
from evac.audit import AuditReport, audit
from evac.audit.auditing import audit_together
from evac.audit.impacts import planned
from evac.audit.impacts.in_doubt import may_take, unjudged
from evac.audit.impacts.losses import losses, presence
from evac.derive.domains import domains, lost_with, topology
from evac.derive.in_doubt import in_doubt
from evac.derive.planning_instance import derive
from evac.derive.pools import loose_services, replicas_running, without_lost
from evac.derive.situation import of, situation_after
from evac.estate.codecs import plan as plan_codec
from evac.model.estate import Estate
from evac.model.fleet import CONDEMNED
from evac.model.observation import Observation
from evac.model.scenario import Scenario, lose
from evac.model.situation import DomainState, Effects, LostNow
from evac.office.reckoning import verdict_of
from evac.planning.plan import foresee, plan
from evac.verify import check
from tests.unit.truth.test_in_doubt import ESTATE, OPEN, REPLICAS, REST, SERVERS, read, vaguer
from tests.unit.truth.test_unknown import Verdicts, is_better, verdicts_of
from tests.unit.truth.written import servers, written

METHODS: Final = ("plan", "estimate")


def seen(*gone: str, state: DomainState = "lost") -> Observation:
    """That these domains are lost, and nothing else changed."""
    return Observation(0, effects=Effects(tuple(LostNow(domain, state) for domain in gone)))


def after(estate: Estate, *gone: str) -> Estate:
    return of(estate, seen(*gone)).estate


def by(method: str, patch: pytest.MonkeyPatch) -> None:
    if method == "estimate":
        for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
            patch.setattr(planned, most, 0)


def fates(report: AuditReport, loss: str) -> dict[str, str]:
    row = next(row for row in report.rows if row.domain == loss)
    told = {one.service: one.fate for one in row.fates(report.services)}
    return {name: told.get(name, "unaffected") for name in report.services}


def running(now: Estate) -> set[str]:
    """Services that did not lose everything in the first loss."""
    replicas = replicas_running(topology(without_lost(now)))
    return {now.services[row].id for row in replicas.service[replicas.count > 0].tolist()}


LEANING: Final = """
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 8 GiB}, pb: {site: b, cpu: 8 cores, memory: 8 GiB},
        pc: {site: c, cpu: 8 cores, memory: 8 GiB}}
services:
  base: {people: 9, replicas: {pa: 1}, data_in: [a], start: 1 s, REST}
  shop: {people: 9, replicas: {pb: 1}, needs: [base], start: 1 s, REST}
  desk: {people: 9, replicas: {pb: 1}, needs: [shop], start: 1 s, REST}
  mail: {people: 9, replicas: {pb: 1}, start: 1 s, REST}
""".replace("REST", "demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_lost_for_good_holds_up_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A service that lost all its replicas earlier is no service that is up."""
    by(method, monkeypatch)
    estate = written(tmp_path, LEANING)
    now = after(estate, "a")
    with_it = fates(audit(estate), "b")
    assert set(with_it.values()) == {"recovers", "unaffected"}
    report, row = audit(now), next(row for row in audit(now).rows if row.domain == "b")
    made = plan(now, lose("b"))
    states = {one.service: one.state for one in made.outcomes}
    assert states == {"base": "unplaced", "shop": "unplaced", "desk": "unplaced", "mail": "restored"}
    assert "recovers" not in {fates(report, "b")[name] for name in ("base", "shop", "desk")}
    assert fates(report, "b")["mail"] == "recovers"
    if method == "plan":
        assert (row.down, row.lost) == (verdict_of("", made).down, 3)
        assert audit_together(report, ("b",)).rows[0].down == row.down


@pytest.mark.parametrize("first", OPEN)
@pytest.mark.parametrize("method", METHODS)
def test_what_the_first_loss_leaves_in_doubt_no_later_one_settles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, first: str
) -> None:
    by(method, monkeypatch)
    now = after(written(tmp_path, ESTATE, servers=SERVERS, replicas=REPLICAS), first)
    report, still = audit(now), running(now)
    for row in report.rows:
        made = plan(now, lose(*row.members))
        assert check(now, made).holds
        unknown = {one.service for one in made.outcomes if one.state == "unknown"}
        told = {name for name, fate in fates(report, row.domain).items() if fate == "unknown"}
        assert row.method == method
        assert unknown & still <= told, row.domain
        if method == "plan":
            down = {one.service for one in made.outcomes if one.state == "unplaced"}
            assert told <= unknown | down, row.domain
        if not row.domain.startswith("a"):
            assert OPEN[first] & still <= told, row.domain


def test_a_single_server_that_is_lost_leaves_pools_of_unknown_servers_in_doubt(tmp_path: Path) -> None:
    now = after(
        written(tmp_path, ESTATE.replace("a: {}", "a: {}, z: {}"), servers=SERVERS, replicas=REPLICAS), "v1"
    )
    assert fates(audit(now), "z")["in-pool"] == "unaffected", "all servers of that pool are known"
    no_server = SERVERS.replace("p1,a,,c,serving,pa\n", "")
    estate = written(tmp_path, ESTATE.replace("a: {}", "a: {}, z: {}"), servers=no_server, replicas=REPLICAS)
    now = after(estate, "v1")
    assert fates(audit(now), "z")["in-pool"] == "unknown"
    assert {one.service for one in plan(now, lose("z")).outcomes if one.state == "unknown"} >= {"in-pool"}


SINGLE: Final = f"""
name: n
sites: {{a: {{}}}}
halls: {{a/h: {{}}}}
racks: {{a/h/r: {{}}, a/h/q: {{}}}}
classes: {{c: {{cpu: 8 cores, memory: 64 GiB}}}}
pools:
  small: {{site: a, cpu: 1 core, memory: 1 GiB}}
  large: {{site: a, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {{tier: 0, people: 9, replicas: {{small: 1}}, {REST}}}
  wiki: {{tier: 0, people: 9, {REST}}}
"""


@pytest.mark.parametrize("owner", ["large", ""])
@pytest.mark.parametrize("method", METHODS)
def test_a_pool_of_unknown_servers_may_have_the_server_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, owner: str
) -> None:
    """`shop` loses the only server of its pool, and only the other pool has capacity for it."""
    by(method, monkeypatch)
    table = servers("s1,a,a/h/r,c,serving,small", f"v1,a,a/h/q,c,serving,{owner}", "v2,a,a/h/r,c,serving,")
    estate = written(tmp_path, SINGLE, servers=table, replicas="service,target,count\nwiki,v2,1\n")
    made = plan(estate, lose("s1"))
    assert check(estate, made).holds
    state = "restored" if owner else "unknown"
    assert {one.service: one.state for one in made.outcomes} == {"shop": state}
    told = fates(audit(estate, domains=("s1",)), "s1")
    known = "recovers" if method == "plan" else "not proved"
    wanted = {"recovers", known} if owner else {"unknown"}
    assert told["shop"] in wanted
    assert told["wiki"] == "unaffected"


BOTH: Final = f"""
name: n
sites: {{a: {{}}, b: {{}}}}
halls: {{a/h: {{}}, b/h: {{}}}}
feeds: {{a/f1: {{power_budget: unlimited}}, a/f2: {{power_budget: unlimited}}}}
racks: {{a/h/r: {{feeds: [a/f1, a/f2]}}, b/h/r: {{}}}}
classes: {{c: {{cpu: 8 cores, memory: 64 GiB}}}}
services: {{shop: {{tier: 0, people: 9, {REST}}}}}
"""


@pytest.mark.parametrize("method", METHODS)
def test_the_second_feed_of_a_rack_is_its_last_once_the_first_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    by(method, monkeypatch)
    table = servers("v1,a,a/h/r,c,serving,", "v2,b,b/h/r,c,serving,")
    estate = written(tmp_path, BOTH, servers=table, replicas="service,target,count\nshop,v1,1\n")
    assert fates(audit(estate), "a/f2") == {"shop": "unaffected"}
    now = after(estate, "a/f1")
    (shop,) = plan(now, lose("a/f2")).outcomes
    assert (shop.state, shop.goes_down) == ("restored", True)
    report = audit(now)
    assert fates(report, "a/f2")["shop"] in ("recovers", "not proved")
    row = next(row for row in report.rows if row.domain == "a/f2")
    assert (row.method, row.down) == (method, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_provider_that_is_lost_stays_lost_after_any_other_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    by(method, monkeypatch)
    text = f"""
name: n
sites: {{a: {{}}, b: {{}}}}
providers: {{net: {{}}}}
pools: {{pa: {{site: a, cpu: 8 cores, memory: 64 GiB}}, pb: {{site: b, cpu: 8 cores, memory: 64 GiB}}}}
services:
  pay: {{external: true, provider: net}}
  shop: {{tier: 0, people: 9, replicas: {{pb: 1}}, {REST}, needs: [pay]}}
"""
    now = after(written(tmp_path, text), "provider:net")
    assert {one.service: one.state for one in plan(now, lose("a")).outcomes}["shop"] == "unplaced"
    report = audit(now)
    assert fates(report, "a")["shop"] == "lost"
    number = report.impacts.losses.index["a"]
    assert not report.impacts.caused[number].any(), "the loss of a causes none of it"


IN_HALVES: Final = """
name: n
sites: {a: {}, b: {}}
halls: {a/h1: {}, a/h2: {}}
racks: {a/h1/r: {}, a/h2/r: {}}
classes: {c: {cpu: 8 cores, memory: 64 GiB}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pb: 1}, start: 1 s, traffic: {kind: none},
          demand: {cpu: CORES cores, memory: 1 GiB}}
"""


@pytest.mark.parametrize(("cores", "state", "fate"), [(4, "restored", "recovers"), (5, "unplaced", "lost")])
@pytest.mark.parametrize("left", ["lost", "evacuated"])
@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_lost_half_of_its_servers_has_half_of_what_it_states(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    left: DomainState,
    cores: int,
    state: str,
    fate: str,
) -> None:
    by(method, monkeypatch)
    table = servers("p1,a,a/h1/r,c,serving,pa", "p2,a,a/h2/r,c,serving,pa")
    estate = written(tmp_path, IN_HALVES.replace("CORES", str(cores)), servers=table)
    assert [one.state for one in plan(estate, lose("b")).outcomes] == ["restored"]
    now = of(estate, seen("a/h1", state=left)).estate
    made = plan(now, lose("b"))
    assert check(now, made).holds
    assert [one.state for one in made.outcomes] == [state]
    assert fates(audit(now), "b")["shop"] in (fate, "not proved")
    if method == "plan":
        assert fates(audit(now), "b") == {"shop": fate}


@pytest.mark.parametrize("boot", ["", ", boot: 60 s, boot_odds: 100 %"])
def test_a_hall_that_is_restored_brings_back_its_part_of_a_pool(tmp_path: Path, boot: str) -> None:
    """Also if no class in it states a boot time: the restore counts on it."""
    text = IN_HALVES.replace("memory: 64 GiB}}\npools", f"memory: 64 GiB{boot}}}}}\npools")
    table = servers("p1,a,a/h1/r,c,serving,pa", "p2,a,a/h2/r,c,serving,pa")
    now = after(written(tmp_path, text.replace("CORES", "5"), servers=table), "a/h1")
    for scenario, cores in ((lose("b"), 4), (Scenario("restore", ("a/h1",)), 8)):
        found = derive(now, scenario)
        mine = [name in ("pa", "p1") for name in found.row_names]
        assert found.rows.capacity[mine, 0].sum() == cores * 1_000


def test_a_standby_plan_uses_nothing_that_is_lost_already(tmp_path: Path) -> None:
    """`shop` may run in a and b only, and both are lost."""
    pool = "cpu: 8 cores, memory: 64 GiB"
    text = f"""
name: n
sites: {{a: {{}}, b: {{}}, c: {{}}}}
pools: {{pa: {{site: a, {pool}}}, pb: {{site: b, {pool}}}, pc: {{site: c, {pool}}}}}
services: {{shop: {{tier: 0, people: 9, eligible_sites: [a, b], replicas: {{pb: 1}}, {REST}}}}}
"""
    estate = written(tmp_path, text)
    desk._desks.clear()
    made = desk.plan(desk.Place(str(tmp_path), None, ()), seen("a"), ("b",), 0)
    assert isinstance(made, desk.Told)
    found, now = plan_codec.decode(made.data), after(estate, "a")
    assert check(now, found).violations == ()
    assert [one.state for one in found.outcomes] == [one.state for one in plan(now, lose("b")).outcomes]
    assert [one.state for one in found.outcomes] == ["unplaced"]


def some_losses(estate: Estate) -> list[str]:
    """A few first losses below sites of a random estate."""
    below = [one.id for one in domains(estate) if one.kind in ("hall", "feed", "rack")]
    return below[:: max(1, len(below) // 3)]


@pytest.mark.parametrize("seed", [950043, *range(12)])
def test_the_tables_of_the_audit_doubt_at_least_what_a_plan_doubts(seed: int) -> None:
    """Of services, servers and pools; and the same where nothing is lost already, also for single servers."""
    estate = strange_estate(seed)
    names = estate.fleet.server_names(np.arange(len(estate.fleet), dtype=np.int32))[:6]
    for first in ("", *some_losses(estate)):
        now = after(estate, first) if first else estate
        top = topology(without_lost(now))
        fleet, running = top.estate.fleet, replicas_running(top)
        tried = losses(top, [*(one.id for one in domains(estate)), *names])
        table, doubt = unjudged(top, presence(top, tried.rows), tried), may_take(top, tried)
        for number, members in enumerate(tried.members):
            lost = lost_with(top, members)
            own, told = in_doubt(top, lost), np.flatnonzero(table[number]).tolist()
            doubted = set(np.flatnonzero(loose_services(top, lost, running)).tolist())
            assert doubted <= set(told), (first, members)
            usable = own.servers & (fleet.state != CONDEMNED)
            assert set(tried.rows.of_server[usable].tolist()) <= set(doubt.rows_of(number).tolist())
            assert set(np.flatnonzero(own.pools).tolist()) <= set(doubt.pools_of(number).tolist())
            if not first and tried.kinds[number] == "server":
                assert doubted == set(told), members


GOOD: Final = ("unaffected", "degraded", "recovers")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [950043, *range(8)])
def test_an_audit_is_never_sure_of_what_a_plan_cannot_judge(
    monkeypatch: pytest.MonkeyPatch, seed: int, method: str
) -> None:
    """Of what the first loss certainly took, an audit of later losses says nothing: it is lost already."""
    by(method, monkeypatch)
    estate, better = strange_estate(seed), []
    for first in some_losses(estate):
        touched = derive(estate, lose(first)).services
        hit = {touched.id[row] for row in np.flatnonzero(touched.top_lost).tolist()}
        now = after(estate, first)
        report = audit(now)
        for row in report.rows:
            states = {one.service: one.state for one in foresee(now, lose(*row.members)).outcomes}
            for service, fate in fates(report, row.domain).items():
                if service not in hit and fate in GOOD and states.get(service) == "unknown":
                    better.append((first, row.domain, service, fate))
    assert better == []


@pytest.mark.parametrize("seed", [9, 17])
def test_a_place_that_is_less_precise_never_improves_what_a_second_loss_does(
    tmp_path: Path, seed: int
) -> None:
    document, tables = strange_document(seed)
    whole = read(tmp_path / "whole", document, tables)
    firsts = some_losses(whole)[:2]
    before = [verdicts_of(after(whole, first)) for first in firsts]
    better: Verdicts = {}
    for number, (what, less, others) in enumerate(vaguer(document, tables)):
        vague = read(tmp_path / f"{number}", less, others)
        for first, known in zip(firsts, before, strict=True):
            told = verdicts_of(after(vague, first))
            found = {at: now for at, now in told.items() if at in known and is_better(now, known[at])}
            better |= {(f"{what} after {first}", "/".join(at)): now for at, now in found.items()}
    assert better == {}


def test_what_moved_away_from_a_place_in_doubt_is_known_again(tmp_path: Path) -> None:
    estate = written(tmp_path, ESTATE, servers=SERVERS, replicas=REPLICAS)
    made = plan(estate, lose("a"))
    now = situation_after(estate, made).estate
    assert "in-pool" in {one.service for one in made.outcomes if one.state == "restored"}
    assert "in-pool" not in {one.service for one in plan(now, lose("b")).outcomes if one.state == "unknown"}
    assert fates(audit(now), "b")["in-pool"] != "unknown"
