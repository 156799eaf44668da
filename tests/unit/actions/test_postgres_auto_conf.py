"""What a rejoin wrote into postgresql.auto.conf, the next one reads back, a quote at the end included."""

import pytest

from evac.actions.postgres_conninfo import format_conninfo, parse_conninfo, passfile_line
from evac.actions.postgres_rejoin import _quoted, _value_of


@pytest.mark.parametrize("last", ["dc-pangyo", "it's", "'", "back\\slash", ""])
def test_a_connection_string_survives_the_file(last: str) -> None:
    pairs = {"host": "127.1.0.3", "password": "p'w", "application_name": last}
    line = f"primary_conninfo = '{_quoted(format_conninfo(pairs))}'"
    assert parse_conninfo(_value_of(["# a comment", line], "primary_conninfo")) == pairs


def test_a_password_file_escapes_what_divides_its_fields() -> None:
    assert passfile_line("evac", "a:b\\c") == "*:*:*:evac:a\\:b\\\\c\n"
