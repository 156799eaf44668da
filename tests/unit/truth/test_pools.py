"""A pool loses the share of it that a loss takes, and the replicas in it in proportion (A3)."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES, Impacts, impacts
from evac.audit.impacts.losses import losses
from evac.derive.affected import counts_by_service
from evac.derive.domains import Loss, loss, topology
from evac.derive.homing import way_home
from evac.derive.pools import replicas_lost, replicas_off
from evac.model.estate import Estate
from evac.model.fleet import ON_POOL, ON_SERVER, Replicas
from evac.model.plan import Outcome, Plan
from evac.model.scenario import Scenario, lose
from evac.model.situation import Draft
from evac.planning.plan import plan
from evac.verify import check
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, answer
from evac.views.small_texts import verify_text
from tests.unit.truth.written import servers, written

ESTATE = """
name: nodes
sites: {a: {}, b: {}}
halls: {a/h1: {}, a/h2: {}}
racks: {a/h1/r1: {}, a/h1/r2: {}, a/h2/r1: {}}
classes: {node: {cpu: 16 cores, memory: 64 GiB}}
pools:
  a-k8s: {site: a}
  b-k8s: {site: b, cpu: 64 cores, memory: 256 GiB}
services:
  shop: {tier: 0, people: 1000, rto: 1 h, replicas: {a-k8s: 4}, share: 50 %, start: 30 s,
         traffic: {kind: none}, demand: {cpu: 4 cores, memory: 8 GiB}}
"""
IN_ONE_HALL = servers(*(f"n{k},a,a/h1/r{k % 2 + 1},node,serving,a-k8s" for k in range(4)))
IN_TWO_HALLS = servers(
    "n1,a,a/h1/r1,node,serving,a-k8s",
    "n2,a,a/h1/r2,node,serving,a-k8s",
    "n3,a,a/h1/r2,node,serving,a-k8s",
    "n4,a,a/h2/r1,node,serving,a-k8s",
)


def fate(estate: Estate, domain: str, service: str) -> str:
    report = audit(estate, domains=(domain,))
    number = report.impacts.losses.index[domain]
    row = [s.id for s in estate.services].index(service)
    return FATES[int(report.impacts.fate[number, row])]


def outcomes(made: Plan) -> dict[str, Outcome]:
    return {outcome.service: outcome for outcome in made.outcomes}


def taken(estate: Estate, domain: str) -> tuple[Loss, Plan]:
    return loss(topology(estate), (domain,)), plan(estate, lose(domain))


def test_a_pool_whose_servers_all_burn_is_lost(tmp_path: Path) -> None:
    estate = written(tmp_path, ESTATE, servers=IN_ONE_HALL)
    lost, made = taken(estate, "a/h1")
    assert lost.pools.tolist() == [True, False]
    assert outcomes(made)["shop"].state == "restored"
    assert {name for step in made.steps if step.kind == "start" for name, _ in step.servers} == {"b-k8s"}
    assert made.objective > 0
    assert check(estate, made).holds
    assert "no service is" not in plan_text(made, "", 100, False)
    assert fate(estate, "a/h1", "shop") == "recovers"


def test_a_part_of_the_servers_takes_its_share_rounded_against_us(tmp_path: Path) -> None:
    estate = written(tmp_path, ESTATE, servers=IN_TWO_HALLS)
    made = plan(estate, lose("a/h1/r1"))
    assert sum(step.count for step in made.steps if step.kind == "start") == 1
    made = plan(estate, lose("a/h1"))
    assert sum(step.count for step in made.steps if step.kind == "start") == 3
    assert outcomes(made)["shop"].base_ms == 30_000
    assert made.intervals == ("services/shop/placement",)
    assert check(estate, made).holds
    assert "estimated" in plan_text(made, "", 100, False)
    assert fate(estate, "a/h1", "shop") == "recovers"
    assert fate(estate, "a/h2", "shop") == "degraded"


def test_what_is_left_of_a_pool_has_what_is_left_of_its_room(tmp_path: Path) -> None:
    alone = ESTATE.replace("  b-k8s: {site: b, cpu: 64 cores, memory: 256 GiB}\n", "").replace(
        "cpu: 4 cores", "cpu: 12 cores"
    )
    alone = alone.replace("b: {}", "b: {role: witness}")
    estate = written(tmp_path, alone, servers=IN_TWO_HALLS)
    made = plan(estate, lose("a/h1"))
    assert outcomes(made)["shop"].state == "unplaced"
    assert check(estate, made).holds
    assert fate(estate, "a/h1", "shop") == "lost"


def test_the_bound_takes_the_other_end_and_stays_below(tmp_path: Path) -> None:
    more = ESTATE.replace("{a-k8s: 4}", "{a-k8s: 5, b-k8s: 1}").replace("share: 50 %", "share: 60 %")
    estate = written(tmp_path, more, servers=IN_TWO_HALLS)
    made = plan(estate, lose("a/h1"))
    verdict = check(estate, made)
    assert verdict.holds
    assert made.bound <= made.objective


UNKNOWN = ESTATE.replace("a-k8s: {site: a}", "a-k8s: {site: a, cpu: 64 cores, memory: 256 GiB}")


@pytest.mark.parametrize("domain", ["a/h1", "a/h1/r1"])
def test_a_pool_with_unknown_servers_cannot_be_judged_below_its_site(tmp_path: Path, domain: str) -> None:
    estate = written(tmp_path, UNKNOWN)
    made = plan(estate, lose(domain))
    assert made.unjudged == ("shop",)
    verdict = check(estate, made)
    assert verdict.holds
    words = "cannot be judged: where the replicas of shop run"
    assert words in plan_text(made, "", 100, False)
    assert "nothing is lost" not in plan_text(made, "", 100, False)
    assert words in verify_text(made, "", verdict, 100, False)
    assert words in answer(Planned(made, ""))[0]
    assert fate(estate, domain, "shop") == "unknown"


def test_the_loss_of_the_whole_site_is_judged(tmp_path: Path) -> None:
    made = plan(written(tmp_path, UNKNOWN), lose("a"))
    assert made.unjudged == ()
    assert outcomes(made)["shop"].state == "restored"


def test_who_needs_what_cannot_be_judged_cannot_be_judged(tmp_path: Path) -> None:
    more = "  web: {tier: 0, people: 1, replicas: {b-k8s: 1}, needs: [shop]}\n"
    estate = written(tmp_path, UNKNOWN + more)
    assert plan(estate, lose("a/h1")).unjudged == ("shop", "web")
    assert fate(estate, "a/h1", "web") == "unknown"


def test_a_store_of_which_only_the_site_is_known_cannot_be_judged(tmp_path: Path) -> None:
    more = """  web: {tier: 0, people: 1, replicas: {b-k8s: 1}, needs: [{store: orders}]}
stores: {orders: {engine: postgresql, members: [{at: a, mode: primary}, {at: b, mode: sync}], promote: 5 s}}
"""
    estate = written(tmp_path, UNKNOWN + more)
    assert "web" in plan(estate, lose("a/h1")).unjudged
    assert fate(estate, "a/h1", "web") == "unknown"


def test_a_hall_is_restored_with_its_share_of_a_pool(tmp_path: Path) -> None:
    boots = ESTATE.replace("memory: 64 GiB}", "memory: 64 GiB, boot: 60 s, boot_odds: 100 %}")
    estate = written(tmp_path, boots, servers=IN_TWO_HALLS)
    made = plan(estate, Scenario("restore", ("a/h1",)))
    assert check(estate, made).holds
    assert outcomes(made)["shop"].state == "restored"


@pytest.mark.parametrize("seed", range(25))
def test_audit_and_planning_take_the_same_of_any_pool(seed: int) -> None:
    """Random sizes, places, states and replicas: every loss takes the same replicas by both."""
    estate = random_pools(seed)
    top = topology(estate)
    every = losses(top)
    found = impacts(top, every)
    for number, members in enumerate(every.members):
        gone = loss(top, members)
        worst, least = replicas_lost(top, gone), replicas_lost(top, gone, good=True)
        assert (least <= worst).all()
        assert (worst <= estate.replicas.count).all()
        down = np.maximum(worst, replicas_off(top))  # in pools that are off, after any loss
        taken = counts_by_service(estate.replicas, down, len(estate.services))
        assert found.lost[number].tolist() == taken.tolist()
        made = plan(estate, lose(*members))
        verdict = check(estate, made)
        assert verdict.holds, verdict.violations
        unknown = {
            estate.services[s].id
            for s in np.flatnonzero(found.fate[number] == FATES.index("unknown")).tolist()
        }
        assert set(made.unjudged) <= unknown
        assert set(made.unjudged) == unknown or number in found.capacity.short  # not proved
        if number not in found.capacity.short:
            agrees(found, number, made)


def agrees(found: Impacts, number: int, made: Plan) -> None:
    """What the estimate says comes back the plan brings back, not later; what it says is lost is lost."""
    by_service = outcomes(made)
    for row, service in enumerate(found.estate.services):
        fate, outcome = FATES[int(found.fate[number, row])], by_service.get(service.id)
        if fate == "recovers":
            assert outcome is not None
            assert outcome.state in ("restored", "degraded")
            assert (outcome.recovery_ms or 0) <= found.ready_ms[number, row]
        elif fate == "lost":
            assert outcome is not None
            assert outcome.state == "unplaced"


def random_pools(seed: int) -> Estate:
    rng = random.Random(seed)
    halls = [f"{site}/h{k}" for site in "ab" for k in (1, 2)]
    racks = [f"{hall}/r{k}" for hall in halls for k in (1, 2)]
    pools = [f"{site}-{k}" for site in "ab" for k in (1, 2)]
    lines = []
    for number in range(rng.randint(4, 16)):
        pool = rng.choice(pools[:3])
        rack = rng.choice([r for r in racks if r[0] == pool[0]])
        size = rng.choice([("8000", "32768"), ("16000", "65536"), ("", "")])
        state = rng.choice(["serving", "serving", "serving", "spare", "dark", "condemned"])
        lines.append(f"n{number:02},{pool[0]},{rack},{state},{pool},{','.join(size)}")
    text = "name: random\nsites: {a: {}, b: {}}\npools:\n"
    for pool in pools:
        text += f"  {pool}: {{site: {pool[0]}, cpu: {rng.randint(8, 64)} cores, memory: 256 GiB}}\n"
    text += "services:\n"
    for name in ("one", "two", "three"):
        placed = {pool: rng.randint(1, 7) for pool in rng.sample(pools, rng.randint(1, 3))}
        where = ", ".join(f"{pool}: {count}" for pool, count in placed.items())
        text += (
            f"  {name}: {{tier: {rng.randint(0, 2)}, people: 10, replicas: {{{where}}}, start: 20 s,"
            f" share: {rng.choice([50, 100])} %, sheddable: {rng.choice(['true', 'false'])},"
            f" demand: {{cpu: {rng.randint(1, 6)} cores, memory: 1 GiB}}, traffic: {{kind: none}}}}\n"
        )
    with TemporaryDirectory() as folder:
        return written(
            Path(folder),
            text + "halls: {" + ", ".join(f"{hall}: {{}}" for hall in halls) + "}\n",
            racks="rack\n" + "\n".join(racks) + "\n",
            servers="server,site,rack,state,pool,cpu_millicores,memory_mib\n" + "\n".join(lines) + "\n",
        )


def test_a_pool_of_which_only_totals_are_known_takes_its_services_home(tmp_path: Path) -> None:
    estate = written(tmp_path, UNKNOWN)
    made = plan(estate, Scenario("failback", ("a",)))
    assert check(estate, made).holds
    assert {name for step in made.steps if step.kind == "start" for name, _ in step.servers} == {"a-k8s"}


ON_SERVERS = """
name: nodes
sites: {a: {}, b: {}}
halls: {a/h1: {}, b/h1: {}}
racks: {a/h1/r1: {}, b/h1/r1: {}, b/h1/r2: {}}
classes: {node: {cpu: 16 cores, memory: 64 GiB}}
pools: {c1: {site: a}, c2: {site: b}}
services:
  shop: {tier: 0, people: 1000, rto: 1 h, REPLICAS share: 50 %, start: 30 s, traffic: {kind: none},
         demand: {cpu: 4 cores, memory: 8 GiB}}
  base: {tier: 0, people: 1000, rto: 1 h, HELD start: 30 s, traffic: {kind: none},
         demand: {cpu: 4 cores, memory: 8 GiB}}
"""
NODES = servers(
    "hv1,a,a/h1/r1,node,serving,c1", "hv2,b,b/h1/r1,node,serving,c2", "hv3,b,b/h1/r2,node,serving,c2"
)


def on_servers(folder: Path, held: int, known: bool = True) -> Estate:
    """shop runs in c1, base in c2; if known, on which of their servers."""
    if not known:
        text = ON_SERVERS.replace("REPLICAS", "replicas: {c1: 2},").replace(
            "HELD", f"replicas: {{c2: {held}}},"
        )
        return written(folder, text, servers=NODES)
    text = ON_SERVERS.replace("REPLICAS", "").replace("HELD", "spread: {per_server: 9},")
    table = f"service,target,count\nshop,hv1,2\nbase,hv2,{held - held // 2}\nbase,hv3,{held // 2}\n"
    return written(folder, text, servers=NODES, replicas=table)


@pytest.mark.parametrize(("held", "state"), [(6, "restored"), (7, "degraded"), (8, "unplaced")])
def test_a_replica_on_a_server_of_a_pool_is_in_the_pool(tmp_path: Path, held: int, state: str) -> None:
    for known in (True, False):
        estate = on_servers(tmp_path / str(known), held, known)
        made = plan(estate, lose("a"))
        assert outcomes(made)["shop"].state == state
        assert check(estate, made).holds
        words = {"restored": "recovers", "degraded": "degraded", "unplaced": "lost"}[state]
        assert fate(estate, "a", "shop") == words


@pytest.mark.parametrize(("held", "state"), [(2, "restored"), (8, "unplaced")])
def test_a_rack_leaves_what_runs_on_other_servers_of_a_pool(tmp_path: Path, held: int, state: str) -> None:
    estate = on_servers(tmp_path, held)
    made = plan(estate, Scenario("lose", ("a", "b/h1/r1")))
    assert outcomes(made)["shop"].state == state
    assert check(estate, made).holds
    assert (fate(estate, "b/h1/r1", "base") == "recovers") == (state == "restored")


def test_what_stops_in_a_pool_stops_on_its_servers() -> None:
    pool_of = {"hv2": "c2", "hv3": "c2"}
    counts = {"bare": 1, "c2": 1, "hv2": 2, "hv3": 1}
    draft = Draft(lambda _: counts, lambda _: False, lambda at: pool_of.get(at, ""), {})
    draft.add("base", [("c2", 4)], -1)
    assert draft.placed["base"] == {"bare": 1, "c2": 0, "hv2": 0, "hv3": 0}


def test_nothing_is_missing_at_home_that_its_pool_runs_on_another_server(tmp_path: Path) -> None:
    estate = on_servers(tmp_path, 4)
    at = (np.array([0], np.int32), np.array([3], np.int64))
    home = Replicas(at[0], np.array([ON_SERVER], np.uint8), np.array([2], np.int32), at[1])
    now = Replicas(at[0], np.array([ON_POOL], np.uint8), np.array([1], np.int32), at[1])
    top = topology(replace(estate, replicas=now, home=home))
    assert [service.id for service in estate.services] == ["base", "shop"]
    missing = way_home(top, loss(top, ("b/h1/r2",))).missing
    assert missing.tolist() == [0, 0]
