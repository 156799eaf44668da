"""Backups that other tools take: read from what those tools say, never taken or restored."""

from evac.drivers.capabilities import TakesBackups
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "backup_reader",
    "reads the backups that Velero, k8up, CloudNativePG, WAL-G or Kopia list; takes and restores none",
    (TakesBackups,),
    (
        Setting(
            "format",
            "text",
            "whose words they are",
            needed=("store", "backup"),
            choices=("velero", "k8up", "cloudnativepg", "wal-g", "kopia"),
        ),
        Setting(
            "argv",
            "list",
            "the program that lists them as JSON, and its arguments",
            needed=("store", "backup"),
            unless="file",
            reaches="program",
        ),
        Setting("file", "text", "full path of a file with the same", "what `argv` prints", reaches="folder"),
        Setting("source", "text", "only those of this cluster, schedule, host or path", "all of them"),
        Setting(
            "check_argv",
            "list",
            "for `wal-g` and `kopia`: the program that checks, and its arguments",
            "nothing is checked",
            reaches="program",
        ),
        Setting("env", "list", "`NAME=value` or `NAME=reference`", "none"),
    ),
    "evac.drivers.backup_reader.driver:BackupReaderDriver",
)
