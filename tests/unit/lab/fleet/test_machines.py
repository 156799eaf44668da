"""What a server does between power-on and a running system, and what faults make of it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from evac_lab.fleet import estates
from evac_lab.fleet.fleet import Settings
from evac_lab.fleet.ground import FAULTS, PowerGrid
from evac_lab.fleet.machines import (
    BOOT_TARGETS,
    GRACEFUL_OFF_MS,
    OVERRIDE_ONCE,
    OVERRIDES,
    Agenda,
    Machines,
    Timeline,
)
from tests.unit.lab.fleet.fleets import HOUR, KIND, Client, ground, machines


def _with(fault: str) -> Machines:
    made = machines(ground())
    made.set_faults(np.array([0]), fault, 0)
    made.reset(0, "on", 0)
    return made


def test_a_boot_goes_through_its_states_in_its_class_s_time() -> None:
    made = machines(ground())
    assert made.progress(0, 0) == "None"
    made.reset(0, "on", 0)
    seen = []
    for now in range(0, KIND.boot_ms + 1, 10_000):
        made.advance(now)
        if not seen or seen[-1] != made.progress(0, now):
            seen.append(made.progress(0, now))
    assert seen == [
        "PrimaryProcessorInitializationStarted",
        "MemoryInitializationStarted",
        "PCIResourceConfigStarted",
        "SystemHardwareInitializationComplete",
        "OSBootStarted",
        "OSRunning",
    ]
    made.advance(KIND.boot_ms)
    assert made.up[0]
    assert made.up_count == 1


def test_boot_times_are_spread_by_the_seed_and_by_nothing_else() -> None:
    of = estates.make_up(2_000)
    times = [
        Machines(of, PowerGrid(of, True), np.zeros(2_000, np.uint8), seed, 0.2).boot_ms for seed in (1, 1, 2)
    ]
    assert (times[0] == times[1]).all()
    assert (times[0] != times[2]).any()
    nominal = np.array([kind.boot_ms for kind in of.kinds])[of.kind]
    assert (np.abs(times[0] / nominal - 1) <= 0.2).all()
    assert (times[0] / nominal).std() > 0.05


def test_power_on_twice_is_one_power_on() -> None:
    made = machines(ground())
    assert made.reset(0, "on", 0)
    assert not made.reset(0, "on", 5)
    assert made.resets[0] == made.power_ons[0] == 1


def test_off_is_at_once_and_a_graceful_end_takes_its_time() -> None:
    made = machines(ground())
    for server in (0, 1):
        made.reset(server, "on", 0)
    made.advance(HOUR)
    made.reset(0, "off", HOUR)
    made.reset(1, "graceful-off", HOUR)
    assert [int(state) for state in made.state[:2]] == [0, 2]
    made.advance(HOUR + GRACEFUL_OFF_MS)
    assert not made.state.any()
    assert not made.grid.on.any()


def test_off_in_the_middle_of_a_boot_leaves_nothing_due() -> None:
    made = machines(ground())
    made.reset(0, "on", 0)
    made.reset(0, "off", 100_000)
    made.advance(HOUR)
    assert made.up_count == 0
    assert made.grid.load[made.grid.number("s/h/a")] == [0, 0]


def test_boot_once_is_forgotten_after_one_boot() -> None:
    made = machines(ground())
    made.override[0], made.target[0] = OVERRIDE_ONCE, BOOT_TARGETS.index("Pxe")
    made.reset(0, "on", 0)
    assert BOOT_TARGETS[made.booted_from[0]] == "Pxe"
    assert OVERRIDES[made.override[0]] == "Disabled"
    made.reset(0, "restart", HOUR)
    assert BOOT_TARGETS[made.booted_from[0]] == "None"


def test_a_boot_loop_starts_again_and_again_and_draws_inrush_each_time() -> None:
    made = _with("boot-loop")
    made.advance(HOUR)
    assert made.boots[0] >= 15
    assert not made.up[0]
    assert made.resets[0] == 1
    assert made.reset_at[0] > HOUR - KIND.boot_ms


def test_no_boot_stays_where_it_is() -> None:
    made = _with("no-boot")
    made.advance(HOUR)
    assert made.progress(0, HOUR) == "OSBootStarted"
    assert not made.up[0]


def test_a_slow_boot_takes_five_times_as_long() -> None:
    made = _with("slow-boot")
    made.advance(5 * KIND.boot_ms - 1)
    assert not made.up[0]
    made.advance(5 * KIND.boot_ms)
    assert made.up[0]


def test_a_liar_does_nothing() -> None:
    made = _with("lying")
    assert not made.state[0]
    assert made.resets[0] == 0


def test_a_fault_that_is_cleared_in_the_middle_lets_the_boot_end() -> None:
    made = _with("no-boot")
    made.advance(100_000)
    made.set_faults(np.array([0]), "none", 100_000)
    made.advance(KIND.boot_ms)
    assert made.up[0]


def test_boots_wait_for_an_image_while_their_boot_server_is_dead() -> None:
    made = machines(ground())
    made.reset(0, "on", 0)
    made.advance(KIND.image_offset_ms)
    made.reset(1, "on", KIND.image_offset_ms)
    assert made.kill_boot_server(0, KIND.image_offset_ms) == 1
    made.reset(2, "on", KIND.image_offset_ms)
    made.advance(HOUR)
    assert made.up[:3].tolist() == [True, False, False]
    assert made.progress(1, HOUR) == "MemoryInitializationStarted"
    assert made.revive_boot_server(0, HOUR) == 2
    made.advance(HOUR + KIND.boot_ms - KIND.image_offset_ms - 1)
    assert not made.up[1:].any()
    made.advance(HOUR + KIND.boot_ms - KIND.image_offset_ms)
    assert made.up[:3].all()


def test_controllers_start_some_time_after_the_power_returns() -> None:
    made = machines(ground(), closed=False, bmc_boot_ms=30_000)
    made.close(made.grid.number("s/h/a"), 1_000)
    assert (made.bmc_back_at == 31_000).all()


def test_the_timeline_counts_up_and_down() -> None:
    made = machines(ground())
    made.reset(0, "on", 0)
    made.reset(1, "on", 1_000)
    made.advance(HOUR)
    made.reset(0, "off", HOUR)
    assert made.timeline.points() == [(0, 0), (KIND.boot_ms, 1), (KIND.boot_ms + 1_000, 2), (HOUR, 1)]


@pytest.mark.parametrize("servers", [1, 19, 20, 21, 1_000, 32_000])
def test_a_made_up_site_carries_all_its_servers(servers: int) -> None:
    of = estates.make_up(servers)
    made = Machines(of, PowerGrid(of, True), np.zeros(servers, np.uint8), 1, 0.1)
    made.start_all(0)
    assert made.up_count == servers
    assert len(set(of.name.tolist())) == servers


def test_a_boot_server_dies_at_its_moment() -> None:
    made = machines(ground())
    made.boot_server_dies(0, 30_000)
    made.reset(0, "on", 0)
    made.advance(HOUR)
    assert made.boot_server_down[0]
    assert not made.up[0]
    assert made.stalled_at[0] == KIND.image_offset_ms


def test_a_rack_switch_that_is_down_silences_all_controllers_of_one_rack() -> None:
    settings = Settings(spread=0.0, racks_down=1)
    fleets = [Client(ground(3, racks=4), settings).fleet for _ in range(2)]
    dead = fleets[0].machines.fault.reshape(4, 3) == FAULTS.index("dead")
    assert dead.all(axis=1).sum() == 1
    assert dead.sum() == 3
    assert (fleets[0].machines.fault == fleets[1].machines.fault).all()


def test_an_agenda_gives_back_what_it_was_told_in_order() -> None:
    rng = random.Random(3)
    told = [
        (rng.randrange(10**9), rng.randrange(16), rng.randrange(64_000), rng.randrange(2**32))
        for _ in range(500)
    ]
    told += [(told[0][0], 1, 2, 3), (told[0][0], 0, 1, 2)]
    agenda = Agenda()
    for event in told:
        agenda.note(*event)
    assert agenda.next_at() == min(event[0] for event in told)
    assert [agenda.pop() for _ in told] == sorted(told, key=lambda event: event[0])
    assert agenda.next_at() is None


def test_a_timeline_never_forgets_its_last_point() -> None:
    line = Timeline()
    for at in range(1, 250_000):
        line.note(at, at % 7)
        line.note(at, at)
    points = line.points(100)
    assert points[-1] == (249_999, 249_999)
    assert 50 <= len(points) <= 101
    assert points == sorted(points)
    assert all(at == count for at, count in points)
