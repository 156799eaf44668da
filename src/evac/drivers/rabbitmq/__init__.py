"""RabbitMQ, read-only: evac changes nothing in it."""

from evac.drivers.capabilities import ReportsRole
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "rabbitmq",
    "reports whether a RabbitMQ cluster accepts messages itself, or receives them by federation or shovels",
    (ReportsRole,),
    (
        Setting("url", "text", "where its management API listens", needed=("store",), reaches="host"),
        Setting("user", "text", "user with the tag `monitoring`", needed=("store",)),
        Setting("password", "secret", "a reference to the password", needed=("store",)),
        Setting("vhost", "text", "the virtual host", "`/`"),
        Setting(
            "source",
            "text",
            "management API of the cluster that messages come from, for the same user",
            "none: the lag is unknown",
            reaches="host",
        ),
    ),
    "evac.drivers.rabbitmq.driver:RabbitmqDriver",
)
