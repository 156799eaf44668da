"""Runs a company's own program for stores, services, traffic and fences without a driver."""

from evac.drivers.capabilities import (
    Fences,
    Follows,
    Promotes,
    ReportsRole,
    RoutesTraffic,
    RunsUnits,
    Verifies,
)
from evac.drivers.spec import DOES, OF_A_COPY, DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("fence", "service", "store")

DRIVER = DriverSpec(
    "command",
    "runs your own program with a list of arguments, never through a shell",
    (ReportsRole, Promotes, Follows, Fences, RunsUnits, RoutesTraffic, Verifies),
    (
        Setting(
            "argv",
            "list",
            "the program (an absolute path, or a name on the `PATH`) and its arguments",
            needed=_ALL,
            reaches="program",
        ),
        Setting(DOES, "list", "the verbs that the program supports", needed=("service", "store")),
        Setting(
            "check_argv",
            "list",
            "exits with 0 if the step can be done now; otherwise prints why not",
            reaches="program",
        ),
        Setting(
            "observe_argv",
            "list",
            "exits with 0 if the step is done, and with 1 if it is not",
            reaches="program",
        ),
        Setting("undo_argv", "list", "undoes the step", reaches="program"),
        Setting(
            "role_argv", "list", "prints the role of a copy as JSON", needed=("store",), reaches="program"
        ),
        *OF_A_COPY,
        Setting("env", "list", "`NAME=value` or `NAME=reference`", reaches="variable"),
        Setting("cwd", "text", "working directory", "evac's working directory", reaches="folder"),
    ),
    "evac.drivers.command.driver:CommandDriver",
    proofs=("network", "power"),
)
