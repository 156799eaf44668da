"""Facts known within bounds: what is proved of a plan holds whatever the truth between them is."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from evac.derive.intervals import good_ends
from evac.estate import load
from evac.estate.codecs.plan import decode, encode
from evac.model.estate import Estate, Rate
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify import check

SEEDS = range(24)
OF_THE_PROOF = {"F1", "F19", "F20"}


def random_estate(seed: int, folder: Path) -> Estate:
    """Two sites that survive one, pools and servers, one store or two; most facts within bounds."""
    rng = Random(seed)
    path = folder / "estate.yaml"
    path.write_text("\n".join(_lines(rng)) + "\n")
    if rng.random() < 0.6:
        rows = [f"w{i},west,web,{rng.choice(('serving', 'spare', 'dark'))},yes" for i in range(8)]
        (folder / "servers.csv").write_text("server,site,class,state,bmc\n" + "\n".join(rows) + "\n")
    return load(folder)


def _span(rng: Random, low: int, high: int, unit: str) -> str:
    first = rng.randint(low, high)
    if rng.random() < 0.3:
        return f"{first}{unit}"
    return f"[{first}{unit}, {rng.randint(first, high * 2)}{unit}]"


def _seconds(rng: Random, low: int, high: int) -> str:
    return _span(rng, low, high, " s")


def _lines(rng: Random) -> list[str]:
    lines = ["evac: 1", "horizon: 4000 s", "sites: {east: {}, west: {}, north: {}}", "classes:"]
    lines.append(
        f"  web: {{cpu: {_span(rng, 4, 8, ' cores')}, memory: 32 GiB, watts: {_span(rng, 200, 400, ' W')},"
    )
    lines.append(f"        boot: {_seconds(rng, 60, 300)}, boot_odds: {_span(rng, 40, 50, ' %')}}}")
    lines.append("pools:")
    for site in ("west", "north"):
        lines.append(f"  {site}-k8s: {{site: {site}, cpu: {_span(rng, 4, 16, ' cores')}, memory: 64 GiB,")
        lines.append(f"    quota: {_span(rng, 40, 50, ' %')}, starts: {_span(rng, 1, 4, ' per minute')}}}")
    lines.append(f"limits: {{traffic_changes_at_once: {_span(rng, 1, 2, '')}, promotions_at_once: 1,")
    lines.append(f"  sheds_at_once: {_span(rng, 1, 2, '')}}}")
    lines.append("stores:")
    for name in ("users-1", "users-2")[: rng.randint(1, 2)]:
        lines.append(f"  {name}: {{family: users, engine: pg{rng.randint(1, 2)}, rpo: 5 s,")
        lines.append(f"    promote: {_seconds(rng, 10, 60)}, fence: {_seconds(rng, 5, 30)},")
        lines.append("    members: [{at: east, mode: primary},")
        lines.append(f"      {{at: west, mode: async, lag: {_seconds(rng, 1, 4)}}}]}}")
    lines.append("services:")
    for row in range(rng.randint(3, 6)):
        lines += _service(rng, row)
    return lines


def _service(rng: Random, row: int) -> list[str]:
    needs = [f"s{other}" for other in range(row) if rng.random() < 0.4]
    needs += ["{store: users}"] if rng.random() < 0.4 else []
    survives = rng.random() < 0.4
    where = f"{{east: {rng.randint(1, 3)}, west-k8s: 1}}" if survives else f"{{east: {rng.randint(1, 4)}}}"
    return [
        f"  s{row}: {{tier: {rng.randint(0, 3)}, people: {_span(rng, 10, 900, '')}, replicas: {where},",
        f"    share: {rng.choice((50, 100))} %, sheddable: {rng.choice(('true', 'false'))},",
        f"    demand: {{cpu: {_span(rng, 1, 3, ' cores')}, memory: {_span(rng, 1, 4, ' GiB')}}},",
        f"    start: {_seconds(rng, 10, 90)}, verify: {_seconds(rng, 0, 20)},",
        f"    shed_time: {_seconds(rng, 1, 10)},",
        f"    needs: [{', '.join(needs)}],",
        f"    traffic: {{kind: dns, ttl: {_seconds(rng, 5, 60)}, change: {_seconds(rng, 5, 30)}}}}}",
    ]


def truth(estate: Estate, rng: Random) -> Estate:
    """The estate with every interval replaced by a value that lies in it."""

    def somewhere(worse: Any, better: Any) -> Any:
        if isinstance(worse, Rate):
            return Rate(rng.randint(*sorted((worse.count, better.count))), worse.window_ms)
        return rng.randint(*sorted((worse, better)))

    chosen = tuple(replace(i, better=somewhere(i.worse, i.better)) for i in estate.intervals)
    return good_ends(replace(estate, intervals=chosen))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_truth_allows_a_plan_below_the_bound(seed: int, tmp_path: Path) -> None:
    estate = random_estate(seed, tmp_path)
    made = plan(estate, lose("east"), work=30)
    verdict = check(estate, made)
    assert not OF_THE_PROOF & {v.rule for v in verdict.violations}, verdict.violations
    assert verdict.bound == made.bound <= made.objective
    rng = Random(seed)
    truths = [replace(estate, intervals=()), good_ends(estate), *(truth(estate, rng) for _ in range(3))]
    for true in truths:
        found = plan(true, lose("east"), work=30)
        assert not OF_THE_PROOF & {v.rule for v in check(true, found).violations}
        assert made.bound <= found.objective


def test_the_better_ends_are_what_is_proved_of(tmp_path: Path) -> None:
    estate = random_estate(3, tmp_path)
    within, exact = plan(estate, lose("east")), plan(replace(estate, intervals=()), lose("east"))
    assert within.steps == exact.steps
    assert within.bound < exact.bound
    assert within.bound <= plan(good_ends(estate), lose("east")).bound


def test_a_bound_of_the_worse_ends_is_refused(tmp_path: Path) -> None:
    """A planner that proves its bound of what it planned with would promise too much."""
    estate = random_estate(3, tmp_path)
    within, exact = plan(estate, lose("east")), plan(replace(estate, intervals=()), lose("east"))
    forged = replace(within, bound=exact.bound, certificate=exact.certificate)
    assert {v.rule for v in check(estate, forged).violations} == {"F20"}


def test_a_plan_has_to_name_what_is_known_within_bounds(tmp_path: Path) -> None:
    estate = random_estate(0, tmp_path)
    made = plan(estate, lose("east"))
    assert made.intervals == tuple(sorted(i.path for i in estate.intervals))
    assert made.proof == "full"
    silent = replace(made, intervals=())
    assert [v.message for v in check(estate, silent).violations] == [
        "facts known within bounds differ from the estate's"
    ]
    assert encode(decode(encode(made))) == encode(made)
    assert b'"intervals"' not in encode(silent)
