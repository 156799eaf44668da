"""PostgreSQL without another manager."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from evac.drivers.capabilities import OF_A_DATABASE
from evac.drivers.port import Value
from evac.drivers.spec import ByHand, DriverSpec, Setting


def _promoted_by_hand(settings: Mapping[str, Value], parameters: Mapping[str, Value]) -> ByHand:
    psql = "psql " + shlex.quote(
        f"host={settings.get('host', '')} port={settings.get('port', 5432)} "
        f"user={settings.get('user', 'postgres')} dbname={settings.get('dbname', 'postgres')}"
    )
    return ByHand(f'{psql} -c "select pg_promote()"', f'{psql} -Atc "select pg_is_in_recovery()" prints f')


DRIVER = DriverSpec(
    "postgres",
    "fences, promotes, demotes, protects and rejoins the members of one PostgreSQL data set",
    OF_A_DATABASE,
    (
        Setting(
            "host",
            "text",
            "where it accepts connections from every controller and every copy",
            needed=("store",),
            reaches="host",
        ),
        Setting("port", "number", "its port", "5432", most=65_535),
        Setting("user", "text", "a superuser", "`postgres`"),
        Setting(
            "password",
            "secret",
            "a reference to the password; the other members are reached with the same one",
            "none",
        ),
        Setting("dbname", "text", "the database to connect to", "`postgres`"),
        Setting("name", "text", "its `application_name`, as its primary sees it", "none"),
        Setting(
            "data",
            "text",
            "its data folder, on the agent's machine; without it, evac can only set "
            "which primary the copy follows",
            "none",
            reaches="folder",
        ),
        Setting(
            "bin",
            "text",
            "folder of PostgreSQL's programs on that machine",
            needed=("store",),
            with_="data",
            reaches="program",
        ),
        Setting("system_user", "text", "owner of the data", "`postgres`"),
        Setting(
            "archive",
            "text",
            "folder there, for data that only an old primary had",
            needed=("store",),
            with_="data",
            reaches="folder",
        ),
        Setting("archive_rows", "list", "tables, or `*`, whose rows are also written out", "none"),
        Setting("start", "text", "how it starts after a rewind", "`pg_ctl`", choices=("pg_ctl", "unit")),
    ),
    "evac.drivers.postgres.driver:PostgresDriver",
    extra="postgres",
    proofs=("sync",),
    probe="data",
    fetches_from_copies=True,
    agent_may=True,
    agent_verbs=frozenset({"rejoin"}),
    by_hand=MappingProxyType({"promote": _promoted_by_hand}),
)
