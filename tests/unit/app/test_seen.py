"""What controllers believe of stores: certain roles only, no old primary while the true one burns."""

import pytest

from evac.app.seen import decode, encode, merged
from evac.model.errors import Corrupt
from evac.model.observation import MemberSeen, Observation, Role


def seen(**roles: Role) -> Observation:
    return Observation(0, tuple(MemberSeen("db", site, role) for site, role in sorted(roles.items())))


def roles(observation: Observation) -> dict[str, Role]:
    return {member.site: member.role for member in observation.members}


HEALTHY = seen(pangyo="primary", anyang="sync", ansan="async")


def test_the_first_look_is_taken_as_it_is_where_one_primary_is_seen() -> None:
    assert roles(merged(Observation(0), HEALTHY)) == roles(HEALTHY)


@pytest.mark.parametrize(
    "now",
    [
        seen(pangyo="unreachable", anyang="sync", ansan="async"),
        seen(pangyo="primary", anyang="primary", ansan="async"),
        seen(pangyo="unreachable", anyang="unreachable", ansan="unreachable"),
    ],
)
def test_without_one_primary_what_was_certain_stands(now: Observation) -> None:
    assert roles(merged(HEALTHY, now)) == roles(HEALTHY)


def test_a_copy_that_is_silent_keeps_its_role_and_an_old_primary_does_not() -> None:
    silent = merged(HEALTHY, seen(pangyo="primary", anyang="unreachable", ansan="async"))
    assert roles(silent)["anyang"] == "sync"
    moved = merged(HEALTHY, seen(pangyo="unreachable", anyang="primary", ansan="sync"))
    assert roles(moved) == {"pangyo": "unreachable", "anyang": "primary", "ansan": "sync"}


def test_an_old_primary_that_came_back_is_not_believed_while_the_true_one_burns() -> None:
    before = merged(HEALTHY, seen(pangyo="unreachable", anyang="primary", ansan="sync"))
    back = seen(pangyo="primary", anyang="unreachable", ansan="async")
    assert roles(merged(before, back, {"db": "anyang"})) == roles(before)
    assert roles(merged(before, back))["pangyo"] == "primary", "without an epoch it is all that is known"


def test_somebody_else_moved_the_store_and_its_holder_says_so() -> None:
    elsewhere = seen(pangyo="async", anyang="sync", ansan="primary")
    assert roles(merged(HEALTHY, elsewhere, {"db": "pangyo"})) == roles(elsewhere)


def test_through_the_store() -> None:
    assert roles(decode(encode(HEALTHY, "sha256:0"))) == roles(HEALTHY)
    for value in (b"", b"{}", b'{"at_ms": 1, "members": [1]}'):
        with pytest.raises(Corrupt):
            decode(value)
