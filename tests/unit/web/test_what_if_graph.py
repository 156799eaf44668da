"""Which part of a what-if is drawn: what a person can read, with words for the rest."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

from evac.office.facts import EstateFacts, LossFacts
from evac.office.reckoning import FateOf, WhatIf
from evac.web.pages.what_if_graph import BOXES_MOST, REASONS_MOST, graph

LOSS = LossFacts("south", "site", "loss", 0, 0, 0, 0, 0, 0, 0, 0, None, 0, 0, 0, 0, False, "", "")


def fate(
    name: str, *chain: str, needs: tuple[str, ...] = (), people: int = 1, fate: str = "recovers"
) -> FateOf:
    return FateOf(name, 1, people, fate, 60_000, 30_000, (name, *chain), needs)


def shown(services: list[FateOf], of: str = "", needs: tuple[str, ...] = ()) -> dict[str, Any]:
    known = [SimpleNamespace(id=one.service, needs=needs) for one in services]
    facts = cast(EstateFacts, SimpleNamespace(services=known))
    found = graph(facts, WhatIf(("south",), "sha256:x", LOSS, tuple(services)), of)
    assert found is not None
    return found


def boxes(found: dict[str, Any]) -> int:
    return len(re.findall('class="box"', found["svg"]))


def test_a_thousand_services_become_a_part_that_can_be_read() -> None:
    services = [fate(f"root-{n}", f"store {n} is lost") for n in range(40)]
    services += [
        fate(f"user-{n}", f"root-{n % 40}", f"store {n % 40} is lost", people=n) for n in range(1_200)
    ]
    found = shown(services)
    assert boxes(found) <= BOXES_MOST
    told = sum(len(part["rows"]) + part["rest"] for part in found["told"])
    counted = [int(part["count"].split()[0]) for part in found["told"]]
    assert sum(counted) == told
    assert len(counted) == REASONS_MOST
    rest = 1_240 - sum(counted)
    assert f"34 more reasons take down {rest:,} services" in found["more"][0]


def test_what_does_not_come_back_is_shown_before_what_does() -> None:
    services = [fate(f"much-{n}", "store a is lost", people=10**6) for n in range(9)]
    services.append(fate("gone", "no room", people=0, fate="lost"))
    assert shown(services)["told"][0]["why"] == "no room"


def test_every_box_says_its_state_in_words() -> None:
    svg = shown(
        [
            fate("mail", "identity", "its traffic is routed to south"),
            fate("identity", "its traffic is routed to south"),
        ]
    )["svg"]
    labels = re.findall(r'aria-label="([^"]+)"', svg)
    assert sorted(labels) == ["identity: back after 1 min, late", "mail: back after 1 min, late"]


def test_one_service_is_shown_with_all_it_needs_and_implied_arrows_left_out() -> None:
    services = [
        fate("mail", "identity", "why", needs=("identity", "session")),
        fate("identity", "session", "why", needs=("session",)),
        fate("session", "why"),
    ]
    found = shown(services, "mail", ("identity", "session", "search"))
    assert boxes(found) == 3
    assert found["svg"].count('class="arrow"') == 2
    assert "search is still up" in found["more"][0]


def test_a_circle_of_needs_ends() -> None:
    services = [fate("a", "x", needs=("b",)), fate("b", "x", needs=("a",))]
    assert boxes(shown(services, "a")) == 2


def test_a_service_with_a_hundred_needs_is_bounded_and_the_rest_is_counted() -> None:
    names = [f"n{n:03}" for n in range(100)]
    services = [fate("all", "n000", "x", needs=tuple(names)), *(fate(name, "x") for name in names)]
    found = shown(services, "all")
    assert boxes(found) == BOXES_MOST
    assert f"{101 - BOXES_MOST} services more" in found["more"][0]


def test_where_nothing_is_down_nothing_is_drawn() -> None:
    facts = cast(EstateFacts, SimpleNamespace(services=[]))
    assert graph(facts, WhatIf(("south",), "sha256:x", LOSS, ()), "") is None
