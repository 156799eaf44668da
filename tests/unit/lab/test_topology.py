"""Addresses and names of the lab: no two servers meet, no two labs meet, no name that Patroni misreads."""

import ipaddress

import pytest

from evac.model.errors import InvalidInput
from evac_lab.doctor import addresses
from evac_lab.state import HALLS, HOSTS, LOOPBACK_OFFSETS, NAMESPACE_OFFSETS, SITES, World, topology


@pytest.mark.parametrize(
    ("world", "offsets"), [("loopback", LOOPBACK_OFFSETS), ("namespaces", NAMESPACE_OFFSETS)]
)
def test_no_two_labs_share_an_address(world: World, offsets: int) -> None:
    seen: set[str] = set()
    for offset in range(offsets):
        plan = topology(world, offset)
        mine = {host for _, host, _ in addresses(plan)} | {plan.clients}
        assert len(mine) == len(SITES) * len(HOSTS) + 1
        assert not seen & mine
        seen |= mine
    net = ipaddress.ip_network("127.0.0.0/8" if world == "loopback" else "198.18.0.0/15")
    assert all(ipaddress.ip_address(host) in net for host in seen)


def test_the_first_lab_is_where_the_documentation_says() -> None:
    plan = topology()
    assert [site.host("postgres") for site in plan.sites] == ["127.1.0.3", "127.2.0.3", "127.3.0.3"]
    assert plan.clients == "127.9.0.1"
    assert plan.etcd_urls("anyang")[0] == "https://127.2.0.2:2379"


def test_no_member_has_a_name_that_patroni_takes_for_a_word() -> None:
    for site in topology().sites:
        assert not site.member.lower().startswith(("any", "first"))


def test_every_server_stands_in_one_hall() -> None:
    assert sorted(role for roles in HALLS.values() for role in roles) == sorted(HOSTS)


@pytest.mark.parametrize(("world", "offset"), [("loopback", -1), ("loopback", 60), ("namespaces", 16)])
def test_an_offset_out_of_range_is_refused(world: World, offset: int) -> None:
    with pytest.raises(InvalidInput, match="no such lab:"):
        topology(world, offset)


def test_an_unknown_site_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidInput) as raised:
        topology().site("pangio")
    assert "anyang" in raised.value.hint
