"""evac lab fleet: thousands of simulated servers that speak Redfish."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import click

from evac.cli import console
from evac.cli.console import say
from evac.cli.options import quiet_option
from evac.model.errors import InvalidInput

if TYPE_CHECKING:
    from evac_lab.fleet.ground import FleetGround
    from evac_lab.fleet.running import Wish


@click.command()
@click.option("--servers", type=click.IntRange(1, 64_516), default=1_000, show_default=True)
@click.option(
    "--site", default="pangyo", show_default=True, help="Name of the site; with --estate, the site to serve."
)
@click.option(
    "--estate",
    type=click.Path(path_type=Path, exists=True),
    help="Serve the BMCs of an estate's site instead.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Write the fleet as an estate."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8_000,
    show_default=True,
    help="Port of all BMCs; 0: any free port.",
)
@click.option(
    "--admin-port",
    type=click.IntRange(0, 65_535),
    default=8_001,
    show_default=True,
    help="Port of the admin interface; 0: any free port.",
)
@click.option("--tls", is_flag=True, help="Serve HTTPS, with its own CA and certificate.")
@click.option("--user", default="evac", show_default=True, help="User name on all BMCs.")
@click.option(
    "--password",
    default="",
    metavar="REFERENCE",
    help="Password of all BMCs: env:NAME or file:/path. Default: a new one.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same fleet.")
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 10_000),
    default=1.0,
    show_default=True,
    help="Divides every duration.",
)
@click.option(
    "--spread", type=click.FloatRange(0, 0.9), default=0.1, show_default=True, help="Spread of boot times."
)
@click.option(
    "--faults",
    "faulty",
    default="",
    metavar="SHARES",
    help="Faults, like dead=2%,slow=1%; none: no faults. Default: a few of each kind.",
)
@click.option("--racks-down", type=click.IntRange(0), default=0, help="Number of racks with a dead switch.")
@click.option(
    "--dies", multiple=True, metavar="BOOT-SERVER@SECONDS", help="Stop a boot server halfway through."
)
@click.option(
    "--power-on",
    type=click.Choice(["on", "dark", "last"]),
    default="dark",
    show_default=True,
    help="What servers do when power returns.",
)
@click.option(
    "--at-start",
    type=click.Choice(["off", "on", "open"]),
    default="off",
    show_default=True,
    help="off: breakers closed, servers off; on: all up; open: no power.",
)
@click.option("--no-limits", is_flag=True, help="Feeds, racks and halls have unlimited power.")
@click.option(
    "--latency",
    type=click.FloatRange(0, 10_000),
    default=5.0,
    show_default=True,
    help="Milliseconds per response.",
)
@click.option(
    "--bmc-boot",
    type=click.FloatRange(0, 3_600),
    default=30.0,
    show_default=True,
    help="Seconds until a BMC with power answers.",
)
@click.option(
    "--for", "longest", type=click.FloatRange(0.1), help="Stop automatically after this many seconds."
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the password, certificates and pid file. Default: in the lab's folder.",
)
@click.option("--detach", is_flag=True, help="Return once it answers; keep running in the background.")
@click.option("--end", "ending", is_flag=True, help="Stop the fleet that is running in this folder.")
@quiet_option
def fleet(quiet: bool, **options: Any) -> int:
    """Serve thousands of simulated servers that speak Redfish, until interrupted.

    Each has a BMC at an address of its own, 127.64.x.y, and a power model that trips a feed that is
    overloaded. The admin interface on 127.0.0.1 shows counters. `evac lab down` leaves it alone:
    it is not part of the three sites.
    """
    running = _running()
    if options.pop("ending"):
        return _end(_folder(options), quiet)
    if options.pop("detach"):
        return _detach(_folder(options), quiet)
    ground = _ground(options)
    if options["no_limits"]:
        ground = ground.without_limits()
    running.run(ground, _wish(options), lambda about: _tell(about, quiet))
    return console.DONE


def _folder(options: Mapping[str, Any]) -> Path:
    from evac_lab.state import default_folder

    folder: Path = (options["folder"] or default_folder() / "fleet").absolute()
    return folder


def _detach(folder: Path, quiet: bool) -> int:
    """The same command again, in the background."""
    from evac_lab.fleet import running

    about = running.begin([word for word in sys.argv[1:] if word != "--detach"], folder)
    _tell(about, quiet, f"stop it: evac lab fleet --end --folder {folder}")
    return console.DONE


def _end(folder: Path, quiet: bool) -> int:
    from evac_lab.fleet import running

    ended = running.end(folder)
    say("the fleet has been stopped" if ended else f"no fleet is running in {folder}", quiet)
    return console.DONE


def _running() -> ModuleType:
    try:
        from evac_lab.fleet import running
    except ModuleNotFoundError as error:
        words = f"Python lacks {error.name}"
        raise InvalidInput("lab-programs", words, "pip install 'evac[lab]'") from error
    return running


def _ground(options: Mapping[str, Any]) -> FleetGround:
    if options["estate"] is not None:
        if options["out"] is not None:
            raise InvalidInput("fleet-folder", "the estate already exists", "remove -o or --estate")
        from evac_lab.fleet import estates

        return estates.read(options["estate"], options["site"])
    from evac_lab.fleet import estates

    return estates.make_up(options["servers"], options["site"], options["power_on"])


def _wish(options: Mapping[str, Any]) -> Wish:
    from evac_lab.fleet.fleet import Settings
    from evac_lab.fleet.ground import DEFAULT_SHARES, Shares, read_shares
    from evac_lab.fleet.running import Ports, Wish

    start: Literal["off", "on", "open"] = options["at_start"]
    settings = Settings(
        speed=options["speed"],
        seed=options["seed"],
        spread=options["spread"],
        latency_ms=round(options["latency"]),
        bmc_boot_ms=round(options["bmc_boot"] * 1_000),
        racks_down=options["racks_down"],
        dying=tuple(_moment(one) for one in options["dies"]),
        closed=start != "open",
        running=start == "on",
        was_running=start == "open",
    )
    shares = read_shares(options["faulty"]) if options["faulty"] else dict(DEFAULT_SHARES)
    return Wish(
        folder=_folder(options),
        ports=Ports(options["port"], options["admin_port"]),
        shares=Shares(shares),
        settings=settings,
        tls=options["tls"],
        user=options["user"],
        password=options["password"],
        out=options["out"].absolute() if options["out"] else None,
        longest_s=options["longest"],
    )


def _moment(word: str) -> tuple[str, int]:
    """`boot-1@90` as (boot-1, 90_000)."""
    id, _, seconds = word.rpartition("@")
    if not id or not seconds.isascii() or not seconds.isdigit() or len(seconds) > 6:
        raise InvalidInput("fleet-boot-server", f"{word[:80]} is not a time", "write pangyo-boot-1@90")
    return id, int(seconds) * 1_000


def _tell(about: Mapping[str, Any], quiet: bool, how_to_end: str = "stop it with Ctrl-C") -> None:
    """The ready line: the first line on stdout, JSON, written once the fleet answers."""
    click.echo(json.dumps({"ready": True, **about}))
    if not quiet:
        words = f"{about['servers']} servers answer at {about['scheme']}://{about['first']}:{about['port']}/redfish/v1/"
        click.echo(f"{words} and on\nadmin: {about['admin']}/stats\n{how_to_end}", err=True)
