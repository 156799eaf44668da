"""Copies of Redis as RDB files in a folder."""

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.spec import COPY_FOLDER, DriverSpec, Setting

DRIVER = DriverSpec(
    "redis_rdb",
    "takes, checks, copies and restores RDB files of Redis, kept in a folder",
    (TakesBackups, RestoresData),
    (
        *COPY_FOLDER,
        Setting("host", "text", "where Redis takes connections, without TLS", "127.0.0.1", reaches="host"),
        Setting("port", "number", "its port", "6379", most=65_535),
        Setting("user", "text", "who signs in", "the default user"),
        Setting("password", "secret", "a reference: with which password", "none"),
        Setting(
            "facts", "list", "`name=COMMAND ARGUMENT...`: what a witness compares, one value each", "none"
        ),
        Setting(
            "configuration",
            "text",
            "full path of `redis.conf` for a restored server",
            "none",
            reaches="folder",
        ),
        Setting(
            "served_host", "text", "where a restored server takes connections", "127.0.0.1", reaches="host"
        ),
        Setting("served_port", "number", "its port", "as `configuration` says", most=65_535),
        Setting("system_user", "text", "owner of a restored server, if evac runs as root", "`redis`"),
        Setting("program", "text", "the program", "`redis-cli`", reaches="program"),
        Setting("server_program", "text", "the server", "`redis-server`", reaches="program"),
    ),
    "evac.drivers.redis_rdb.driver:RedisRdbDriver",
    agent_verbs=frozenset({"restore"}),
)
