"""What the driver of MariaDB makes of a server that is another one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evac.drivers.mariadb.link import (
    MariadbAuthority,
    MariadbFacts,
    MariadbLink,
    MariadbMember,
    read_facts,
)
from evac.model.errors import Permanent

MYSQL = {"version": "8.0.36", "log_bin": "ON", "read_only": "OFF", "server_id": "1"}
"""What MySQL 8.0 answers of the variables that are asked for: it has `gtid_executed`, and no positions."""


def test_mysql_is_named_and_refused_for_good() -> None:
    """It would answer the next statement with a syntax error, which looks as if asking again could help."""

    class Mysql(MariadbLink):
        async def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
            assert "VARIABLES" in statement, "nothing else is asked of it"
            return [{"Variable_name": name, "Value": value} for name, value in MYSQL.items()]

    member = MariadbMember("db.example", 3306, "evac", "", "", "", "evac", "")
    with pytest.raises(Permanent) as raised:
        asyncio.run(read_facts(Mysql(member, 0.0)))
    assert raised.value.code == "mariadb-topology"
    assert "MySQL 8.0.36" in raised.value.message
    assert "command" in raised.value.hint


@pytest.mark.parametrize("hanging", [0, 1])
@pytest.mark.parametrize(
    ("confirms", "copies", "named"),
    [
        (("dc-anyang",), (), "dc-anyang"),
        (("dc-anyang",), ("dc-ansan",), "dc-anyang"),
        (("dc-anyang",), ("dc-anyang",), "dc-anyang"),
        ((), (), "any copy"),
    ],
)
def test_a_primary_that_no_copy_confirms_waits_also_while_nobody_commits(
    hanging: int, confirms: tuple[str, ...], copies: tuple[str, ...], named: str
) -> None:
    """The services of the store start only once its commits go on: until then nothing hangs."""

    def waits_for(waits: bool, clients: int) -> tuple[str, ...]:
        facts = dict.fromkeys(MariadbFacts.__dataclass_fields__, False) | {
            "clients": clients,
            "copies": copies,
            "hanging": hanging,
            "seen": MariadbAuthority(confirms=confirms),
            "waits": waits,
        }
        return MariadbFacts(**facts).report().waits_for  # type: ignore[arg-type]

    assert waits_for(True, 0) == (named,)
    assert waits_for(False, 0) == ((named,) if hanging else ()), "with a time limit, only while one hangs"
    assert waits_for(True, 1) == (), "a commit in flight: the copy that is left confirms it"


@pytest.mark.parametrize(
    ("waits", "clients", "copies", "confirms", "one_of_several"),
    [
        (True, 1, ("dc-anyang",), ("dc-anyang",), False),
        (True, 2, ("dc-anyang", "dc-ansan"), (), True),
        (True, 1, ("dc-anyang", "dc-ansan"), (), True),
        (True, 0, ("dc-anyang", "dc-ansan"), (), False),
        (False, 2, ("dc-anyang", "dc-ansan"), (), False),
    ],
)
def test_one_of_several_copies_confirms_where_none_is_certain(
    waits: bool, clients: int, copies: tuple[str, ...], confirms: tuple[str, ...], one_of_several: bool
) -> None:
    facts = dict.fromkeys(MariadbFacts.__dataclass_fields__, False) | {
        "clients": clients,
        "copies": copies,
        "seen": MariadbAuthority(),
        "waits": waits,
    }
    report = MariadbFacts(**facts).report()  # type: ignore[arg-type]
    assert (report.role, report.confirms, report.one_of_several) == ("primary", confirms, one_of_several)
