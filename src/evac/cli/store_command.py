"""evac store: check what of a store is not locked, and seal every entry with the key that its URL names."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import click

from evac.cli import console
from evac.cli.console import emit, say
from evac.cli.options import output_option, quiet_option
from evac.store.opening import Sealing

NAMED_MOST = 10


@click.group()
def store() -> None:
    """Maintain the store that runs are kept in."""


@store.command()
@click.option("--store", "url", required=True, envvar="EVAC_STORE", help="The store, as controllers name it.")
@output_option("text", "json")
@quiet_option
def check(url: str, output: str, quiet: bool) -> int:
    """List what is not secured, one line each: no seal, etcd without TLS, certificates or users,
    a role for more than evac's keys, members that talk to each other unencrypted.

    Asks etcd itself and changes nothing. Exit 3: something is not secured.
    """
    from evac.store.locks import open_locks

    found = asyncio.run(open_locks(url))
    if output == "json":
        emit(json.dumps({"schema_version": 1, "open": [asdict(one) for one in found]}, indent=2), None)
    else:
        for one in found:
            say(f"{one.code:<15} {one.words}\n{'':<15} next: {one.cure}", quiet=False)
        if not found:
            say("this store is secured: nothing is open", quiet)
    return console.FINDINGS if found else console.DONE


@store.command()
@click.option(
    "--store", "url", required=True, envvar="EVAC_STORE", help="The store, with seal=REF in its URL."
)
@click.option(
    "--trust-unsealed",
    is_flag=True,
    help="Also seal unsealed entries: for a store that evac used before it had a seal.",
)
@quiet_option
def seal(url: str, trust_unsealed: bool, quiet: bool) -> int:
    """Seal every entry of the store with the first key that its URL names.

    Run it once after adding a seal to the URL (with --trust-unsealed, while no controller runs), and once
    after replacing a key (seal=NEW,OLD). It is safe to repeat.
    """
    from evac.store.opening import open_unsealed, seal_all, seal_of

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
