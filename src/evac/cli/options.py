"""Options shared by several commands.

Options of commands that connect to agents: trusted authorities and our certificate.

Options of commands that act: which store, who requests it, and why.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar

import click

from evac.cli import completion, console
from evac.drivers.process import ALLOWED, CA, CERT, KEY, PLAIN
from evac.net.secrets import HEAD_KEY, ROOM_KEY
from evac.views.words import ZONE, wall_clock_here

SEED_MAX: Final = 2**32 - 1
Command = TypeVar("Command", bound=Callable[..., Any])


class Day(click.ParamType[date]):
    """A calendar day, YYYY-MM-DD."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"'{value[:40]}' is not a date; use a value like 2026-11-25", param, ctx)


BUDGET_MOST_S: Final = 86_400
"""Maximum search time of a plan."""


class Length(click.ParamType[int]):
    """A duration with its unit, as milliseconds: 90 s, 15m, 2 h. 0 needs no unit. most_s: maximum."""

    name = "duration"
    _UNITS: ClassVar = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}

    def __init__(self, most_s: int | None = None) -> None:
        self._most_s = most_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = value.strip()
        digits = text[: len(text) - len(text.lstrip("0123456789"))]
        unit = text[len(digits) :].strip() or ("s" if digits.strip("0") == "" else "")
        if not digits or len(digits) > 12 or unit not in self._UNITS:
            self.fail(f"'{text[:40]}' is not a duration; use a value like 90s, 15m or 2h", param, ctx)
        found: int = int(digits) * self._UNITS[unit]
        if self._most_s is not None and found > self._most_s * 1_000:
            self.fail(f"'{text[:40]}' is more than {self._most_s} s", param, ctx)
        return found


class Named(click.Path):
    """A path that replaces `placeholder` in the commands suggested in `next:` lines."""

    def __init__(self, placeholder: str, **given: Any) -> None:
        super().__init__(path_type=Path, **given)
        self._placeholder = placeholder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        console.remember_path(self._placeholder, str(path))
        return path


FILE: Final = click.Path(path_type=Path, dir_okay=False)
ESTATE: Final = Named("ESTATE")
PLAN: Final = Named("PLAN")
estate_argument = click.argument("estate", type=ESTATE)
plan_argument = click.argument("plan", type=PLAN, shell_complete=completion.plans)


def places_option(name: str, metavar: Literal["SITE", "DOMAIN"], help: str) -> Callable[[Command], Command]:
    """A repeatable option whose values are sites, or any domains, of the estate."""
    complete = completion.sites if metavar == "SITE" else completion.domains
    return click.option(name, multiple=True, metavar=metavar, shell_complete=complete, help=help)


def as_of_option(command: Command) -> Command:
    return click.option(
        "--as-of",
        type=Day(),
        help="Evaluate the estate as of this date; facts past their shelf life count as unknown.",
    )(command)


def observe_option(command: Command) -> Command:
    return click.option(
        "--observe",
        is_flag=True,
        help="First ask the stores which member is primary now.",
    )(command)


def output_option(*formats: str) -> Callable[[Command], Command]:
    return click.option(
        "--output",
        "output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Format of the data on stdout.",
    )


def file_option(command: Command) -> Command:
    return click.option(
        "-o",
        "--out",
        "target",
        type=FILE,
        help="Write the data to a file instead of stdout.",
    )(command)


def quiet_option(command: Command) -> Command:
    return click.option("-q", "--quiet", is_flag=True, help="Print only errors on stderr.")(command)


def fail_on_option(default: str) -> Callable[[Command], Command]:
    return click.option(
        "--fail-on",
        type=click.Choice(["error", "warning", "note", "never"]),
        default=default,
        show_default=True,
        help="Exit with 3 if there is a finding at or above this level.",
    )


def agent_options(command: Command) -> Command:
    """Options that override the environment for this process and those that it starts."""

    @click.option("--agent-ca", type=FILE, help=f"CA of the agents' certificates, PEM. [default: ${CA}]")
    @click.option(
        "--agent-cert", type=FILE, help=f"Certificate to present to agents, PEM. [default: ${CERT}]"
    )
    @click.option("--agent-key", type=FILE, help=f"Its private key, PEM. [default: ${KEY}]")
    @click.option("--agent-plain", is_flag=True, help="Contact agents on other machines without TLS.")
    @functools.wraps(command)
    def wrapped(
        *values: Any,
        agent_ca: Path | None,
        agent_cert: Path | None,
        agent_key: Path | None,
        agent_plain: bool,
        **named: Any,
    ) -> Any:
        for name, path in ((CA, agent_ca), (CERT, agent_cert), (KEY, agent_key)):
            if path is not None:
                os.environ[name] = str(path.absolute())
        if agent_plain:
            os.environ[PLAIN] = ALLOWED
        return command(*values, **named)

    return wrapped  # type: ignore[return-value]


def signing_options(command: Command) -> Command:
    """Options that name the keys of this controller and its war room; default: the environment. Raises
    NotAllowed for an unusable key, before anything starts.
    """

    @click.option(
        "--head-key",
        metavar="REF",
        help=f"Sign journal heads with this ed25519 key, file:/path or env:NAME. [default: ${HEAD_KEY}]",
    )
    @click.option(
        "--room-key",
        metavar="REF",
        help="The war room signs logins with this ed25519 key, so that approvals stay verifiable "
        f"after a restart. [default: ${ROOM_KEY}; else a new key at each start]",
    )
    @functools.wraps(command)
    def wrapped(*values: Any, head_key: str | None, room_key: str | None, **named: Any) -> Any:
        for variable, reference in ((HEAD_KEY, head_key), (ROOM_KEY, room_key)):
            if reference is not None:
                os.environ[variable] = reference
            if os.environ.get(variable):
                from evac.engine.lead.signed_heads import key_named

                key_named(variable)
        return command(*values, **named)

    return wrapped  # type: ignore[return-value]


def time_zone_option(command: Command) -> Command:
    """The time zone of displayed times, for this process and those that it starts. Raises InvalidInput for
    one that this machine does not have.
    """

    @click.option(
        "--time-zone",
        metavar="ZONE",
        help=f"Local time on pages and in updates, like Asia/Seoul, with UTC next to it. [default: ${ZONE}, "
        "else UTC]",
    )
    @functools.wraps(command)
    def wrapped(*values: Any, time_zone: str | None, **named: Any) -> Any:
        with in_time_zone(time_zone):
            wall_clock_here()
            return command(*values, **named)

    return wrapped  # type: ignore[return-value]


@contextlib.contextmanager
def in_time_zone(zone: str | None) -> Iterator[None]:
    """For this process and those that it starts, while the block runs; None changes nothing."""
    before = os.environ.get(ZONE)
    if zone is not None:
        os.environ[ZONE] = zone
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ZONE, None)
        else:
            os.environ[ZONE] = before


def store_option(command: Command) -> Command:
    return click.option(
        "--store",
        metavar="URL",
        help="Where runs are kept: sqlite:PATH or etcd:https://HOST:2379,...?OPTIONS. Options: ca=, "
        "cert=, key= (TLS), user=, password= (etcd), seal= (what evac writes), prefix=, plain=, unsealed=. "
        "[default: $EVAC_STORE, else a SQLite file of this user]",
    )(command)


def reason_option(command: Command) -> Command:
    return click.option("--reason", required=True, help="Reason, recorded in the journal.")(command)


def who_option(command: Command) -> Command:
    return click.option("--who", help="Your name. [default: the user]")(command)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def log_file() -> Path:
    """Log file of a controller that a command starts."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "evac" / "controller.log"
