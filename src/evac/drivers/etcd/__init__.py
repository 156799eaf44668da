"""A site's member of etcd, as a witness of another site asks it."""

from evac.drivers.capabilities import AnswersProbe
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "etcd",
    "asks the site's member of etcd whether it is alive; plans ask nothing of it",
    (AnswersProbe,),
    (
        Setting("url", "text", "client URL of the member", needed=("site",), reaches="host"),
        Setting("ca", "secret", "`file:/path`: whom to believe", "the machine's"),
        Setting("cert", "secret", "`file:/path`: what is shown to the member", "none"),
        Setting("key", "secret", "`file:/path`: its key", "none"),
    ),
    "evac.drivers.etcd.driver:EtcdDriver",
    probe="member",
)
