"""Copies in a repository of Borg."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "borg",
    "lists, takes, checks and restores copies of folders with Borg",
    (TakesBackups, RestoresData),
    (
        Setting(
            "repository",
            "text",
            "as Borg writes it, such as `ssh://backup@host/./orders`",
            needed=("store", "backup"),
        ),
        Setting("passphrase", "secret", "passphrase of the repository", "none: it is not encrypted"),
        Setting("env", "list", "`NAME=value` or `NAME=reference`, such as `BORG_RSH`", "none"),
        Setting("paths", "list", "full paths of the folders that a copy must hold", reaches="folder"),
        Setting(
            "repository_id",
            "text",
            "id of the repository; another one is refused (`borg info` shows it)",
            "not compared",
        ),
        Setting("place", "text", "folder that a run restores into", "none", reaches="folder"),
        Setting("upload_kib", "number", "most KiB/s that are sent", "no bound"),
        Setting("base", "text", "folder for Borg's keys and caches", "as Borg does", reaches="folder"),
        Setting("program", "text", "the program", "`borg`", reaches="program"),
    ),
    "evac.drivers.borg.driver:BorgDriver",
    agent_verbs=frozenset({"restore"}),
)
