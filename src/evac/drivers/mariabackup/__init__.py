"""Backups of MariaDB with mariadb-backup in a folder."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import COPY_FOLDER, SQL_FACTS, UPLOAD_KIB, DriverSpec, Setting

DRIVER = DriverSpec(
    "mariabackup",
    "takes, checks, copies and restores physical backups of MariaDB with mariadb-backup, kept in a folder",
    (TakesBackups, RestoresData),
    (
        *COPY_FOLDER,
        UPLOAD_KIB,
        Setting("defaults", "text", "`my.cnf` of the server", "MariaDB's default", reaches="folder"),
        Setting("host", "text", "address of the server on this machine", "127.0.0.1", reaches="host"),
        Setting("port", "number", "its port", "3306", most=65_535),
        Setting("user", "text", "user to sign in as", "`evac`"),
        Setting("password", "secret", "a reference to the password", needed=("store",)),
        SQL_FACTS,
        Setting("configuration", "text", "`my.cnf` of a restored server", "none", reaches="folder"),
        Setting(
            "served_host", "text", "where a restored server accepts connections", "127.0.0.1", reaches="host"
        ),
        Setting("served_port", "number", "its port", "3306", most=65_535),
        Setting("system_user", "text", "owner of restored data, if evac runs as root", "`mysql`"),
        Setting("program", "text", "the program", "`mariadb-backup`", reaches="program"),
        Setting(
            "unpack_program",
            "text",
            "unpacks a backup whose rate is limited",
            "`mbstream`",
            reaches="program",
        ),
        Setting("client_program", "text", "the client", "`mariadb`", reaches="program"),
        Setting("server_program", "text", "the server", "`mariadbd`", reaches="program"),
    ),
    "evac.drivers.mariabackup.driver:MariabackupDriver",
    agent_verbs=frozenset({"restore"}),
)
