"""evac store seal: authenticate every entry of a store with the key that its URL names."""

from __future__ import annotations

import asyncio

import click

from evac.cli import console
from evac.cli.console import say
from evac.cli.options import quiet_option
from evac.store.sealed import Sealing

NAMED_MOST = 10


@click.group()
def store() -> None:
    """Maintain the store that runs are kept in."""


@store.command()
@click.option(
    "--store", "url", required=True, envvar="EVAC_STORE", help="The store, with seal=REF in its URL."
)
@click.option(
    "--trust-unsealed",
    is_flag=True,
    help="Also seal entries without a seal: for a store that evac used before it had one.",
)
@quiet_option
def seal(url: str, trust_unsealed: bool, quiet: bool) -> int:
    """Seal every entry of the store with the first key that its URL names.

    Run it once after you add a seal to the URL (with --trust-unsealed, while no controller runs), and once
    after you replace a key (seal=NEW,OLD). You can repeat it.
    """
    from evac.store.opening import open_unsealed
    from evac.store.sealed import seal_all, seal_of

    async def work() -> Sealing:
        opened, references = open_unsealed(url)
        try:
            return await seal_all(opened, seal_of(references), trust_unsealed)
        finally:
            await opened.close()

    found = asyncio.run(work())
    say(f"entries sealed: {found.sealed:,}; sealed already: {found.good:,}", quiet)
    if not found.left:
        return console.DONE
    named = "\n".join(f"  {key}" for key in found.left[:NAMED_MOST])
    more = f"\n  and {len(found.left) - NAMED_MOST:,} more" if len(found.left) > NAMED_MOST else ""
    say(
        f"entries without our seal, which evac ignores: {len(found.left):,}\n{named}{more}\n"
        "next: evac store seal --trust-unsealed, if you know that evac wrote them",
        quiet=False,
    )
    return console.FINDINGS
