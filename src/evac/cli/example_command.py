"""evac example."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Final

import click

from evac import estate as estates
from evac.cli.options import Day, quiet_option
from evac.cli.output import say
from evac.estate.examples import describe, pangyo
from evac.estate.tables.all import TableFormat

_NAMES: Final = ("pangyo", "pangyo-mended")
_DAY: Final = date(2026, 11, 1)


@click.command()
@click.argument("name", type=click.Choice(_NAMES))
@click.option(
    "-o", "--out", "target", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option("--servers", type=int, default=90_000, show_default=True, help="Size, 1,000 to 1,000,000.")
@click.option(
    "--seed", type=click.IntRange(0), default=20_221_015, show_default=True, help="Same seed, same company."
)
@click.option("--as-of", type=Day(), default=_DAY, show_default=True, help="Day the example is made for.")
@click.option("--tables", type=click.Choice(["csv", "parquet"]), default="parquet", show_default=True)
@click.option("--replace", is_flag=True, help="Replace the files of an estate that is already there.")
@quiet_option
def example(
    name: str, target: Path, servers: int, seed: int, as_of: date, tables: str, replace: bool, quiet: bool
) -> None:
    """Write an example estate: NAME is pangyo or pangyo-mended.

    pangyo is a company like the one of October 2022, with its published flaws; pangyo-mended is the
    same company after the cure. The files say of each number whether it was published or assumed.
    """
    made = pangyo(servers=servers, seed=seed, mended=name.endswith("mended"), as_of=as_of)
    form: TableFormat = "parquet" if tables == "parquet" else "csv"
    estates.write(made, target, tables=form, replace=replace)
    for line in describe(made):
        say(line, quiet)
    say(f"written to {target}", quiet)
    say(f"next: evac audit {target}", quiet)
