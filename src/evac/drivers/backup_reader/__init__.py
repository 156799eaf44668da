"""Backups of other tools, read from the tools' reports; evac never takes or restores them."""

from evac.drivers.capabilities import TakesBackups
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "backup_reader",
    "reads the list of backups from Velero, k8up, CloudNativePG, WAL-G or "
    "Kopia; does not take or restore any",
    (TakesBackups,),
    (
        Setting(
            "format",
            "text",
            "the tool that wrote the list",
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
        Setting(
            "file",
            "text",
            "absolute path of a file with the same contents",
            "the output of `argv`",
            reaches="folder",
        ),
        Setting("source", "text", "only backups of this cluster, schedule, host or path", "all backups"),
        Setting(
            "check_argv",
            "list",
            "for `wal-g` and `kopia`: the program that checks, and its arguments",
            "nothing is checked",
            reaches="program",
        ),
        Setting("env", "list", "`NAME=value` or `NAME=reference`", "none", reaches="variable"),
    ),
    "evac.drivers.backup_reader.driver:BackupReaderDriver",
)
