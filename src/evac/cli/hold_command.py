"""evac hold: everything stops before its next effect."""

from __future__ import annotations

import click

from evac.cli import exits
from evac.cli.options import quiet_option
from evac.cli.output import say
from evac.cli.run_command import now_ms
from evac.cli.run_options import store_option, who_option, with_store
from evac.model.errors import InvalidInput


@click.command()
@click.option("--release", "lift", is_flag=True, help="End the hold.")
@click.option("--reason", default="", help="Why; it goes into the journal of every run.")
@who_option
@store_option
@quiet_option
def hold(lift: bool, reason: str, who: str | None, store: str | None, quiet: bool) -> int:
    """Stop every run of every site before its next effect; --release lets them go on."""
    from evac.app import runs

    if lift:
        ended = with_store(store, runs.release)
        say("released: runs go on" if ended else "nobody held anything", quiet)
        return exits.DONE
    if not reason:
        raise InvalidInput("reason-missing", "a hold says why", "evac hold --reason WHY")
    with_store(store, lambda opened: runs.hold(opened, who or runs.who_am_i(), reason, now_ms()))
    say("held: nothing begins any more, anywhere\nnext: evac hold --release", quiet)
    return exits.DONE
