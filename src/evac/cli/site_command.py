"""evac site: marks of sites that a person takes back."""

from __future__ import annotations

from pathlib import Path

import click

from evac.cli import console
from evac.cli.console import say
from evac.cli.options import quiet_option, reason_option, who_option
from evac.cli.run_command import key_option
from evac.cli.target import Where, where_options


@click.group()
def site() -> None:
    """Clear a site's lost or evacuated mark."""


@site.command()
@click.argument("domain", metavar="SITE")
@reason_option
@who_option
@key_option
@where_options
@quiet_option
def clear(domain: str, reason: str, who: str | None, key: Path | None, where: Where, quiet: bool) -> int:
    """Clear the lost or evacuated mark of a SITE, or of a domain below one, after a drill or a false alarm.

    Plans use it again from then on. Services do not move; use evac plan --failback for that. Rejected while
    an open run evacuates the site.
    """
    where.do(lambda control: control.clear_site(domain, who or "", reason, key))
    say(f"{domain} is active again\nnext: evac status", quiet)
    return console.DONE
