"""Rules F21 to F24: each of them finds what is wrong with a cold start, and nothing else does."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from evac.model.estate import Estate
from evac.model.instance import BootKind, Instance, LeftOff, Limit, Use
from evac.model.plan import Plan, Step
from evac.model.reason import OffReason
from evac.model.scenario import Scenario
from evac.planning.assembly.waves import Tools, wave_bound
from evac.planning.plan import plan, plan_instance
from evac.verify import check
from evac.verify.check import check_instance
from evac.verify.wave import latest_bound
from tests.unit.planning.dark import dark_site
from tests.unit.planning.instances import Draft, ServerDraft, ServiceDraft, build, random_variant


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> tuple[Estate, Plan]:
    estate = dark_site(tmp_path_factory.mktemp("dark"), POLICY="last", SHOP="purges: true")
    made = plan(estate, Scenario("restore", ("a",), None, (("a", 5_000),)))
    assert check(estate, made).holds
    assert made.left_off
    return estate, made


def change(made: Plan, wanted: Callable[[Step], bool], to: Callable[[Step], Step | None]) -> Plan:
    """The plan with the first step that is wanted changed, or left out."""
    steps, done = [], False
    for step in made.steps:
        new = to(step) if wanted(step) and not done else step
        done = done or wanted(step)
        if new is not None:
            steps.append(new)
    assert done
    return replace(made, steps=tuple(steps))


def rules(company: tuple[Estate, Plan], bad: Plan) -> set[str]:
    return {violation.rule for violation in check(company[0], bad).violations}


def is_kind(kind: str) -> Callable[[Step], bool]:
    return lambda step: step.kind == kind


def alone(step: Step) -> bool:
    return bool(step.parameters)


def pressed(step: Step) -> bool:
    return step.kind == "boot" and not step.parameters and step.target != "b1"


def test_a_power_step_left_out_is_found(company: tuple[Estate, Plan]) -> None:
    assert "F21" in rules(company, change(company[1], is_kind("power"), lambda step: None))


def test_a_power_step_at_another_time_is_found(company: tuple[Estate, Plan]) -> None:
    bad = change(company[1], is_kind("power"), lambda s: replace(s, start_ms=1_000, end_ms=121_000))
    assert "F21" in rules(company, bad)


def test_a_power_step_that_the_estate_does_not_give_is_found(company: tuple[Estate, Plan]) -> None:
    bad = change(company[1], is_kind("power"), lambda s: replace(s, id="power:a/h9", target="a/h9"))
    assert "F21" in rules(company, bad)


def test_a_boot_before_its_power_is_found(company: tuple[Estate, Plan]) -> None:
    bad = change(company[1], pressed, lambda s: replace(s, start_ms=0, end_ms=s.end_ms - s.start_ms))
    assert {"F21", "F5"} <= rules(company, bad)


def test_a_boot_that_does_not_say_what_powers_it_is_found(company: tuple[Estate, Plan]) -> None:
    bad = change(
        company[1],
        pressed,
        lambda s: replace(s, after=tuple(name for name in s.after if not name.startswith("power:"))),
    )
    assert rules(company, bad) == {"F5"}


def test_whether_it_comes_on_by_itself_must_be_true(company: tuple[Estate, Plan]) -> None:
    assert "F21" in rules(company, change(company[1], alone, lambda s: replace(s, parameters={})))
    assert "F21" in rules(
        company, change(company[1], pressed, lambda s: replace(s, parameters={"by_itself": True}))
    )


def test_a_server_that_is_forgotten_is_found(company: tuple[Estate, Plan]) -> None:
    idle = {name for step in company[1].steps if step.kind == "start" for name, _ in step.servers}
    bad = change(company[1], lambda s: pressed(s) and s.target not in idle, lambda step: None)
    assert "F22" in rules(company, bad)


@pytest.mark.parametrize("entries", [(), (LeftOff("a", OffReason("no-boot-time"), ("a11w0",)),)])
def test_a_wrong_list_of_what_stays_off_is_found(
    entries: tuple[LeftOff, ...], company: tuple[Estate, Plan]
) -> None:
    assert "F22" in rules(company, replace(company[1], left_off=entries))


def test_a_wrong_reason_is_found(company: tuple[Estate, Plan]) -> None:
    off = tuple(replace(x, why=OffReason("late")) for x in company[1].left_off)
    assert rules(company, replace(company[1], left_off=off)) == {"F22"}


def test_a_reason_in_words_only_is_that_of_an_earlier_version(company: tuple[Estate, Plan]) -> None:
    off = tuple(replace(x, why=OffReason("text", text=x.reason)) for x in company[1].left_off)
    assert rules(company, replace(company[1], left_off=off)) == set()
    fewer = (replace(off[0], servers=off[0].servers[1:]), *off[1:])
    assert rules(company, replace(company[1], left_off=fewer)) == {"F22"}


@pytest.mark.parametrize("change_of", [{"servers": 1}, {"on_ms": 1_000}, {"bound_ms": 86_400_000}])
def test_a_wave_that_says_too_much_is_found(change_of: dict[str, int], company: tuple[Estate, Plan]) -> None:
    wave = company[1].wave
    assert wave is not None
    assert rules(company, replace(company[1], wave=replace(wave, **change_of))) == {"F22"}
    assert rules(company, replace(company[1], wave=None)) == {"F22"}


def test_a_purge_that_nobody_frees_is_found(company: tuple[Estate, Plan]) -> None:
    assert "F23" in rules(company, change(company[1], is_kind("attest"), lambda step: None))
    early = change(company[1], is_kind("attest"), lambda s: replace(s, end_ms=1_000))
    assert "F23" in rules(company, early)


def test_a_copy_that_is_led_back_though_it_is_not_behind_is_found(company: tuple[Estate, Plan]) -> None:
    """Whoever carries it out would rewind it."""
    made = company[1]
    good = next(step for step in made.steps if step.kind == "attest")
    back = replace(good, id="reprotect:chat:sound", kind="reprotect", target="chat", candidate="sound")
    bad = check(company[0], replace(made, steps=(*made.steps, back))).violations
    assert [(v.rule, v.message) for v in bad if v.subject == back.id and v.rule == "F24"] == [
        ("F24", "reattaches sound, which is not behind")
    ]


def test_freeing_what_nobody_must_free_is_found(company: tuple[Estate, Plan]) -> None:
    made = company[1]
    good = next(step for step in made.steps if step.kind == "attest")
    more = replace(good, id="attest:chat", target="chat")
    bad = check(company[0], replace(made, steps=(*made.steps, more))).violations
    assert ("F23", more.id, "releases something that needs no release") in {
        (v.rule, v.subject, v.message) for v in bad
    }


def test_another_power_than_planned_with_is_found(company: tuple[Estate, Plan]) -> None:
    more = replace(company[1].scenario, power=(("a", 2_000),))
    assert "F9" in rules(company, replace(company[1], scenario=more))


def random_wave(seed: int) -> tuple[Instance, int]:
    """A few kinds of boots over three limits, and when the tools of boots are back."""
    rng = Random(seed)
    limits = tuple(Limit(f"l{n}", rng.randint(1, 9)) for n in range(3))
    kinds = []
    for number in range(4):
        uses = tuple(
            Use(limit, rng.randint(0, 4), rng.randint(0, 5), rng.choice((-1, rng.randint(0, 40))))
            for limit in sorted(rng.sample(range(3), rng.randint(0, 3)))
        )
        kinds.append(BootKind(f"k{number}", rng.randint(1, 30), uses, 9, rng.randint(0, 9)))
    servers = tuple(
        ServerDraft(f"v{n:02d}", "a", 1_000, 1_024, dark=True, boot_kind=rng.randrange(4))
        for n in range(rng.randint(1, 20))
    )
    draft = Draft(
        3_600, (ServiceDraft("s", 0, 1, 1, (1, 1), 1, 1),), servers, limits=limits, boots=tuple(kinds)
    )
    return build(draft), rng.choice((0, rng.randint(1, 50)))


@pytest.mark.parametrize("seed", range(60))
def test_planner_and_checker_read_the_same_page(seed: int) -> None:
    instance, back = random_wave(seed)
    rows = np.arange(len(instance.rows))
    assert wave_bound(instance, rows, Tools(back, 0)).tick == latest_bound(instance, rows.tolist(), back)


@pytest.mark.parametrize("seed", range(25))
def test_boots_that_wait_for_power_keep_every_rule(seed: int) -> None:
    """Small companies of all kinds, whose dark servers get their power late and must all come up."""
    instance = random_variant(seed)
    late = tuple(replace(kind, ready=40 + seed, ready_least=30) for kind in instance.boot_kinds)
    instance = replace(instance, boot_kinds=late, bring_up=instance.to_boot)
    made = plan_instance(instance, work=400, seed=seed)
    verdict = check_instance(instance, made)
    assert verdict.violations == ()
    assert all(step.start_ms >= 1_000 * (40 + seed) for step in made.steps if step.kind == "boot")
