"""Backups of PostgreSQL in the repositories of pgBackRest."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import RESTORED_POSTGRES, DriverSpec, Setting

DRIVER = DriverSpec(
    "pgbackrest",
    "lists, takes, checks and restores backups of PostgreSQL with pgBackRest",
    (TakesBackups, RestoresData),
    (
        Setting(
            "config",
            "text",
            "absolute path of `pgbackrest.conf`",
            "`/etc/pgbackrest/pgbackrest.conf`",
            reaches="folder",
        ),
        Setting("stanza", "text", "the store's stanza", needed=("store",)),
        Setting("repo", "number", "which of its repositories to use", "1", most=256),
        Setting("type", "text", "type of backup to take", "`incr`", choices=("full", "diff", "incr")),
        Setting("system_id", "text", "system identifier; evac refuses any other", "not compared"),
        Setting("place", "text", "data folder that a run restores to", "none", reaches="folder"),
        Setting(
            "env",
            "list",
            "`NAME=value` or `NAME=reference`, such as `PGBACKREST_REPO1_CIPHER_PASS`",
            reaches="variable",
        ),
        Setting("program", "text", "the program", "`pgbackrest`", reaches="program"),
        *RESTORED_POSTGRES,
    ),
    "evac.drivers.pgbackrest.driver:PgbackrestDriver",
    agent_verbs=frozenset({"restore"}),
)
