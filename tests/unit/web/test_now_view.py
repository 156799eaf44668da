"""Why a service stands on the page Now among those that are not as they should be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from evac.model.errors import Unavailable
from evac.office.facts import ServiceAt, ServiceFacts
from evac.office.values import LeaderSeen, QuorumSeen, SiteSeen, Situation, VoteSeen
from evac.web.pages.frame import problem
from evac.web.pages.now_view import _unwell, now_context
from evac.web.room import WarRoom


def site(name: str, state: str = "healthy", mark: str = "") -> SiteSeen:
    return SiteSeen(name, "full", state, 0, "", (), (), mark, ())  # type: ignore[arg-type]


def service(name: str, *places: tuple[str, int, str]) -> ServiceFacts:
    at = tuple(ServiceAt(where, replicas, role, "down", None) for where, replicas, role in places)
    return ServiceFacts(name, "", None, 0, 1, None, None, sum(p[1] for p in places), (name,), (), at)


@pytest.mark.parametrize(
    ("places", "primary", "why"),
    [
        ([("b", 4, "primary"), ("a", 0, "copy")], "b", "its data is at b: site lost"),
        ([("b", 4, "")], "", "it does not run anywhere else"),
        ([("b", 4, "copy"), ("a", 2, "primary")], "a", "its primary is away from home"),
        ([("b", 4, ""), ("a", 2, "")], "", "part of it runs there"),
        ([("b", 0, "copy"), ("a", 2, "primary")], "home", "a copy of its data is stored there"),
        ([("a", 2, "primary")], "home", None),
    ],
)
def test_it_says_why_the_gravest_first(places: Any, primary: str, why: str | None) -> None:
    store = SimpleNamespace(
        family="x",
        home="b" if primary == "a" else "a" if primary == "b" else "",
        primary="" if primary == "home" else primary,
    )
    facts: Any = SimpleNamespace(stores=[store], services=[service("x", *places)])
    rows = _unwell(facts, {"a": site("a"), "b": site("b", "lost")})
    assert [row["why"] for row in rows] == ([] if why is None else [why])


def test_a_site_that_a_run_leaves_counts_as_well() -> None:
    facts: Any = SimpleNamespace(stores=[], services=[service("x", ("b", 1, "primary"))])
    rows = _unwell(facts, {"a": site("a"), "b": site("b", mark="evacuating")})
    assert rows[0]["why"] == "its data is at b: site evacuating"


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    ("mark", "words"), [("active", "and cannot be judged: only 1 of 2"), ("lost", "and is marked lost")]
)
def test_a_site_that_does_not_answer_is_never_said_to(mark: str, words: str, held: bool) -> None:
    """Two sites and one controller: no majority votes, so no one decides, and yet one of them burns."""
    why = "only 1 of 2 sites have fresh votes"
    leader, quorum = LeaderSeen("b/1/x", 1), QuorumSeen("sqlite", False, ("b",), 2, True, 1)
    hold: Any = SimpleNamespace(who="kim", reason="wait", since_ms=1) if held else None

    def said(*sites: SiteSeen) -> str:
        now = Situation(1, 1, sites, leader, quorum, hold, (), (), (), (), 0, "", "the estate is being read")
        return str(now_context(now, None, 1)["answer"][0])

    own = replace(site("b"), state="unknown", reason=why)
    burnt = replace(own, id="a", mark=mark, votes=(VoteSeen("b", "down", True, 1, "", {}),))
    assert said(burnt, own).startswith(f"a does not answer {words}")
    told = "It is unknown whether 2 of 2 sites answer." if held else "The estate is being read."
    assert said(replace(own, id="a"), own).startswith(told)
    told = "All 2 sites answer. kim put everything on hold." if held else "The estate is being read."
    assert said(site("a"), site("b")) == told


def test_a_page_that_needs_the_estate_before_it_is_read_says_to_load_it_again() -> None:
    """And sends no one to look at members of a store that answers."""
    office = SimpleNamespace(facts=None, situation=SimpleNamespace(problem=""))
    with pytest.raises(Unavailable) as raised:
        WarRoom.facts.fget(SimpleNamespace(office=office))  # type: ignore[attr-defined]
    told = {"code": raised.value.code, "detail": raised.value.message, "hint": raised.value.hint}
    clock = SimpleNamespace(now_ms=lambda: 1_796_000_000_000)
    app = SimpleNamespace(state=SimpleNamespace(room=SimpleNamespace(office=SimpleNamespace(clock=clock))))
    request = Request({"type": "http", "app": app})
    page = asyncio.run(problem(request, {**told, "status": 503, "request": "1"})).decode()
    assert "Not available now" in page
    assert "The estate is being read." in page
    assert "Reload this page in a moment" in page
    assert "majority" not in page
