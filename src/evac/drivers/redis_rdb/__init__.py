"""Backups of Redis as RDB files in a folder."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import COPY_FOLDER, UPLOAD_KIB, DriverSpec, Setting

DRIVER = DriverSpec(
    "redis_rdb",
    "takes, checks, copies and restores RDB files of Redis, kept in a folder",
    (TakesBackups, RestoresData),
    (
        *COPY_FOLDER,
        UPLOAD_KIB,
        Setting("host", "text", "where Redis accepts connections, without TLS", "127.0.0.1", reaches="host"),
        Setting("port", "number", "its port", "6379", most=65_535),
        Setting("user", "text", "user to sign in as", "the default user"),
        Setting("password", "secret", "a reference to the password", "none"),
        Setting(
            "facts",
            "list",
            "`name=COMMAND ARGUMENT...`: values to compare after a restore, one per command",
            "none",
            reaches="query",
        ),
        Setting(
            "configuration",
            "text",
            "absolute path of `redis.conf` for a restored server",
            "none",
            reaches="folder",
        ),
        Setting(
            "served_host", "text", "where a restored server accepts connections", "127.0.0.1", reaches="host"
        ),
        Setting("served_port", "number", "its port", "as `configuration` says", most=65_535),
        Setting("system_user", "text", "owner of a restored server, if evac runs as root", "`redis`"),
        Setting("program", "text", "the program", "`redis-cli`", reaches="program"),
        Setting("server_program", "text", "the server", "`redis-server`", reaches="program"),
    ),
    "evac.drivers.redis_rdb.driver:RedisRdbDriver",
    agent_verbs=frozenset({"restore"}),
)
