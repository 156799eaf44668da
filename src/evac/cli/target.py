"""Where a command reads and sends requests: a store, or the API of a controller's war room; and the resulting
situation.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evac.cli import console
from evac.cli.options import FILE, Command, now_ms, store_option
from evac.model.errors import InvalidInput
from evac.model.records import dataclass

if TYPE_CHECKING:
    from evac.control.port import Control
    from evac.model.estate import Estate
    from evac.model.observation import Observation
    from evac.model.situation import Situation
    from evac.net.secrets import Secret
    from evac.store.port import Store

Answer = TypeVar("Answer")
Work = Callable[["Control"], Awaitable[Answer]]
TOKEN = "EVAC_TOKEN"
LINES_MOST = 8


@dataclass(frozen=True, slots=True)
class Where:
    """server empty: the store. Credentials are references, read when needed."""

    store: str | None
    server: str
    token_file: Path | None = None
    token_command: str = ""
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def exists(self) -> bool:
        """Whether a server or a store is named, or this user's own store was ever written."""
        from evac.app.default_store import has_default_store

        return bool(self.server or self.store) or has_default_store()

    @property
    def name(self) -> str:
        """The server or the store, without what may be a secret."""
        if self.server:
            return self.server
        from evac.app.default_store import default_store

        return (self.store or default_store()).partition("?")[0]

    def do(self, work: Work[Answer]) -> Answer:
        """Connect, do the work, and close."""

        async def opened() -> Answer:
            async with self._way() as control:
                return await work(control)

        return asyncio.run(opened())

    def refuse(self, **given: object) -> None:
        """Raise UsageError for options about files that only exist next to a store: a server has its own
        estate and policy. given: name -> value; a leading `_` in a name stands for `--`.
        """
        names = [name.replace("_", "--") for name, value in given.items() if value is not None]
        if self.server and names:
            raise click.UsageError(
                f"{' and '.join(names)} would not be used: the server (--server, EVAC_SERVER) has its "
                f"own estate and policy; leave {'it' if len(names) == 1 else 'them'} out, or name a --store"
            )

    def _way(self) -> AbstractAsyncContextManager[Control]:
        if self.server:
            from evac.control.server import through_server
            from evac.control.server_calls import Server

            return through_server(Server(self.server, self._token(), self.ca, self.cert, self.key))
        from evac.app.default_store import default_store
        from evac.cli.options import log_file
        from evac.control.store import through_store

        return through_store(self.store or default_store(), log_file())

    def _token(self) -> Secret | None:
        """The token. Raises InvalidInput, Permanent, which never quote it."""
        from evac.net.secrets import resolve

        if self.token_file is not None and self.token_command:
            raise InvalidInput("token-twice", "two tokens were given", "use only one of the two options")
        if self.token_file is not None:
            return _printable(resolve(f"file:{self.token_file.absolute()}"))
        if self.token_command:
            from evac.net.secrets import secret_of

            return _printable(secret_of(f"command:{self.token_command}"))
        return _printable(resolve(f"env:{TOKEN}")) if os.environ.get(TOKEN) else None


def _printable(token: Secret) -> Secret:
    """Raise InvalidInput for characters that no header may contain."""
    text = token.reveal()
    if not text.isascii() or not text.isprintable() or " " in text:
        hint = "a token is one word, as evac access token prints it"
        raise InvalidInput("token-invalid", f"{token} contains no token", hint)
    return token


def where_options(command: Command) -> Command:
    """Decorate a command with `where`."""

    @store_option
    @click.option(
        "--server",
        metavar="URL",
        help="Instead of a store: a controller's war room, like "
        "https://evac.example:8400. [default: $EVAC_SERVER]",
    )
    @click.option("--token-file", type=FILE, help="File with your token. [default: $EVAC_TOKEN]")
    @click.option("--token-command", default="", metavar="/PATH", help="A program that prints the token.")
    @click.option("--client-cert", type=FILE, help="Certificate of this client, PEM.")
    @click.option("--client-key", type=FILE, help="Its private key, PEM.")
    @click.option("--ca", type=FILE, help="CA to trust, PEM. [default: the system's]")
    @functools.wraps(command)
    def wrapped(
        *values: Any,
        store: str | None,
        server: str | None,
        token_file: Path | None,
        token_command: str,
        client_cert: Path | None,
        client_key: Path | None,
        ca: Path | None,
        **named: Any,
    ) -> Any:
        if store and server:
            raise click.UsageError("--store and --server are mutually exclusive: use one of them")
        chosen = "" if store else server or os.environ.get("EVAC_SERVER", "")
        if not chosen and (token_file or token_command or client_cert or client_key or ca):
            raise click.UsageError("tokens and certificates need --server")
        told = {
            "--store": store,
            "--server": server,
            "--token-file": token_file,
            "--token-command": token_command,
            "--client-cert": client_cert,
            "--client-key": client_key,
            "--ca": ca,
        }
        console.remember(told, server=bool(chosen))
        where = Where(store, chosen, token_file, token_command, client_cert, client_key, ca)
        return command(*values, where=where, **named)

    return wrapped  # type: ignore[return-value]


def in_store(url: str | None, work: Callable[[Store], Awaitable[Answer]]) -> Answer:
    """Open the store, the default one if none is named; do the work, and close."""
    from evac.app.default_store import default_store
    from evac.store.opening import open_store

    opened = open_store(url or default_store())

    async def whole() -> Answer:
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(whole())


def situation_of(estate: Estate, path: Path, where: Where, observe: bool, quiet: bool = False) -> Situation:
    """The declared estate, with what `facts_of` finds.

    Raises Unavailable if the store or the server does not respond.
    """
    from evac.derive import situation

    return situation.of(estate, facts_of(estate, path, where, observe, quiet))


def facts_of(estate: Estate, path: Path, where: Where, observe: bool, quiet: bool = False) -> Observation:
    """What the store or the server knows, and with `observe` the systems; nothing if there is no store yet.
    Says where the facts are from, and of when.

    Raises Unavailable if the store or the server does not respond.
    """
    from evac.model.observation import Observation as Facts
    from evac.views.words import listed

    if where.exists:
        facts = where.do(lambda control: control.facts(path, observe))
        if words := _known_words(facts):
            console.say(f"facts from {where.name}: {words}", quiet)
    else:
        facts = _looked(estate) if observe else Facts(0)
    if observe and (unseen := facts.unobserved(estate)):
        console.say(f"not observed: {listed(unseen)}; for these, the primaries in the estate's files count")
    return facts


def _known_words(facts: Observation) -> str:
    """What a store knows, and of when; empty if it knows nothing of the estate."""
    from evac.views.sheet import local_and_utc

    found = []
    if facts.at_ms:
        found.append(f"systems observed at {local_and_utc(facts.at_ms)}")
    if facts.effects is not None:
        found.append("what runs moved")
    if facts.backups.copies:
        found.append(f"backups listed at {local_and_utc(max(one.at_ms for one in facts.backups.copies))}")
    return "; ".join(found)


def _looked(estate: Estate) -> Observation:
    """Observations, if no store is known."""
    import asyncio

    from evac.app.situations import facts_now
    from evac.drivers.registry import Drivers

    async def look() -> Observation:
        drivers = Drivers()
        try:
            return await facts_now(estate, None, drivers, now_ms())
        finally:
            await drivers.close()

    return asyncio.run(look())


def situation_lines(found: Situation) -> list[str]:
    """Differences from the files, as shown before a plan."""
    from evac.views.situation_view import lines_of

    every = list(lines_of(found, now_ms()))
    more = len(every) - LINES_MOST
    return every if more <= 0 else [*every[:LINES_MOST], f"and {more} more: evac status ESTATE"]
