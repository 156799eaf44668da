"""What the steps of a bound run wait for: never for each other, and for a router only where users need it."""

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac import estate as estates
from evac.engine.runs.binding import Bound, bind, decode_bound, encode_bound
from evac.engine.runs.ordering import in_order
from evac.model.errors import RunError
from evac.model.scenario import Scenario, lose
from evac.model.step_id import StepId
from evac.planning.plan import plan
from evac.run.values import RunStep
from tests.unit.engine.messenger import DATABASES, ESTATE, LAX, NAMES, TRAFFIC, UNIT, bound, estate

GAME = """  game:
    tier: 3
    people: 10
    sheddable: true
    demand: {cpu: 1 cores, memory: 1 GiB}
    replicas: {pangyo-units: 2, anyang-units: 6}
    share: 1/4
    start: 1 s
    verify: 1 s
    shed_time: 1 s
    traffic: {kind: dns, ttl: 1 s, change: 1 s, settle: 1 s}
"""
CROWDED = (
    ESTATE.replace(
        "replicas: {pangyo-units: 2, anyang-units: 1}", "replicas: {pangyo-units: 6, anyang-units: 1}"
    )
    .replace("share: 1/3", "share: 1/1")
    .replace("{site: ansan, cpu: 8 cores", "{site: ansan, cpu: 1 cores")
)
OF_GAME = TRAFFIC.replace("for: messenger", "for: game").replace("unit: messenger", "unit: game")
OF_GAME = re.sub(r"(?m)^  (\w+)-", r"  game-\1-", OF_GAME)


def waits_of(found: Bound, step: str) -> set[str]:
    """What the step waits for, directly or not."""
    after = {one.id: one.after for one in found.spec.steps}
    seen: set[str] = set()
    waiting = [step]
    while waiting:
        more = set(after[waiting.pop()]) - seen
        seen |= more
        waiting += more
    return seen


@pytest.mark.parametrize("needs", ["", "    needs: [messenger]\n"])
def test_what_frees_capacity_for_an_evacuation_waits_for_no_router(tmp_path: Path, needs: str) -> None:
    """It stops replicas at a site that stays, and the services that are moved start in their place."""
    (tmp_path / "estate.yaml").write_text(
        CROWDED.replace("stores:\n", f"{GAME}{needs}stores:\n") + DATABASES + TRAFFIC + OF_GAME
    )
    found = bound(estates.load(tmp_path), Scenario("evacuate", ("pangyo",), 600_000))
    kinds = {step.id: step.kind for step in found.spec.steps}
    sheds = [name for name, kind in kinds.items() if kind == "shed"]
    assert sheds
    assert any(set(sheds) & waits_of(found, name) for name, kind in kinds.items() if kind == "start")
    for name in sheds:
        assert not {"redirect", "shift"} & {kinds[one] for one in waits_of(found, name)}, name
    for stop in ("stop:game", "stop:messenger"):
        assert stop.replace("stop", "redirect") in waits_of(found, stop)


def _crowded(rng: Random) -> str:
    lines = [
        "evac: 1\nhorizon: 2 h\ndetection: 2 s\nsites: {pangyo: {}, anyang: {}, ansan: {}}\npools:",
        *(
            f"  {site}-units: {{site: {site}, cpu: {rng.randint(4, 14)} cores, memory: 64 GiB}}"
            for site in ("pangyo", "anyang", "ansan")
        ),
        "stores:\n  db: {engine: postgresql, fence: 1 s, promote: 1 s, members: "
        "[{at: pangyo, mode: primary}, {at: anyang, mode: sync, lag: 0 s}]}",
        "services:",
    ]
    number = rng.randint(2, 5)
    for row in range(number):
        needs = [f"s{other}" for other in range(row) if rng.random() < 0.4]
        needs += ["{store: db}"] if rng.random() < 0.4 else []
        lines.append(
            f"  s{row}: {{tier: {rng.randint(0, 3)}, people: {rng.randint(1, 900)}, replicas: "
            f"{{pangyo-units: {rng.randint(1, 3)}, anyang-units: {rng.randint(0, 4)}}}, "
            f"share: {rng.choice(('1/4', '1/2', '1/1'))}, sheddable: {rng.choice(('true', 'false'))}, "
            f"demand: {{cpu: 1 cores, memory: 1 GiB}}, start: {rng.randint(1, 30)} s, verify: 1 s, "
            f"shed_time: {rng.randint(1, 5)} s, needs: [{', '.join(needs)}], "
            "traffic: {kind: dns, ttl: 1 s, change: 1 s, settle: 1 s}}"
        )
    lines.append("endpoints:")
    for row in range(number):
        for n, site in enumerate(("pangyo", "anyang", "ansan"), 1):
            for name, driver, settings in (("name", "dns", NAMES), ("units", "process", UNIT)):
                lines.append(
                    f"  s{row}-{name}-{site}: {{for: s{row}, at: {site}, driver: {driver}, settings: "
                    f"{{{settings.format(n=n).replace('messenger', f's{row}')}}}}}"
                )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(8))
def test_no_steps_of_a_run_wait_for_each_other(tmp_path: Path, seed: int) -> None:
    (tmp_path / "estate.yaml").write_text(_crowded(Random(seed)))
    of = estates.load(tmp_path)
    for scenario in (
        Scenario("evacuate", ("pangyo",), 3_600_000),
        Scenario("evacuate", ("anyang",), 3_600_000),
        lose("pangyo"),
    ):
        made = plan(of, scenario, work=5)
        found = bind(of, made, LAX, run="r1", incident="i1", digest="sha256:0")
        assert [step.id for step in found.spec.steps if step.id in waits_of(found, step.id)] == []
        assert len(in_order(found.spec.steps)) == len(found.spec.steps)
        moved = {step.target for step in found.spec.steps if step.kind == "shift"}
        sent = {step.target for step in found.spec.steps if step.kind == "redirect"}
        assert sent == (moved if scenario.kind == "evacuate" else set())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_steps_come_after_what_they_wait_for_or_are_refused(arrows: list[tuple[int, int]]) -> None:
    after: dict[int, set[str]] = {n: set() for n in range(6)}
    for one, other in arrows:
        after[one].add(f"start:s{other}")
    steps = [RunStep(StepId("start", f"s{n}"), "start", f"s{n}", 0, 1, tuple(after[n])) for n in range(6)]
    left, gone = {step.id: set(step.after) for step in steps}, set[str]()
    while free := [name for name, waits in left.items() if waits <= gone]:
        gone |= {str(name) for name in free}
        left = {name: waits for name, waits in left.items() if name not in gone}
    if left:
        with pytest.raises(RunError, match=r"wait for each other: start:s\d after start:s\d") as refused:
            in_order(steps)
        assert refused.value.code == "run-cycle"
        return
    place = {step.id: n for n, step in enumerate(in_order(steps))}
    assert all(place[one] < place[step.id] for step in steps for one in map(StepId.parse, step.after))


def test_a_run_whose_steps_wait_for_each_other_is_refused(
    tmp_path: Path,
) -> None:
    of = estate(tmp_path)
    made = plan(of, lose("pangyo"))
    first, last = made.steps[0], made.steps[-1]
    tied = replace(made, steps=(replace(first, after=(last.id,)), *made.steps[1:]))
    with pytest.raises(RunError) as refused:
        bind(of, tied, LAX, run="r1", incident="i1", digest="sha256:0")
    assert refused.value.code == "run-cycle"


def test_a_router_of_the_site_that_is_left_is_no_reason_to_stay(tmp_path: Path) -> None:
    """At other sites, and where a site returns, users depend on it: there the run waits for it."""
    found = bound(estate(tmp_path), Scenario("evacuate", ("pangyo",), 600_000))
    assert [step.id for step in found.spec.steps if step.optional] == ["redirect:messenger"]
    again = decode_bound(encode_bound(found))
    assert again.spec.steps == found.spec.steps
    of = estate(tmp_path)
    made = plan(of, Scenario("restore", ("ansan",)))
    back = bind(replace(of, traffic={"messenger": ("anyang",)}), made, LAX, run="r", incident="i", digest="d")
    assert any(step.kind == "redirect" for step in back.spec.steps)
    assert not any(step.optional for step in back.spec.steps)
