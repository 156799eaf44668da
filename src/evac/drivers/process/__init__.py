"""Units of a service, through the agent of their site."""

from evac.drivers.capabilities import AnswersProbe, RunsUnits, Verifies
from evac.drivers.spec import DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("service", "site")

DRIVER = DriverSpec(
    "process",
    "starts, stops, scales and checks a unit through the agent of its site",
    (RunsUnits, Verifies, AnswersProbe),
    (
        Setting("agent", "text", "its URL", needed=_ALL, reaches="host"),
        Setting("secret", "secret", "a reference to the key of the agent's file", needed=_ALL),
        Setting("unit", "text", "what the agent calls it", needed=("service",)),
    ),
    "evac.drivers.process.driver:ProcessDriver",
    probe="agent",
)
