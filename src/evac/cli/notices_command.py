"""evac notices: the alerts file, a test message over each channel, and keys for webhooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evac.cli import console
from evac.cli.console import emit, say
from evac.cli.options import FILE, output_option, quiet_option, store_option
from evac.cli.target import in_store

if TYPE_CHECKING:
    from evac.notices.values import Channel, NoticeRules


@click.group()
def notices() -> None:
    """Check and test alert channels."""


@notices.command()
@click.argument("file", type=FILE)
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
@click.argument("file", type=FILE)
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


@notices.group()
def subscribers() -> None:
    """Serve the page where users subscribe by email; export and erase addresses."""


def _mail(file: Path) -> tuple[NoticeRules, Channel]:
    """Raises EstateError, InvalidInput if the file has no channel for subscribers."""
    from evac.estate.codecs.notices import load_notices
    from evac.model.errors import InvalidInput

    rules = load_notices(file)
    for one in rules.channels.values():
        if one.way == "mail":
            return rules, one
    raise InvalidInput(
        "channel-unknown",
        f"{file.name} has no channel that sends mail to subscribers",
        "add one: subscribers: {mail: file:PATH, ...}",
    )


@subscribers.command("serve")
@click.argument("file", type=FILE)
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where to listen, like 127.0.0.1:8450.")
@store_option
def serve_page(file: Path, listen: str, store: str | None) -> None:
    """Serve the page where users subscribe, until it is stopped.

    Put a proxy with TLS in front of it. It records requests in the store; the leader sends the mail.
    """
    from evac.engine.clock import SystemClock
    from evac.web.setting import check_listen, listen_of
    from evac.web.subscribing import run_desk

    rules, channel = _mail(file)
    where = listen_of(listen)
    check_listen(where, tls=False, authenticated=False)
    in_store(store, lambda opened: run_desk(opened, channel, rules.page, where, SystemClock().now_ms))


@subscribers.command()
@click.argument("file", type=FILE)
@store_option
@output_option("text", "json")
def export(file: Path, store: str | None, output: str) -> int:
    """Print the addresses of all subscribers. They are personal data: keep the output safe."""
    import json

    from evac.office.notices.subscribers import exported, vault_of
    from evac.views.sheet import utc

    _, channel = _mail(file)
    found = in_store(store, lambda opened: exported(opened, vault_of(channel)))
    rows = [(one.address, one.language, utc(one.since_ms)) for one in found]
    if output == "json":
        told = [{"address": a, "language": language, "since": since} for a, language, since in rows]
        body = {"schema_version": 1, "subscribers": told}
        emit(json.dumps(body, indent=2, ensure_ascii=False) + "\n", None)
    else:
        emit("".join(f"{' '.join(row)}\n" for row in rows), None)
    return console.DONE


@subscribers.command()
@click.argument("file", type=FILE)
@click.argument("address")
@store_option
@quiet_option
def erase(file: Path, address: str, store: str | None, quiet: bool) -> int:
    """Erase ADDRESS: its subscription and an open request. Exit 1: it was not there."""
    from evac.office.notices.subscribers import address_of, remove, vault_of

    _, channel = _mail(file)
    vault, found = vault_of(channel), address_of(address)
    there = in_store(store, lambda opened: remove(opened, vault, vault.id_of(found), vault.mailbox_of(found)))
    say("erased" if there else "this address is not a subscriber", quiet)
    return console.DONE if there else console.FAILED
