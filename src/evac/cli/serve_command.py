"""evac serve: the controller of a site."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path

import click

from evac.cli import exits
from evac.cli.options import Length, as_of_option, estate_argument
from evac.cli.output import say
from evac.cli.run_options import store_option


@click.command()
@estate_argument
@click.option("--site", required=True, help="The site this controller stands in.")
@click.option("--policy", type=click.Path(path_type=Path, dir_okay=False), help="Policy file. [default: "
              "policy.yaml in the folder of the estate]")  # fmt: skip
@click.option("--no-watch", is_flag=True, help="Only carry out what is asked for: no probes, no verdicts.")
@click.option("--until-idle", type=Length(), default=0, help="End after so long without a run.")
@click.option("--generation", type=click.IntRange(0, 4_000), default=0, help="Above that of a lost store.")
@click.option("--lease", type=Length(), help="How long the leader's lease lasts, like 5s.")
@as_of_option
@store_option
def serve(
    estate: Path, site: str, policy: Path | None, no_watch: bool, until_idle: int, generation: int,
    lease: int | None, as_of: date | None, store: str | None,
) -> int:  # fmt: skip
    """Run the controller of a site: watch the other sites, vote, lead, keep plans ready, carry out runs.

    One a site, all on the same store (etcd in three sites). On a SQLite file it is the only one.
    """
    from evac.app import controlling, runs

    setting = controlling.Setting(
        estate, site, store or runs.default_store(), policy, as_of, not no_watch, lease, not no_watch,
        until_idle / 1_000, generation,
    )  # fmt: skip
    asyncio.run(
        controlling.serve(
            setting,
            lambda notice: say(controlling.notice_line(notice)),
            lambda made: say(f"the controller of {site} runs; store: {made.store.name}"),
        )
    )
    return exits.DONE
