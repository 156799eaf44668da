"""Options of the commands that act: which store, who asks, and why."""

from __future__ import annotations

import os
from pathlib import Path

import click

from evac.cli.options import Command


def store_option(command: Command) -> Command:
    return click.option(
        "--store",
        metavar="URL",
        help="Where runs are kept: sqlite:PATH or etcd:http://HOST:2379,... "
        "[default: $EVAC_STORE, else a SQLite file of this user]",
    )(command)


def reason_option(command: Command) -> Command:
    return click.option("--reason", required=True, help="Why; it goes into the journal.")(command)


def who_option(command: Command) -> Command:
    return click.option("--who", help="Who asks. [default: the user]")(command)


def log_file() -> Path:
    """Where a controller that a command starts writes its notices."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "evac" / "controller.log"
