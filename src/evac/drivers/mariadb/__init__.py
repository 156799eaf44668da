"""MariaDB servers with GTID replication and no other manager."""

from evac.drivers.capabilities import OF_A_DATABASE
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "mariadb",
    "fences, promotes, demotes, protects and rejoins the members of one MariaDB data set",
    OF_A_DATABASE,
    (
        Setting(
            "host",
            "text",
            "where it accepts connections from every controller and every copy",
            needed=("store",),
            reaches="host",
        ),
        Setting("port", "number", "its port", "3306", most=65_535),
        Setting("user", "text", "an account with the permissions listed in the driver reference", "`evac`"),
        Setting(
            "password",
            "secret",
            "a reference to the password; the other members are reached with the same one",
            "none",
        ),
        Setting("ca", "text", "a file with the certificate of its CA, for TLS", "no TLS", reaches="folder"),
        Setting("name", "text", "its `report_host`, as its primary sees it", "none"),
        Setting("replication_user", "text", "the account that copies replicate with", "`user`"),
        Setting(
            "replication_password", "secret", "a reference to the password of that account", "`password`"
        ),
        Setting(
            "archive",
            "text",
            "folder on the agent's machine, for what only an old primary had; without it, evac does not "
            "rebuild an old primary",
            "none",
            reaches="folder",
        ),
        Setting(
            "bin",
            "text",
            "folder of MariaDB's programs on that machine",
            needed=("store",),
            with_="archive",
            reaches="program",
        ),
        Setting("rebuild_user", "text", "an account that may read and replace all data", "`user`"),
        Setting("rebuild_password", "secret", "a reference to the password of that account", "`password`"),
    ),
    "evac.drivers.mariadb.driver:MariadbDriver",
    extra="mariadb",
    proofs=("sync",),
    probe="data",
    agent_may=True,
    agent_verbs=frozenset({"rejoin"}),
    on_site_with="archive",
    on_site_ms=3_600_000,
)
