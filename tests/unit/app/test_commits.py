"""Stores that no copy confirms although one should, as a leader sees them over time."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac import estate as estates
from evac.app.commits import Commits
from evac.model.estate import Estate
from evac.model.observation import MemberSeen, Observation, Role
from evac.model.run_policy import PROFILES

ESTATE = """evac: 1
sites: {pangyo: {}, anyang: {}, ansan: {}}
stores:
  messages:
    engine: postgresql
    rpo: 0 s
    members: [{at: pangyo, mode: primary}, {at: ansan, mode: async, lag: 1 s}, {at: anyang, mode: sync}]
endpoints:
  m-pangyo: {for: messages, at: pangyo, driver: postgres, settings: {host: 127.0.0.1, name: dc-pangyo}}
  m-anyang: {for: messages, at: anyang, driver: postgres, settings: {host: 127.0.0.2, name: dc-anyang}}
  m-ansan: {for: messages, at: ansan, driver: postgres, settings: {host: 127.0.0.3, name: dc-ansan}}
"""
PROFILE = PROFILES["fast"]
SETTLED_MS = PROFILE.clear_ms


class Clock:
    at_ms = 0

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


class Leader:
    def __init__(self, estate: Estate) -> None:
        self.clock = Clock()
        self.lost: tuple[str, ...] = ()
        self.commits = Commits(self.clock, lambda: estate, lambda: self.lost, lambda: PROFILE)

    def look(
        self,
        at_ms: int,
        anyang: Role = "async",
        ansan: Role = "async",
        *,
        pangyo: Role = "primary",
        confirms: tuple[str, ...] = (),
        waits_for: tuple[str, ...] = (),
        term: int = 1,
    ) -> list[str] | None:
        """Copies that may confirm; None if the store is not known to lack one."""
        self.clock.at_ms = at_ms
        seen = [MemberSeen("messages", site, role) for site, role in (("anyang", anyang), ("ansan", ansan))]
        seen.append(MemberSeen("messages", "pangyo", pangyo, 0, "", waits_for, confirms=confirms))
        self.commits.note(Observation(0, tuple(sorted(seen, key=lambda one: one.site))), term)
        found = self.commits.unconfirmed().get("messages")
        return None if found is None else list(found.copies)


def _load(folder: Path, text: str = ESTATE) -> Estate:
    (folder / "estate.yaml").write_text(text)
    return estates.load(folder)


def test_a_copy_that_is_back_without_a_restore_may_confirm_again(tmp_path: Path) -> None:
    leader = Leader(_load(tmp_path))
    assert leader.look(0, "unreachable") is None
    assert leader.look(SETTLED_MS, "unreachable") == ["ansan"]
    assert leader.look(SETTLED_MS + 1_000) == ["ansan"], "it is only just back"
    assert leader.look(2 * SETTLED_MS + 1_000) == ["anyang", "ansan"], (
        "first the one that confirms by the files"
    )
    plan = orjson.loads(leader.commits.unconfirmed()["messages"].copies["anyang"])["protect"]
    assert (plan["at"], plan["synchronous"], plan["again"]) == ("pangyo", ["dc-anyang"], True)
    assert leader.look(2 * SETTLED_MS + 2_000, "sync", confirms=("dc-anyang",)) is None


@pytest.mark.parametrize("lost", ["anyang", "anyang/hall-1"])
def test_a_copy_in_what_is_lost_waits_for_its_restore(tmp_path: Path, lost: str) -> None:
    """A hall may be lost at a site that is not."""
    text = ESTATE.replace("stores:", "halls: {anyang/hall-1: {}}\nstores:")
    leader = Leader(_load(tmp_path, text.replace("at: anyang, mode", "at: anyang/hall-1, mode")))
    leader.lost = (lost,)
    leader.look(0)
    assert leader.look(10 * SETTLED_MS) == ["ansan"]
    leader.lost = ()
    assert leader.look(10 * SETTLED_MS + 1_000) == ["anyang", "ansan"]


def test_a_new_leader_sees_the_same_after_the_same_time(tmp_path: Path) -> None:
    estate = _load(tmp_path)
    for leader in (Leader(estate), Leader(estate)):
        assert leader.look(7_000) is None
        assert leader.look(7_000 + SETTLED_MS) == ["anyang", "ansan"]


@pytest.mark.parametrize(
    "between",
    [
        {"pangyo": "unreachable"},
        {"anyang": "primary"},
        {"confirms": ("dc-anyang",)},
        {"waits_for": ("dc-anyang",)},
    ],
)
def test_what_shows_nothing_begins_the_time_again(tmp_path: Path, between: dict[str, object]) -> None:
    """A primary that was not seen, a second one, and a copy that confirms or is waited for."""
    leader = Leader(_load(tmp_path))
    leader.look(0)
    assert leader.look(SETTLED_MS, **between) is None  # type: ignore[arg-type]
    assert leader.look(SETTLED_MS + 1_000) is None
    assert leader.look(2 * SETTLED_MS + 1_000) is not None


@pytest.mark.parametrize(("waits_for", "confirms"), [((), ()), (("dc-anyang",), ()), ((), ("dc-anyang",))])
def test_time_in_which_another_one_led_does_not_count(
    tmp_path: Path, waits_for: tuple[str, ...], confirms: tuple[str, ...]
) -> None:
    """A copy may have followed and failed again meanwhile."""
    leader = Leader(_load(tmp_path))

    def shown(at_ms: int, term: int) -> bool:
        leader.look(at_ms, waits_for=waits_for, confirms=confirms, term=term)
        seen = leader.commits
        return any((seen.hang(), seen.go_on(), seen.confirmed(), seen.unconfirmed()))

    assert [shown(at_ms, 1) for at_ms in (0, SETTLED_MS)] == [False, True]
    assert [shown(at_ms, 3) for at_ms in (10 * SETTLED_MS, 11 * SETTLED_MS)] == [False, True]


@pytest.mark.parametrize("waits_for", [(), ("dc-anyang",)])
def test_a_store_with_two_primaries_neither_hangs_nor_goes_on(
    tmp_path: Path, waits_for: tuple[str, ...]
) -> None:
    """Either of them may be the one that nobody uses any more."""
    leader = Leader(_load(tmp_path))

    def shown() -> tuple[bool, bool]:
        return "messages" in leader.commits.hang(), "messages" in leader.commits.go_on()

    for at_ms in (0, SETTLED_MS):
        leader.look(at_ms, waits_for=waits_for)
    assert shown() == (bool(waits_for), not waits_for)
    for at_ms in (2 * SETTLED_MS, 3 * SETTLED_MS):
        leader.look(at_ms, ansan="primary", waits_for=waits_for)
        assert shown() == (False, False)
    leader.look(4 * SETTLED_MS, waits_for=waits_for)
    assert shown() == (False, False), "it counts anew"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    rpo: 0 s\n", "    rpo: 5 s\n    quorum: true\n"),
        ("driver: postgres, settings: {host: 127.0.0.1", "driver: redis, settings: {host: 127.0.0.1"),
    ],
)
def test_stores_of_which_evac_does_not_set_who_confirms_are_left_out(
    tmp_path: Path, old: str, new: str
) -> None:
    assert old in ESTATE
    leader = Leader(_load(tmp_path, ESTATE.replace(old, new)))
    leader.look(0)
    assert leader.look(10 * SETTLED_MS) is None


def test_a_store_that_may_lose_data_and_has_no_synchronous_copy_lacks_none(tmp_path: Path) -> None:
    text = ESTATE.replace("    rpo: 0 s\n", "    rpo: 5 s\n").replace("mode: sync", "mode: async, lag: 1 s")
    leader = Leader(_load(tmp_path, text))
    leader.look(0)
    assert leader.look(10 * SETTLED_MS) is None


ROLES = st.sampled_from(("primary", "sync", "async", "detached", "none", "unreachable"))
LOOKS = st.lists(
    st.tuples(st.integers(1, 20_000), ROLES, ROLES, ROLES, st.booleans(), st.booleans()), max_size=30
)


@given(looks=LOOKS)
def test_it_is_never_said_while_the_last_observation_shows_otherwise(
    looks: list[tuple[int, Role, Role, Role, bool, bool]], estate: Estate
) -> None:
    leader, at_ms = Leader(estate), 0
    for step_ms, pangyo, anyang, ansan, confirms, waits in looks:
        at_ms += step_ms
        found = leader.look(
            at_ms,
            anyang,
            ansan,
            pangyo=pangyo,
            confirms=("dc-ansan",) if confirms else (),
            waits_for=("dc-ansan",) if waits else (),
        )
        primaries = (pangyo, anyang, ansan).count("primary")
        if found is not None:
            assert primaries == 1
            assert pangyo != "primary" or not (confirms or waits)
            assert set(found) <= {
                site for site, role in (("anyang", anyang), ("ansan", ansan)) if role in ("sync", "async")
            } | ({"pangyo"} if pangyo in ("sync", "async") else set())


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    return _load(tmp_path_factory.mktemp("commits"))
