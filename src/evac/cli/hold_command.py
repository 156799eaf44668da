"""evac hold: everything stops before its next effect."""

from __future__ import annotations

import click

from evac.cli import exits
from evac.cli.options import quiet_option, who_option
from evac.cli.output import say
from evac.cli.target import Where, where_options
from evac.model.errors import InvalidInput


@click.command()
@click.option("--release", "lift", is_flag=True, help="End the hold.")
@click.option("--reason", default="", help="Why; it goes into the journal of every run.")
@who_option
@where_options
@quiet_option
def hold(lift: bool, reason: str, who: str | None, where: Where, quiet: bool) -> int:
    """Stop every run of every site before its next effect; --release lets them go on."""
    if lift:
        ended = where.do(lambda control: control.release(who or "", reason))
        say("released: runs go on" if ended else "nobody held anything", quiet)
        return exits.DONE
    if not reason:
        raise InvalidInput("reason-missing", "a hold says why", "evac hold --reason WHY")
    found = where.do(lambda control: control.hold(who or "", reason))
    words = "nothing begins any more, anywhere"
    if found.already:
        words = f"{found.who} holds already ({found.reason}); {words}"
    say(f"held: {words}\nnext: evac hold --release", quiet)
    return exits.DONE
