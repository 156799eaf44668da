"""Entry point of the program: it can be interrupted from the start, before click is loaded.

Imports only what Python has already loaded: an interrupt while modules are loading ends the process at once,
because nothing has been done yet. After that it is an exception that `run` handles.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_INTERRUPTED = 130
_WORDS = b"interrupted; nothing was left half-written\n"


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `evac` program; ends the process with a documented exit code."""
    try:
        import signal

        signal.signal(signal.SIGINT, _leave)
        from evac.cli.program import run as answer

        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = answer(arguments)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        _leave()
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from evac.cli.program import run as answer

    return answer(arguments)


def _leave(*_: object) -> NoReturn:
    """Exit without a traceback and without waiting for anything."""
    try:
        os.write(2, _WORDS)
    finally:
        os._exit(_INTERRUPTED)
