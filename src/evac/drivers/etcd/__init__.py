"""Probes a site's etcd member for the witness of another site."""

from evac.drivers.capabilities import AnswersProbe
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "etcd",
    "checks whether the site's etcd member is alive; plans do not use it",
    (AnswersProbe,),
    (
        Setting("url", "text", "client URL of the member", needed=("site",), reaches="host"),
        Setting("ca", "secret", "`file:/path`: CA to trust", "the machine's"),
        Setting("cert", "secret", "`file:/path`: certificate to present to the member", "none"),
        Setting("key", "secret", "`file:/path`: private key of that certificate", "none"),
    ),
    "evac.drivers.etcd.driver:EtcdDriver",
    probe="member",
)
