"""Runs a program of the company, for what evac has no driver for: stores, services, traffic, fences."""

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
    "runs a program of yours, with a list of arguments and never a shell",
    (ReportsRole, Promotes, Follows, Fences, RunsUnits, RoutesTraffic, Verifies),
    (
        Setting(
            "argv",
            "list",
            "the program, by full path or by a name on the `PATH`, and its arguments",
            needed=_ALL,
            reaches="program",
        ),
        Setting(DOES, "list", "the verbs that the program does", needed=("service", "store")),
        Setting(
            "check_argv",
            "list",
            "ends with 0 when it can be done now; otherwise it says why not",
            reaches="program",
        ),
        Setting(
            "observe_argv", "list", "ends with 0 when it is done, with 1 when it is not", reaches="program"
        ),
        Setting("undo_argv", "list", "takes it back", reaches="program"),
        Setting(
            "role_argv", "list", "prints the role of a copy as JSON", needed=("store",), reaches="program"
        ),
        *OF_A_COPY,
        Setting("env", "list", "`NAME=value` or `NAME=reference`"),
        Setting("cwd", "text", "where it runs", "that of evac", reaches="folder"),
    ),
    "evac.drivers.command.driver:CommandDriver",
    proofs=("network", "power"),
)
