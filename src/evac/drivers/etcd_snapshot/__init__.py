"""Backups of etcd as snapshots in a folder."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import COPY_FOLDER, DriverSpec, Setting

DRIVER = DriverSpec(
    "etcd_snapshot",
    "takes, checks, copies and restores snapshots of etcd, kept in a folder",
    (TakesBackups, RestoresData),
    (
        *COPY_FOLDER,
        Setting(
            "upload_kib",
            "number",
            "maximum rate of copies to it, in KiB/s; etcdctl cannot limit the snapshot itself",
            "no bound",
        ),
        Setting("url", "text", "client URL of one member", needed=("store",), reaches="host"),
        Setting(
            "env",
            "list",
            "`NAME=value` or `NAME=reference`, such as `ETCDCTL_CACERT` and `ETCDCTL_USER`",
            "none",
            reaches="variable",
        ),
        Setting(
            "facts",
            "list",
            "`name=PREFIX`: the keys and values below it are compared after a restore",
            "none",
            reaches="query",
        ),
        Setting("bump", "number", "how much a restore raises the revision", "1000000000"),
        Setting("member", "text", "name of the restored member", "`default`"),
        Setting(
            "client_url",
            "text",
            "where a restored member listens for clients",
            "http://127.0.0.1:2379",
            reaches="host",
        ),
        Setting(
            "peer_url", "text", "where it listens for other members", "http://127.0.0.1:2380", reaches="host"
        ),
        Setting("system_user", "text", "owner of a restored member, if evac runs as root", "`etcd`"),
        Setting("program", "text", "the client", "`etcdctl`", reaches="program"),
        Setting("restore_program", "text", "the program that restores", "`etcdutl`", reaches="program"),
        Setting("server_program", "text", "the server", "`etcd`", reaches="program"),
    ),
    "evac.drivers.etcd_snapshot.driver:EtcdSnapshotDriver",
    agent_verbs=frozenset({"restore"}),
)
