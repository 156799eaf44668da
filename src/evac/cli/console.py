"""How a command ends: data to stdout or a file, messages to stderr, progress on a terminal only, an exit
code, and the next command.

Exit codes have one meaning each, documented in docs/reference/exit-codes.md. The suggested next command uses
the same server or store and the same person as this one. Options of this command are repeated; environment
variables apply to the next command anyway. An address that may contain a password is not repeated, only
named.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import click

from evac.model import errors
from evac.model.extras import is_installed, needs
from evac.model.foreign_text import without_controls
from evac.model.records import dataclass
from evac.model.run_policy import SUCCEEDED
from evac.run.values import ENDED, RunPhase

COMMANDS: Final = ("status", "drawer", "what-if", "run", "approve", "apply", "incident", "hold")
"""Commands with these options."""
NAMES: Final = ("next: ", "to print: ", "error: ")
"""Prefixes of lines that name a command; an error names it in brackets."""
_BEGINS: Final = r"^(?:\x1b\[[0-9;]*m|[ \t])*"
_NEXT: Final = re.compile(rf"{_BEGINS}(?:next|to print): .*$", re.MULTILINE)
_ERROR: Final = re.compile(rf"{_BEGINS}error: .*$", re.MULTILINE)
_NAMED: Final = rf"\bevac (?:{'|'.join(COMMANDS)})\b(?![-\w])"
_COMMAND: Final = re.compile(rf"{_NAMED}.*?(?=, or |, then |; |\)|\x1b|$)")
_IN_BRACKETS: Final = re.compile(rf"(?<=\(){_NAMED}[^()]*(?=\))")
_FILES: Final = re.compile(r" (?:--estate )?ESTATE\b")
"""In lines whose command was given no estate; with a server there is none."""
_PLACEHOLDER: Final = re.compile(r"(?<![-\w/=.])(?<!-o )(?:CASE|ESTATE|PLAN)(?![-\w/=.])")
_OWN: Final = re.compile(r" --(?:store|server)\b")


@dataclass(frozen=True, slots=True)
class Way:
    """options: text to add, with a space before each; server: a server is used, which takes no estate."""

    options: str
    server: bool


_way: ContextVar[Way | None] = ContextVar("way", default=None)
_paths: ContextVar[dict[str, str] | None] = ContextVar("paths", default=None)


def forget() -> None:
    """Reset at the start of a command."""
    _way.set(None)
    _paths.set(None)


def remember_path(placeholder: str, path: str) -> None:
    """From now on replace a placeholder, CASE, ESTATE or PLAN, by the path in lines that suggest a command.

    A plan that looks like an estate, or the reverse, is skipped: it may be the very mistake that the line is
    about.
    """
    plan = path.startswith("sha256:") or path.endswith(".json")
    if placeholder == "CASE" or plan == (placeholder == "PLAN"):
        _paths.set((_paths.get() or {}) | {placeholder: shlex.quote(path)})


def remember(given: Mapping[str, object], *, server: bool) -> None:
    """given: option -> its value; None and empty: not given. server: one is used."""
    words = [f" {name} {_shown(name, str(value))}" for name, value in given.items() if value]
    _way.set(Way("".join(words), server))


def _shown(name: str, value: str) -> str:
    if name in ("--store", "--server") and "@" in value:
        return "URL"
    return shlex.quote(value)


def with_way(text: str) -> str:
    """The text with commands on such lines completed so that they can be typed as they are."""
    if not any(name in text for name in NAMES):
        return text
    if _paths.get():
        text = _NEXT.sub(lambda line: _PLACEHOLDER.sub(_path_of, line[0]), text)
    if _way.get() is None:
        return text
    text = _NEXT.sub(lambda line: _COMMAND.sub(_completed, line[0]), text)
    return _ERROR.sub(lambda line: _IN_BRACKETS.sub(_completed, line[0]), text)


def _path_of(found: re.Match[str]) -> str:
    return (_paths.get() or {}).get(found[0], found[0])


def _completed(found: re.Match[str]) -> str:
    way, command = _way.get(), found[0].rstrip()
    if way is None or _OWN.search(command):
        return found[0]
    if way.server:
        command = _FILES.sub("", command)
    return command + way.options + found[0][len(found[0].rstrip()) :]


DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
FINDINGS: Final = 3
NOT_ALLOWED: Final = 4
REFUSED: Final = 10
LOCKED: Final = 11
STALE: Final = 12
PAUSED: Final = 13
ROLLED_BACK: Final = 14
ROLL_BACK_FAILED: Final = 15
UNKNOWN: Final = 16
TWO_PRIMARIES: Final = 17
"""Exit code for a store with two writable primaries, the most urgent of all."""
NOT_COMPARED: Final = 18
PARTIAL: Final = 19
"""Exit code for an import that left out a part of its source."""
INTERRUPTED: Final = 130


def exit_code(error: errors.EvacError) -> int:
    """The exit code for an error that reached the command line."""
    if isinstance(error, errors.StalePlan):
        return STALE
    if isinstance(error, errors.UnsafePlan):
        return REFUSED
    if isinstance(error, errors.NotAllowed):
        return NOT_ALLOWED
    if isinstance(error, errors.LockHeld):
        return LOCKED
    if isinstance(error, errors.OutcomeUnknown):
        return UNKNOWN
    if isinstance(
        error, errors.EstateError | errors.UnknownDomain | errors.InvalidInput | errors.PlanFileError
    ):
        return USAGE
    return FAILED


def run_exit_code(phase: RunPhase, undone: bool, in_doubt: bool, held: bool = False) -> int:
    """The exit code for the state of a run. undone: what was to be rolled back was; in_doubt: a step whose
    outcome is unknown; held: a hold lets it start nothing.
    """
    if in_doubt:
        return UNKNOWN
    if phase in SUCCEEDED:
        return DONE
    if phase in ("paused", "awaiting_approval") or (held and phase not in ENDED):
        return PAUSED
    if phase == "failed":
        return ROLLED_BACK if undone else ROLL_BACK_FAILED
    return FAILED if phase in ("cancelled", "timed_out") else DONE


@dataclass(frozen=True, slots=True)
class Screen:
    """Width and colour of the output; decided once, here."""

    width: int
    colour: bool


def screen() -> Screen:
    """Width of the terminal (COLUMNS wins), colour only on one and never with NO_COLOR."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    colour = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Screen(max(60, min(160, shutil.get_terminal_size((100, 40)).columns)), colour)


def emit(text: str, target: Path | None) -> None:
    """Write a text to stdout, or atomically to a file."""
    if target is None:
        text = with_way(text)
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_whole(target, text.encode())


def pdf_possible(output: str, target: Path | None, instead: str = "-o FILE, or > FILE") -> None:
    """Raise InvalidInput if a PDF is requested but not possible, before anything is computed or written.

    instead: the ways to write one to a file.
    """
    if output != "pdf" and (target is None or target.suffix != ".pdf"):
        return
    if target is None and sys.stdout.isatty():
        raise errors.InvalidInput(
            "pdf-terminal", "a terminal cannot show a PDF", f"write it to a file: {instead}"
        )
    if not is_installed("pdf"):
        raise needs("pdf", "a PDF")


def emit_pdf(page: str, target: Path | None) -> None:
    """Write a page as PDF to a file, or to a stdout that is not a terminal."""
    from evac.app.pdf import pdf

    pdf_possible("pdf", target)
    data = pdf(page)
    if target is None:
        click.echo(data, nl=False)
    else:
        write_whole(target, data)


def write_whole(target: Path, data: bytes, mode: int = 0o600) -> None:
    """Write to a temporary neighbour and rename, so that a crash leaves the old file or the new one.

    A link is followed, so that it stays one; a device or pipe (/dev/stdout) is written to, never replaced.
    mode: of a new file, which may reveal an organisation's weaknesses; a replaced file keeps its own.
    """
    if target.exists() and not target.is_file():
        with target.open("wb") as stream:
            stream.write(data)
        return
    target = target.resolve()
    if not target.parent.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        context = click.get_current_context(silent=True)
        say(f"created the folder {target.parent}", context is not None and bool(context.params.get("quiet")))
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(target.stat().st_mode)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def say(words: str, quiet: bool = False) -> None:
    """Print a message for people to stderr."""
    if not quiet:
        click.echo(with_way(without_controls(words)), err=True)


EVERY_S = 10.0
"""Interval of progress lines without a terminal."""


def reporter(shown: Callable[[float, str], None], quiet: bool) -> Callable[[str], None]:
    """Progress messages: live lines on a terminal, else an occasional line on stderr."""
    if quiet or sys.stderr is None or sys.stderr.isatty():
        return lambda line: shown(0.0, line)
    last = -EVERY_S

    def write(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            say(line)

    return write


def time_left(share: float, elapsed_s: float) -> str:
    """`about 12 s left`, if the rest is proportional; empty while almost nothing is done."""
    if share < 0.001:
        return ""
    from evac.views.words import duration

    return f"about {duration(round(elapsed_s * max(0.0, 1 - share) / share) * 1_000)} left"


@contextmanager
def progress(title: str, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar with an estimate on a terminal; nothing elsewhere. The callback takes (completed share, text)."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda share, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Left(ProgressColumn):
        """rich needs two steps before it shows anything, and some commands have a few long ones."""

        def render(self, task: Any) -> Text:
            return Text(time_left(task.completed, task.elapsed or 0.0))

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), Left())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share, words: bar.update(task, completed=share, description=f"{title}: {words}")
