"""What a rejoin wrote into postgresql.auto.conf, the next one reads back, a quote at the end included."""

from dataclasses import replace

import pytest

from evac.drivers.postgres.fence import upstream_of
from evac.drivers.postgres.link import Member, format_conninfo, parse_conninfo, passfile_line
from evac.drivers.postgres.rejoin import _quoted, _value_of


@pytest.mark.parametrize("last", ["dc-pangyo", "it's", "'", "back\\slash", ""])
def test_a_connection_string_survives_the_file(last: str) -> None:
    pairs = {"host": "127.1.0.3", "password": "p'w", "application_name": last}
    line = f"primary_conninfo = '{_quoted(format_conninfo(pairs))}'"
    assert parse_conninfo(_value_of(["# a comment", line], "primary_conninfo")) == pairs


def test_a_password_file_escapes_what_divides_its_fields() -> None:
    assert passfile_line("evac", "a:b\\c") == "*:*:*:evac:a\\:b\\\\c\n"


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        ("", True, {"passfile": "/data.evac-pgpass"}),
        ("passfile=/old.evac-pgpass", True, {"passfile": "/data.evac-pgpass"}),
        ("passfile=/etc/own", False, {"passfile": "/etc/own"}),
        ("password=theirs", False, {"password": "theirs"}),
    ],
)
def test_a_password_file_is_written_only_where_one_is_missing(
    before: str, asked: bool, after: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVAC_TEST_PASSWORD", "ours")
    member = Member("127.1.0.3", 5432, "evac", "env:EVAC_TEST_PASSWORD", "postgres", "dc-pangyo")
    calls: list[str] = []

    def write() -> str:
        calls.append("written")
        return "/data.evac-pgpass"

    found = parse_conninfo(upstream_of(before, member, replace(member, host="127.1.0.4"), write))
    assert {key: found[key] for key in ("passfile", "password") if key in found} == after
    assert bool(calls) == asked
    from_afar = parse_conninfo(upstream_of(before, member, member))
    assert ("password" in from_afar) == ("passfile" not in before)
