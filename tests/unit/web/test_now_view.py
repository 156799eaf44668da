"""Why a service stands on the page Now among those that are not as they should be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evac.office.facts import ServiceAt, ServiceFacts
from evac.office.values import SiteSeen
from evac.web.pages.now_view import _unwell


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
