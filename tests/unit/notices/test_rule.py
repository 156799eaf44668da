"""The rule that makes notices: nothing twice, nothing too early, and every end after its beginning."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from evac.notices.rule import AGAIN_MS, OPEN_MOST, QUIET_MS, SINGLE_MOST, bundled, tell
from evac.notices.values import KINDS, SEVERITIES, Concern, Known, Memory, Message, News, rank

PATIENCE_MS = 20_000
STEP_MS = 10_000


def concern(name: str, kind: Any = "site", severity: Any = "error", patience_ms: int = 0) -> Concern:
    return Concern(f"{kind}/{name}", kind, severity, f"{name} is not well", patience_ms=patience_ms)


def holds(*rows: Concern, kind: Any = "site") -> Known:
    return Known({kind: rows})


def told(memory: Memory, known: Known, at_ms: int) -> tuple[Memory, list[tuple[str, str]]]:
    after, messages = tell(memory, known, at_ms)
    return after, [(one.state, one.words) for one in messages]


def test_a_concern_is_told_once_and_so_is_its_end() -> None:
    memory, found = told(Memory(), holds(concern("north")), 0)
    assert found == [("begins", "north is not well")]
    memory, found = told(memory, holds(concern("north")), 1)
    assert found == []
    memory, found = told(memory, holds(), 10)
    assert found == []
    memory, found = told(memory, holds(), 10 + QUIET_MS)
    assert found == [("over", "Resolved: north is not well")]
    assert told(memory, holds(), 10 * QUIET_MS) == (memory, [])


def test_what_becomes_graver_is_told_and_what_becomes_milder_is_not() -> None:
    memory, _ = told(Memory(), holds(concern("north", severity="warning")), 0)
    memory, found = told(memory, holds(concern("north", severity="critical")), 1)
    assert found == [("worse", "north is not well")]
    memory, found = told(memory, holds(concern("north", severity="warning")), 2)
    assert found == []
    memory, found = told(memory, holds(concern("north", severity="critical")), 3)
    assert found == []


def test_what_comes_and_goes_is_one_concern() -> None:
    memory, states = Memory(), []
    for second in range(0, 120, 5):
        known = holds(concern("north")) if second % 10 == 0 else holds()
        memory, found = told(memory, known, second * 1_000)
        states += [state for state, _ in found]
    assert states == ["begins"]


def test_a_suspicion_that_ends_by_itself_is_told_to_nobody() -> None:
    row = concern("north", patience_ms=PATIENCE_MS)
    memory, found = told(Memory(), holds(row), 0)
    memory, more = told(memory, holds(row), PATIENCE_MS - 1)
    memory, rest = told(memory, holds(), PATIENCE_MS)
    assert found == more == rest == []
    assert not memory.open


def test_findings_of_the_first_look_are_no_news_but_those_that_come_later_are() -> None:
    old, new = concern("EV101", "finding"), concern("EV103", "finding")
    memory, found = told(Memory(), holds(old, kind="finding"), 0)
    assert found == []
    memory, found = told(memory, holds(old, new, kind="finding"), 1)
    assert found == [("begins", "EV103 is not well")]
    memory, _ = told(memory, holds(new, kind="finding"), 2)
    memory, found = told(memory, holds(old, new, kind="finding"), 3)
    assert found == [("begins", "EV101 is not well")], "it was gone, so it is new"


def test_a_kind_that_could_not_be_looked_at_changes_nothing() -> None:
    memory, _ = told(Memory(), holds(concern("north")), 0)
    assert told(memory, Known(), 10 * QUIET_MS) == (memory, [])


def test_many_at_once_are_one_message() -> None:
    rows = [concern(f"EV{n:03}", "finding") for n in range(40)]
    memory, _ = told(Memory(), holds(kind="finding"), 0)
    memory, messages = tell(memory, holds(*rows, kind="finding"), 1)
    assert len(messages) == 1
    assert messages[0].words.startswith("40 new audit errors: EV000 is not well; ")
    assert messages[0].words.endswith("and 37 more")
    assert len(messages[0].keys) == 40
    _, messages = tell(memory, Known({"finding": ()}), 2)
    assert messages == ()


def test_more_than_can_be_followed_are_counted() -> None:
    memory, _ = told(Memory(), holds(kind="finding"), 0)
    rows = [concern(f"EV{n:04}", "finding") for n in range(OPEN_MOST + 7)]
    memory, messages = tell(memory, holds(*rows, kind="finding"), 1)
    assert len(memory.open) == OPEN_MOST
    assert any(one.words.startswith("7 more new audit errors") for one in messages)
    assert tell(memory, holds(*rows, kind="finding"), 2)[1] == ()


def test_news_are_told_once_for_a_while() -> None:
    known = Known(news=(News("trouble", "error", "no plan"),))
    memory, found = told(Memory(), known, 0)
    assert found == [("once", "no plan")]
    memory, found = told(memory, known, AGAIN_MS - 1)
    assert found == []
    assert told(memory, known, AGAIN_MS)[1] == [("once", "no plan")]


names = st.sampled_from(["a", "b", "c"])
rows = st.builds(
    concern,
    names,
    st.sampled_from(["site", "finding", "tool"]),
    st.sampled_from(SEVERITIES),
    st.sampled_from([0, PATIENCE_MS]),
)


@st.composite
def looks(draw: st.DrawFn) -> list[Known]:
    def look() -> Known:
        found = {row.key: row for row in draw(st.lists(rows, max_size=6))}
        kinds = draw(st.sets(st.sampled_from(["site", "finding", "tool"])))
        return Known({kind: tuple(r for r in found.values() if r.kind == kind) for kind in kinds})  # type: ignore[misc]

    return [look() for _ in range(draw(st.integers(1, 12)))]


@settings(max_examples=80, deadline=None)
@given(looks())
def test_whatever_is_seen_the_invariants_hold(seen: list[Known]) -> None:
    memory = Memory()
    begun: dict[str, str] = {}
    since: dict[str, int] = {}
    for number, known in enumerate(seen):
        now_ms = number * STEP_MS
        present = {row.key: row for found in known.holds.values() for row in found}
        for key in [key for key in since if key not in present and key.partition("/")[0] in known.holds]:
            del since[key]
        for key in present:
            since.setdefault(key, now_ms)
        memory, messages = tell(memory, known, now_ms)
        for one in messages:
            for key in one.keys:
                if one.state == "begins":
                    assert key not in begun, "it begins once before it is over"
                    assert key in present
                    assert now_ms - since[key] >= present[key].patience_ms
                    begun[key] = one.severity
                elif one.state == "worse":
                    assert rank(one.severity) > rank(begun[key])  # type: ignore[arg-type]
                    begun[key] = one.severity
                else:
                    assert one.state == "over"
                    assert key in begun
                    assert key not in present
                    del begun[key]
        assert tell(memory, known, now_ms) == (memory, ()), "the same look again says nothing"
        assert {key for key, held in memory.open.items() if held.told is not None} == set(begun)


@given(
    st.lists(
        st.builds(
            Message,
            st.just(""),
            st.sampled_from(KINDS),
            st.sampled_from(["begins", "over"]),
            st.sampled_from(SEVERITIES),
            st.text("ab", max_size=3),
            st.just(""),
            st.just(0),
            st.just(("k",)),
        ),
        max_size=60,
    )
)
def test_bundles_lose_no_key_and_are_few(drafts: list[Message]) -> None:
    found = bundled(drafts)
    assert sum(len(one.keys) for one in found) == len(drafts)
    assert len(found) <= len(KINDS) * 2 * SINGLE_MOST
    assert [rank(one.severity) for one in found] == sorted((rank(o.severity) for o in found), reverse=True)
