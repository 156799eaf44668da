"""evac serve --bundle: a controller from a bundle, on a laptop, with no network but to what is left."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from evac.cli.options import Command
from evac.cli.output import say
from evac.model.errors import InvalidInput

if TYPE_CHECKING:
    from evac.bundle.opening import Opened

SITE: Final = "bundle"
"""Where such a controller stands unless it is said: in no site."""


@dataclass(frozen=True, slots=True)
class BundleAsked:
    """What the options say of a bundle."""

    bundle: Path | None = None
    into: Path | None = None
    share: tuple[Path, ...] = ()
    ask_shares: bool = False
    confirm: tuple[str, ...] = ()
    reason: str = ""

    @property
    def named(self) -> bool:
        return bool(self.into or self.share or self.ask_shares or self.confirm or self.reason)


def bundle_options(command: Command) -> Command:
    """Gives a command `asked`, a BundleAsked."""
    file = click.Path(path_type=Path, dir_okay=False)

    @click.option("--bundle", type=file, help="Start from this bundle, as a new generation; needs no ESTATE.")
    @click.option(
        "--into",
        type=click.Path(path_type=Path, file_okay=False),
        help="Of --bundle: the new "
        "folder. [default: one by its digest, beside the other states of this user]",
    )
    @click.option("--share", type=file, multiple=True, help="Of --bundle: file with the share of a person.")
    @click.option("--ask-shares", is_flag=True, help="Of --bundle: ask for shares at the terminal, unseen.")
    @click.option(
        "--confirm",
        multiple=True,
        metavar="SITE",
        help="Of --bundle: this site is lost; its agent cannot be told.",
    )
    @click.option("--reason", default="", help="Of --bundle: why; it goes into the journal.")
    @functools.wraps(command)
    def wrapped(
        *values: Any,
        bundle: Path | None,
        into: Path | None,
        share: tuple[Path, ...],
        ask_shares: bool,
        confirm: tuple[str, ...],
        reason: str,
        **named: Any,
    ) -> Any:
        asked = BundleAsked(bundle, into, share, ask_shares, confirm, reason)
        return command(*values, asked=asked, **named)

    return wrapped  # type: ignore[return-value]


def open_bundle(asked: BundleAsked, generation: int, store: str = "") -> Opened:
    """Unpacks and opens, or goes on with what was opened before. From now on references of secrets are
    resolved from the opened material. Raises InvalidInput, NotAllowed, StoreError.
    """
    from evac.app.runs import who_am_i
    from evac.bundle import opening, sealing
    from evac.bundle.sealing import GLASS

    assert asked.bundle is not None
    folder = asked.into or opening.default_folder(asked.bundle)
    again = folder.exists()
    if not again and not asked.reason:
        raise InvalidInput("bundle-reason", "a new generation is opened for a reason", "add --reason WHY")
    shares = [sealing.read_share_file(path) for path in asked.share]
    if asked.ask_shares and not (folder / GLASS).is_dir():
        shares += _prompted(asked.bundle, len({share.point for share in shares}))
    opened = opening.open_from(
        opening.Asked(
            asked.bundle, folder, who_am_i(), asked.reason, shares, asked.confirm, generation, store
        ),
        time.time_ns() // 1_000_000,
    )
    told = opening.environment_of(opened.folder / GLASS)
    os.environ.update(told)
    _say(opened, told)
    return opened


def _prompted(bundle: Path, have: int) -> list[Any]:
    from evac.bundle import sealing
    from evac.bundle.contents import look

    sealed = look(bundle, 0)["sealed"]
    if not sealed:
        return []
    if not sys.stdin.isatty():
        raise InvalidInput("share-missing", "there is no terminal to ask at", "name files: --share FILE")
    found = []
    for number in range(have, int(sealed["needed"])):
        words = f"share {number + 1} of {sealed['needed']} (it is not shown)"
        found.append(sealing.read_share(click.prompt(words, hide_input=True), f"share {number + 1}"))
    return found


def _say(opened: Opened, told: Mapping[str, str]) -> None:
    how = "goes on" if opened.again else "is open"
    say(f"generation {opened.generation} {how} in {opened.folder}; the old sites' controllers are refused")
    if opened.told:
        say(f"agents that know it: {', '.join(opened.told)}")
    if opened.silent:
        say(f"agents that do not answer, and are told as soon as they do: {', '.join(opened.silent)}")
    if opened.held:
        say(
            f"held: {', '.join(opened.held)} was under way when the bundle was made; look at it, then: "
            f"evac hold --release --store {opened.store}"
        )
    if told:
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in told.items())
        say(f"in another terminal first: export {words}")
    say(f"next: evac apply {opened.folder}/plans/LOSS.json {opened.estate} --store {opened.store}")
