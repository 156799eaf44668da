"""evac bundle: one file with everything needed when nothing else is left; and evac serve --bundle, which
starts a controller from it.

That controller runs on a laptop, with no network except to what is left.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from evac.cli import console, options
from evac.cli.console import emit, progress, say, screen
from evac.model.errors import InvalidInput
from evac.model.records import dataclass

if TYPE_CHECKING:
    from evac.bundle.opening import Opened
    from evac.bundle.sealing import Share

SITE: Final = "bundle"
"""Default site of such a controller: none."""


@dataclass(frozen=True, slots=True)
class BundleAsked:
    """Options about a bundle."""

    bundle: Path | None = None
    into: Path | None = None
    share: tuple[Path, ...] = ()
    ask_shares: bool = False
    confirm: tuple[str, ...] = ()
    reason: str = ""
    digest: str = ""
    signer: str = ""

    @property
    def named(self) -> bool:
        given = (self.into, self.share, self.ask_shares, self.confirm, self.reason, self.digest, self.signer)
        return any(given)


def bundle_options(command: options.Command) -> options.Command:
    """Decorate a command with `asked`, a BundleAsked."""
    file = options.FILE

    @click.option("--bundle", type=file, help="Start from this bundle, as a new generation; needs no ESTATE.")
    @click.option(
        "--into",
        type=click.Path(path_type=Path, file_okay=False),
        help="With --bundle: the new folder. [default: named after its digest, in this user's state folder]",
    )
    @click.option("--share", type=file, multiple=True, help="With --bundle: file with one person's share.")
    @click.option(
        "--ask-shares", is_flag=True, help="With --bundle: ask for shares at the terminal, without echo."
    )
    @click.option(
        "--confirm",
        multiple=True,
        metavar="SITE",
        help="With --bundle: this site is lost; its agent cannot be reached.",
    )
    @click.option("--reason", default="", help="With --bundle: reason, recorded in the journal.")
    @click.option("--digest", default="", help="With --bundle: its digest, as recorded elsewhere.")
    @click.option(
        "--signer", default="", metavar="KEY", help="With --bundle: the public key that must have signed it."
    )
    @functools.wraps(command)
    def wrapped(
        *values: Any,
        bundle: Path | None,
        into: Path | None,
        share: tuple[Path, ...],
        ask_shares: bool,
        confirm: tuple[str, ...],
        reason: str,
        digest: str,
        signer: str,
        **named: Any,
    ) -> Any:
        asked = BundleAsked(bundle, into, share, ask_shares, confirm, reason, digest, signer)
        return command(*values, asked=asked, **named)

    return wrapped  # type: ignore[return-value]


def open_bundle(asked: BundleAsked, generation: int, store: str = "") -> Opened:
    """Unpack and open, or resume an earlier opening. From then on secret references are resolved from the
    opened secrets. Raises InvalidInput, NotAllowed, StoreError.
    """
    from evac.app.runs import who_am_i
    from evac.bundle import opening
    from evac.bundle.proof import DIGITS_LEAST
    from evac.bundle.sealing import GLASS

    assert asked.bundle is not None
    folder = asked.into or opening.default_folder(asked.bundle)
    again = folder.exists()
    if not again and not asked.reason:
        raise InvalidInput("bundle-reason", "a new generation needs a reason", "add --reason WHY")
    shares = _from_files(asked.share)
    if asked.ask_shares and not (folder / GLASS).is_dir():
        shares += _prompted(asked.bundle, len({share.point for share in shares}))
    digest = asked.digest
    if not (again or digest or asked.signer or shares) and sys.stdin.isatty():
        digest = click.prompt(f"the first {DIGITS_LEAST} characters of its digest, as recorded elsewhere")
    opened = opening.open_from(
        opening.OpeningRequest(
            asked.bundle,
            folder,
            who_am_i(),
            asked.reason,
            shares,
            asked.confirm,
            generation,
            store,
            digest,
            asked.signer,
        ),
        options.now_ms(),
    )
    told = opening.environment_of(opened.folder / GLASS)
    os.environ.update(told)
    _say(opened, told)
    return opened


def _from_files(paths: Sequence[Path]) -> list[Share]:
    """Shares from files, except unreadable ones, which are named. Raises InvalidInput if all are."""
    from evac.bundle import sealing

    found: list[Share] = []
    wrong: list[InvalidInput] = []
    for path in paths:
        try:
            found.append(sealing.read_share_file(path))
        except InvalidInput as error:
            wrong.append(error)
    if wrong and not found:
        raise wrong[0]
    for one in wrong:
        say(f"left out: {one.message}")
    return found


def _prompted(bundle: Path, have: int) -> list[Any]:
    from evac.bundle import sealing
    from evac.bundle.contents import look

    sealed = look(bundle, 0)["sealed"]
    if not sealed:
        return []
    if not sys.stdin.isatty():
        raise InvalidInput("share-missing", "no terminal is available", "give files: --share FILE")
    found = []
    for number in range(have, int(sealed["needed"])):
        words = f"share {number + 1} of {sealed['needed']} (it is not shown)"
        found.append(sealing.read_share(click.prompt(words, hide_input=True), f"share {number + 1}"))
    return found


def _say(opened: Opened, told: Mapping[str, str]) -> None:
    how = "continues" if opened.again else "was opened"
    say(f"generation {opened.generation} {how} in {opened.folder}; the old sites' controllers are rejected")
    if opened.told:
        say(f"agents notified: {', '.join(opened.told)}")
    if opened.silent:
        say(
            f"agents that have not answered yet and will be notified once they do: {', '.join(opened.silent)}"
        )
    if opened.held:
        say(
            f"held: {', '.join(opened.held)} was in progress when the bundle was made; check it, then: "
            f"evac hold --release --store {opened.store}"
        )
    if told:
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in told.items())
        say(f"in another terminal first: export {words}")
    say(f"next: evac apply {opened.folder}/plans/LOSS.json {opened.estate} --store {opened.store}")


class _MakesByDefault(click.Group):
    """`evac bundle ESTATE -o FILE` makes a bundle without a subcommand; `show` and `verify` must be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args.insert(0, "make")
        return super().parse_args(ctx, args)


@click.group(cls=_MakesByDefault)
def bundle() -> None:
    """Make and verify bundles: one file with estate, policy, plans and runbooks for every fault domain
    above racks, journals, sealed secrets, and evac itself.

    `evac bundle ESTATE -o FILE` makes one (the word make may be left out).
    """


@bundle.command()
@options.estate_argument
@click.option("-o", "--out", "target", type=options.FILE, required=True, help="The file to write.")
@click.option(
    "--store", help="The store whose journals and registers are included. [default: EVAC_STORE; else none]"
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Policy file. [default: policy.yaml in the folder of the estate]",
)
@click.option(
    "--wheelhouse",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder with evac and its dependencies, as make wheelhouse writes it.",
)
@click.option(
    "--tool",
    "tools",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    metavar="PROGRAM",
    help="A program that restores use, such as /usr/bin/restic; its libraries are not included.",
)
@click.option(
    "--share", metavar="K/N", help="Seal the secrets that drivers refer to; K of N people can open them."
)
@click.option(
    "--shares-to",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Folder for the shares: one for all, or one for each person.",
)
@click.option(
    "--encrypt",
    is_flag=True,
    help="Encrypt everything but evac itself; with --share. The person who carries it cannot see inside.",
)
@click.option(
    "--sign",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="KEYFILE",
    help="Sign it with this private key (ed25519), as made by evac key.",
)
@click.option("--seal", multiple=True, metavar="REF|FILE", help="Another reference or file to seal.")
@click.option(
    "--budget",
    type=options.Length(options.BUDGET_MOST_S),
    default="60s",
    show_default=True,
    help="Search effort for halls, feeds and groups without a standby plan; an amount of work, not time.",
)
@options.as_of_option
@options.quiet_option
def make(
    estate: Path,
    target: Path,
    store: str | None,
    policy: Path | None,
    wheelhouse: Path | None,
    tools: tuple[Path, ...],
    share: str | None,
    shares_to: tuple[Path, ...],
    encrypt: bool,
    sign: Path | None,
    seal: tuple[str, ...],
    budget: int,
    as_of: date | None,
    quiet: bool,
) -> int:
    """Write a bundle. The same input gives the same bytes, except for the sealed part.

    SOURCE_DATE_EPOCH, seconds since 1970, replaces the current time if it is set.
    """
    from evac.bundle import making as bundling

    asked = bundling.BundleRequest(
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
        encrypt,
        sign,
        tools,
    )
    with progress("bundle", quiet) as told:
        made = bundling.make_bundle(asked, told)
    click.echo(f"{made.target}: {made.parts} parts, {made.plans} plans, sha256:{made.digest}")
    for row in made.left_out:
        say(f"left out: {row['what']}: {row['why']}", quiet)
    for path in made.shares:
        say(f"share: {path}", quiet)
    say(
        f"next: evac bundle verify {made.target}; keep it outside every site, and its digest somewhere else",
        quiet,
    )
    return console.DONE


@bundle.command()
@click.argument("file", type=options.FILE)
@options.output_option("text", "json", "markdown", "html")
@options.file_option
def show(file: Path, output: str, target: Path | None) -> int:
    """Show what is in a bundle, how old it is, and what is missing."""
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
    return console.DONE


@bundle.command()
@click.argument("file", type=options.FILE)
@click.option("--digest", help="The digest recorded when the bundle was made.")
@click.option("--signer", metavar="KEY", help="The public key that must have signed it, or its file.")
def verify(file: Path, digest: str | None, signer: str | None) -> int:
    """Verify that every part is intact and every journal complete. Lists what is damaged."""
    from evac.bundle.contents import look, problems_of
    from evac.bundle.proof import check_signer
    from evac.estate.codecs import bundle as bundle_format

    found = problems_of(file)
    for part, words in found:
        click.echo(f"{part}: {words}")
    if found:
        say(f"{len(found)} of the parts {'is' if len(found) == 1 else 'are'} damaged: take another copy")
        return console.FAILED
    told = look(file, _now_ms())
    if digest is not None and digest.removeprefix("sha256:") != told["digest"].removeprefix("sha256:"):
        click.echo(f"{file}: intact, but it does not match the recorded digest")
        return console.FAILED
    if signer is not None:
        with bundle_format.open_bundle(file) as opened:
            check_signer(opened, signer)
    click.echo(f"{file}: {len(told['parts'])} parts are intact; {told['digest']}")
    if digest is None and signer is None:
        say("intact, but nothing proves who made it: add --digest or --signer")
    return console.DONE


def _shares(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    needed, _, people = text.partition("/")
    if not (needed.isdecimal() and people.isdecimal() and len(text) <= 9):
        raise InvalidInput("share-count", f"{text[:20]!r} is not of the form K/N", "use a value like 2/3")
    return int(needed), int(people)


def _now_ms() -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(given) * 1_000 if given.isdecimal() and len(given) < 12 else options.now_ms()
