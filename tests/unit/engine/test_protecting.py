"""Who becomes synchronous when the synchronous replica is lost: by the estate, by the last epoch, by
policy.
"""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from evac.engine.stores.stalled_commits import Roles, bound_of, is_protection, plans_for
from evac.model.errors import Corrupt
from evac.model.estate import Endpoint, Estate, Site, Store, StoreMember
from evac.model.run_policy import RunPolicy, StorePolicy, SyncLoss

SITES = ("anyang", "ansan", "pangyo")


def _estate(**modes: str) -> Estate:
    members = tuple(StoreMember(site, mode) for site, mode in sorted(modes.items()))  # type: ignore[arg-type]
    return Estate(
        "three",
        sites=tuple(Site(site) for site in SITES),
        stores=(Store("chat", "chat", "postgres", members),),
        endpoints=tuple(
            Endpoint(f"chat-{site}", "chat", site, "postgres", {"name": f"dc-{site}", "host": site})
            for site in SITES
        ),
    )


ESTATE = _estate(pangyo="primary", anyang="sync", ansan="async")


def _policy(on_sync_loss: SyncLoss, approvals: int = 2) -> RunPolicy:
    return RunPolicy(approvals=approvals, stores={"chat": StorePolicy("chat", on_sync_loss=on_sync_loss)})


def _names(estate: Estate, policy: RunPolicy, lost: list[str], roles: dict[str, Roles]) -> object:
    plan = plans_for(estate, policy, lost, roles).get("chat")
    if plan is None:
        return None
    told = orjson.loads(plan)["protect"]
    return told["at"], told["synchronous"]


def test_the_next_copy_follows_on_the_primary_that_lives() -> None:
    assert _names(ESTATE, _policy("next"), ["anyang"], {}) == ("pangyo", ["dc-ansan"])


def test_a_copy_in_a_site_that_is_left_is_no_choice() -> None:
    now = {"chat": Roles("anyang", ("dc-ansan",))}
    plan = plans_for(ESTATE, _policy("next"), ["ansan"], now, ["pangyo"])["chat"]
    assert orjson.loads(plan)["protect"]["synchronous"] == []
    plan = plans_for(ESTATE, _policy("next"), ["ansan"], now)["chat"]
    assert orjson.loads(plan)["protect"]["synchronous"] == ["dc-pangyo"]


def test_a_copy_that_is_set_not_to_confirm_is_no_choice() -> None:
    """It would be refused again and again, while commits hang; another one is named, or people are asked."""
    at = {"pangyo": "primary", "anyang": "sync", "ansan": "async"}
    for unable, names in ((("chat", "ansan"), []), (("other", "ansan"), ["dc-ansan"])):
        plan = plans_for(_estate(**at), _policy("next"), ["anyang"], {}, (), [unable])["chat"]
        assert orjson.loads(plan)["protect"]["synchronous"] == names
        bound = bound_of(plan, _policy("next"), run="r", incident="i", digest="d")
        assert bound.spec.approvals == (0 if names else 2)


def test_a_copy_that_follows_nobody_just_now_confirms_nothing() -> None:
    (store,) = ESTATE.stores
    away = tuple(replace(one, detached=one.at == "ansan") for one in store.members)
    estate = replace(ESTATE, stores=(replace(store, members=away),))
    assert _names(estate, _policy("next"), ["anyang"], {}) == ("pangyo", [])


@pytest.mark.parametrize("lost", [["ansan"], ["pangyo"], ["anyang", "pangyo"], []])
def test_nothing_where_no_synchronous_copy_or_the_primary_itself_is_lost(lost: list[str]) -> None:
    assert _names(ESTATE, _policy("next"), lost, {}) is None


def test_another_synchronous_copy_that_lives_is_enough() -> None:
    two = _estate(pangyo="primary", anyang="sync", ansan="sync")
    assert _names(two, _policy("next"), ["anyang"], {}) is None


def test_roles_of_the_last_epoch_stand_over_the_estate() -> None:
    roles = {"chat": Roles("anyang", ("dc-ansan",))}
    assert _names(ESTATE, _policy("next"), ["ansan"], roles) == ("anyang", ["dc-pangyo"])
    assert _names(ESTATE, _policy("next"), ["pangyo"], roles) is None
    assert _names(ESTATE, _policy("next"), ["anyang"], {"chat": Roles("pangyo", ())}) is None


@pytest.mark.parametrize(
    ("wanted", "lost", "names", "approvals"),
    [
        ("next", ["anyang"], ("dc-ansan",), 0),
        ("async", ["anyang"], (), 0),
        ("ask", ["anyang"], ("dc-ansan",), 2),
        ("next", ["anyang", "ansan"], (), 2),
    ],
)
def test_falling_back_to_asynchronous_needs_policy_or_a_person(
    wanted: SyncLoss, lost: list[str], names: tuple[str, ...], approvals: int
) -> None:
    policy = _policy(wanted)
    data = plans_for(ESTATE, policy, lost, {})["chat"]
    assert is_protection(data)
    bound = bound_of(data, policy, run="r1", incident="i1", digest="sha256:x")
    (action,) = bound.actions["protect:chat"]
    assert (action.verb, action.at, action.parameters["synchronous"]) == ("protect", "pangyo", names)
    assert action.settings["host"] == "pangyo"
    assert bound.spec.approvals == approvals
    (step,) = bound.spec.steps
    assert (step.kind, step.data_set) == ("protect", "chat")


def test_nonsense_is_corrupt() -> None:
    for data in (b"", b"{}", b'{"protect":{}}', b'{"protect":[]}'):
        with pytest.raises(Corrupt):
            bound_of(data, _policy("next"), run="r1", incident="i1", digest="sha256:x")
