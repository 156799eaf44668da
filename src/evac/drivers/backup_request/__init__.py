"""Sends a request of an application to restored data, by a company's own program."""

from evac.drivers.capabilities import AsksRestored
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "backup_request",
    "sends a request of your application to restored data, with your own program",
    (AsksRestored,),
    (
        Setting(
            "argv",
            "list",
            "the program that starts the application on the data in `EVAC_PLACE`, sends it a request, "
            "prints the answer and stops it",
            needed=("store", "backup"),
            reaches="program",
        ),
        Setting("answer", "text", "what the answer must contain", needed=("store", "backup")),
        Setting("seconds", "number", "time limit in seconds", "300", most=86_400),
        Setting("env", "list", "`NAME=value` or `NAME=reference`", "none", reaches="variable"),
    ),
    "evac.drivers.backup_request.driver:BackupRequestDriver",
)
