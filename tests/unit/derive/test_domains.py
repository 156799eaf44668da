"""What a path names, and what is lost with it."""

from __future__ import annotations

import pytest

from evac.derive.domains import domains, is_lost, loss, resolve, resolve_each, topology
from evac.model.errors import UnknownDomain
from tests.unit.model.estates import two_sites


def test_every_domain_above_a_server_is_listed_once() -> None:
    found = [d.id for d in domains(two_sites())]
    assert len(found) == len(set(found)) == 3 + 2 + 2 + 3 + 3


def test_a_rack_survives_one_of_its_two_feeds() -> None:
    lost = loss(topology(two_sites()), ["a/f1"])
    assert lost.racks.tolist() == [False, True, False]
    assert lost.servers.tolist() == [False, True, False, False]


def test_a_rack_is_lost_with_all_its_feeds() -> None:
    assert loss(topology(two_sites()), ["a/f1", "a/f2"]).racks.tolist() == [True, True, False]


def test_a_site_takes_its_halls_feeds_racks_and_servers() -> None:
    lost = loss(topology(two_sites()), ["a"])
    assert lost.halls.tolist() == [True, False]
    assert lost.feeds.tolist() == [True, True, False]
    assert lost.servers.tolist() == [True, True, False, False]


def test_a_group_takes_its_members() -> None:
    top = topology(two_sites())
    assert loss(top, ["campus"]).sites.tolist() == [True, True, False]
    assert loss(top, ["loop"]).racks.tolist() == [True, False, False]


def test_a_server_is_a_domain_too() -> None:
    assert loss(topology(two_sites()), ["a/h1/r2/a2"]).servers.tolist() == [False, True, False, False]


def test_an_unknown_path_names_what_is_near() -> None:
    with pytest.raises(UnknownDomain) as caught:
        resolve(topology(two_sites()), "a/h2")
    assert "a/h1" in caught.value.hint


def test_every_unknown_path_is_named_at_once() -> None:
    top = topology(two_sites())
    assert [domain.kind for domain in resolve_each(top, ["a/h1", "a", "a"])] == ["hall", "site"]
    for asked in (resolve_each, loss):
        with pytest.raises(UnknownDomain) as caught:
            asked(top, ["a", "a/h2", "nope", *(f"x{n:02}" for n in range(30))])
        assert "'a/h2'" in caught.value.message
        assert "'nope'" in caught.value.message
        assert "and 22 more" in caught.value.message
        assert "a/h1" in caught.value.hint


def test_a_member_at_a_site_is_lost_with_the_site_only() -> None:
    top = topology(two_sites())
    assert not is_lost(top, loss(top, ["b/h1"]), "b")
    assert is_lost(top, loss(top, ["b"]), "b/h1/r1")
