"""What is seen of a site before it is taken for lost: what answers, accepts writes and is served there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evac.app.observing import look_at, observe
from evac.drivers.capabilities import ProbeReport, RoleReport
from evac.drivers.registry import Drivers
from evac.model.errors import Permanent, Retryable
from evac.model.estate import Endpoint, Estate, Service, Site, Store, StoreMember
from evac.model.fleet import AT_SITE, Replicas
from evac.model.observation import LeavingSite
from evac.views.documents import StepChecked, dry_run_of, dry_run_text
from evac.views.situation_view import site_words

SITES = ("east", "west")
ESTATE = Estate(
    "two",
    sites=tuple(Site(site) for site in SITES),
    services=(Service("shop", people=40_000_000), Service("wiki", people=1_000_000)),
    stores=(Store("db", "db", "postgresql", (StoreMember("west", "primary"), StoreMember("east", "sync"))),),
    replicas=Replicas(
        np.array([0, 0, 1], np.int32),
        np.full(3, AT_SITE, np.uint8),
        np.array([0, 1, 1], np.int32),
        np.array([1, 2, 1], np.int64),
    ),
    endpoints=tuple(Endpoint(f"db-{site}", "db", site, "postgres", {"host": site}) for site in SITES),
)


class Databases:
    """site -> its role, or the error that is raised."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found

    async def report_role(self, action: Any, timeout_s: float) -> RoleReport:
        found = self._found[action.at]
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, RoleReport) else RoleReport(found)

    async def probe(self, action: Any, timeout_s: float) -> ProbeReport:
        await self.report_role(action, timeout_s)
        return ProbeReport(True)

    async def close(self) -> None:
        """Nothing is open."""


def look(estate: Estate, **found: Any) -> LeavingSite:
    drivers = Drivers({"postgres": lambda: Databases(found)})  # type: ignore[dict-item, return-value]
    return asyncio.run(look_at(estate, drivers, ("west",), 7))[0]


def test_says_what_answers_and_what_is_given_up() -> None:
    seen = look(ESTATE, west="primary", east="replica")
    assert seen == LeavingSite("west", "answers", 7, ("db",), ("db",), 2, 41_000_000)


@pytest.mark.parametrize(
    ("confirms", "role"),
    [(("east",), "sync"), (("far", "east"), "sync"), (("east,far",), "async"), ((), "async")],
)
def test_a_copy_is_synchronous_if_its_primary_counts_on_its_whole_name(
    confirms: tuple[str, ...], role: str
) -> None:
    """A name may have a comma in it, as a connection string may state any."""
    named = tuple(replace(end, settings={"host": end.at, "name": end.at}) for end in ESTATE.endpoints)
    found = {"west": RoleReport("primary", confirms=confirms), "east": RoleReport("replica", 0)}
    drivers = Drivers({"postgres": lambda: Databases(found)})  # type: ignore[dict-item, return-value]
    seen = asyncio.run(observe(replace(ESTATE, endpoints=named), drivers, 7))
    assert {one.site: one.role for one in seen.members} == {"west": "primary", "east": role}


@pytest.mark.parametrize(
    ("people", "said"),
    [
        ((None, 1_000_000), "at least 1 million users"),
        ((None, None), "an unknown number of users"),
        ((0, 5), "5 users"),
    ],
)
def test_people_whom_nobody_states_are_not_nobody(people: tuple[int | None, int | None], said: str) -> None:
    services = (Service("shop", people=people[0]), Service("wiki", people=people[1]))
    seen = look(replace(ESTATE, services=services), west="primary", east="replica")
    assert seen.unstated == people.count(None)
    assert f"; 2 services, {said}" in site_words(seen)


def test_a_database_that_lets_nobody_in_answers() -> None:
    seen = look(ESTATE, west=Permanent("refused", "no password", "give one"), east="primary")
    assert (seen.state, seen.writable) == ("answers", ())


def test_silence_and_not_knowing_are_different() -> None:
    gone = Retryable("unreachable", "it burns")
    assert look(ESTATE, west=gone, east="replica").state == "silent"
    assert look(Estate("two", sites=ESTATE.sites), west=gone).state == "unknown"


def test_the_last_site_is_said_to_be_that() -> None:
    assert look(replace(ESTATE, lost=("east",)), west="primary").is_last
    assert not look(ESTATE, west="primary").is_last


@pytest.mark.parametrize("state", ["silent", "answers"])
@pytest.mark.parametrize("problems", [(), ("the server refuses connections",)])
def test_a_dry_run_says_one_next_step_and_not_to_execute_what_would_fail(
    problems: tuple[str, ...], state: str
) -> None:
    step = StepChecked("redirect:shop", ("shift",), problems, False, "")
    seen = replace(look(ESTATE, west=RoleReport("primary")), state=state)  # type: ignore[arg-type]
    text = dry_run_text(dry_run_of("sha256:p", "loss of west", [step], (), (seen,)), "p.json", 200, False)
    last = text.splitlines()[-1]
    assert ("--execute" not in last) == bool(problems), last
    assert ("ask again: evac apply p.json ESTATE" in last) == bool(problems), last
