"""Copies in a repository of restic."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "restic",
    "lists, takes, checks, copies and restores copies of folders with restic",
    (TakesBackups, RestoresData),
    (
        Setting(
            "repository",
            "text",
            "as restic writes it, such as `rest:https://backup.example/orders/`",
            needed=("store", "backup"),
        ),
        Setting("password", "secret", "password of the repository", needed=("store", "backup")),
        Setting("user", "text", "who signs in at a rest-server", "none"),
        Setting("user_password", "secret", "with which password", "none"),
        Setting(
            "env", "list", "`NAME=value` or `NAME=reference`, such as keys of S3", "none", reaches="variable"
        ),
        Setting("paths", "list", "full paths of the folders that a copy must hold", reaches="folder"),
        Setting(
            "repository_id",
            "text",
            "id of the repository; another one is refused (`restic cat config` shows it)",
            "not compared",
        ),
        Setting("place", "text", "folder that a run restores into", "none", reaches="folder"),
        Setting("upload_kib", "number", "most KiB/s that are sent", "no bound"),
        Setting("download_kib", "number", "most KiB/s that are received", "no bound"),
        Setting("cache", "text", "folder for restic's cache", "none is kept", reaches="folder"),
        Setting(
            "access_log",
            "text",
            "log of the rest-server (`--log`), if evac can read it: deletions that it refuses are alerts",
            "none is read",
            reaches="folder",
        ),
        Setting("program", "text", "the program", "`restic`", reaches="program"),
    ),
    "evac.drivers.restic.driver:ResticDriver",
    agent_verbs=frozenset({"restore"}),
)
