"""Backups of PostgreSQL with pg_basebackup in a folder, recovered with the archived log."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import COPY_FOLDER, RESTORED_POSTGRES, DriverSpec, Setting

DRIVER = DriverSpec(
    "pg_basebackup",
    "takes, checks, copies and restores base backups of PostgreSQL with archived WAL, kept in a folder",
    (TakesBackups, RestoresData),
    (
        *COPY_FOLDER,
        Setting(
            "upload_kib",
            "number",
            "maximum rate of backups and copies to it, in KiB/s, without the log written meanwhile",
            "no bound",
            least=32,
            most=1_048_576,
        ),
        Setting("archive", "text", "folder with the archived WAL, uncompressed", "none", reaches="folder"),
        Setting("program", "text", "the program", "`pg_basebackup` in `bin`", reaches="program"),
        *RESTORED_POSTGRES,
    ),
    "evac.drivers.pg_basebackup.driver:PgBasebackupDriver",
    agent_verbs=frozenset({"restore"}),
)
