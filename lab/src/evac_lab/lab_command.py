"""evac lab: three real sites on this machine, to burn, and what is missing for them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evac import __version__
from evac.cli import console
from evac.cli.console import emit, progress, say, screen, write_whole
from evac.cli.options import Command, Length, output_option, quiet_option
from evac.model.errors import InvalidInput
from evac_lab.fleet_command import fleet
from evac_lab.state import SITES

if TYPE_CHECKING:
    from evac_lab.episodes import Fire
    from evac_lab.state import LabFolder, LabState


_SEVERE_HINT = "confirm it: --confirm SITE --reason WHY"


@click.group()
def lab() -> None:
    """Run three real sites on this machine, and burn them: pangyo, anyang, ansan.

    Start with: evac lab doctor, then evac lab up, then evac lab burn pangyo.
    """


site_argument = click.argument("site", shell_complete=lambda *_: list(SITES))


def folder_option(command: Command) -> Command:
    return click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where the lab keeps its state. Default: $EVAC_LAB, or this user's state folder.",
    )(command)


def severe(command: Command) -> Command:
    """What destroys or isolates asks for the site's name to be typed."""
    named = click.option(
        "--confirm", metavar="SITE", help="The site's name again, to confirm; otherwise evac asks for it."
    )
    why = click.option("--reason", default="", help="Reason; recorded with the fire.")
    return named(why(command))


def _place(folder: Path | None) -> LabFolder:
    from evac_lab.state import LabFolder, default_folder

    return LabFolder((folder or default_folder()).absolute())


def _confirm(site: str, confirm: str | None) -> None:
    """Raises `InvalidInput` unless the site was named twice."""
    if confirm is None and sys.stdin.isatty():
        confirm = click.prompt(f"type {site} to continue", err=True)
    if confirm != site:
        raise InvalidInput("not-confirmed", f"{site} was not confirmed", _SEVERE_HINT)


@lab.command()
@click.option(
    "--world",
    type=click.Choice(["auto", "loopback", "namespaces"]),
    default="auto",
    show_default=True,
    help="loopback needs no root; namespaces have links that can be delayed and cut.",
)
@click.option(
    "--offset",
    type=click.IntRange(0, 59),
    default=0,
    help="Number of another lab next to the first one; up to 15 with namespaces.",
)
@click.option("--clients", "writers", type=click.IntRange(1, 500), default=20, show_default=True)
@click.option(
    "--delay",
    type=click.FloatRange(0, 1_000),
    default=0.0,
    help="One-way delay in milliseconds, with namespaces.",
)
@click.option("--by-hand", is_flag=True, help="Without controllers: people handle the fires.")
@click.option("--ask", is_flag=True, help="Controllers wait for approvals and serve the war room.")
@click.option("--halls", is_flag=True, help="The estate states the hall of everything, for evac lab half.")
@click.option(
    "--second",
    is_flag=True,
    help="Also start a database that has no live copy, only backups at another site.",
)
@click.option(
    "--mariadb",
    is_flag=True,
    help="Also start a MariaDB with a copy that confirms every commit.",
)
@click.option("--clocks", is_flag=True, help="With libfaketime, so that clocks can jump.")
@folder_option
@quiet_option
def up(
    world: str,
    offset: int,
    writers: int,
    delay: float,
    by_hand: bool,
    ask: bool,
    halls: bool,
    second: bool,
    mariadb: bool,
    clocks: bool,
    folder: Path | None,
    quiet: bool,
) -> None:
    """Start the three sites, the controllers, a messenger and its clients."""
    from evac_lab import namespaces
    from evac_lab import world as worlds

    if world == "auto":
        world = "namespaces" if delay else "loopback"
    if world == "loopback" and delay:
        raise InvalidInput("lab-delay", "loopback has no delay", "evac lab up --world namespaces --delay 5")
    if world == "namespaces" and (reason := namespaces.why_not()):
        raise InvalidInput("lab-namespaces", reason, "evac lab up --world loopback")
    if ask and (by_hand or world != "loopback"):
        raise InvalidInput("lab-ask", "--ask needs controllers, and the loopback world", "evac lab up --ask")
    place = _place(folder)
    options = worlds.Options(
        "namespaces" if world == "namespaces" else "loopback",
        offset,
        writers,
        delay_ms=delay,
        clocks=clocks,
        controllers=not by_hand,
        ask=ask,
        halls=halls,
        second=second,
        mariadb=mariadb,
    )
    began = time.monotonic()
    with progress("starting", quiet) as told:
        state = worlds.up(options, place, told)
    say(
        f"the lab is up in {time.monotonic() - began:.1f} s: {len(state.processes)} processes, "
        f"{state.world} world, {writers} clients write\nits estate: {place.estate}\n"
        f"{'' if by_hand else _plans_lacking(state)}{_rooms(state) if ask else ''}"
        "next: evac lab status, then evac lab burn pangyo",
        quiet,
    )


def _rooms(state: LabState) -> str:
    from evac_lab.site_servers import room_url

    rooms = [f"{room_url(site)}/now in {site.name}" for site in state.topology.sites]
    return f"war rooms: {', '.join(rooms)}\n"


def _plans_lacking(state: LabState) -> str:
    """A line that says so where the loss of a site has no plan yet, or a store no proof; else nothing."""
    from evac_lab.status import watchers
    from evac_lab.world import SYNCHRONOUS

    seen = watchers(state.topology)
    left = [site.name for site in state.topology.sites if seen is None or site.name not in seen.ready]
    words = []
    if left:
        words.append(
            f"no plan is ready yet for the loss of {', '.join(left)}: a fire would wait for the planner\n"
        )
    if seen is None or SYNCHRONOUS not in seen.proven:
        words.append(
            f"no synchronous copy is proven to hold all of {SYNCHRONOUS}: a fire would wait for a person\n"
        )
    return "".join(words)


@lab.command()
@click.option("--watch", "-w", "live", is_flag=True, help="Show a live screen, until interrupted.")
@output_option("text", "json")
@folder_option
def status(live: bool, output: str, folder: Path | None) -> None:
    """Show what is running, which servers accept writes, and how clients are doing."""
    import json

    from evac_lab import status as screens
    from evac_lab.status import look

    place = _place(folder)
    state = place.need()
    if live and sys.stdout.isatty():
        screens.live(lambda: look(place, place.need()))
        return
    found = look(place, state)
    if output == "json":
        emit(json.dumps(found.to_json(), indent=2), None)
        return
    shown = screen()
    emit(screens.as_text(found, shown.width, shown.colour), None)
    for run in found.watchers.open_runs if found.watchers is not None else ():
        say(f"next: {_to_show(place, run)}")


def _to_show(place: LabFolder, run: str) -> str:
    """The command that shows a run of this lab, as it can be typed."""
    return f'evac run show {run} --store "$(cat {shlex.quote(str(place.store))})"'


@lab.command()
@site_argument
@click.option("--leader", is_flag=True, help="Make sure that the leaders of evac and etcd are in it.")
@click.option("--no-wait", is_flag=True, help="Start the fire and return immediately; nothing is measured.")
@click.option(
    "--longest", type=click.FloatRange(1, 3_600), default=60.0, help="How many seconds to follow it."
)
@severe
@output_option("text", "json")
@folder_option
@quiet_option
def burn(
    site: str,
    leader: bool,
    no_wait: bool,
    longest: float,
    confirm: str | None,
    reason: str,
    output: str,
    folder: Path | None,
    quiet: bool,
) -> int:
    """Kill everything in a site at the same instant; returns when the run has ended."""
    from evac_lab import episodes, faults

    place = _place(folder)
    place.need().topology.site(site)
    _confirm(site, confirm)
    if leader:
        say(f"moving the leader to {site}", quiet)
        episodes.move(place, site)
    if no_wait:
        struck = faults.burn(place, site)
        say(f"{site} burns: {struck.processes} processes killed", quiet)
        return console.DONE
    patience = episodes.Patience(longest)
    fire = episodes.burn(place, site, patience, lambda words: say(words, quiet), reason)
    return _show(fire, output, place)


def _show(fire: Fire, output: str, folder: LabFolder) -> int:
    """What was measured, and the exit code that says whether it is over; where it is not, where to look."""
    from evac_lab import episodes as reports
    from evac_lab.status import ENDED_WELL

    emit(reports.as_json([fire]) if output == "json" else reports.timeline(fire), None)
    if fire.state in {*ENDED_WELL, "over"}:
        return console.DONE
    after = f"{_to_show(folder, fire.run)}, or " if fire.run else ""
    say(f"it has not ended: evac may be waiting for a person\nnext: {after}evac lab status")
    return console.FAILED


@lab.command()
@site_argument
@click.option("--wait", is_flag=True, help="Follow and measure what evac does.")
@severe
@folder_option
@quiet_option
def cut(site: str, wait: bool, confirm: str | None, reason: str, folder: Path | None, quiet: bool) -> int:
    """Isolate a site that keeps running; evac lab heal SITE reconnects it."""
    from evac_lab import episodes, faults

    place = _place(folder)
    place.need().topology.site(site)
    _confirm(site, confirm)
    if wait:
        told = lambda words: say(words, quiet)  # noqa: E731
        return _show(episodes.cut(place, site, episodes.Patience(), told, reason), "text", place)
    struck = faults.cut(place, site)
    say(f"{site} is cut off: {struck.processes} processes\nnext: evac lab heal {site}", quiet)
    return console.DONE


@lab.command()
@site_argument
@click.option("--loss", type=click.IntRange(0, 100), default=0, help="Percentage of packets to drop.")
@click.option("--delay", type=click.FloatRange(0, 10_000), default=0.0, help="One-way delay in milliseconds.")
@click.option("--one-way", type=click.Choice(["in", "out"]), help="Cut only one direction.")
@folder_option
@quiet_option
def disturb(
    site: str, loss: int, delay: float, one_way: str | None, folder: Path | None, quiet: bool
) -> None:
    """Drop or delay packets of a site (namespaces); evac lab heal SITE ends it."""
    from evac_lab import faults

    faults.disturb(_place(folder), site, loss / 100, delay, one_way or "")
    say(f"the links of {site} are impaired\nnext: evac lab heal {site}", quiet)


@lab.command()
@site_argument
@folder_option
@quiet_option
def heal(site: str, folder: Path | None, quiet: bool) -> None:
    """Reconnect a site that was cut off."""
    from evac_lab import faults
    from evac_lab.status import left_sites

    place = _place(folder)
    faults.heal(place, site)
    say(f"{site} is reconnected", quiet)
    if site in left_sites(place.need().topology):
        words = "evac evacuated it in the meantime, and it serves no one until it is restored"
        say(f"{words}\nnext: evac lab restore {site}")


@lab.command()
@site_argument
@click.option("--hall", type=click.Choice(["hall-1", "hall-2"]), default="hall-1", show_default=True)
@severe
@folder_option
@quiet_option
def half(site: str, hall: str, confirm: str | None, reason: str, folder: Path | None, quiet: bool) -> int:
    """Kill everything in one hall of a site."""
    from evac_lab import episodes

    place = _place(folder)
    place.need().topology.site(site)
    _confirm(site, confirm)
    told = lambda words: say(words, quiet)  # noqa: E731
    return _show(episodes.half(place, site, hall, episodes.Patience(), told, reason), "text", place)


@lab.command()
@site_argument
@click.option("--times", type=click.IntRange(1, 1_000), default=5, show_default=True)
@click.option("--down", "down_s", type=click.FloatRange(0.05, 600), default=0.7, show_default=True)
@click.option("--up", "up_s", type=click.FloatRange(0.05, 600), default=2.0, show_default=True)
@folder_option
@quiet_option
def flap(site: str, times: int, down_s: float, up_s: float, folder: Path | None, quiet: bool) -> None:
    """Cut a site off and reconnect it, several times."""
    from evac_lab import faults

    faults.flap(_place(folder), site, times, down_s, up_s)
    say(f"{site} was cut off {times} times and is reconnected", quiet)


@lab.command()
@site_argument
@click.option("--for", "for_s", type=click.FloatRange(0.1, 3_600), default=10.0, show_default=True)
@folder_option
@quiet_option
def slow(site: str, for_s: float, folder: Path | None, quiet: bool) -> None:
    """Slow a site down for a while: it runs only a fifth of the time."""
    from evac_lab import faults

    faults.slow(_place(folder), site, for_s)
    say(f"{site} was slow for {for_s:g} s", quiet)


@lab.command(name="disk-full")
@site_argument
@click.option("--free", is_flag=True, help="Free the space again.")
@folder_option
@quiet_option
def disk_full(site: str, free: bool, folder: Path | None, quiet: bool) -> None:
    """Make every file in a site unwritable, as on a full disk."""
    from evac_lab import faults

    struck = faults.disk_full(_place(folder), site, full=not free)
    say(f"{site}: {struck.kind}, {struck.processes} processes", quiet)


@lab.command(name="clock-jump")
@site_argument
@click.option("--seconds", type=float, default=3_600.0, show_default=True)
@folder_option
@quiet_option
def clock_jump(site: str, seconds: float, folder: Path | None, quiet: bool) -> None:
    """Make the clock of evac's processes in a site jump."""
    from evac_lab import faults

    faults.clock_jump(_place(folder), site, seconds)
    say(f"the clock of {site} is {seconds:+g} s off", quiet)


@lab.command()
@site_argument
@click.option("--failback", is_flag=True, help="Also move the traffic and the primaries back.")
@severe
@folder_option
@quiet_option
def restore(
    site: str, failback: bool, confirm: str | None, reason: str, folder: Path | None, quiet: bool
) -> int:
    """Restore a burnt site: start it, archive, rewind, rejoin, protect."""
    from evac_lab import restoring

    place = _place(folder)
    place.need().topology.site(site)
    _confirm(site, confirm)
    done = restoring.restore(place, site, lambda words: say(words, quiet), failback=failback, reason=reason)
    emit(done.as_text(), None)
    return console.DONE if done.whole else console.FAILED


@lab.command()
@output_option("text", "json")
@folder_option
def report(output: str, folder: Path | None) -> None:
    """Show the timeline of the fires, as clients measured them."""
    from evac_lab import episodes
    from evac_lab import episodes as reports

    found = episodes.read_all(_place(folder))
    emit(reports.as_json(found) if output == "json" else reports.as_text(found), None)


@lab.command()
@folder_option
@quiet_option
def down(folder: Path | None, quiet: bool) -> None:
    """Stop everything and remove all but the reports, even after a crash."""
    from evac_lab.world import down as end

    place = _place(folder)
    ended = end(place)
    say(f"the lab is down: {ended} processes ended", quiet)


PAGE = "october-2022.html"


@click.command("october-2022")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("october-2022"),
    show_default=True,
    help="Folder for the page and all intermediate files.",
)
@click.option(
    "--servers",
    type=click.IntRange(3_000, 90_000),
    default=90_000,
    show_default=True,
    help="Servers of the whole company; Pangyo has 32,000 of every 90,000.",
)
@click.option(
    "--speed",
    type=click.IntRange(1, 600),
    default=100,
    show_default=True,
    help="Seconds of the cold start per second here.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same faults.")
@click.option(
    "--budget",
    type=Length(most_s=600),
    default="5s",
    show_default=True,
    help="Search effort for each plan, like 60s; an amount of work, not time.",
)
@quiet_option
def october_2022(out: Path, servers: int, speed: int, seed: int, budget: int, quiet: bool) -> int:
    """Replay 15 October 2022: Pangyo goes dark, and everything that follows.

    The fire, the evacuation, 17.5 hours without power, the cold start of 32,000 servers by real Redfish
    requests to a simulated fleet, and the failback. Ends with a page that compares the published 127 h 30 min
    with evac's time, with every assumption and its source.
    """
    from evac.views.october_page import october_page, october_text
    from evac_lab.october.story import Setting, october

    if out.exists() and any(out.iterdir()) and not (out / "company").is_dir():
        raise InvalidInput(
            "october-folder", f"{out} contains something else", "choose an empty folder: -o DIR"
        )
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def tell(words: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {words}", quiet)

    story = october(Setting(out.absolute(), servers, speed, seed, budget), tell)
    page = out / PAGE
    write_whole(page, october_page(story, f"evac {__version__}; seed {seed}").encode())
    emit(october_text(story), None)
    say(f"\nthe page: {page}", quiet)
    return console.DONE if not story.wave.trips and not story.missing else console.FAILED


@lab.command()
@click.option("--install", is_flag=True, help="Run the command that installs what is missing, after asking.")
@click.option("--yes", is_flag=True, help="With --install: do not ask.")
@click.option("--offset", type=click.IntRange(0, 59), default=0, help="Number of the lab; see evac lab up.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where the lab keeps its state."
)
@click.option("--store", envvar="EVAC_STORE", default="", help="Also list what is not secured in this store.")
@output_option("text", "json")
def doctor(install: bool, yes: bool, offset: int, folder: Path | None, store: str, output: str) -> int:
    """Show what is missing on this machine for the lab, with the one command that installs it.

    Also lists what is not secured in --store, or else in the store of the lab that is up.
    """
    import json
    from dataclasses import asdict

    from evac_lab import doctor as doctors
    from evac_lab.state import LabFolder, default_folder

    place = LabFolder((folder or default_folder()).absolute())
    found = doctors.examine(place, offset, store)
    if install and found.command:
        _install(found.command, yes)
        found = doctors.examine(place, offset, store)
    if output == "json":
        emit(json.dumps({"schema_version": 1, "well": found.well, **asdict(found)}, indent=2), None)
    else:
        emit(doctors.as_text(found), None)
    return console.DONE if found.well else console.FAILED


def _install(command: str, yes: bool) -> None:
    """Runs it after the user has agreed; a package manager is never started unasked."""
    if not yes and not sys.stdin.isatty():
        say(f"not installed, because no one could be asked: {command}")
        return
    if yes or click.confirm(f"run: {command}", err=True):
        words = shlex.split(command)
        subprocess.run(_without_sudo(words), check=False)


def _without_sudo(words: list[str]) -> list[str]:
    import os

    return words[1:] if words[0] == "sudo" and os.geteuid() == 0 else words


lab.add_command(fleet)
lab.add_command(october_2022)
