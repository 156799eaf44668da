"""Kafka, read-only: a cluster stays where it is, and MirrorMaker copies its messages."""

from evac.drivers.capabilities import ReportsRole
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "kafka",
    "reports whether MirrorMaker 2 copies the messages of a Kafka cluster, and whether all have arrived",
    (ReportsRole,),
    (
        Setting("url", "text", "REST API of Kafka Connect", needed=("store",), reaches="host"),
        Setting("cluster", "text", "MirrorMaker's alias for the cluster here", needed=("store",)),
        Setting(
            "origin", "text", "MirrorMaker's alias for the cluster that accepts messages", needed=("store",)
        ),
        Setting(
            "bridge",
            "text",
            "HTTP bridge (Strimzi) or REST proxy of the cluster that accepts messages",
            needed=("store",),
            reaches="host",
        ),
        Setting("user", "text", "user to sign in as", "no authentication"),
        Setting("password", "secret", "a reference to the password"),
    ),
    "evac.drivers.kafka.driver:KafkaDriver",
)
