"""Runs a program of the company: a fence, as plans ask for it."""

from evac.drivers.capabilities import Fences
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "command",
    "runs a program of yours, with a list of arguments and never a shell",
    (Fences,),
    (
        Setting(
            "argv",
            "list",
            "the program, by full path or by a name on the `PATH`, and its arguments",
            needed=("fence",),
            reaches="program",
        ),
        Setting(
            "observe_argv", "list", "ends with 0 when it is done, with 1 when it is not", reaches="program"
        ),
        Setting("undo_argv", "list", "takes it back", reaches="program"),
        Setting("env", "list", "`NAME=value` or `NAME=reference`"),
        Setting("cwd", "text", "where it runs", "that of evac", reaches="folder"),
    ),
    "evac.drivers.command.driver:CommandDriver",
    proofs=("network", "power"),
)
