"""Options of commands that keep the public status page outside all sites."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evac.model.errors import InvalidInput

if TYPE_CHECKING:
    from evac.app.controlling import Setting

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class StatusAsked:
    """Where the public status page goes; folder None: nowhere."""

    folder: Path | None
    push: str
    title: str
    url: str

    def arguments(self, setting: Setting) -> list[str] | None:
        """Of the process that exports it. Raises InvalidInput before anything starts."""
        if self.folder is None:
            if self.push:
                raise InvalidInput("status-push", "there is no folder to push", "add --status-page DIR")
            return None
        from evac.app.status_export import target_of

        target_of(self.folder, self.push)
        if setting.store == "memory:":
            raise InvalidInput(
                "status-store",
                "a store in memory is seen by no other process",
                "name one: --store sqlite:PATH",
            )
        if self.url and not self.url.startswith(("https://", "http://")):
            raise InvalidInput(
                "url-invalid", f"{self.url[:60]} is no address of a page", "begin it with https://"
            )
        told = [str(setting.estate), "--store", setting.store, "--site", setting.site]
        told += ["--to", str(self.folder)]
        for name, value in (("--push", self.push), ("--title", self.title), ("--url", self.url)):
            told += [name, value] if value else []
        return told + (["--as-of", setting.as_of.isoformat()] if setting.as_of else [])


def status_options(command: Command) -> Command:
    """Gives a command `status`, a StatusAsked."""

    @click.option(
        "--status-page",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Keep the public status page there, anew at every change; outside all sites.",
    )
    @click.option(
        "--status-push",
        default="",
        metavar="COMMAND",
        help="Takes that folder elsewhere, without a shell: 'rsync -a {folder}/ HOST:/srv/status/'.",
    )
    @click.option("--status-title", default="", help="Whose page it is. [default: the name of the estate]")
    @click.option("--status-url", default="", metavar="URL", help="Its address, for the feed.")
    @functools.wraps(command)
    def wrapped(
        *values: Any,
        status_page: Path | None,
        status_push: str,
        status_title: str,
        status_url: str,
        **named: Any,
    ) -> Any:
        asked = StatusAsked(status_page, status_push, status_title, status_url)
        return command(*values, status=asked, **named)

    return wrapped  # type: ignore[return-value]
