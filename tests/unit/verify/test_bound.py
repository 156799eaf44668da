"""The checker's own evaluation of certificates: equal to the planner's, and never a false bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.model.instance import Instance
from evac.model.plan import CapacityRow, Certificate, PlacementRows, SupplyRow
from evac.planning.bound import bound
from tests.unit.planning.bound.certificates import certified
from tests.unit.planning.instances import random_variant, worked_example

OPTIMUM = 2_146_000
WORKED = worked_example()
MILESTONES = [f"{name}.{kind}" for name in WORKED.services.id for kind in ("base", "top")]
LIMITS = [limit.id for limit in WORKED.limits]
POOLS = [pool.id for pool in WORKED.pools]
numbers = st.integers(0, 4_000 * 2**20)


def test_heads_alone_are_what_chains_make_unavoidable() -> None:
    assert certified(WORKED, Certificate()) == (1_848_000, [])


@pytest.mark.parametrize("seed", range(25))
def test_planner_and_checker_agree_to_the_last_unit(seed: int) -> None:
    instance: Instance = random_variant(seed)
    found = bound(instance, work=40)
    assert certified(instance, found.certificate) == (found.bound, [])


certificates = st.builds(
    Certificate,
    arcs=st.lists(
        st.tuples(
            st.sampled_from(
                [("pay.base", "identity.base"), ("pay.top", "pay.base"), ("messenger.top", "search.base")]
            ),
            numbers,
        ).map(lambda pair: (*pair[0], pair[1])),
        max_size=3,
        unique_by=lambda arc: arc[:2],
    ).map(tuple),
    supply=st.lists(
        st.builds(
            SupplyRow,
            st.sampled_from(LIMITS).map(lambda name: ((name, 1),)),
            st.dictionaries(st.sampled_from(["pay.base", "identity.base", "messenger.base"]), numbers).map(
                lambda shares: tuple(sorted(shares.items()))
            ),
        ),
        max_size=2,
    ).map(tuple),
    capacity=st.lists(
        st.builds(
            CapacityRow,
            st.integers(0, 1).map(lambda r: tuple((pool, r, 1) for pool in POOLS)),
            st.dictionaries(
                st.sampled_from(["pay.base", "pay.top", "messenger.base", "ads.base"]), numbers
            ).map(lambda shares: tuple(sorted(shares.items()))),
        ),
        max_size=2,
    ).map(tuple),
    placement=st.builds(
        PlacementRows,
        room=st.dictionaries(st.tuples(st.sampled_from(POOLS), st.integers(0, 1)), numbers, max_size=4).map(
            lambda prices: tuple((*key, price) for key, price in sorted(prices.items()))
        ),
    ),
)


@settings(max_examples=300)
@given(certificates)
def test_any_numbers_at_all_give_a_true_bound(certificate: Certificate) -> None:
    found, _ = certified(WORKED, certificate)
    assert 1_848_000 <= found <= OPTIMUM


@pytest.mark.parametrize(
    "certificate",
    [
        Certificate(arcs=(("identity.base", "pay.base", 1),)),
        Certificate(arcs=(("pay.base", "identity.base", -1),)),
        Certificate(supply=(SupplyRow((("nothing", 1),), ()),)),
        Certificate(supply=(SupplyRow((("boots", 1),), (("pay.base", 1),)),)),
        Certificate(capacity=(CapacityRow((("nowhere", 0, 1),), ()),)),
        Certificate(capacity=(CapacityRow((), (("pay.base", 1),)),)),
        Certificate(placement=PlacementRows(fit=(("ads", POOLS[0], 1),))),
        Certificate(scale=0),
    ],
)
def test_what_the_instance_does_not_have_is_refused(certificate: Certificate) -> None:
    found, complaints = certified(WORKED, certificate)
    assert found == 1_848_000
    assert complaints
