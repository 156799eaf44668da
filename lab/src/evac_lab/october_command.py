"""evac lab october-2022: the whole story in one command."""

from __future__ import annotations

import time
from pathlib import Path

import click

from evac import __version__
from evac.cli import exits
from evac.cli.options import Length, quiet_option
from evac.cli.output import emit, say, write_whole
from evac.model.errors import InvalidInput

PAGE = "october-2022.html"


@click.command("october-2022")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("october-2022"),
    show_default=True,
    help="Folder for the page and all that was made on the way.",
)
@click.option(
    "--servers",
    type=click.IntRange(3_000, 90_000),
    default=90_000,
    show_default=True,
    help="Of the whole company; Pangyo has 32,000 of every 90,000.",
)
@click.option(
    "--speed",
    type=click.IntRange(1, 600),
    default=100,
    show_default=True,
    help="Seconds of the cold start in one second here.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same faults.")
@click.option(
    "--budget",
    type=Length(most_s=600),
    default="5s",
    show_default=True,
    help="Search effort of each plan, like 60s; counted in work.",
)
@quiet_option
def october_2022(out: Path, servers: int, speed: int, seed: int, budget: int, quiet: bool) -> int:
    """15 October 2022 again: Pangyo goes dark, and everything that follows.

    The fire, the evacuation, 17.5 hours without power, the cold start of 32,000 servers by real Redfish
    requests to a simulated fleet, and the way home. Ends with a page that puts 127 h 30 min beside evac's
    hours, with every assumption and where it came from.
    """
    from evac.views.october_page import october_page, october_text
    from evac_lab.october.story import Setting, october

    if out.exists() and any(out.iterdir()) and not (out / "company").is_dir():
        raise InvalidInput("october-folder", f"{out} holds something else", "name an empty folder: -o DIR")
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def tell(words: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {words}", quiet)

    story = october(Setting(out.absolute(), servers, speed, seed, budget), tell)
    page = out / PAGE
    write_whole(page, october_page(story, f"evac {__version__}; seed {seed}").encode())
    emit(october_text(story), None)
    say(f"\nthe page: {page}", quiet)
    return exits.DONE if not story.wave.trips and not story.missing else exits.FAILED
