"""evac bundle: everything that is needed when nothing else is left, in one file."""

from __future__ import annotations

import os
import time
from datetime import date
from pathlib import Path

import click

from evac.cli import exits
from evac.cli.options import Length, as_of_option, estate_argument, file_option, output_option, quiet_option
from evac.cli.output import emit, progress, say, screen
from evac.model.errors import InvalidInput


class _MakesByDefault(click.Group):
    """`evac bundle ESTATE -o FILE` makes one; only `show` and `verify` are said."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args.insert(0, "make")
        return super().parse_args(ctx, args)


@click.group(cls=_MakesByDefault)
def bundle() -> None:
    """Everything that is needed when nothing else is left, in one file: estate, policy, plans and runbooks
    for every fault domain above racks, journals, secrets under lock, and evac itself.

    `evac bundle ESTATE -o FILE` makes one (the word make may be left out).
    """


@bundle.command()
@estate_argument
@click.option(
    "-o",
    "--out",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to write.",
)
@click.option(
    "--store", help="The store whose journals and registers are carried. [default: EVAC_STORE; else none]"
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Policy file. [default: policy.yaml in the folder of the estate]",
)
@click.option(
    "--wheelhouse",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder with evac and all that it needs, as make wheelhouse writes it.",
)
@click.option(
    "--share", metavar="K/N", help="Lock up what the references of drivers name; K of N people open it."
)
@click.option(
    "--shares-to",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Folder for the shares: one for all, or one a person.",
)
@click.option("--seal", multiple=True, metavar="REF|FILE", help="One more reference or file to lock up.")
@click.option(
    "--budget",
    type=Length(),
    default="60s",
    show_default=True,
    help="Search for plans of halls, feeds and groups that do not lie ready, counted in work.",
)
@as_of_option
@quiet_option
def make(
    estate: Path,
    target: Path,
    store: str | None,
    policy: Path | None,
    wheelhouse: Path | None,
    share: str | None,
    shares_to: tuple[Path, ...],
    seal: tuple[str, ...],
    budget: int,
    as_of: date | None,
    quiet: bool,
) -> int:
    """Write a bundle. The same input gives the same bytes, but for what is locked up.

    SOURCE_DATE_EPOCH, seconds since 1970, stands for the present moment where it is set.
    """
    from evac.bundle import making as bundling

    asked = bundling.Asked(
        estate,
        target,
        _now_ms(),
        store or os.environ.get("EVAC_STORE"),
        policy,
        wheelhouse,
        _shares(share),
        shares_to,
        seal,
        as_of,
        budget,
    )
    with progress("bundle", quiet) as told:
        made = bundling.make_bundle(asked, told)
    click.echo(f"{made.target}: {made.parts} parts, {made.plans} plans, sha256:{made.digest}")
    for row in made.left_out:
        say(f"left out: {row['what']}: {row['why']}", quiet)
    for path in made.shares:
        say(f"share: {path}", quiet)
    say(f"next: evac bundle verify {made.target}; carry it out of every site, and its digest apart", quiet)
    return exits.DONE


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@output_option("text", "json", "markdown", "html")
@file_option
def show(file: Path, output: str, target: Path | None) -> int:
    """What is in a bundle, how old it is, what is missing."""
    from evac.bundle.contents import contents_sheet, look
    from evac.views.json_out import document
    from evac.views.sheet import sheet_markdown, sheet_page, sheet_text

    told = look(file, _now_ms())
    if output == "json":
        emit(document("evac-bundle-contents", told), target)
    elif output == "text":
        seen = screen()
        emit(sheet_text(contents_sheet(told), seen.width, seen.colour and target is None), target)
    else:
        emit((sheet_markdown if output == "markdown" else sheet_page)(contents_sheet(told)), target)
    return exits.DONE


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--digest", help="The digest that was written down when the bundle was made.")
def verify(file: Path, digest: str | None) -> int:
    """Is every part what was written, and does every journal follow from its start? Names what is damaged."""
    from evac.bundle.contents import look, problems_of

    found = problems_of(file)
    for part, words in found:
        click.echo(f"{part}: {words}")
    if found:
        say(f"{len(found)} of the parts {'is' if len(found) == 1 else 'are'} damaged: take another copy")
        return exits.FAILED
    told = look(file, _now_ms())
    if digest is not None and digest.removeprefix("sha256:") != told["digest"].removeprefix("sha256:"):
        click.echo(f"{file}: whole in itself, and not the bundle whose digest was written down")
        return exits.FAILED
    click.echo(f"{file}: {len(told['parts'])} parts are what was written; {told['digest']}")
    return exits.DONE


def _shares(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    needed, _, people = text.partition("/")
    if not (needed.isdecimal() and people.isdecimal() and len(text) <= 9):
        raise InvalidInput("share-count", f"{text[:20]!r} does not say how many", "write it like 2/3")
    return int(needed), int(people)


def _now_ms() -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(given) * 1_000 if given.isdecimal() and len(given) < 12 else time.time_ns() // 1_000_000
