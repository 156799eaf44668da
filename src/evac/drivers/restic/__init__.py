"""Backups in a restic repository."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "restic",
    "lists, takes, checks, copies and restores backups of folders with restic",
    (TakesBackups, RestoresData),
    (
        Setting(
            "repository",
            "text",
            "in restic's notation, such as `rest:https://backup.example/orders/`",
            needed=("store", "backup"),
            reaches="repository",
        ),
        Setting("password", "secret", "password of the repository", needed=("store", "backup")),
        Setting("user", "text", "user of the rest-server", "none"),
        Setting("user_password", "secret", "password of that user", "none"),
        Setting(
            "env", "list", "`NAME=value` or `NAME=reference`, such as keys of S3", "none", reaches="variable"
        ),
        Setting("paths", "list", "absolute paths of the folders to back up", reaches="folder"),
        Setting(
            "repository_id",
            "text",
            "ID of the repository (`restic cat config` shows it); evac refuses any other",
            "not compared",
        ),
        Setting("place", "text", "folder that a run restores into", "none", reaches="folder"),
        Setting("upload_kib", "number", "maximum upload rate in KiB/s", "no bound"),
        Setting("download_kib", "number", "maximum download rate in KiB/s", "no bound"),
        Setting("cache", "text", "folder for restic's cache", "none is kept", reaches="folder"),
        Setting(
            "access_log",
            "text",
            "log of the rest-server (`--log`), if evac can read it: refused deletions raise alerts",
            "none is read",
            reaches="folder",
        ),
        Setting("program", "text", "the program", "`restic`", reaches="program"),
    ),
    "evac.drivers.restic.driver:ResticDriver",
    agent_verbs=frozenset({"restore"}),
)
