"""EV137: members of one store on one server or in one rack."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import Finding, audit
from evac.estate import load

ESTATE = """evac: 1
name: small
as_of: 2026-11-25
sites: {north: {}, south: {}}
halls: {north/h1: {}, south/h1: {}}
feeds: {north/h1/f1: {}, south/h1/f1: {}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, disk: 1 TiB, accelerators: 0}}
services:
  shop: {tier: 0, people: 1000, needs: [{store: orders}], traffic: {kind: none}}
stores:
  orders:
    engine: postgresql
    rpo: 1 h
    members: [{at: FIRST, mode: primary}, {at: SECOND, mode: async, lag: 2 s}, THIRD]
"""
RACKS = "rack,feeds\nnorth/h1/r1,north/h1/f1\nnorth/h1/r2,north/h1/f1\nsouth/h1/r1,south/h1/f1\n"
SERVERS = "server,site,rack,class,state\n" + "".join(
    f"{name},{rack.split('/')[0]},{rack},web,serving\n"
    for name, rack in (
        ("n1", "north/h1/r1"),
        ("n2", "north/h1/r1"),
        ("n3", "north/h1/r2"),
        ("s1", "south/h1/r1"),
    )
)


def findings(folder: Path, *members: str) -> list[Finding]:
    """Of the store `orders` with a primary, a copy that lags and, if wanted, a witness at these places."""
    first, second, *witness = members
    third = f"{{at: {witness[0]}, mode: none}}" if witness else ""
    text = ESTATE.replace("FIRST", first).replace("SECOND", second).replace(", THIRD", third and f", {third}")
    (folder / "estate.yaml").write_text(text, encoding="utf-8")
    (folder / "racks.csv").write_text(RACKS, encoding="utf-8")
    (folder / "servers.csv").write_text(SERVERS, encoding="utf-8")
    return [f for f in audit(load(folder)).findings if f.rule == "members-together"]


@pytest.mark.parametrize(
    ("members", "where", "domains"),
    [
        (("n1", "n1"), "2 members in n1", ()),
        (("n1", "n1", "n1"), "3 members in n1", ()),
        (("n1", "n2"), "2 members in north/h1/r1", ("north/h1/r1",)),
        (("n1", "north/h1/r1"), "2 members in north/h1/r1", ("north/h1/r1",)),
        (("n1", "s1", "n1"), "2 members in n1", ()),
        (("n1", "n1", "n2"), "2 members in n1, 3 members in north/h1/r1", ("north/h1/r1",)),
    ],
)
def test_members_that_one_fault_takes(
    members: tuple[str, ...], where: str, domains: tuple[str, ...], tmp_path: Path
) -> None:
    (found,) = findings(tmp_path, *members)
    assert (found.severity, found.subject, found.domains) == ("warning", "orders", domains)
    assert found.message == f"orders has {where}: one fault takes them all"


@pytest.mark.parametrize(
    "members",
    [
        ("n1", "s1"),
        ("n1", "n3"),
        ("n1", "n3", "s1"),
        ("north", "north"),
        ("north/h1", "north/h1"),
        ("n1", "north"),
    ],
)
def test_members_apart_or_whose_place_is_not_known(members: tuple[str, ...], tmp_path: Path) -> None:
    assert findings(tmp_path, *members) == []


def test_the_place_of_a_member_to_move_is_shown(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, "n1", "s1", "n1")
    assert found.path == "stores/orders/members/2"
    assert found.place.file.endswith("estate.yaml")
