"""Connection strings and synchronous sets are read as PostgreSQL reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.drivers.postgres.link import (
    SyncSet,
    all_of,
    format_conninfo,
    literal,
    parse_conninfo,
    parse_sync_set,
)
from evac.model.errors import Permanent

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", SyncSet()),
        ("  ", SyncSet()),
        ("anyang", SyncSet("first", 1, ("anyang",))),
        ("any", SyncSet("first", 1, ("any",))),
        ("a, b", SyncSet("first", 1, ("a", "b"))),
        ("*", SyncSet("first", 1, ("*",))),
        ("2 (a, b)", SyncSet("first", 2, ("a", "b"))),
        ('FIRST 1 ("dc-anyang")', SyncSet("first", 1, ("dc-anyang",))),
        ('any 1 (a, "x ""y""")', SyncSet("any", 1, ("a", 'x "y"'))),
        ("ANY 2 (first, any)", SyncSet("any", 2, ("first", "any"))),
    ],
)
def test_each_form_of_the_setting(text: str, expected: SyncSet) -> None:
    assert parse_sync_set(text) == expected


@pytest.mark.parametrize(
    "text", ["FIRST 1 (", "a b", "(a)", "a,,b", "FIRST 1 ()", "FIRST 1 (a,)", "a;b", ","]
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(Permanent):
        parse_sync_set(text)


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        ('FIRST 1 ("dc-anyang")', True),
        ("FIRST 2 (a, b)", True),
        ("ANY 2 (a, b)", True),
        ("FIRST 1 (a, b)", False),
        ("ANY 1 (a, b)", False),
        ("*", False),
        ("", False),
    ],
)
def test_cutting_one_off_stops_all_commits_only_where_each_must_confirm(text: str, strict: bool) -> None:
    assert parse_sync_set(text).every_one is strict


@given(st.lists(NAMES, max_size=4, unique=True))
def test_what_is_written_is_read_back(names: list[str]) -> None:
    wanted = all_of(tuple(names))
    assert parse_sync_set(wanted.text()) == (wanted if names else SyncSet())


@given(st.dictionaries(st.sampled_from(["host", "user", "password", "application_name"]), NAMES))
def test_a_connection_string_is_read_back(pairs: dict[str, str]) -> None:
    assert parse_conninfo(format_conninfo(pairs)) == pairs


def test_a_connection_string_as_a_person_writes_it() -> None:
    text = r"host = 10.0.0.1 port=5432  password='it\'s' options=a\ b user=''"
    assert parse_conninfo(text) == {
        "host": "10.0.0.1",
        "port": "5432",
        "password": "it's",
        "options": "a b",
        "user": "",
    }


def test_an_unreadable_connection_string_is_not_repeated() -> None:
    with pytest.raises(Permanent) as caught:
        parse_conninfo("postgres://app:topsecret@db/x")
    assert "topsecret" not in str(caught.value) + caught.value.hint


def test_a_literal_cannot_be_broken_out_of() -> None:
    assert literal("it's \\ fine") == "'it''s \\ fine'"
    with pytest.raises(Permanent):
        literal("a\0b")
