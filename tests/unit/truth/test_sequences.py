"""What evac knows after losses, runs and returns follows from them, whatever the estate is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.random_estates import strange_estate
from bench.sequences import broken
from evac.derive import situation

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("seed", [2, 9, 17, 31, 40])
def test_each_event_leaves_what_it_leaves(seed: int) -> None:
    assert list(broken(strange_estate(seed), seed, events=4)) == []


def nothing_waits(patch: Patch) -> None:
    patch.setattr(situation, "waiting_in_pools", lambda *args: {})


def the_mark_is_ignored(patch: Patch) -> None:
    right = situation._fleet
    patch.setattr(
        situation, "_fleet", lambda fleet, top, runs, lost, table: right(fleet, top, runs, (), table)
    )


def the_last_run_is_forgotten(patch: Patch) -> None:
    right = situation._placed
    patch.setattr(situation, "_placed", lambda top, runs, *args: right(top, runs[:-1], *args))


@pytest.mark.parametrize("plant", [nothing_waits, the_mark_is_ignored, the_last_run_is_forgotten])
def test_a_planted_error_is_found(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """In one of 200 estates; the first one tried lets all three be seen, as most let few or none."""
    plant(monkeypatch)
    seeds = (*range(36, 200), *range(36))
    found = (one for seed in seeds for one in broken(strange_estate(seed), seed))
    assert next(found, None) is not None
