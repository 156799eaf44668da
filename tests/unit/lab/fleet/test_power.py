"""Power: both accounts, two feeds, breakers that open by one sample, and stay open."""

from __future__ import annotations

import random

import numpy as np
import pytest

from evac.model.errors import InvalidInput
from evac_lab.fleet.ground import INRUSH, STEADY, Kind, PowerGrid
from evac_lab.fleet.machines import Machines
from tests.unit.lab.fleet.fleets import HOUR, KIND, ground, machines


def _load(grid: PowerGrid, id: str) -> tuple[int, int]:
    load = grid.load[grid.number(id)]
    return load[STEADY], load[INRUSH]


def test_a_server_counts_in_full_on_both_feeds_of_its_rack() -> None:
    made = machines(ground())
    made.reset(0, "on", 0)
    for domain in ("s/h/a", "s/h/b", "s/h/r0", "s/h", "s"):
        assert _load(made.grid, domain) == (400, 700)


def test_inrush_ends_and_steady_stays() -> None:
    made = machines(ground())
    made.reset(0, "on", 0)
    made.advance(KIND.inrush_ms - 1)
    assert _load(made.grid, "s/h/a") == (400, 700)
    made.advance(KIND.inrush_ms)
    assert _load(made.grid, "s/h/a") == (400, 0)


@pytest.mark.parametrize(
    ("limits", "account", "domains"),
    [
        ({"feed_watts": 799}, "steady", ["s/h/a", "s/h/b"]),
        ({"feed_inrush": 1_399}, "inrush", ["s/h/a", "s/h/b"]),
        ({"rack_watts": 799}, "steady", ["s/h/r0"]),
        ({"hall_watts": 799}, "steady", ["s/h"]),
    ],
)
def test_one_watt_above_for_one_sample_trips(
    limits: dict[str, int], account: str, domains: list[str]
) -> None:
    made = machines(ground(**limits))
    made.reset(0, "on", 0)
    assert made.trip_count == 0
    made.reset(1, "on", 1)
    assert [trip.domain for trip in made.trips] == domains
    assert {trip.account for trip in made.trips} == {account}
    assert made.trips[0].watts == made.trips[0].budget_watts + 1
    assert not made.state.any()
    assert sum(trip.lost for trip in made.trips) == 2


def test_a_sum_at_its_budget_holds() -> None:
    made = machines(ground(feed_watts=800, feed_inrush=1_400))
    made.reset(0, "on", 0)
    made.reset(1, "on", 0)
    assert made.trip_count == 0
    assert made.state[:2].all()


def test_what_hangs_on_another_live_feed_keeps_its_power() -> None:
    made = machines(ground())
    made.reset(0, "on", 0)
    made.advance(HOUR)
    made.open(made.grid.number("s/h/a"), HOUR)
    assert made.up[0]
    assert _load(made.grid, "s/h/a") == (0, 0)
    made.close(made.grid.number("s/h/a"), HOUR + 1)
    assert _load(made.grid, "s/h/a") == (400, 0)
    assert made.boots[0] == 1


def test_an_open_breaker_stays_open_until_it_is_closed() -> None:
    made = machines(ground(feed_inrush=699))
    made.reset(0, "on", 0)
    made.advance(HOUR)
    assert not made.grid.has_power(0)
    assert not made.reset(0, "on", HOUR)
    for feed in ("s/h/a", "s/h/b"):
        made.close(made.grid.number(feed), HOUR)
    assert made.grid.has_power(0)
    assert not made.state[0]


def test_a_lower_budget_trips_at_once() -> None:
    made = machines(ground())
    made.reset(0, "on", 0)
    made.advance(HOUR)
    made.set_budget(made.grid.number("s/h/r0"), 399, None, HOUR)
    assert [trip.domain for trip in made.trips] == ["s/h/r0"]
    assert made.up_count == 0


@pytest.mark.parametrize(("policy", "running"), [("on", 4), ("dark", 0), ("last", 2)])
def test_when_power_returns_servers_do_what_their_policy_says(policy: str, running: int) -> None:
    made = machines(ground(kind=Kind("k", 400, 300_000, 700, 20_000, policy=policy)))  # type: ignore[arg-type]
    for server in (0, 1):
        made.reset(server, "on", 0)
    made.advance(HOUR)
    for feed in ("s/h/a", "s/h/b"):
        made.open(made.grid.number(feed), HOUR)
    assert not made.state.any()
    made.close(made.grid.number("s/h/a"), HOUR)
    assert int(made.state.sum()) == running


def test_servers_that_come_on_by_themselves_trip_a_feed_that_cannot_carry_it() -> None:
    made = machines(
        ground(feed_inrush=2_000, kind=Kind("k", 400, 300_000, 700, 20_000, policy="on")), closed=False
    )
    made.close(made.grid.number("s/h/a"), 0)
    assert [(trip.domain, trip.watts, trip.lost) for trip in made.trips] == [("s/h/a", 2_100, 3)]
    assert not made.state.any()


def test_a_restart_draws_its_inrush_again() -> None:
    made = machines(ground())
    made.reset(0, "on", 0)
    made.advance(HOUR)
    made.reset(0, "restart", HOUR)
    assert _load(made.grid, "s/h/a") == (400, 700)
    made.advance(2 * HOUR)
    assert _load(made.grid, "s/h/a") == (400, 0)


def test_a_domain_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidInput, match="there is no s/h/z"):
        machines(ground()).grid.number("s/h/z")


def _act(made: Machines, rng: random.Random, now: int) -> None:
    domain = rng.randrange(len(made.grid.ids))
    what = rng.random()
    if what < 0.6:
        made.reset(
            rng.randrange(len(made.ground)), rng.choice(["on", "on", "off", "restart", "graceful-off"]), now
        )  # type: ignore[arg-type]
    elif what < 0.7:
        made.open(domain, now)
    elif what < 0.95:
        made.close(domain, now)
    else:
        made.set_budget(domain, rng.randrange(6_000), rng.randrange(9_000), now)


@pytest.mark.parametrize("seed", range(40))
def test_the_accounts_are_the_sums_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    made = machines(
        ground(5, racks=3, feed_watts=5_000, feed_inrush=8_000, rack_watts=2_000, hall_watts=5_500)
    )
    now = 0
    for _ in range(300):
        now += rng.randrange(30_000)
        made.advance(now)
        _act(made, rng, now)
        for domain, closed in enumerate(made.grid.closed):
            assert made.grid.load[domain] == (made.grid.sums(domain) if closed else [0, 0])
            assert made.grid.over(domain) is None
        assert (made.grid.on == (made.state > 0)).all()
        assert made.up_count == int(made.up.sum())
        assert not made.grid.on[~made.grid.rack_live[made.grid.rack_of]].any()
    assert np.all(made.grid.rushing <= made.grid.on)
