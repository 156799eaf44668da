"""Backups in a Borg repository."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "borg",
    "lists, takes, checks and restores backups of folders with Borg",
    (TakesBackups, RestoresData),
    (
        Setting(
            "repository",
            "text",
            "in Borg's notation, such as `ssh://backup@host/./orders`",
            needed=("store", "backup"),
            reaches="repository",
        ),
        Setting(
            "passphrase", "secret", "passphrase of the repository", "none: the repository is not encrypted"
        ),
        Setting(
            "env", "list", "`NAME=value` or `NAME=reference`, such as `BORG_RSH`", "none", reaches="variable"
        ),
        Setting("paths", "list", "absolute paths of the folders to back up", reaches="folder"),
        Setting(
            "repository_id",
            "text",
            "ID of the repository (`borg info` shows it); evac refuses any other",
            "not compared",
        ),
        Setting("place", "text", "folder that a run restores into", "none", reaches="folder"),
        Setting("upload_kib", "number", "maximum upload rate in KiB/s", "no bound"),
        Setting("base", "text", "folder for Borg's keys and caches", "Borg's default", reaches="folder"),
        Setting("program", "text", "the program", "`borg`", reaches="program"),
    ),
    "evac.drivers.borg.driver:BorgDriver",
    agent_verbs=frozenset({"restore"}),
)
