"""A replica on a server that is off does not run: no loss leaves it, whatever the files place there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.contradictions import contradictions
from bench.random_estates import strange_estate
from evac.audit import audit
from evac.audit.context import Context, why_degraded, why_down
from evac.audit.impacts.all_losses import DEGRADED, FATES
from evac.derive.pools import pools_off
from evac.derive.situation import estate_after
from evac.estate import check as check_estate
from evac.model.estate import Estate
from evac.model.fleet import CONDEMNED, DARK, ON_SERVER, SPARE
from evac.model.scenario import Scenario, lose
from evac.planning.plan import foresee, plan
from evac.verify import check
from tests.unit.truth.written import servers, written

ESTATE = """
name: dark
sites: {a: {}, b: {}, c: {}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, watts: 400 W, boot: 3 min, boot_odds: 100 %}}
services:
  shop: {people: 10, rto: 2 min, share: 50 %, start: 10 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: dns, change: 5 s, ttl: 1 s}}
"""
BINDINGS = "service,target,count\nshop,s1,1\nshop,s2,1\n"


def estate_of(folder: Path, state: str, reserve: str = "spare") -> Estate:
    rows = servers("s1,a,,web,serving,", f"s2,b,,web,{state},", f"s3,c,,web,{reserve},")
    return written(folder, ESTATE, servers=rows, replicas=BINDINGS)


def fate(estate: Estate, loss: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Of the first service, planned and estimated."""
    found = set()
    for most in (None, 0):
        with monkeypatch.context() as patch:
            for name in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST") if most is not None else ():
                patch.setattr(f"evac.audit.impacts.planned.{name}", most)
            impacts = audit(estate).impacts
            found.add(FATES[int(impacts.fate[impacts.losses.index[loss], 0])])
    return found


def test_a_replica_on_a_server_that_is_on_survives(tmp_path: Path) -> None:
    made = plan(estate_of(tmp_path, "serving"), lose("a"))
    assert [(o.state, o.recovery_ms) for o in made.outcomes] == [("restored", 6_000)]


@pytest.mark.parametrize("state", ["dark", "condemned"])
def test_a_replica_on_a_server_that_is_off_does_not(
    tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = estate_of(tmp_path, state)
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert [(o.recovery_ms, o.meets_rto) for o in made.outcomes] == [(16_000, True)]
    without = estate_of(tmp_path, state, "condemned")
    (left,) = plan(without, lose("a")).outcomes
    assert (left.meets_rto, left.state == "unplaced") == (False, state == "condemned")
    assert "unaffected" not in fate(without, "a", monkeypatch)


def test_it_is_down_before_anything_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estate = estate_of(tmp_path, "dark", "condemned")
    assert [(o.state, o.goes_down) for o in plan(estate, lose("c")).outcomes] == [("restored", False)]
    assert fate(estate, "c", monkeypatch) <= {"degraded", "not proved"}
    assert "unaffected" not in fate(estate_of(tmp_path, "condemned", "condemned"), "c", monkeypatch)


def test_a_restore_starts_what_ran_on_the_servers_that_it_boots(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, "dark", "condemned")
    made = plan(estate, Scenario("restore", ("b",)))
    assert check(estate, made).holds
    assert {name for step in made.steps if step.kind == "start" for name, _ in step.servers} == {"s2"}


def test_the_check_of_the_files_names_the_server(tmp_path: Path) -> None:
    estate_of(tmp_path, "dark")
    (found,) = [d for d in check_estate(tmp_path).diagnostics if d.code == "replicas-on-dark-server"]
    assert (found.severity, found.place.file, found.place.line) == ("warning", "replicas.csv", 3)
    assert found.message == "'s2' is not on, so the replicas placed on it count as down"


def reason(estate: Estate, loss: str) -> str:
    """Why a loss leaves the first service without all its replicas, as the audit says it."""
    context = Context(estate, audit(estate).impacts)
    number = context.impacts.losses.index[loss]
    degraded = context.impacts.fate[number, 0] == DEGRADED
    found = (why_degraded if degraded else why_down)(context, 0, number).reason
    return "" if found is None else found.words


def test_what_a_server_that_is_off_keeps_down_is_not_said_of_a_loss(tmp_path: Path) -> None:
    off = "1 of 2 replicas run, the others are on servers that are off: s2"
    dark = estate_of(tmp_path, "dark", "condemned")
    assert reason(dark, "c") == reason(estate_of(tmp_path, "condemned", "condemned"), "c") == off
    assert reason(dark, "a").startswith("0 of 2 replicas left")
    whole = ESTATE.replace("share: 50 %", "share: 100 %")
    rows = servers("s1,a,,web,serving,", "s2,b,,web,condemned,", "s3,c,,web,condemned,")
    none = written(tmp_path, whole, servers=rows, replicas="service,target,count\nshop,s2,1\n")
    assert reason(none, "c").endswith("on servers that are off: s2")


ROOM = """
name: room
sites: {a: {}, b: {}}
halls: {a/h: {}}
racks: {a/h/r1: {}, a/h/r2: {}, a/h/r3: {}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, watts: 400 W, boot: 3 min, boot_odds: 100 %}}
services:
  shop: {people: 10, rto: 2 min, share: 25 %, spread: {per_site: 50 %}, start: 10 s,
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""


@pytest.mark.parametrize("state", ["serving", "condemned"])
def test_a_replica_on_a_server_that_is_off_leaves_no_room_below_a_cap_at_another_site(
    tmp_path: Path, state: str
) -> None:
    racks = "server,site,rack,class,state\ns1,a,a/h/r1,web,serving\n"
    racks += "s2,a,a/h/r2,web,serving\ns5,a,a/h/r3,web,serving\n"
    estate = written(
        tmp_path,
        ROOM,
        servers=f"{racks}s3,b,,web,{state}\ns4,b,,web,{state}\n",
        replicas="service,target,count\nshop,s1,1\nshop,s2,1\nshop,s3,1\nshop,s4,1\n",
    )
    impacts = audit(estate).impacts
    assert impacts.capacity.placed[impacts.losses.index["a/h/r1"]] == 1


@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_no_loss_leaves_a_replica_on_a_server_that_is_off(seed: int) -> None:
    estate = strange_estate(seed)
    replicas, state = estate.replicas, estate.fleet.state.copy()
    loaded = np.unique(replicas.target[(replicas.kind == ON_SERVER) & (replicas.count > 0)])
    assert len(loaded)
    state[loaded[::3]] = DARK if seed % 2 else CONDEMNED
    darker = replace(estate, fleet=replace(estate.fleet, state=state))
    here = (replicas.kind == ON_SERVER) & (replicas.count > 0)
    here[here] = np.isin(replicas.target[here], loaded[::3])
    down = {estate.services[row].id for row in replicas.service[here].tolist()}
    for site in estate.sites:
        affected = {outcome.service for outcome in foresee(darker, lose(site.id)).outcomes}
        assert down <= affected
    assert list(contradictions(darker)) == []


@pytest.mark.parametrize("domain", ["a", "b"])
def test_a_failback_does_not_stop_the_only_running_replica(tmp_path: Path, domain: str) -> None:
    """Home is on a server that is off: the replica elsewhere is all that runs, until one runs at home."""
    rows = servers("s1,a,,web,serving,", "s2,b,,web,dark,", "s3,c,,web,spare,")
    estate = written(tmp_path, ESTATE, servers=rows, replicas="service,target,count\nshop,s2,1\n")
    now = replace(estate_after(estate, plan(estate, lose("a"))), lost=())
    assert now.surplus == ()
    made = plan(now, Scenario("failback", (domain,)))
    assert check(now, made).holds
    work = [(step.kind, step.servers) for step in made.steps if step.kind in ("start", "stop")]
    assert work == ([] if domain == "a" else [("start", (("s2", 1),)), ("stop", (("s3", 1),))])
    after = estate_after(now, made)
    assert (_placed(after), after.surplus) == ([("s3" if domain == "a" else "s2", 1)], ())
    again = plan(after, Scenario("failback", ("b",)))
    assert (again.steps == ()) == (domain == "b")


def _placed(estate: Estate) -> list[tuple[str, int]]:
    replicas = estate.replicas
    rows = zip(replicas.target.tolist(), replicas.count.tolist(), strict=True)
    return [(estate.fleet.server_name(row), count) for row, count in rows]


def test_a_run_counts_no_replica_twice_that_it_starts_where_one_is_down(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, "dark", "condemned")
    now = estate_after(estate, plan(estate, lose("a")))
    assert (_placed(now), now.surplus) == ([("s1", 1), ("s2", 1)], ())


def test_an_evacuation_stops_nothing_that_does_not_run_there(tmp_path: Path) -> None:
    """What is down elsewhere is no reason to stop what runs."""
    estate = estate_of(tmp_path, "dark")
    made = plan(estate, Scenario("evacuate", ("c",)))
    assert check(estate, made).holds
    assert {step.kind for step in made.steps} == {"boot", "start", "verify"}
    stop = plan(estate, Scenario("evacuate", ("a",)))
    (step,) = [step for step in stop.steps if step.kind == "stop"]
    more = replace(made, steps=(*made.steps, replace(step, after=())))
    assert ("F25", "stops something that is not being evacuated") in {
        (one.rule, one.message) for one in check(estate, more).violations
    }
    without = replace(stop, steps=tuple(one for one in stop.steps if one.kind != "stop"))
    assert "F25" in {one.rule for one in check(estate, without).violations}
    assert "stop" not in {step.kind for step in plan(estate, Scenario("evacuate", ("b",))).steps}


POOLS = """
name: dark
sites: {a: {}, b: {}, c: {}}
classes: {node: {cpu: 16 cores, memory: 64 GiB BOOT}}
pools: {a-k8s: {site: a}, b-k8s: {site: b, cpu: 64 cores, memory: 256 GiB}, c-k8s: {site: c}}
services:
  shop: {people: 10, rto: 2 min, share: 50 %, start: 10 s, demand: {cpu: 4 cores, memory: 1 GiB},
         replicas: {a-k8s: 1, b-k8s: 1}, traffic: {kind: dns, change: 5 s, ttl: 1 s}}
"""


def pools_of(folder: Path, state: str, reserve: str = "serving", boot: str = "") -> Estate:
    """b-k8s has two known servers, and states more than they have."""
    nodes = ("n1,a,,node,serving,a-k8s", f"n4,c,,node,{reserve},c-k8s")
    rows = servers(*nodes, *(f"{name},b,,node,{state},b-k8s" for name in ("n2", "n3")))
    return written(folder, POOLS.replace(" BOOT", boot), servers=rows)


@pytest.mark.parametrize("state", ["dark", "condemned"])
def test_nothing_runs_in_a_pool_whose_servers_are_all_off(
    tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever capacity it states."""
    made = plan(pools_of(tmp_path, "serving"), lose("a"))
    assert [(o.state, o.recovery_ms) for o in made.outcomes] == [("restored", 6_000)]
    estate = pools_of(tmp_path, state)
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert [(o.state, o.recovery_ms) for o in made.outcomes] == [("restored", 16_000)]
    assert {name for step in made.steps if step.kind == "start" for name, _ in step.servers} == {"c-k8s"}
    alone = pools_of(tmp_path, state, "condemned")
    (left,) = plan(alone, lose("a")).outcomes
    assert left.state == "unplaced"
    assert fate(alone, "a", monkeypatch) <= {"lost", "not proved"}
    off = "1 of 2 replicas run, the others are on servers that are off: b-k8s"
    assert reason(alone, "c") == off
    (found,) = [d for d in check_estate(tmp_path).diagnostics if d.code == "replicas-on-dark-server"]
    assert (found.severity, found.place.file) == ("warning", "estate.yaml")
    assert found.message == "no server of 'b-k8s' is on, so the replicas placed in it count as down"


RESERVE = """
sites: {a: {}, b: {}}
classes: {big: {cpu: 8 cores, memory: 64 GiB, boot: 3 min}}
pools: {a-k8s: {site: a, cpu: 8 cores, memory: 64 GiB}, b-k8s: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {people: 9, start: 1 s, replicas: {a-k8s: 1}, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("s1,b,big,dark,b-k8s\n", "its only server is off"),
        ("s1,b,big,dark,b-k8s\ns2,b,big,condemned,b-k8s\n", "none of its 2 servers is on"),
        ("s1,b,big,dark,b-k8s\ns2,b,big,serving,b-k8s\n", ""),
        ("s1,b,big,dark,\n", ""),
    ],
)
def test_check_names_a_pool_of_which_only_a_dark_reserve_is_listed(
    tmp_path: Path, rows: str, words: str
) -> None:
    """Nothing starts there after a loss, although the pool states 8 cores."""
    estate = written(tmp_path, RESERVE, servers=f"server,site,class,state,pool\n{rows}")
    found = [d for d in check_estate(tmp_path).diagnostics if d.code == "pool-is-off"]
    assert [d.message for d in found] == ([f"'b-k8s' has no capacity: {words}"] if words else [])
    assert {(d.severity, d.place.file) for d in found} <= {("warning", "estate.yaml")}
    (outcome,) = plan(estate, lose("a")).outcomes
    assert outcome.state == ("unplaced" if words else "restored")


def test_one_server_that_is_on_makes_a_pool_run(tmp_path: Path) -> None:
    estate = pools_of(tmp_path, "dark")
    state = estate.fleet.state.copy()
    state[estate.fleet.server_names(np.arange(4, dtype=np.int32)).index("n3")] = SPARE
    made = plan(replace(estate, fleet=replace(estate.fleet, state=state)), lose("a"))
    assert [(o.state, o.recovery_ms) for o in made.outcomes] == [("restored", 6_000)]


@pytest.mark.parametrize("boot", ["", ", boot: 3 min, boot_odds: 100 %"])
def test_a_restored_pool_is_on(tmp_path: Path, boot: str) -> None:
    """Once its servers were booted, or if no boot brings them up, as the restore counted on it."""
    estate = pools_of(tmp_path, "serving", boot=boot)
    lost = estate_after(estate, plan(estate, lose("b")))
    assert pools_off(lost.fleet, 3).tolist() == [False, True, False]
    made = plan(lost, Scenario("restore", ("b",)))
    assert check(lost, made).holds
    assert {step.target for step in made.steps if step.kind == "boot"} == ({"n2", "n3"} if boot else set())
    now = replace(estate_after(lost, made), lost=())
    assert not pools_off(now.fleet, 3).any()
    home = plan(now, Scenario("failback", ("b",)))
    assert check(now, home).holds
    assert {place for step in home.steps if step.kind == "start" for place, _ in step.servers} == {"b-k8s"}


def test_a_failback_starts_nothing_in_a_pool_that_is_off(tmp_path: Path) -> None:
    estate = pools_of(tmp_path, "serving")
    now = estate_after(estate, plan(estate, lose("b")))
    now = replace(now, lost=())
    made = plan(now, Scenario("failback", ("b",)))
    assert check(now, made).holds
    assert {step.kind for step in made.steps}.isdisjoint({"start", "stop"})
    assert [(one.service, one.state) for one in made.outcomes] == [("shop", "degraded")]


def test_a_failback_boots_the_server_that_it_starts_on(tmp_path: Path) -> None:
    """The server at home is off; without a boot time nothing starts there."""
    rows = servers("s1,a,,web,serving,", "s2,b,,web,dark,", "s3,c,,web,spare,")
    for known in (True, False):
        text = ESTATE if known else ESTATE.replace("boot: 3 min, ", "")
        home = written(
            tmp_path / str(known), text, servers=rows, replicas="service,target,count\nshop,s2,1\n"
        )
        now = replace(estate_after(home, plan(home, lose("a"))), lost=())
        made = plan(now, Scenario("failback", ("b",)))
        assert check(now, made).holds
        work = [step.kind for step in made.steps if step.kind in ("boot", "start", "stop")]
        assert work == (["boot", "start", "stop"] if known else [])
        if known:
            boot, start = (next(s for s in made.steps if s.kind == kind) for kind in ("boot", "start"))
            assert start.start_ms >= boot.end_ms
            assert boot.id in start.after
            less = replace(made, steps=tuple(step for step in made.steps if step.kind != "boot"))
            assert not check(now, less).holds
        assert [place for place, _ in _placed(estate_after(now, made))] == ["s2" if known else "s3"]


HALVES = """
name: halves
sites: {b: {}}
halls: {b/h1: {}, b/h2: {}}
racks: {b/h1/r: {}, b/h2/r: {}}
classes: {node: {CLASS memory: 256 GiB, boot: 3 min, boot_odds: 100 %}}
pools: {b-k8s: {site: b, cpu: 64 cores, memory: 256 GiB QUOTA}}
services:
  shop: {people: 10, rto: 2 min, share: 100 %, start: 10 s, demand: {cpu: DEMAND cores, memory: 1 GiB},
         replicas: {b-k8s: 1}, traffic: {kind: none}}
"""
HALF_ON = "server,site,rack,class,state,pool\nn1,b,b/h1/r,node,dark,b-k8s\nn2,b,b/h2/r,node,serving,b-k8s\n"


@pytest.mark.parametrize(
    ("size", "quota", "demand", "state"),
    [
        ("cpu: 640 cores,", "", 100, "unplaced"),
        ("cpu: 640 cores,", "", 64, "restored"),
        ("cpu: 640 cores,", ", quota: 50 %", 40, "unplaced"),
        ("cpu: 640 cores,", ", quota: 50 %", 32, "restored"),
        ("", "", 4, "restored"),
        ("", "", 65, "unplaced"),
        ("", ", quota: 50 %", 33, "unplaced"),
    ],
)
def test_a_restore_of_the_part_that_was_on_brings_back_what_the_pool_states(
    tmp_path: Path, size: str, quota: str, demand: int, state: str
) -> None:
    """The rest of the pool is a dark reserve: what boots has neither more nor less than the pool."""
    text = HALVES.replace("CLASS", size).replace(" QUOTA", quota).replace("DEMAND", str(demand))
    estate = written(tmp_path, text, servers=HALF_ON)
    lost = estate_after(estate, plan(estate, lose("b/h2")))
    made = plan(lost, Scenario("restore", ("b/h2",)))
    assert check(lost, made).holds
    assert [outcome.state for outcome in made.outcomes] == [state]
    placed = {name for step in made.steps if step.kind == "start" for name, _ in step.servers}
    assert placed == ({"n2"} if state == "restored" else set())
