"""evac store: list what is not secured in a store, seal its entries, repair its journals."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click

from evac.cli import console
from evac.cli.console import emit, say
from evac.cli.options import FILE, output_option, quiet_option
from evac.store.opening import Repair, Sealing

NAMED_MOST = 10


@click.group()
def store() -> None:
    """Maintain the store that runs are kept in."""


@store.command()
@click.option("--store", "url", required=True, envvar="EVAC_STORE", help="URL of the controllers' store.")
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
            say("this store is secured: every check passed", quiet)
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
    from evac.store.opening import open_unsealed, seal_all

    async def work() -> Sealing:
        opened, keys = open_unsealed(url)
        try:
            return await seal_all(opened, keys, trust_unsealed)
        finally:
            await opened.close()

    found = asyncio.run(work())
    say(f"entries sealed: {found.sealed:,}; already sealed: {found.good:,}", quiet)
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


@store.command()
@click.argument("journal")
@click.option("--store", "url", required=True, envvar="EVAC_STORE", help="URL of the controllers' store.")
@click.option("--execute", is_flag=True, help="Repair it. Without this, only report what is damaged.")
@click.option(
    "--copy",
    "target",
    type=FILE,
    help="New file for a copy of every entry, as it was before the repair.",
)
@click.option("--reason", default="", help="Reason, for the record.")
@quiet_option
def repair(journal: str, url: str, execute: bool, target: Path | None, reason: str, quiet: bool) -> int:
    """Repair JOURNAL after someone changed or deleted parts of it in the store: watch, notices, plans,
    backups, or a month of the access log (access-2026-11).

    Saves a copy first, keeps everything that can still be read, marks what is lost, and records the repair
    in the journal watch. Controllers keep running. The journal of a run is never repaired. Exit 3: it is
    damaged, and --execute is missing.
    """
    from evac.app.anchoring import repair as repaired

    if execute and (target is None or not reason):
        raise click.UsageError("--execute needs --copy FILE and --reason TEXT")
    if target is not None and target.exists():
        raise click.BadParameter(f"{target} exists; name a new file", param_hint="--copy")

    def keep(data: bytes) -> None:
        assert target is not None
        console.write_whole(target, data)

    found: Repair = asyncio.run(repaired(url, journal, reason, keep if execute else None))
    if found.sound:
        say(f"the journal {journal} is sound: {found.records:,} records", quiet)
        return console.DONE
    places = ", ".join(f"{one:,}" for one in found.segments[:NAMED_MOST]) or "none"
    more = " and more" if len(found.segments) > NAMED_MOST else ""
    say(
        f"segments changed or missing: {len(found.segments):,} ({places}{more})\n"
        f"segments that do not follow from the one before: {found.linked:,}\n"
        f"keys that do not belong to the journal: {len(found.foreign):,}\n"
        f"records that can be read: {found.records:,}; lost: {found.lost:,} or more",
        quiet=False,
    )
    if execute:
        say(f"repaired; the original entries are in {target}", quiet)
        return console.DONE
    say(f"next: evac store repair {journal} --execute --copy FILE --reason TEXT", quiet=False)
    return console.FINDINGS
