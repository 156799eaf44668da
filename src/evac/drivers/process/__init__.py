"""Units of a service, through the agent of their site."""

from typing import Final

from evac.drivers.capabilities import AnswersProbe, ReportsReplicas, RunsUnits, Verifies
from evac.drivers.spec import DriverSpec, Need, Setting

CA, CERT, KEY, PLAIN = "EVAC_AGENT_CA", "EVAC_AGENT_CERT", "EVAC_AGENT_KEY", "EVAC_AGENT_PLAIN"
"""Variables that define how to reach agents: TLS files, and whether unencrypted access is allowed."""
ALLOWED: Final = "allowed"
"""The only valid value of `EVAC_AGENT_PLAIN`."""
_ALL: tuple[Need, ...] = ("service", "site")

DRIVER = DriverSpec(
    "process",
    "starts, stops, scales and checks a unit through the agent of its site",
    (RunsUnits, ReportsReplicas, Verifies, AnswersProbe),
    (
        Setting("agent", "text", "its URL", needed=_ALL, reaches="host"),
        Setting("secret", "secret", "a reference to the key in the agent's file", needed=_ALL),
        Setting("unit", "text", "the unit's name in the agent's file", needed=("service",)),
    ),
    "evac.drivers.process.driver:ProcessDriver",
    probe="agent",
)
