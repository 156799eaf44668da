"""Where data and words go: data to stdout or a file, words to stderr, progress on a terminal only."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from evac.cli.next_command import with_way


@dataclass(frozen=True, slots=True)
class Screen:
    """How wide and whether in colour; decided once, here."""

    width: int
    colour: bool


def screen() -> Screen:
    """Width of the terminal (COLUMNS wins), colour only on one and never with NO_COLOR."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    colour = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Screen(max(60, min(160, shutil.get_terminal_size((100, 40)).columns)), colour)


def emit(text: str, target: Path | None) -> None:
    """Text to stdout, or to a file that is whole or not there."""
    if target is None:
        text = with_way(text)
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_whole(target, text.encode())


def write_whole(target: Path, data: bytes) -> None:
    """Write to a neighbour and rename, so that a crash leaves the old file or the new one.

    A link is followed, so that it stays one; a device or pipe (/dev/stdout) is written to, never replaced.
    """
    if target.exists() and not target.is_file():
        with target.open("wb") as stream:
            stream.write(data)
        return
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def say(words: str, quiet: bool = False) -> None:
    """Words for a person, on stderr."""
    if not quiet:
        from evac.views.words import shown

        click.echo(with_way(shown(words)), err=True)


EVERY_S = 10.0
"""Where no terminal shows a live line, one is written so often."""


def reporter(shown: Callable[[float, str], None], quiet: bool) -> Callable[[str], None]:
    """What delays an answer, in lines that change: `shown` has them on a terminal, stderr gets one now and
    then elsewhere.
    """
    if quiet or sys.stderr is None or sys.stderr.isatty():
        return lambda line: shown(0.0, line)
    last = -EVERY_S

    def write(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            say(line)

    return write


@contextmanager
def progress(title: str, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar with an estimate on a terminal; nothing elsewhere. The callback takes (share done, words)."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda share, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share, words: bar.update(task, completed=share, description=f"{title}: {words}")
