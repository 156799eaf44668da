"""Commits that hang because a synchronous replica died: seen on the primary, believed after a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evac import estate as estates
from evac.app.observed_stores import SeenEstate
from evac.app.store_alarms import commits_wait
from evac.drivers.postgres.facts import PostgresFacts, StandbySeen
from evac.drivers.postgres.link import SyncSet
from evac.drivers.registry import Drivers
from evac.model.observation import MemberSeen, Observation
from evac.model.run_policy import PROFILES, RunPolicy
from evac.store.port import MemoryStore

ESTATE = """evac: 1
sites: {pangyo: {}, anyang: {}, ansan: {}}
stores:
  messages:
    engine: postgresql
    members: [{at: pangyo, mode: primary}, {at: anyang, mode: sync}, {at: ansan, mode: async, lag: 1 s}]
endpoints:
  m-pangyo: {for: messages, at: pangyo, driver: postgres, settings: {host: 127.0.0.1, name: dc-pangyo}}
  m-anyang: {for: messages, at: anyang, driver: postgres, settings: {host: 127.0.0.2, name: dc-anyang}}
"""


def facts(**seen: Any) -> PostgresFacts:
    known: dict[str, Any] = {
        "role": "primary",
        "sync": SyncSet("first", 1, ("dc-anyang",)),
        "read_only": False,
        "standbys": (),
    }
    words = ("receiver", "upstream", "system")
    numbers = ("timeline", "lsn", "received", "replayed", "lag_ms", "version")
    rest = (
        dict.fromkeys(words, "") | dict.fromkeys(numbers, 0) | dict.fromkeys(("has_upstream", "fsync"), True)
    )
    return PostgresFacts(**(rest | known | seen))


def standby(name: str, state: str = "streaming") -> StandbySeen:
    return StandbySeen(name, state, "sync", 0, 0)


@pytest.mark.parametrize(
    ("seen", "waits"),
    [
        (facts(), ("dc-anyang",)),
        (facts(standbys=(standby("dc-ansan"), standby("dc-anyang", "catchup"))), ("dc-anyang",)),
        (facts(standbys=(standby("dc-anyang"),)), ()),
        (facts(sync=SyncSet()), ()),
        (facts(sync=SyncSet("any", 1, ("dc-anyang", "dc-ansan")), standbys=(standby("dc-ansan"),)), ()),
        (facts(sync=SyncSet("any", 1, ("*",))), ("any copy",)),
        (facts(sync=SyncSet("any", 1, ("*",)), standbys=(standby("walreceiver"),)), ()),
        (facts(sync=SyncSet("first", 2, ("a",)), standbys=(standby("a"),)), ("a",)),
        (facts(sync=SyncSet("first", 2, ("a",)), standbys=(standby("a"), standby("a"))), ()),
        (facts(read_only=True), ()),
        (facts(role="standby"), ()),
    ],
)
def test_a_primary_waits_for_members_that_do_not_stream(seen: PostgresFacts, waits: tuple[str, ...]) -> None:
    assert seen.waits_for() == waits
    assert seen.report().waits_for == waits


class Clock:
    at_ms = 0

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


def test_it_is_believed_after_as_long_as_the_loss_of_a_site(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    clock = Clock()
    policy = RunPolicy(profile=PROFILES["fast"])
    seen = SeenEstate(estates.load(tmp_path), policy, MemoryStore(), Drivers(), clock)

    def look(*names: str, at_ms: int) -> dict[str, tuple[str, ...]]:
        clock.at_ms = at_ms
        seen.commits.note(Observation(0, (MemberSeen("messages", "pangyo", "primary", 0, "", names),)))
        return seen.commits.hang()

    assert look("dc-anyang", at_ms=1_000) == {}
    assert look("dc-anyang", at_ms=13_999) == {}
    clock.at_ms = 60_000
    assert seen.commits.hang() == {}, "nobody looked again: one old look is none"
    assert look("dc-anyang", at_ms=14_000) == {"messages": ("anyang",)}
    assert look(at_ms=15_000) == {}, "it follows again"
    assert look("dc-anyang", at_ms=16_000) == {}, "and every silence counts from its own beginning"


def test_a_primary_that_was_just_made_has_time_to_find_its_copies(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    clock = Clock()
    seen = SeenEstate(
        estates.load(tmp_path), RunPolicy(profile=PROFILES["lab"]), MemoryStore(), Drivers(), clock
    )

    def look(site: str, *names: str, at_ms: int) -> dict[str, tuple[str, ...]]:
        clock.at_ms = at_ms
        seen.commits.note(Observation(0, (MemberSeen("messages", site, "primary", 0, "", names),)))
        return seen.commits.hang()

    look("pangyo", at_ms=1_000)
    for at_ms in range(2_000, 12_000, 1_000):
        assert look("anyang", "dc-anyang", at_ms=at_ms) == {}
    for at_ms in (12_000, 13_000):
        assert look("anyang", "dc-anyang", at_ms=at_ms) == {}
    assert look("anyang", "dc-anyang", at_ms=14_000) == {"messages": ("anyang",)}


def test_commits_go_on_when_that_was_seen_for_as_long(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    clock = Clock()
    seen = SeenEstate(
        estates.load(tmp_path), RunPolicy(profile=PROFILES["fast"]), MemoryStore(), Drivers(), clock
    )

    def look(*members: MemberSeen, at_ms: int) -> frozenset[str]:
        clock.at_ms = at_ms
        seen.commits.note(Observation(0, members))
        return seen.commits.go_on()

    goes_on = MemberSeen("messages", "pangyo", "primary", 0, "", ())
    waits = MemberSeen("messages", "pangyo", "primary", 0, "", ("dc-anyang",))
    silent = MemberSeen("messages", "pangyo", "unreachable", 0, "", ())
    assert look(goes_on, at_ms=1_000) == frozenset()
    assert look(goes_on, at_ms=13_999) == frozenset()
    clock.at_ms = 60_000
    assert seen.commits.go_on() == frozenset(), "nobody looked again"
    assert look(goes_on, at_ms=14_000) == {"messages"}
    assert look(silent, at_ms=15_000) == frozenset(), "a primary that is not seen says nothing"
    assert look(goes_on, at_ms=20_000) == frozenset(), "and it counts anew"
    assert look(waits, at_ms=40_000) == frozenset()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ((), "commits of messages cannot be observed: no primary answers"),
        ((MemberSeen("messages", "pangyo", "unreachable"),), "no primary answers"),
        ((MemberSeen("messages", "pangyo", "primary", waits_for=("dc-anyang",)),), "wait for dc-anyang"),
        (
            (MemberSeen("messages", "pangyo", "primary", confirms=("dc-ansan", "dc-anyang")),),
            "wait for dc-anyang",
        ),
        ((MemberSeen("messages", "pangyo", "primary", confirms=("dc-ansan",)),), ""),
        ((MemberSeen("messages", "pangyo", "primary", confirms=("dc-anyang,dc-ansan",)),), ""),
        ((MemberSeen("messages", "pangyo", "primary"),), ""),
    ],
)
def test_commits_wait_until_a_primary_counts_on_no_lost_copy(
    tmp_path: Path, members: tuple[MemberSeen, ...], words: str
) -> None:
    """Also while it still takes a copy for connected that was cut off just now."""
    (tmp_path / "estate.yaml").write_text(ESTATE)
    found = commits_wait(estates.load(tmp_path), Observation(0, members), "messages", ("anyang",))
    assert words in found
    assert bool(words) is bool(found)
