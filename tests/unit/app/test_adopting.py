"""A lost journal: what is taken as done of what the world shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.app.applying import adopted, promoted
from evac.model.errors import NotAllowed
from evac.model.observation import MemberSeen, Role
from evac.run.values import RunStep
from tests.unit.truth.test_commits_wait import estate_of, planned

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


def test_a_promotion_is_done_only_if_its_new_primary_is_seen(tmp_path: Path) -> None:
    """The files declare a primary, and with the journal it was lost whether it is still the one."""
    estate = estate_of(tmp_path)
    plan = planned(estate, "a")

    kinds = st.sampled_from(("primary", "sync", "detached", "unreachable"))

    @given(st.dictionaries(st.sampled_from("abc"), kinds))
    def check(roles: dict[str, Role]) -> None:
        members = [MemberSeen("orders", site, role) for site, role in sorted(roles.items())]
        primaries = {site for site, role in roles.items() if role == "primary"}
        if members and not primaries:
            with pytest.raises(NotAllowed, match="no member of orders answers as primary"):
                promoted(plan, estate, members)
            return
        done = promoted(plan, estate, members)
        assert done == (("promote:orders: the primary of orders is in b",) if primaries == {"b"} else ())

    check()
