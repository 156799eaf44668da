"""evac notices: the notices file, one message over each channel to try it, and keys for webhooks."""

from __future__ import annotations

from pathlib import Path

import click

from evac.cli import console
from evac.cli.console import emit, say
from evac.cli.options import output_option, quiet_option


@click.group()
def notices() -> None:
    """Check and test alert channels."""


@notices.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@output_option("text", "json")
def check(file: Path, output: str) -> int:
    """Check an alerts file: show every problem with file, line and column, or what goes where."""
    import json

    from evac.estate.codecs.notices import load_notices
    from evac.office.notices.sending import check_ways

    rules = load_notices(file)
    check_ways(rules.channels)
    if output == "json":
        rows = {
            one.name: {"way": one.way, "kinds": sorted(one.kinds), "least": one.least}
            for one in rules.channels.values()
        }
        told = {"schema_version": 1, "room": rules.room, "page": rules.page, "channels": rows}
        emit(json.dumps(told, indent=2, ensure_ascii=False) + "\n", None)
        return console.DONE
    lines = [
        f"{one.name}: {one.way}, for users: published updates"
        if one.public
        else f"{one.name}: {one.way}, {', '.join(sorted(one.kinds)) or 'all kinds'}, {one.least} and above"
        for one in rules.channels.values()
    ]
    emit("\n".join(lines) + "\n", None)
    return console.DONE


@notices.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--channel", "names", multiple=True, metavar="NAME", help="Only this channel; repeatable.")
@quiet_option
def test(file: Path, names: tuple[str, ...], quiet: bool) -> int:
    """Send one test message over each channel and show the result.

    Channels for users are skipped unless --channel names them. Exit 1: a channel failed.
    """
    import asyncio

    from evac.estate.codecs.notices import load_notices
    from evac.model.errors import InvalidInput
    from evac.office.notices.sending import check_ways, try_channels

    rules = load_notices(file)
    check_ways(rules.channels)
    unknown = sorted(set(names) - set(rules.channels))
    if unknown:
        raise InvalidInput(
            "channel-unknown",
            f"no such channel: {unknown[0][:80]}",
            f"channels: {', '.join(rules.channels)}",
        )
    chosen = [one for name, one in rules.channels.items() if (name in names if names else not one.public)]
    outcomes = asyncio.run(try_channels(chosen, rules.room, rules.page))
    lines = [f"{name}: {problem or 'sent'}" for name, problem in outcomes.items()]
    left = [one.name for one in rules.channels.values() if one.public and one not in chosen and not names]
    lines += [f"{name}: skipped, because it is for users; to include it: --channel {name}" for name in left]
    emit("\n".join(lines) + "\n", None)
    if any(outcomes.values()):
        say("next: fix what failed; addresses are resolved again for every attempt", quiet)
        return console.FAILED
    return console.DONE


@notices.command()
@quiet_option
def key(quiet: bool) -> None:
    """Create and print a new key for signing webhooks. The receiver needs the same key."""
    import base64
    import secrets

    emit("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode() + "\n", None)
    say(
        "store it where the channel's secret: points, readable only by evac, and give it to the receiver",
        quiet,
    )
