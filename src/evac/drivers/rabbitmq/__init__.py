"""RabbitMQ, observed: evac changes nothing in it."""

from evac.drivers.capabilities import ReportsRole
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "rabbitmq",
    "reports whether a RabbitMQ cluster takes messages in, or gets them by federation or shovels",
    (ReportsRole,),
    (
        Setting("url", "text", "where its management API listens", needed=("store",), reaches="host"),
        Setting("user", "text", "who may look (tag `monitoring`)", needed=("store",)),
        Setting("password", "secret", "a reference to the password", needed=("store",)),
        Setting("vhost", "text", "the virtual host", "`/`"),
        Setting(
            "source",
            "text",
            "management API of the cluster that messages come from, for the same user",
            "not asked: the lag is not known",
            reaches="host",
        ),
    ),
    "evac.drivers.rabbitmq.driver:RabbitmqDriver",
)
