"""A lost journal: what is taken as done of what the world shows."""

from __future__ import annotations

from evac.app.applying import adopted
from evac.run.values import RunStep

STEPS = (
    RunStep("fence:db", "fence", "db", 0, 1),
    RunStep("promote:db", "promote", "db", 1, 1, ("fence:db",)),
    RunStep("rejoin:db:ansan", "rejoin", "db", 2, 1, ("promote:db",)),
    RunStep("start:shop:base", "start", "shop", 0, 1),
    RunStep("verify:shop:base", "verify", "shop", 2, 1, ("start:shop:base", "promote:db")),
    RunStep("shift:shop", "shift", "shop", 3, 1, ("verify:shop:base",)),
)


def test_nothing_behind_a_promotion_counts_before_it() -> None:
    """A shop that runs and answers, and a database that nobody promoted: no user is sent there."""
    found = adopted(STEPS, {"fence:db", "start:shop:base", "verify:shop:base", "shift:shop"})
    assert found.done == ("start:shop:base",)
    assert found.needless == (), "that a copy is cut off does not say by whose order"


def test_a_fence_is_needless_where_its_store_has_the_new_primary() -> None:
    found = adopted(STEPS, {step.id for step in STEPS} - {"fence:db", "shift:shop"})
    assert found.done == ("promote:db", "rejoin:db:ansan", "start:shop:base", "verify:shop:base")
    assert found.needless == ("fence:db",)
