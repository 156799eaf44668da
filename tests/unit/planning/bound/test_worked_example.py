"""The worked example of the planning model: heads, weights and bounds as they were printed by hand."""

from __future__ import annotations

import pytest

from evac.model.plan import CapacityRow, Certificate, SupplyRow
from evac.planning.bound import bound
from evac.planning.bound.facts import Facts, facts_of
from evac.planning.bound.solve import evaluate
from tests.unit.planning.instances import WORKED_OPTIMUM, worked_example

PRINTED_BOUND = 2_079_017
PRINTED_SCALE = 1_000_000


@pytest.fixture(scope="module")
def facts() -> Facts:
    return facts_of(worked_example())


def _of(facts: Facts, column: str, name: str) -> int:
    return int(getattr(facts, column)[facts.name.index(name)])


@pytest.mark.parametrize(
    ("service", "weight", "head"),
    [
        ("identity", (400, 400), (150, 150)),
        ("pay", (1_200, 1_200), (260, 260)),
        ("messenger", (2_000, 2_000), (250, 250)),
        ("search", (800, 0), (130, 130)),
        ("ads", (25, 25), (0, 0)),
    ],
)
def test_weights_and_heads(
    facts: Facts, service: str, weight: tuple[int, int], head: tuple[int, int]
) -> None:
    names = (f"{service}.base", f"{service}.top")
    assert tuple(_of(facts, "weight", n) for n in names) == weight
    assert tuple(_of(facts, "head", n) for n in names) == head


def test_the_store_is_primary_after_fence_and_quickest_promotion(facts: Facts) -> None:
    assert _of(facts, "head", "accounts.primary") == 50


def test_chains_alone(facts: Facts) -> None:
    assert facts.sum_of_heads == evaluate(facts, Certificate()) == 1_848_000


def _capacity(facts: Facts, resource: int, price: int) -> CapacityRow:
    """All nine milestones at one price of a unit of a resource, as the printed certificate has it."""
    demand = facts.instance.services.demand[:, resource].tolist()
    ids = facts.instance.services.id
    shares = [
        (f"{name}.{kind}", price * demand[s] * _of(facts, "need", f"{name}.{kind}"))
        for s, name in enumerate(ids)
        for kind in ("base", "top")
    ]
    return CapacityRow(
        tuple((p.id, resource, 1) for p in facts.instance.pools),
        tuple(sorted(share for share in shares if share[1])),
    )


def test_chains_and_processors(facts: Facts) -> None:
    """6.25 weighted seconds for each core-second, from 16 cores at once, 22 and 28 as they boot."""
    row = _capacity(facts, 0, 6_250)
    assert evaluate(facts, Certificate(PRINTED_SCALE, capacity=(row,))) in (2_021_499, 2_021_500)


def test_the_printed_certificate_in_energy_form(facts: Facts) -> None:
    """The printed row counts whole starts; the energy form of the same shares is a little weaker."""
    certificate = Certificate(
        PRINTED_SCALE,
        arcs=(("messenger.top", "messenger.base", 1_974_701_493), ("pay.top", "pay.base", 806_212_575)),
        supply=(
            SupplyRow((("starts", 1),), (("messenger.base", 2 * 1_917_246_377), ("pay.base", 1_917_246_377))),
        ),
        capacity=(_capacity(facts, 0, 6_250),),
    )
    assert PRINTED_BOUND * 0.99 <= evaluate(facts, certificate) <= PRINTED_BOUND


def test_dns_alone(facts: Facts) -> None:
    """One change of 20 s at a time: search can go first, then identity, messenger and pay queue."""
    value = evaluate(
        facts,
        Certificate(
            PRINTED_SCALE,
            arcs=(("messenger.top", "messenger.base", 10**9), ("pay.top", "pay.base", 10**9)),
            supply=(SupplyRow((("dns", 1),), (("messenger.base", 10**9), ("pay.base", 10**9))),),
        ),
    )
    assert 1_848_000 < value <= 1_871_576


def test_the_bound_is_near_the_printed_one_and_below_the_optimum() -> None:
    found = bound(worked_example(), work=2_000)
    assert PRINTED_BOUND * 0.99 <= found.bound <= WORKED_OPTIMUM
    assert found.heads == 1_848_000


def test_same_input_same_certificate() -> None:
    first, second = (bound(worked_example(), work=300, seed=k) for k in (0, 1))
    assert first == second


def test_the_best_objective_only_sets_the_pace() -> None:
    found = bound(worked_example(), work=300, best_objective=WORKED_OPTIMUM)
    assert found.bound <= WORKED_OPTIMUM


def test_no_work_still_gives_what_the_relaxation_proves() -> None:
    found = bound(worked_example(), work=0)
    assert 2_021_499 <= found.bound <= WORKED_OPTIMUM


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output belongs to the caller; the solver would greet it."""
    bound(worked_example(), work=10)
    assert capfd.readouterr().out == ""
