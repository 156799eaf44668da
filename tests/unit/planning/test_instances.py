"""The worked example has the weights that the planning model prints; variants keep what instances promise."""

import numpy as np
import pytest

from tests.unit.planning.instances import random_variant, worked_example


def test_worked_example_has_the_weights_of_the_model() -> None:
    s = worked_example().services
    weights = {name: [int(b), int(t)] for name, b, t in zip(s.id, s.base_weight, s.top_weight, strict=True)}
    assert weights == {
        "ads": [25, 25],
        "identity": [400, 400],
        "messenger": [2000, 2000],
        "pay": [1200, 1200],
        "search": [800, 0],
    }
    lost = {name for name, gone in zip(s.id, s.base_lost, strict=True) if gone}
    assert lost == {"identity", "messenger", "pay", "search"}
    assert [s.base_starts(k) for k in range(5)] == [0, 1, 2, 1, 2]
    assert [s.top_starts(k) for k in range(5)] == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("seed", range(80))
def test_variants_are_well_formed_and_repeatable(seed: int) -> None:
    instance = random_variant(seed)
    again = random_variant(seed)
    assert np.array_equal(instance.rows.capacity, again.rows.capacity)
    assert (instance.rows.used <= instance.rows.capacity).all()
    s = instance.services
    assert (s.m >= 1).all()
    assert (s.m <= s.n).all()
    assert 400 <= instance.horizon <= 3600
    for service, needs in enumerate(s.hard):
        assert all(s.component[other] < s.component[service] for other in needs)
