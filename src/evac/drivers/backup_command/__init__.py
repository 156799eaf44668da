"""Backups by a company's own programs, which respond in JSON."""

from types import MappingProxyType

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "backup_command",
    "lists, takes, checks and restores backups with your own programs, which reply in JSON",
    (TakesBackups, RestoresData),
    (
        Setting(
            "list_argv",
            "list",
            "the program that lists backups, and its arguments",
            needed=("store", "backup"),
            reaches="program",
        ),
        Setting("take_argv", "list", "takes a backup", "no backups can be taken", reaches="program"),
        Setting("prove_argv", "list", "checks the repository", "nothing can be proved", reaches="program"),
        Setting("restore_argv", "list", "restores a backup", "nothing can be restored", reaches="program"),
        Setting("env", "list", "`NAME=value` or `NAME=reference`", "none", reaches="variable"),
        Setting("place", "text", "folder that a run restores into", "none", reaches="folder"),
        Setting("repository_id", "text", "ID of the repository; evac refuses any other", "not compared"),
    ),
    "evac.drivers.backup_command.driver:BackupCommandDriver",
    agent_verbs=frozenset({"restore"}),
    only_with=MappingProxyType({RestoresData: "restore_argv"}),
)
